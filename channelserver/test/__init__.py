"""What tests of consumers need (Channels 1: ``channels.test``).

Runs in the thread of the test; consumers run there, too, inside the test's database transaction. Importing this package
tells channelserver that the process runs tests, which need no server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from channelserver.test.cases import ChannelTestCase, ChannelTestCaseMixin, TransactionChannelTestCase
from channelserver.test.client import Client
from channelserver.test.routes import apply_routes
from channelserver.test.websocket import WSClient

if TYPE_CHECKING:
    from channelserver.test.liveserver import ChannelLiveServerTestCase

__all__ = [
    "ChannelLiveServerTestCase",
    "ChannelTestCase",
    "ChannelTestCaseMixin",
    "Client",
    "HttpClient",
    "TransactionChannelTestCase",
    "WSClient",
    "apply_routes",
]

#: The older name.
HttpClient = WSClient


def __getattr__(name: str) -> Any:
    # A project whose tests need no live server need not load one.
    if name != "ChannelLiveServerTestCase":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from channelserver.test.liveserver import ChannelLiveServerTestCase

    globals()[name] = ChannelLiveServerTestCase
    return ChannelLiveServerTestCase
