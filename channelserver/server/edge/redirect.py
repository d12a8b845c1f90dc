"""Plain HTTP beside HTTPS: every request is sent to the same place under ``https://``.

Runs in the reactor thread; a connection is owned by its transport. Nothing gets through to the application.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet import interfaces
from twisted.internet.protocol import Factory
from zope.interface import implementer

from channelserver.server.edge.limits import Refusal
from channelserver.server.http.http1 import MAX_HEAD_BYTES, BadRequest, RequestHead, parse_head
from channelserver.server.site import Site
from channelserver.server.websocket.origin import split_port

#: Seconds for a client to take the answer.
LINGER = 5.0

_target = re.compile(rb"[A-Z][A-Z0-9_\-]* (?:[Hh][Tt][Tt][Pp][Ss]?://[^/?# ]+)?([^# ]*) ").match


@implementer(interfaces.IProtocol)
class RedirectConnection:
    """One connection: a request head, an answer, the end.

    :param site: what all connections share.
    :param port: returns the port of the HTTPS listener.
    """

    __slots__ = ("_buffer", "_deadline", "_port", "_site", "_transport", "factory", "peer")

    #: As a connection of the site it is none, and never becomes one.
    websocket = None

    def __init__(self, site: Site, port: Callable[[], int], peer: str | None) -> None:
        self._site = site
        self._port = port
        #: The address of the other end.
        self.peer = peer
        self._transport: Any = None
        self._buffer: bytes | None = b""  # None: the answer is on its way
        self._deadline = 0.0
        self.factory: Any = None

    def makeConnection(self, transport: Any) -> None:
        """See ``IProtocol``."""
        self._transport = transport
        site = self._site
        site.connected(self)
        self._deadline = site.wheel.now() + site.options.header_timeout
        site.wheel.add(self, self._deadline)

    def connectionMade(self) -> None:
        """See ``IProtocol``; the work is done in :meth:`makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        if self._buffer is None:
            return
        buffer = self._buffer = self._buffer + data
        lines, end, _ = buffer.lstrip(b"\r\n").partition(b"\r\n\r\n")
        try:
            if len(lines) > MAX_HEAD_BYTES:
                raise BadRequest(f"request head over {MAX_HEAD_BYTES} bytes", 431)
            if end:
                self._answer(parse_head(lines), lines)
        except BadRequest as error:
            self._send(b"%d Refused" % error.status, error.reason.encode() + b"\n")

    def _answer(self, head: RequestHead, lines: bytes) -> None:
        host = head.fields.get(b"host", b"").decode("latin-1")
        name = split_port(host)
        if name is None or not self._site.origins.host_allowed(host):
            raise BadRequest("this host is not served here")
        port = self._port()
        # As the client wrote it: decoded and encoded again it might be another.
        match = _target(lines)
        target = (match[1] if match is not None else b"") or b"/"
        if not target.startswith(b"/"):
            target = b"/" + target.removeprefix(b"*")
        place = f"https://{name}{'' if port == 443 else f':{port}'}".encode("latin-1") + target
        # 301 lets a browser make a GET of a POST, 308 does not (RFC 9110 section 15.4.9); all clients know 301.
        status = b"301 Moved Permanently" if head.method in ("GET", "HEAD") else b"308 Permanent Redirect"
        self._send(status, b"" if head.method == "HEAD" else place + b"\n", b"Location: " + place + b"\r\n")

    def _send(self, status: bytes, body: bytes, field: bytes = b"") -> None:
        self._buffer = None
        wheel = self._site.wheel
        self._deadline = wheel.now() + LINGER
        wheel.add(self, self._deadline)
        self._transport.write(
            b"HTTP/1.1 %s\r\n%sDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, field, self._site.date(), len(body), body)
        )  # fmt: skip
        # Only our side: closing with bytes unread would make the kernel reset the connection, and the answer be lost.
        self._transport.loseWriteConnection()

    def connectionLost(self, reason: Any) -> None:
        """See ``IProtocol``."""
        self._transport = None
        self._site.wheel.remove(self)
        self._site.disconnected(self)

    def drain(self) -> None:
        """The server stops."""
        if self._buffer is not None:
            self._transport.loseConnection()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abortConnection()

    def on_tick(self, now: float) -> float | None:
        """See :class:`channelserver.server.common.wheel.Timed`."""
        if self._transport is None:
            return None
        if now < self._deadline:
            return self._deadline
        if self._buffer:
            self._send(b"408 Request Timeout", b"the request head took too long\n")
            return self._deadline
        self.abort()
        return None


class RedirectFactory(Factory):
    """Makes :class:`RedirectConnection`.

    :param site: what all connections share.
    :param port: returns the port of the HTTPS listener.
    """

    noisy = False

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        self._site = site
        self._port = port

    def buildProtocol(self, addr: Any) -> Any:
        """See ``IProtocolFactory``."""
        peer: str | None = getattr(addr, "host", None)
        if self._site.is_full(peer):
            return Refusal(self._site)
        connection = RedirectConnection(self._site, self._port, peer)
        connection.factory = self
        return connection
