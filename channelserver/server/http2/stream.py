"""One stream of HTTP/2: a request, and the answer on its way.

Runs in the reactor thread; owned by its connection. To its exchange it is the wire.

The states, and what may follow:

=======  ==============================================================  =====================
state    meaning                                                         followed by
=======  ==============================================================  =====================
body     the request's body is coming                                    held, answer, closed
held     the request is whole, and waits until the client has taken      answer, closed
         more of other answers
answer   the request is with a consumer, or its answer on the way        closed
closed   both sides have finished                                        nothing
=======  ==============================================================  =====================
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from channelserver.server.http.body import RequestBody
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead

if TYPE_CHECKING:
    from channelserver.server.http2.connection import HTTP2Connection

#: Bytes of an answer that may wait in a stream before its sender must wait.
ROOM = 64 * 1024

Fields = list[tuple[bytes, bytes]]


class StreamExchange(Exchange):
    """A request under way whose answer goes out as frames."""

    __slots__ = ()

    wire: Stream

    def _head(self, status: int, headers: Any, body: bytes, more: bool) -> bytes:
        """Give the head to the stream; nothing of it is left to be sent as bytes."""
        fields, length = self._fields(headers)
        self._left = length = self._length(status, length, body, more)
        # RFC 9113 section 8.2.1: names in lower case, values without white space around them.
        pairs = [(b":status", b"%d" % status), *((name.lower(), value.strip(b" \t")) for name, value, _ in fields)]
        if length is not None:
            pairs.append((b"content-length", b"%d" % length))
        self.wire.begin(pairs)
        return b""


class Stream:
    """One request and its answer."""

    __slots__ = (
        "_addresses", "_body", "_chunks", "connection", "due", "ended", "exchange", "fields", "head", "number",
        "queued", "request_ended", "site", "state", "waiting",
    )  # fmt: skip

    def __init__(self, connection: HTTP2Connection, number: int, head: RequestHead) -> None:
        self.connection = connection
        self.site = connection.site
        self.number = number
        self.head = head
        self.state = "body"
        self.exchange: StreamExchange | None = None
        #: When something must have happened; None: there is nothing to wait for.
        self.due: float | None = None
        #: The client has sent all of the request.
        self.request_ended = False
        self._body: RequestBody | None = None
        self._addresses = connection.addresses()
        #: The head of the answer, until it is sent.
        self.fields: Fields | None = None
        self._chunks: deque[memoryview] = deque()
        #: Bytes of the answer that wait for the client to open its window.
        self.waiting = 0
        #: The answer is complete.
        self.ended = False
        #: Whether the connection has it on its list of those with something to send.
        self.queued = False

    # -- the request ---------------------------------------------------------------------------------------------------

    def begin_request(self, ended: bool) -> None:
        """Look at the head before the body comes.

        :param ended: there is no body.
        :raises BadRequest: it breaks a rule or a limit.
        """
        connection, options = self.connection, self.site.options
        self._addresses = connection.dispatcher.admit(self.head, self._addresses, connection.peer)
        if not ended:
            self._body = RequestBody(self.head, options, self.site.wheel.now())
            self.set_deadline(options.body_timeout)

    def receive(self, data: bytes) -> None:
        """Take a part of the body.

        :raises BadRequest: there is too much of it.
        """
        body = self._body
        if body is not None and data:
            body.add(data)
            self._wait_until(body.deadline(self.site.wheel.now()))

    def dispatch(self) -> None:
        """The request is complete."""
        head = self.head
        self.state = "answer"
        body, body_file = b"", None
        if self._body is not None:
            if b"content-length" not in head.fields:  # frames mark the end of the body, but form parsers need the field
                head.headers.append([b"content-length", b"%d" % self._body.size])
            body, body_file = self._body.take()
            self._body = None
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

    def write(self, data: bytes) -> bool:
        if self.state == "closed":
            return True
        if data:
            if not self.waiting:
                self.set_deadline(self.site.options.http_timeout)
            self._chunks.append(memoryview(data))
            self.waiting += len(data)
            self.connection.waiting += len(data)
            self.connection.has_work(self)
        return self.waiting <= ROOM

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        self.exchange = None
        if self.state != "closed":
            self.ended = True
            self.connection.has_work(self)

    def abort(self) -> None:
        self.connection.break_off(self)

    # -- called by the connection --------------------------------------------------------------------------------------

    def take(self, size: int) -> bytes | memoryview:
        """Return the next bytes of the answer, no more than `size`."""
        chunks = self._chunks
        if not chunks or size <= 0:
            return b""
        first = chunks.popleft()
        if len(first) > size:
            chunks.appendleft(first[size:])
            first = first[:size]
        elif chunks and len(first) < size // 2:
            # Small parts go out together.
            parts = [first]
            size -= len(first)
            while chunks and len(chunks[0]) <= size:
                parts.append(chunks.popleft())
                size -= len(parts[-1])
            first = memoryview(b"".join(parts))
        self.waiting -= len(first)
        self.connection.waiting -= len(first)
        # Something has been taken: the time for the next starts anew.
        if self.waiting:
            self.set_deadline(self.site.options.http_timeout)
        else:
            self.due = None
        return first

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
        self._chunks.clear()
        self.connection.waiting -= self.waiting
        self.waiting = 0
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
