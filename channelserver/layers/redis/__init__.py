"""The Redis channel layer: several processes, on several hosts, act as one.

A ring of its own: it knows Twisted, txredisapi and the bridge, but nothing else of the server, and no Django. It is
imported when it is first asked for.
"""

from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.layer import RedisChannelLayer, RedisSentinelChannelLayer

__all__ = ["DeliveryUnknown", "RedisChannelLayer", "RedisSentinelChannelLayer", "RedisUnavailable"]
