"""Where Channels 1 has the test cases, :class:`Client` and :class:`apply_routes`: ``channels.test.base``."""

from channelserver.test.cases import ChannelTestCase, ChannelTestCaseMixin, TransactionChannelTestCase
from channelserver.test.client import Client
from channelserver.test.routes import apply_routes

__all__ = ["ChannelTestCase", "ChannelTestCaseMixin", "Client", "TransactionChannelTestCase", "apply_routes"]
