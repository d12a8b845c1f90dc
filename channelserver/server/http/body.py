"""The body of one request, as it comes in.

Runs in the reactor thread; owned by its connection or stream, until the complete body is taken out.
"""

from __future__ import annotations

import tempfile
from typing import IO, Any

from channelserver.server.http.http1 import BadRequest, RequestHead, body_reader

#: A body up to this many bytes travels in the message; a larger one goes to a temporary file.
BODY_IN_MESSAGE = 64 * 1024


class RequestBody:
    """Collects a body, in memory as long as it is small.

    :param limit: bytes it may have.
    """

    __slots__ = ("_file", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._file = tempfile.SpooledTemporaryFile(max_size=BODY_IN_MESSAGE)
        #: Bytes so far.
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add a part.

        :raises BadRequest: the body is too large.
        """
        self.check(self.size + len(data), self._limit)
        self.size += len(data)
        self._file.write(data)

    @staticmethod
    def check(size: int, limit: int) -> None:
        """Check a body's size.

        :raises BadRequest: it is above the limit.
        """
        if size > limit:
            raise BadRequest(f"request body over {limit} bytes", 413)

    def take(self) -> tuple[bytes, IO[bytes] | None]:
        """Return the complete body: its bytes if they are few, else a file, which the caller closes."""
        file: Any = self._file
        file.seek(0)
        if self.size > BODY_IN_MESSAGE:
            return b"", file
        with file:
            return file.read(), None

    def close(self) -> None:
        """Forget it: the request is not going to be complete."""
        self._file.close()


class FramedBody(RequestBody):
    """A body of HTTP/1: its end is found by its framing, and it must not come too slowly.

    :param head: the request's head.
    :param options: the values of all options.
    :param now: seconds of the server's clock.
    :raises BadRequest: it is going to be too large.
    """

    __slots__ = ("_began", "_options", "_reader", "_received")

    def __init__(self, head: RequestHead, options: Any, now: float) -> None:
        self.check(head.length or 0, options.max_body_bytes)
        super().__init__(options.max_body_bytes)
        self._options = options
        self._reader = body_reader(head)
        self._began = now
        self._received = 0

    def feed(self, data: bytes) -> bytes | None:
        """Add what has been read.

        :returns: what follows the body; None: the body is not complete yet.
        :raises BadRequest: it is malformed or too large.
        """
        self._received += len(data)
        parts, rest = self._reader.feed(data)
        self.add(parts[0] if len(parts) == 1 else b"".join(parts))
        return rest

    def deadline(self, now: float) -> float:
        """When the next part must be there: in time after the last one, and not much later than the least rate allows
        for so many bytes.
        """
        options = self._options
        deadline: float = now + options.body_timeout
        if options.min_body_rate:
            slowest = self._began + options.body_timeout + self._received / options.min_body_rate
            deadline = min(deadline, slowest)
        return deadline
