"""One HTTP request and its answer.

Runs in the reactor thread (but for :attr:`Exchange.flow`, which the answering thread waits on); owned by its
connection.

States: ``waiting`` (nothing sent), ``streaming`` (head sent, parts follow), ``done``.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Protocol

from twisted.logger import Logger

from channelserver.layers.content import Content
from channelserver.server.http1 import RequestHead
from channelserver.server.replies import FAILED, Flow

_log = Logger("channelserver.server.http")

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_forbidden = re.compile(rb"[\x00\r\n]").search
#: Fields that are the server's own business.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection", b"te", b"trailer"}
)


#: A larger answer is handed to the transport in parts of this size, each when the client has taken the one before: so
#: the time that a slow reader has is for a part, not for the whole.
PART = 256 * 1024


class ResponseError(ValueError):
    """A reply cannot be sent as HTTP; the text says why."""


class Wire(Protocol):
    """The connection as an exchange sees it."""

    site: Any

    def write(self, data: bytes) -> bool:
        """Send bytes; return False if they wait for the client to read."""

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        """The answer is complete; if not `reusable`, the connection must be closed."""

    def abort(self) -> None:
        """Close the connection at once."""


class Source(Protocol):
    """Sends an answer from within the reactor."""

    def resume(self) -> None:
        """There is room: send more."""

    def close(self) -> None:
        """The exchange is over."""


class Exchange:
    """One request under way.

    :param wire: the connection.
    :param head: the request's head.
    :param client: (host, port) of the client for the log, or None.
    """

    __slots__ = (
        "_chunked",
        "_left",
        "_unsent",
        "began",
        "client",
        "flow",
        "has_room",
        "head",
        "name",
        "quiet",
        "size",
        "source",
        "state",
        "status",
        "wire",
    )

    def __init__(self, wire: Wire, head: RequestHead, client: Any) -> None:
        self.wire = wire
        self.head = head
        self.client = client
        self.state = "waiting"
        self.began = wire.site.wheel.now()
        self.status = 0
        self.size = 0
        #: Not for the access log.
        self.quiet = False
        #: Made by the thread that streams, see :class:`Replies`.
        self.flow: Flow | None = None
        #: Whether the client reads as fast as we send.
        self.has_room = True
        #: What sends the answer from within the reactor, if anything does.
        self.source: Source | None = None
        self._unsent = 0
        self._chunked = False
        self._left: int | None = None
        self.name = wire.site.replies.add(wire.site.replies.http_prefix, self)

    # -- the request ---------------------------------------------------------------------------------------------------

    def message(self, body: bytes, addresses: dict[str, Any]) -> Content:
        """Return the ``http.request`` message.

        :param body: the body, or as much of it as travels in the message.
        :param addresses: ``client``, ``server`` and ``scheme``.
        """
        head = self.head
        return {
            "reply_channel": self.name,
            "http_version": head.version,
            "method": head.method,
            "path": head.path,
            "query_string": head.query_string,
            "root_path": self.wire.site.root_path,
            "headers": [pair for pair in head.headers if b"_" not in pair[0]],
            "body": body,
            "body_channel": None,
            **addresses,
        }

    # -- the answer ----------------------------------------------------------------------------------------------------

    def reply(self, content: Content) -> None:
        """Act on a reply: ``status``, ``headers``, ``content``, ``more_content``; later ones without the first two."""
        try:
            if FAILED in content:
                self.fail(content[FAILED])
            elif self.state == "waiting":
                self._start(content)
            elif "status" in content:
                _log.error("a second status for {path!r} was dropped", path=self.head.path)
            else:
                self._go_on(_body(content), bool(content.get("more_content")))
        except ResponseError as error:
            _log.error("cannot send the answer to {path!r}: {error}", path=self.head.path, error=error)
            self.fail(500)

    def fail(self, status: int, text: str = "") -> None:
        """Answer with an error of the server's own; if an answer has begun, break it off so that the client notices."""
        if self.state == "waiting":
            text = text or _REASONS.get(status, b"Error").decode("ascii")
            headers = [[b"Content-Type", b"text/plain; charset=utf-8"]]
            self._start({"status": status, "headers": headers, "content": text.encode() + b"\n"})
        elif self.state == "streaming":
            self._end(reusable=False, broken=True)

    def client_gone(self) -> None:
        """The connection was lost before the answer was complete."""
        if self.state != "done":
            self.state = "done"
            site = self.wire.site
            self._forget()
            self._log_access(complete=False)
            site.submit("http.disconnect", {"reply_channel": self.name, "path": self.head.path})

    def drained(self) -> None:
        """The client has read what was waiting."""
        self.has_room = True
        if self.source is not None:
            self.source.resume()
        if self.flow is not None and self._unsent:
            unsent, self._unsent = self._unsent, 0
            self.flow.sent(unsent)

    def _start(self, content: Content) -> None:
        status = content.get("status")
        if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 999:
            raise ResponseError(f"the first reply needs a status from 200 to 999, not {status!r}")
        body, more = _body(content), bool(content.get("more_content"))
        head = self._head(status, content.get("headers") or (), body, more)
        self.state = "streaming"
        self.status = status
        if self.head.method == "HEAD" or status in (204, 304):
            self.wire.write(head)
            self._left = None
            self._chunked = False
            if not more:
                self._end(reusable=True)
            return
        if not more and len(body) > PART:
            self.wire.write(head)
            self.source = _Parts(self, body)
            self.source.resume()
            return
        if not more:
            self.size = len(body)
            self.wire.write(head + body)
            self._end(reusable=self.head.keep_alive)
            return
        self.wire.write(head)
        self._go_on(body, True)

    def _head(self, status: int, headers: Any, body: bytes, more: bool) -> bytes:
        head = self.head
        site = self.wire.site
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Unknown"))]
        length: int | None = None
        dated = False
        for pair in headers:
            try:
                name, value = pair
            except (TypeError, ValueError):
                raise ResponseError(f"a header must be a pair of name and value, not {pair!r}") from None
            name, value = _bytes(name), _bytes(value)
            if not _token(name) or _forbidden(value):
                raise ResponseError(f"malformed header {name!r}: {value!r}")
            lower = name.lower()
            if lower in _HOP_BY_HOP:
                if lower == b"connection" and b"close" in value.lower():
                    head.keep_alive = False
                continue
            if lower == b"content-length":
                if not value.isdigit():
                    raise ResponseError(f"malformed header {name!r}: {value!r}")
                length = int(value)
                continue
            dated = dated or lower == b"date"
            lines.append(b"%s: %s\r\n" % (name, value))
        if not dated:
            lines.append(b"Date: %s\r\n" % site.date())
        self._frame(lines, status, length, body, more)
        if site.draining:
            head.keep_alive = False
        if not head.keep_alive:
            lines.append(b"Connection: close\r\n")
        elif head.version == "1.0":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _frame(self, lines: list[bytes], status: int, length: int | None, body: bytes, more: bool) -> None:
        """Say in the head where the body ends (RFC 9112 section 6)."""
        if status == 204:
            return
        bodiless = self.head.method == "HEAD" or status == 304
        if not more and not bodiless:
            if length is not None and length != len(body):
                _log.warn(
                    "{path!r}: Content-Length {length} but {actual} bytes",
                    path=self.head.path,
                    length=length,
                    actual=len(body),
                )
            length = len(body)
        elif not more and length is None and self.head.method == "HEAD" and body:
            length = len(body)
        if length is not None:
            lines.append(b"Content-Length: %d\r\n" % length)
            self._left = length
        elif bodiless:
            return
        elif self.head.version == "1.1":
            lines.append(b"Transfer-Encoding: chunked\r\n")
            self._chunked = True
        else:
            self.head.keep_alive = False  # the body ends where the connection ends

    def _go_on(self, body: bytes, more: bool) -> None:
        if self.state != "streaming":
            return
        counted = len(body)
        if self.head.method == "HEAD" or self.status in (204, 304):
            body = b""
        elif self._left is not None:
            if len(body) > self._left:
                _log.error("{path!r}: more bytes than its Content-Length; cut off", path=self.head.path)
                body = body[: self._left]
            self._left -= len(body)
        if body:
            self.size += len(body)
            self.has_room = self.wire.write(b"%x\r\n%s\r\n" % (len(body), body) if self._chunked else body)
        if self.flow is not None:
            if self.has_room:
                self.flow.sent(counted)
            else:
                self._unsent += counted
        if not more:
            if self._chunked:
                self.wire.write(b"0\r\n\r\n")
            if self._left and self.head.method != "HEAD":
                _log.error("{path!r}: {left} bytes less than its Content-Length", path=self.head.path, left=self._left)
                self._end(reusable=False, broken=True)
            else:
                self._end(reusable=self.head.keep_alive)

    def _end(self, reusable: bool, broken: bool = False) -> None:
        self.state = "done"
        self._forget()
        self._log_access(complete=not broken)
        if broken:
            self.wire.abort()
        else:
            self.wire.exchange_done(self, reusable and self.head.keep_alive)

    def _log_access(self, complete: bool) -> None:
        if not self.quiet:
            site = self.wire.site
            site.access_log.http(self, site.wheel.now() - self.began, complete)

    def _forget(self) -> None:
        self.wire.site.replies.remove(self.name)
        if self.flow is not None:
            self.flow.close()
        if self.source is not None:
            self.source.close()


class _Parts:
    """Sends an answer that is there as a whole, part by part."""

    def __init__(self, exchange: Exchange, body: bytes) -> None:
        self._exchange = exchange
        self._body = memoryview(body)

    def resume(self) -> None:
        """See :class:`Source`."""
        exchange = self._exchange
        while exchange.state == "streaming":
            part, self._body = self._body[:PART], self._body[PART:]
            exchange.reply({"content": bytes(part), "more_content": bool(self._body)})
            if not exchange.has_room:
                return

    def close(self) -> None:
        """See :class:`Source`."""
        self._body = memoryview(b"")


def _body(content: Content) -> bytes:
    body = content.get("content")
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode("utf-8")
    if not isinstance(body, bytes):
        raise ResponseError(f"content must be bytes, not {type(body).__name__}")
    return body


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            pass
    raise ResponseError(f"a header's name and value must be bytes, not {value!r}")
