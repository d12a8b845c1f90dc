"""The channel layer: messages, queues and groups. Owns what waits and who belongs to which group.

Runs in any thread. Plain Python without Twisted and Django, except for ``redis/`` and ``receive.py``, which are
imported when they are first used; so is ``conformance.py``, which needs unittest.
"""

from typing import TYPE_CHECKING, Any

from channelserver.layers.base import BaseChannelLayer, ChannelFull, DeliveryUnknown, MessageTooLarge, NotSendable
from channelserver.layers.memory import InMemoryChannelLayer

if TYPE_CHECKING:
    from channelserver.layers.conformance import ConformanceTestCase
    from channelserver.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer

__all__ = [
    "BaseChannelLayer",
    "ChannelFull",
    "ConformanceTestCase",
    "DeliveryUnknown",
    "InMemoryChannelLayer",
    "MessageTooLarge",
    "NotSendable",
    "RedisChannelLayer",
    "RedisSentinelChannelLayer",
]


def __getattr__(name: str) -> Any:
    if name in ("RedisChannelLayer", "RedisSentinelChannelLayer"):
        from channelserver.layers import redis

        return getattr(redis, name)
    if name == "ConformanceTestCase":
        from channelserver.layers.conformance import ConformanceTestCase

        return ConformanceTestCase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
