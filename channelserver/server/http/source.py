"""What sends an answer from within the reactor, as fast as the client reads: a file, a large body, an event stream.

Runs in the reactor thread; a source is owned by its exchange, and owns its file.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger

from channelserver.layers.content import Content
from channelserver.server.http.http1 import RequestHead
from channelserver.server.site import Site

_log = Logger("channelserver.server.http")

#: A larger answer is handed to the transport in pieces of this size, each when the client has read those before it.
PIECE = 128 * 1024
#: Bytes read from a file at a time.
BLOCK = 64 * 1024


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

    @property
    def site(self) -> Site:
        """What all connections share."""

    def reply(self, content: Content) -> None:
        """Act on a reply."""

    def send_part(self, data: bytes, more: bool = True) -> None:
        """Send a part of the body; it is the last unless there are `more`."""

    def fail(self, status: int, text: str = "") -> None:
        """Answer with an error, or break the answer off."""


class FileSource:
    """Sends a file, as fast as the client reads.

    :param file: an open file; it is closed at the end.
    """

    def __init__(self, exchange: Answer, file: Any) -> None:
        self._exchange = exchange
        self._file = file

    def resume(self) -> None:
        """Send the next parts, until the client's buffer is full or the file ends."""
        exchange = self._exchange
        try:
            while exchange.state == "streaming":
                block = self._file.read(BLOCK)
                if len(block) < BLOCK:
                    self.close()
                    exchange.reply({"content": block, "more_content": False})
                    return
                exchange.reply({"content": block, "more_content": True})
                if not exchange.has_room:
                    return
        except OSError as error:
            _log.error("the file for {path!r} cannot be read: {error}", path=exchange.head.path, error=error)
            self.close()
            exchange.fail(500)

    def close(self) -> None:
        self._file.close()

    def kept(self) -> int:
        return 0


class Stored(Protocol):
    """Bytes that are not in memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...
    def close(self) -> None: ...


class WholeBody:
    """Sends a large body piece by piece. Given to the transport as a whole, a client on a slow line would have one
    deadline for all of it, and it would be copied several times.
    """

    __slots__ = ("_body", "_exchange", "_sent")

    def __init__(self, exchange: Answer, body: bytes) -> None:
        self._exchange = exchange
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

    def resume(self) -> None:
        exchange, size = self._exchange, len(self._body)
        while exchange.state == "streaming":
            try:
                piece = self._body[self._sent : self._sent + PIECE]
            except OSError as error:
                _log.error("the answer for {path!r} cannot be read: {error}", path=exchange.head.path, error=error)
                exchange.fail(500)
                return
            self._sent += len(piece)
            exchange.send_part(piece, self._sent < size)
            if not exchange.has_room:
                return

    def close(self) -> None:
        body, self._body = self._body, b""
        if not isinstance(body, bytes):
            body.close()

    def kept(self) -> int:
        """Return how many bytes it keeps in memory."""
        return len(self._body) if isinstance(self._body, bytes) else 0
