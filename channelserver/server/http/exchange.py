"""One HTTP request and its answer.

Runs in the reactor thread (but for :attr:`Exchange.flow`, which the answering thread waits on); owned by its
connection.

States: ``waiting`` (nothing sent), ``streaming`` (head sent, parts follow), ``done``.
"""

from __future__ import annotations

from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any, Protocol

from twisted.logger import Logger

from channelserver.layers.base import EVENTS, FAILED, FILE
from channelserver.layers.content import Content
from channelserver.layers.reply import HOP_BY_HOP, forbidden, token
from channelserver.server.common.late_tls import tcp
from channelserver.server.http.events import EventFeed
from channelserver.server.http.flow import Flow
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http.ready import Field
from channelserver.server.http.source import PIECE, FileSource, Source, WholeBody
from channelserver.server.site import Site

_log = Logger("channelserver.server.http")

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

#: Answers without a body (RFC 9110 sections 15.3.5, 15.4.5).
BODILESS = frozenset({204, 304})
#: Fields with names and values up to this many bytes each are cached. Cookies are usually longer.
SHORT_VALUE = 48


def _kind(name: bytes) -> str:
    """Return how the server treats a field of an answer: "own" (it sets the field itself), "length", "date", "hsts", or
    "".

    :raises ResponseError: the name is malformed.
    """
    if not token(name):
        raise ResponseError(f"malformed header {name!r}")
    lower = name.lower()
    kind = {b"content-length": "length", b"date": "date", b"strict-transport-security": "hsts"}.get(lower)
    return kind or ("own" if lower in HOP_BY_HOP else "")


_kind_of_short = lru_cache(1000)(_kind)


def _read_field(name: bytes, value: bytes) -> tuple[str, Field]:
    """Return the kind of a field, and what goes into a head.

    :raises ResponseError: the field is malformed.
    """
    kind = _kind_of_short(name) if len(name) <= SHORT_VALUE else _kind(name)
    if forbidden(value):  # it may be a cookie, so it is not for the log
        raise ResponseError(f"malformed header {name!r}: a line break or NUL in its value")
    if kind == "length" and not value.isdigit():
        raise ResponseError(f"malformed header {name!r}: {value!r}")
    return kind, (name, value, b"%b: %b\r\n" % (name, value))


#: The answers of a site repeat the same few fields.
_read_short_field = lru_cache(1000)(_read_field)


@cache
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))


class ResponseError(ValueError):
    """A reply cannot be sent as HTTP; the text says why."""


class Wire(Protocol):
    """The connection as an exchange sees it."""

    site: Site

    @property
    def hsts(self) -> Field | None:
        """The field that has browsers use HTTPS only; None: it is not sent."""

    def set_deadline(self, seconds: float) -> None:
        """The answer must begin, and be read, in so many seconds from now."""

    def write(self, data: bytes) -> bool:
        """Send bytes; return False if they wait for the client to read."""

    def direct(self) -> tcp.Connection | None:
        """Return the transport if bytes can be given to the kernel without it."""

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        """The answer is complete; if not `reusable`, the connection must be closed."""

    def abort(self) -> None:
        """Close the connection at once."""


