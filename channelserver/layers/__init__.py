"""The channel layer: messages, queues and groups. Plain Python; knows neither Twisted, Django nor HTTP."""

from channelserver.layers.base import BaseChannelLayer, ChannelFull, MessageTooLarge
from channelserver.layers.conformance import ConformanceTestCase
from channelserver.layers.memory import InMemoryChannelLayer

__all__ = ["BaseChannelLayer", "ChannelFull", "ConformanceTestCase", "InMemoryChannelLayer", "MessageTooLarge"]
