"""The channel layer: messages, queues and groups. Plain Python; knows neither Twisted, Django nor HTTP.

But for :mod:`channelserver.layers.redis`, which is imported only when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from channelserver.layers.base import BaseChannelLayer, ChannelFull, MessageTooLarge
from channelserver.layers.conformance import ConformanceTestCase
from channelserver.layers.memory import InMemoryChannelLayer

if TYPE_CHECKING:
    from channelserver.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer

__all__ = [
    "BaseChannelLayer",
    "ChannelFull",
    "ConformanceTestCase",
    "InMemoryChannelLayer",
    "MessageTooLarge",
    "RedisChannelLayer",
    "RedisSentinelChannelLayer",
]


def __getattr__(name: str) -> Any:
    if name in ("RedisChannelLayer", "RedisSentinelChannelLayer"):
        from channelserver.layers import redis

        globals()[name] = value = getattr(redis, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
