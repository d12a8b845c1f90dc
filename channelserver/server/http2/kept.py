"""What the server keeps for the client of one HTTP/2 connection, beside what waits in the transport.

Runs in the reactor thread; owned by its connection.
"""

from __future__ import annotations

from channelserver.server.common.account import CONNECTION_BYTES, SMALL
from channelserver.server.http2.answers import Answers

#: Seconds after which a connection is closed if more than its share is kept for it all the while.
FULL_SECONDS = 10.0
#: With so many bytes more, it is closed at once: an application sends faster than the client reads.
EXCESS_BYTES = 1024 * 1024
#: Bytes that an idle connection takes, beside those of HTTP/1.1: ``h2`` and its tables of header fields.
IDLE_BYTES = 20 * 1024

#: Of request bodies over 64 KiB, what does not fit into this, together with all other requests, is on the disk. The
#: largest number of streams, each with a body of 64 KiB, has room beside it.
BODIES_IN_MEMORY = 1280 * 1024


class Kept:
    """Adds it up."""

    __slots__ = ("_entered", "answers", "full_until", "requests", "unread")

    def __init__(self) -> None:
        self._entered = 0  # what the account knows of
        #: Bytes of a frame, or a block of header fields, that is not complete, and of the blocks that are remembered.
        self.unread = 0
        #: Bytes of requests, until they are answered.
        self.requests = 0
        #: Answers.
        self.answers = Answers()
        #: When the connection is to be closed, because more than its share is kept; None: less is kept.
        self.full_until: float | None = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.beside_largest + self.answers.largest_and_rest()[0]

    @property
    def beside_largest(self) -> int:
        """Bytes beside the largest complete answer."""
        answers = self.answers
        size = self.requests + answers.parts + self.unread
        return size + answers.largest_and_rest()[1] if answers.whole else size

    def room_for_body(self, size: int) -> int:
        """Return how many bytes of a body may be in memory, if `size` bytes of it are there."""
        return BODIES_IN_MEMORY - self.requests + size

    @property
    def has_changed(self) -> bool:
        """Whether the account must know of it."""
        return not -SMALL <= self.beside_largest - self._entered <= SMALL

    def enter(self, now: float) -> None:
        """Note that the account knows of it, and whether it is too much."""
        self._entered = size = self.beside_largest
        if size <= CONNECTION_BYTES:
            self.full_until = None
        elif size > CONNECTION_BYTES + EXCESS_BYTES:
            self.full_until = now
        elif self.full_until is None:
            self.full_until = now + FULL_SECONDS
