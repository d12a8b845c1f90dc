"""The server without a network: a site whose connections are fed by the test, and whose reactor is a clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer
from channelserver.server.access import AccessLog
from channelserver.server.connection import HTTPConnection
from channelserver.server.options import resolve
from channelserver.server.origin import OriginPolicy
from channelserver.server.site import Site


class ReactorClock(Clock):
    """A clock in whose thread everything happens."""

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        """See ``IReactorFromThreads``."""
        function(*arguments)


def client_frame(first: int, payload: bytes, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    """Return a frame as a client sends it (RFC 6455 section 5.2).

    :param first: the first byte: bits and opcode.
    """
    size = len(payload)
    if size < 126:
        length = bytes((size | 0x80,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((first,)) + length + mask + masked


class SiteTestCase(SynchronousTestCase):
    """Tests on such a site; the messages it makes are taken from ``layer``, replies are sent there."""

    #: Options of the server.
    options: dict[str, Any] = {}

    def setUp(self) -> None:
        """Make the site."""
        self.clock = ReactorClock()
        self.make_site(**self.options)

    def make_site(self, capacity: int = 1000, **options: Any) -> None:
        """Make a site, and a layer whose channels hold `capacity` messages."""
        self.layer = InMemoryChannelLayer(capacity=capacity, clock=self.clock.seconds)
        self.site = Site(
            self.layer, resolve({}, options), Bridge(self.clock), self.clock, OriginPolicy(["*"], ()), AccessLog(None)
        )

    def shake_hands(
        self, *fields: bytes, transport: StringTransport | None = None
    ) -> tuple[HTTPConnection, StringTransport]:
        """Begin a handshake with more header fields."""
        connection, transport = HTTPConnection(self.site), transport or StringTransport()
        connection.makeConnection(transport)
        lines = (
            b"GET /path/ HTTP/1.1", b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *fields, b"", b"",
        )  # fmt: skip
        connection.dataReceived(b"\r\n".join(lines))
        return connection, transport

    def open(
        self, *fields: bytes, transport: StringTransport | None = None
    ) -> tuple[HTTPConnection, StringTransport, str, bytes]:
        """Open a socket; return its connection, transport, reply channel and the answer to the handshake."""
        connection, transport = self.shake_hands(*fields, transport=transport)
        _, message = self.layer.receive(["websocket.connect"])
        assert message is not None
        self.layer.dispatch(message["reply_channel"], {"accept": True})
        answer = transport.value()
        transport.clear()
        return connection, transport, message["reply_channel"], answer
