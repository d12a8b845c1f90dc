"""What sending over Redis can raise.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from channelserver.layers import base
from channelserver.layers.base import ChannelFull
from channelserver.layers.losses import Reason


class RedisUnavailable(ChannelFull):
    """Redis cannot be reached, or refuses the message; the text says why. Try again later."""

    reason = Reason.NO_REDIS


class DeliveryUnknown(RedisUnavailable, base.DeliveryUnknown):
    """The connection to Redis was lost while a message was being sent: it may have arrived. Sent again, it might
    arrive twice.
    """

    retry = False
    reason = Reason.UNKNOWN
