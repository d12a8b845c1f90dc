"""Consumers as classes (Channels 1: ``channels.generic``).

Runs in worker threads; owns nothing.
"""

from channelserver.generic.base import BaseConsumer

__all__ = ["BaseConsumer"]
