"""What sends an answer from within the reactor, as fast as the client reads: a file, a large body, an event stream.

Runs in the reactor thread; a source is owned by its exchange, and owns its file.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger

from channelserver.layers.content import Content
from channelserver.server.common.late_tls import tcp
from channelserver.server.common.sending import UNSENT, limit_unsent, room_for_long, send_file, send_now
from channelserver.server.http.http1 import RequestHead
from channelserver.server.site import Site

_log = Logger("channelserver.server.http")

#: A larger answer is handed to the transport in pieces of this size, each when the client has read those before it.
PIECE = 128 * 1024
#: Bytes read from a file at a time.
BLOCK = 64 * 1024
#: Bytes that the kernel gets of an answer in a turn of the reactor, if the client reads so fast.
TURN = 2 * 1024 * 1024
#: Who has so many bytes taken at once reads as fast as the server sends.
FAST = 2 * UNSENT


class Source(Protocol):
    """Sends an answer from within the reactor."""

    def resume(self) -> None:
        """There is room: send more."""

    def close(self) -> None:
        """The exchange is over."""

    def kept(self) -> int:
        """Return how many bytes it keeps in memory."""


class Answer(Protocol):
    """An exchange as its source sees it."""

    client: Any
    has_room: bool
    head: RequestHead
    name: str
    state: str
    wire: Any

    @property
    def left(self) -> int | None:
        """Bytes of the body that are still to be sent; None: unknown."""

    @property
    def site(self) -> Site:
        """What all connections share."""

    def reply(self, content: Content) -> None:
        """Act on a reply."""

    def send_part(self, data: bytes, more: bool = True) -> None:
        """Send a part of the body; it is the last unless there are `more`."""

    def sent(self, size: int) -> None:
        """So many bytes of the body have gone to the kernel."""

    def fail(self, status: int, text: str = "") -> None:
        """Answer with an error, or break the answer off."""


class _Body:
    """A body of known length. On a plain socket the kernel takes what it can of it at once; the rest goes through the
    connection, piece by piece.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Answer) -> None:
        self._exchange = exchange

    def begin(self, head: bytes) -> None:
        """Send the head of the answer, then the body."""
        transport = self._exchange.wire.direct()
        taken = 0 if transport is None or not head else self._give_head(transport, head)
        if taken < len(head):
            self._exchange.wire.write(head[taken:])
        elif transport is not None:
            self._given(transport, taken)
        self.resume()

    def resume(self) -> None:
        """Send more, until the client's buffer is full or the body ends."""
        exchange, given = self._exchange, 0
        while exchange.state == "streaming":
            if exchange.left == 0:
                exchange.send_part(b"", more=False)
                return
            transport = exchange.wire.direct()
            taken = 0 if transport is None or exchange.left is None else self._give(transport, min(exchange.left, TURN))
            if taken and transport is not None:
                exchange.sent(taken)
                self._given(transport, taken)
                given += taken
                if given >= TURN and exchange.left:  # the client is fast, and others wait
                    exchange.site.continuations.add(exchange.client and exchange.client[0], self.resume)
                    return
            elif not self._send_piece():
                return

    def _given(self, transport: tcp.Connection, size: int) -> None:
        """The kernel has taken so many bytes at once: if the client reads so fast, it may take more."""
        exchange = self._exchange
        if size > FAST and (exchange.left or 0) > UNSENT:
            limit_unsent(transport, room_for_long(len(exchange.site.connections)))

    def _give_head(self, transport: tcp.Connection, head: bytes) -> int:
        """Give the kernel the head, and of the body what goes with it; return how many bytes it has taken."""
        raise NotImplementedError

    def _give(self, transport: tcp.Connection, size: int) -> int:
        """Give the kernel up to `size` bytes; return how many it has taken."""
        raise NotImplementedError

    def _send_piece(self) -> bool:
        """Send a piece through the connection; return whether there is room for another."""
        raise NotImplementedError

    def _fail(self, what: str, error: OSError) -> bool:
        path = self._exchange.head.path
        _log.error("the {what} for {path!r} cannot be read: {error}", what=what, path=path, error=error)
        self._exchange.fail(500)
        return False


class FileSource(_Body):
    """Sends a file, as fast as the client reads.

    :param file: an open file, unbuffered; it is closed at the end.
    """

    __slots__ = ("_file",)

    def __init__(self, exchange: Answer, file: Any) -> None:
        super().__init__(exchange)
        self._file = file

    def _give_head(self, transport: tcp.Connection, head: bytes) -> int:
        return send_now(transport, head, more=bool(self._exchange.left))

    def _give(self, transport: tcp.Connection, size: int) -> int:
        position = self._file.tell()
        taken = send_file(transport, self._file.fileno(), position, size)
        if taken:
            self._file.seek(position + taken)
        return taken

    def _send_piece(self) -> bool:
        try:
            block = self._file.read(BLOCK)
        except OSError as error:
            self.close()
            return self._fail("file", error)
        self._exchange.reply({"content": block, "more_content": len(block) == BLOCK})
        return self._exchange.has_room

    def close(self) -> None:
        self._file.close()

    def kept(self) -> int:
        return 0


class Stored(Protocol):
    """Bytes that are not in memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...
    def close(self) -> None: ...


class WholeBody(_Body):
    """Sends a large body piece by piece. Given to the transport as a whole, a client on a slow line would have one
    deadline for all of it, and it would be copied several times.
    """

    __slots__ = ("_body", "_sent")

    def __init__(self, exchange: Answer, body: bytes) -> None:
        super().__init__(exchange)
        self._body: bytes | Stored = body
        self._sent = 0

    @property
    def left(self) -> int:
        """Bytes that are still to be sent."""
        return max(0, len(self._body) - self._sent)

    def rest(self) -> bytes:
        """Return what is still to be sent."""
        return self._body[self._sent :]

    def move(self, stored: Stored) -> None:
        """Have the rest sent from elsewhere."""
        self._body, self._sent = stored, 0

    def _give_head(self, transport: tcp.Connection, head: bytes) -> int:
        taken = send_now(transport, head, memoryview(self._body)[:TURN]) if isinstance(self._body, bytes) else 0
        if taken > len(head):
            self._sent = taken - len(head)
            self._exchange.sent(self._sent)
        return taken

    def _give(self, transport: tcp.Connection, size: int) -> int:
        if not isinstance(self._body, bytes):
            return 0
        taken = send_now(transport, memoryview(self._body)[self._sent : self._sent + size])
        self._sent += taken
        return taken

    def _send_piece(self) -> bool:
        try:
            piece = self._body[self._sent : self._sent + PIECE]
        except OSError as error:
            return self._fail("answer", error)
        self._sent += len(piece)
        self._exchange.send_part(piece, self._sent < len(self._body))
        return self._exchange.has_room

    def close(self) -> None:
        body, self._body = self._body, b""
        if not isinstance(body, bytes):
            body.close()

    def kept(self) -> int:
        """Return how many bytes it keeps in memory."""
        return len(self._body) if isinstance(self._body, bytes) else 0