class Exchange:
    """One request under way.

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
        site = wire.site
        self.began = site.wheel.now()
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
        self.name = site.replies.add(site.replies.http_prefix, self)

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
            "headers": [pair.copy() for pair in head.headers if b"_" not in pair[0]],
            "body": body,
            "body_channel": None,
            **copy_addresses(addresses),
        }

    # -- the answer ----------------------------------------------------------------------------------------------------

    def send_frame(self, frame: bytes, deflated: Any) -> bool:
        """Ignore a group's frame: it is for sockets. (Event streams get the event.)"""
        return True

    @property
    def site(self) -> Site:
        return self.wire.site

    def feed(self, event: bytes) -> None:
        if isinstance(self.source, EventFeed):
            self.source.send(event)

    def group_reply(self, content: Content) -> None:
        if self.state != "waiting" or "status" in content:  # else it is for the event stream that this will be
            self.reply(content)

    def reply(self, content: Content) -> None:
        """Act on a reply: ``status``, ``headers``, ``content``, ``more_content``; later ones without the first two."""
        try:
            if FAILED in content:
                self.fail(content[FAILED])
            elif self.state == "waiting":
                self._start(content)
            elif isinstance(self.source, EventFeed) and "content" not in content:
                self.source.reply(content)
            elif "status" in content:
                _log.error("a second status for {path!r} was dropped", path=self.head.path)
            else:
                self.send_part(_body(content), bool(content.get("more_content")))
        except ResponseError as error:
            _log.error("cannot send the answer to {path!r}: {error}", path=self.head.path, error=error)
            self.fail(500)
        except Exception:
            _log.failure("cannot send the answer to {path!r}", path=self.head.path)
            self.fail(500)

    def fail(self, status: int, text: str = "", *fields: list[bytes]) -> None:
        """Answer with an error of the server's own; if an answer has begun, break it off so that the client notices."""
        if self.state == "waiting":
            text = text or _REASONS.get(status, b"Error").decode("ascii")
            headers = [[b"Content-Type", b"text/plain; charset=utf-8"], *fields]
            self._start({"status": status, "headers": headers, "content": text.encode() + b"\n"})
        elif self.state == "streaming":
            self._end(reusable=False, broken=True)

    def late(self) -> None:
        """The application did not answer in time: answer 503, and cancel what works on it as if the client had left."""
        self.head.keep_alive = False
        self.fail(503, "The application did not answer in time.")
        for call in self.wire.site.replies.client_gone:
            call(self.name)

    def client_gone(self) -> None:
        """The connection was lost before the answer was complete."""
        if self.state != "done":
            self.state = "done"
            site = self.wire.site
            self._forget()
            self._log_access(complete=False)
            for call in site.replies.client_gone:
                call(self.name)
            site.submit("http.disconnect", {"reply_channel": self.name, "path": self.head.path})

    def outlives_half_close(self) -> bool:
        """Whether a client that has closed its side may still wait, see :mod:`channelserver.server.http.half_close`."""
        return self.state == "waiting" or not self.has_room or self.source is not None

    def probe(self, interim: bytes) -> None:
        """Send something that shows whether the client has left, if anything can be sent.

        :param interim: an interim response.
        """
        if self.state == "waiting" and self.head.version == "1.1":
            self.wire.write(interim)
        elif isinstance(self.source, EventFeed):
            self.source.ping()

    def kept(self) -> int:
        """Return how many bytes are kept for the answer, beside those that were written."""
        size = 0 if self.source is None else self.source.kept()
        return size if self.flow is None else size + self.flow.held

    def drain(self) -> None:
        """The server stops: an event stream ends, any other answer is finished."""
        if isinstance(self.source, EventFeed):
            self.source.end()

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
        if FILE in content:
            more = True
            self.source = file = FileSource(self, self._file(content[FILE]))  # closes it, however the exchange ends
        elif EVENTS in content:
            self.source = EventFeed(self, content[EVENTS])  # leaves the groups, the same
        head = self._head(status, content.get("headers") or (), body, more)
        self.state = "streaming"
        self.status = status
        if self.head.method == "HEAD" or status in BODILESS:
            self.wire.write(head)
            self._end(reusable=True)  # further parts are dropped
            return
        if not more:
            if len(body) <= PIECE:
                self.size = len(body)
                self.wire.write(head + body)
                self._end(reusable=True)
                return
            self.wire.site.replies.remove(self.name)  # the answer is complete: nothing may come between its pieces
            self.source = whole = WholeBody(self, body)
            self._wait_whole(whole)
            whole.begin(head)
            return
        if FILE in content:
            file.begin(head)
        else:
            self.wire.write(head)
            if self.source is None or body:
                self.send_part(body)
        if self.wire.site.draining:
            self.drain()  # the call for all connections came too early for it

    def _file(self, file: Any) -> Any:
        """Return what to read a file from."""
        return file

    def _wait_whole(self, whole: WholeBody) -> None:
        """A complete large answer is about to be sent piece by piece."""

    def _head(self, status: int, headers: Any, body: bytes, more: bool) -> bytes:
        """Return what goes out before the body."""
        head = self.head
        fields, length = self._fields(headers)
        lines = [_status_line(status), *[line for _, _, line in fields]]
        if more or status in BODILESS or head.method == "HEAD" or (length is not None and length != len(body)):
            self._frame(lines, status, self._length(status, length, body, more))
        else:  # as a rule
            self._left = len(body)
            lines.append(b"Content-Length: %d\r\n" % self._left)
        if self.wire.site.draining:
            head.keep_alive = False
        if not head.keep_alive:
            # With 426 goes the name of the protocol to change to (RFC 9110 section 15.5.22).
            upgrade = b"Upgrade: websocket\r\nConnection: upgrade, close\r\n"
            lines.append(upgrade if status == 426 else b"Connection: close\r\n")
        elif head.version == "1.0":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _fields(self, headers: Any) -> tuple[list[Field], int | None]:
        """Return the answer's fields, with a date, and its Content-Length."""
        fields: list[Field] = []
        length: int | None = None
        dated = False
        hsts = self.wire.hsts
        for pair in headers:
            try:
                name, value = pair
            except (TypeError, ValueError):
                raise ResponseError(f"a header must be a pair of name and value, not {pair!r}") from None
            if type(name) is not bytes or type(value) is not bytes:
                name, value = _bytes(name), _bytes(value)
            read = _read_short_field if len(value) <= SHORT_VALUE and len(name) <= SHORT_VALUE else _read_field
            kind, field = read(name, value)
            if not kind:
                fields.append(field)
            elif kind == "date":
                dated = True
                fields.append(field)
            elif kind == "hsts":
                hsts = None  # the application knows better
                fields.append(field)
            elif kind == "length":
                length = int(value)
            elif name.lower() == b"connection" and b"close" in value.lower():
                self.head.keep_alive = False
        if not dated:
            fields.append(self.wire.site.date_field())
        if hsts is not None:
            fields.append(hsts)
        return fields, length

    def _length(self, status: int, length: int | None, body: bytes, more: bool) -> int | None:
        """Return the value of Content-Length, None if there is to be none (RFC 9110 section 8.6).

        :param length: what the application said it is.
        """
        if status == 204:
            return None
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
        return length

    def _frame(self, lines: list[bytes], status: int, length: int | None) -> None:
        """Choose how the head marks the end of the body (RFC 9112 section 6)."""
        if length is not None:
            lines.append(b"Content-Length: %d\r\n" % length)
            self._left = length
        elif status in BODILESS or self.head.method == "HEAD":
            return
        elif self.head.version == "1.1":
            lines.append(b"Transfer-Encoding: chunked\r\n")
            self._chunked = True
        else:
            self.head.keep_alive = False  # the body ends where the connection ends

    @property
    def left(self) -> int | None:
        return None if self._chunked else self._left

    def sent(self, size: int) -> None:
        self.size += size
        if self._left is not None:
            self._left -= size

    def send_part(self, body: bytes, more: bool = True) -> None:
        if self.state != "streaming":
            return
        counted = len(body)
        if self._left is not None:
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
        if not more or self._left == 0:  # with the last byte of its length an answer is complete
            if self._chunked:
                self.wire.write(b"0\r\n\r\n")
            if self._left:
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
        site = self.wire.site
        if not self.quiet and site.access_log.wanted:
            site.access_log.http(self, site.wheel.now() - self.began, complete)

    def _forget(self) -> None:
        self.wire.site.replies.end(self.name)
        if self.flow is not None:
            self.flow.close()
        source, self.source = self.source, None
        if source is not None:
            source.close()


def copy_addresses(addresses: dict[str, Any]) -> dict[str, Any]:
    """Return ``client``, ``server`` and ``scheme`` of a connection, for one message to keep."""
    client, server = addresses["client"], addresses["server"]
    return {
        "client": client and client.copy(),
        "server": server and server.copy(),
        "scheme": addresses["scheme"],
    }


def _body(content: Content) -> bytes:
    body = content.get("content")
    if type(body) is bytes:
        return body
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
