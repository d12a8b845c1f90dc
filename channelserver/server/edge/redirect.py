"""Plain HTTP beside HTTPS: every request is sent to the same place under ``https://``.

Runs in the reactor thread; a connection is owned by its transport. Nothing gets through to the application.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from channelserver.server.http.base import Connection, ConnectionFactory
from channelserver.server.http.http1 import MAX_HEAD_BYTES, BadRequest, RequestHead, parse_head
from channelserver.server.site import Site
from channelserver.server.websocket.origin import split_port

_target = re.compile(rb"[A-Z][A-Z0-9_\-]* (?:[Hh][Tt][Tt][Pp][Ss]?://[^/?# ]+)?([^# ]*) ").match


class RedirectConnection(Connection):
    """One connection: a request head, an answer, the end.

    :param port: returns the port of the HTTPS listener.
    """

    __slots__ = ("_buffer", "_port")

    def __init__(self, site: Site, peer: str | None, port: Callable[[], int]) -> None:
        super().__init__(site, peer)
        self._port = port
        self._buffer: bytes | None = b""  # None: the answer is on its way

    def dataReceived(self, data: bytes) -> None:
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
        if name is None or not self.site.origins.host_allowed(host):
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
        self.transport.write(
            b"HTTP/1.1 %s\r\n%sDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, field, self.site.date(), len(body), body)
        )  # fmt: skip
        self._finish()

    def drain(self) -> None:
        """The server stops."""
        if self._buffer is not None:
            self.transport.loseConnection()

    def _late(self, now: float) -> float | None:
        if not self._buffer:
            return super()._late(now)
        self._send(b"408 Request Timeout", b"the request head took too long\n")
        return self._deadline


class RedirectFactory(ConnectionFactory):
    """Makes :class:`RedirectConnection`.

    :param port: returns the port of the HTTPS listener.
    """

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        super().__init__(site)
        self._port = port

    def make(self, peer: str | None) -> RedirectConnection:
        return RedirectConnection(self.site, peer, self._port)
