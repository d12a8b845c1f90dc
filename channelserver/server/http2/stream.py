"""One stream of HTTP/2: a request, and the answer on its way.

Runs in the reactor thread; owned by its connection. To its exchange it is the wire.

The states, and what may follow:

=======  ==============================================================  =====================
state    meaning                                                         followed by
=======  ==============================================================  =====================
body     the request's body is coming                                    held, answer, closed
held     the request is whole, and waits for others of its connection    answer, closed
answer   the request is with a consumer, or its answer on the way        closed
closed   both sides have finished                                        nothing
=======  ==============================================================  =====================
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from channelserver.server.http.body import RequestBody
from channelserver.server.http.events import EventFeed
from channelserver.server.http.exchange import BODILESS, Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.source import PIECE, WholeBody
from channelserver.server.http2.answers import Spilled
from channelserver.server.http2.state import FIRST_WINDOW

if TYPE_CHECKING:
    from channelserver.server.http2.connection import HTTP2Connection

#: Bytes of an answer that may wait in a stream before its sender must wait.
ROOM = 64 * 1024
#: Bytes that a stream takes, and each header field beside its text.
STREAM_BYTES, FIELD_BYTES = 2048, 256
#: Bytes of a waiting answer that a client must take within each ``http_timeout``.
PROGRESS = 16 * 1024

Fields = list[tuple[bytes, bytes]]


class StreamExchange(Exchange):
    """A request under way whose answer goes out as frames."""

    __slots__ = ()

    wire: Stream

    def _head(self, status: int, headers: Any, body: bytes, more: bool) -> bytes:
        """Give the head to the stream, and a short body with it; nothing of it is left to be sent as bytes."""
        fields, length = self._fields(headers)
        self._left = length = self._length(status, length, body, more)
        # RFC 9113 section 8.2.1: names in lower case, values without white space around them.
        pairs = [(b":status", b"%d" % status), *((name.lower(), value.strip(b" \t")) for name, value, _ in fields)]
        if length is not None:
            pairs.append((b"content-length", b"%d" % length))
        if more or status in BODILESS or self.head.method == "HEAD" or not self.wire.send_whole(pairs, body):
            self.wire.begin(pairs)
        if isinstance(self.source, EventFeed):
            self.wire.leave_place()  # the reactor alone works on it, and for long
        return b""

    def _file(self, file: Any) -> Any:
        return self.wire.connection.memory.answers.add_file(file)

    def _wait_whole(self, whole: WholeBody) -> None:
        try:
            self.wire.connection.memory.answers.add(whole)
        except OSError as error:
            self.site.count_refusal("answer not stored", f"no room for a large answer: {error}", self.client)
            self.fail(500)


class Stream:
    """One request and its answer."""

    __slots__ = (
        "_addresses", "_blocked_since", "_body", "_chunks", "_request_bytes", "_taken", "connection", "due", "ended",
        "exchange", "fields", "head", "number", "placed", "queued", "request_ended", "site", "state", "waiting",
        "window",
    )  # fmt: skip

    def __init__(self, connection: HTTP2Connection, number: int, head: RequestHead) -> None:
        self.connection = connection
        self.site = connection.site
        self.number = number
        self.head = head
        self.state = "body"
        self._request_bytes = STREAM_BYTES + FIELD_BYTES * len(head.headers) + head.size
        connection.memory.requests += self._request_bytes
        self.exchange: StreamExchange | None = None
        #: When something must have happened; None: there is nothing to wait for.
        self.due: float | None = None
        #: The client has sent all of the request.
        self.request_ended = False
        self._body: RequestBody | None = None
        #: Bytes that the client may send.
        self.window = FIRST_WINDOW
        self._blocked_since: float | None = None  # it may send nothing, although the body is not complete
        self._addresses = connection.addresses()
        #: The head of the answer, until it is sent.
        self.fields: Fields | None = None
        self._chunks: deque[memoryview | Spilled] = deque()
        #: Bytes of the answer that wait for the client to open its window.
        self.waiting = 0
        self._taken = 0  # bytes that went to the client since the deadline was set
        #: Whether it has one of the places for requests that are with consumers.
        self.placed = False
        #: The answer is complete.
        self.ended = False
        #: Whether the connection has it on its list of those with something to send.
        self.queued = False

    @property
    def hsts(self) -> tuple[bytes, bytes, bytes] | None:
        return self.connection.hsts

    # -- the request ---------------------------------------------------------------------------------------------------

    def begin_request(self, ended: bool) -> None:
        """Look at the head before the body comes.

        :param ended: there is no body.
        :raises BadRequest: it breaks a rule or a limit.
        """
        connection, options = self.connection, self.site.options
        self._addresses = connection.dispatcher.admit(self.head, self._addresses, connection.peer)
        if not ended:
            now = self.site.wheel.now()
            self._body = RequestBody(self.head, options, now, self.site.memory)
            self._wait_until(now + options.body_timeout)
            connection.uploads.open_window(self, now)

    def receive(self, data: bytes, size: int, last: bool) -> None:
        """Take a part of the body.

        :param size: bytes of flow control.
        :raises BadRequest: there is too much of it, or it cannot be stored.
        """
        self.window -= size
        body = self._body
        if body is None:
            return
        if data:
            before = body.kept()
            body.most = self.connection.memory.room_for_body(before)
            body.add(data)
            self.keep(body.kept() - before)
        if last:
            return
        now = self.site.wheel.now()
        self.connection.uploads.open_window(self, now)
        if data and self._blocked_since is None:
            self._wait_until(body.deadline(now))

    def keep(self, size: int) -> None:
        """So many more bytes of the request are in memory; less than 0: fewer."""
        self._request_bytes += size
        self.connection.memory.requests += size

    @property
    def body_size(self) -> int:
        """Bytes of the body so far."""
        return 0 if self._body is None else self._body.size

    @property
    def wants_body(self) -> bool:
        """Whether more of the body is to come."""
        return self._body is not None and not self.request_ended

    def block(self, now: float) -> None:
        """The client may send nothing for a while."""
        if self._blocked_since is None:
            self._blocked_since = now
        self.due = None

    def unblock(self, now: float) -> None:
        """The client may send again: its time runs on."""
        if self._blocked_since is not None and self._body is not None:
            self._body.waited(now - self._blocked_since)
            self._wait_until(self._body.deadline(now))
        self._blocked_since = None

    def dispatch(self) -> None:
        """The request is complete."""
        head = self.head
        self.state = "answer"
        body, body_file = b"", None
        if self._body is not None:
            if b"content-length" not in head.fields:  # frames mark the end of the body, but form parsers need the field
                head.headers = [*head.headers, [b"content-length", b"%d" % self._body.size]]
            try:
                body, body_file = self._body.take()
            except BadRequest as error:
                self.refuse(error)
                return
            self._body = None
            self.connection.uploads.ended(self, body_file)
        self.connection.dispatcher.answer(self._exchange(), body, body_file, self._addresses)

    def refuse(self, error: BadRequest) -> None:
        """Answer a request that is not served."""
        self._drop_body()
        self.state = "answer"
        self.connection.dispatcher.refuse(self._exchange(), error)

    def _exchange(self) -> StreamExchange:
        exchange = self.exchange = StreamExchange(self, self.head, self._addresses["client"])
        return exchange

    # -- called by the exchange: its Wire ------------------------------------------------------------------------------

    def begin(self, fields: Fields) -> None:
        """Send the head of the answer."""
        if self.state != "closed":
            self.fields = fields
            self.due = None
            self.connection.has_work(self)

    def send_whole(self, fields: Fields, body: bytes) -> bool:
        """Send a whole answer, if nothing is in its way; return whether it was sent. The stream is closed then."""
        exchange = self.exchange
        self.exchange = None  # it is not to be told that the client has gone
        sent = self.connection.send_whole(self.number, fields, body)
        if not sent:
            self.exchange = exchange
        return sent

    def write(self, data: bytes) -> bool:
        if self.state == "closed":
            return True
        if data:
            if not self.waiting:
                self._taken = 0
                self.set_deadline(self.site.options.http_timeout)
            answers = self.connection.memory.answers
            try:
                if len(data) > PIECE:
                    self._chunks.append(answers.add_part(data))
                else:
                    self._chunks.append(memoryview(data))
                    answers.parts += len(data)
            except OSError as error:
                self.site.count_refusal(
                    "answer not stored", f"no room for an answer: {error}", self._addresses["client"]
                )
                self.abort()
                return True
            self.waiting += len(data)
            self.connection.waiting += len(data)
            self.connection.has_work(self)
        return self.waiting <= ROOM

    def direct(self) -> None:
        """All bytes are in frames."""

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        self.exchange = None
        self.leave_place()
        if exchange.quiet:
            self.connection.count_quiet()
        if self.state != "closed":
            self.ended = True
            self.connection.has_work(self)

    def abort(self) -> None:
        self.connection.break_off(self)

    # -- called by the connection --------------------------------------------------------------------------------------

    def take(self, size: int) -> bytes | memoryview:
        """Return the next bytes of the answer, no more than `size`.

        :raises OSError: they cannot be read.
        """
        chunks = self._chunks
        if not chunks or size <= 0:
            return b""
        first = chunks.popleft()
        taken: bytes | memoryview
        if isinstance(first, Spilled):
            taken = first.take(size)
            if first:
                chunks.appendleft(first)
            else:
                first.close()
        else:
            if len(first) > size:
                chunks.appendleft(first[size:])
                first = first[:size]
            elif chunks and len(first) < size // 2:
                # Small parts go out together.
                parts = [first]
                size -= len(first)
                while chunks and len(following := chunks[0]) <= size and isinstance(following, memoryview):
                    parts.append(following)
                    size -= len(following)
                    chunks.popleft()
                first = memoryview(b"".join(parts))
            taken = first
            self.connection.memory.answers.parts -= len(taken)
        self.waiting -= len(taken)
        self.connection.waiting -= len(taken)
        self._taken += len(taken)
        if not self.waiting:
            self.due = None
        return taken

    def progressed(self) -> bool:
        """At the deadline: return whether the client has taken enough to have another ``http_timeout``."""
        if self._taken < PROGRESS:
            return False
        self._taken = 0
        self.set_deadline(self.site.options.http_timeout)
        return True

    def make_room(self) -> None:
        """Resume the sender if it waits and there is room."""
        exchange = self.exchange
        if exchange is not None and not exchange.has_room and self.waiting <= ROOM // 2:
            exchange.drained()

    def set_deadline(self, seconds: float) -> None:
        self._wait_until(self.site.wheel.now() + seconds)

    def _wait_until(self, due: float) -> None:
        self.due = due
        self.site.wheel.add(self.connection, due)

    def close(self) -> None:
        """End the stream, and notify its exchange."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.due = None
        self._drop_body()
        self.connection.memory.requests -= self._request_bytes
        for chunk in self._chunks:
            if isinstance(chunk, Spilled):
                chunk.close()
            else:
                self.connection.memory.answers.parts -= len(chunk)
        self._chunks.clear()
        self.connection.waiting -= self.waiting
        self.waiting = 0
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if self.placed and exchange.state == "waiting":
                self.placed = False
                self.connection.requests.take_back(self)
            self.leave_place()
            exchange.client_gone()

    def leave_place(self) -> None:
        """Let another request of the connection be dispatched."""
        if self.placed:
            self.placed = False
            self.connection.requests.running -= 1

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            self.keep(-body.kept())
            body.close()
            self.connection.uploads.ended(self, None)
