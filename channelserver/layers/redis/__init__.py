"""The Redis channel layer: several processes, on several hosts, act as one.

May import Twisted, txredisapi and the bridge, but nothing else of the server, and no Django. It is imported when it is
first used.
"""

from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.layer import RedisChannelLayer, RedisSentinelChannelLayer

__all__ = ["DeliveryUnknown", "RedisChannelLayer", "RedisSentinelChannelLayer", "RedisUnavailable"]
