"""The body of one request, as it comes in.

Runs in the reactor thread; owned by its connection or stream, until the complete body is taken out.
"""

from __future__ import annotations

import tempfile
from typing import IO, Any

from channelserver.server.common.options import Settings
from channelserver.server.http.http1 import BadRequest, RequestHead, body_reader

#: A body up to this many bytes travels in the message; a larger one goes to a temporary file.
BODY_IN_MESSAGE = 64 * 1024


class RequestBody:
    """Collects a body, in memory as long as it is small; enforces the limits of size and rate.

    :param now: seconds of the server's clock.
    :raises BadRequest: its Content-Length is too large.
    """

    __slots__ = ("_began", "_file", "_options", "received", "size")

    def __init__(self, head: RequestHead, options: Settings, now: float) -> None:
        self._options = options
        self._began = now
        self._check(head.length or 0)
        self._file = tempfile.SpooledTemporaryFile(max_size=BODY_IN_MESSAGE)
        #: Bytes so far; and the bytes they were sent as.
        self.size = self.received = 0

    def add(self, data: bytes) -> None:
        """Add a part.

        :raises BadRequest: the body is too large.
        """
        self._check(self.size + len(data))
        self.size += len(data)
        self.received += len(data)
        self._file.write(data)

    def _check(self, size: int) -> None:
        if size > self._options.max_body_bytes:
            raise BadRequest(f"request body over {self._options.max_body_bytes} bytes", 413)

    def deadline(self, now: float) -> float:
        """Return when the next part must arrive: within ``body_timeout``, and in time for the minimum average rate."""
        options = self._options
        deadline: float = now + options.body_timeout
        if options.min_body_rate:
            slowest = self._began + options.body_timeout + self.received / options.min_body_rate
            deadline = min(deadline, slowest)
        return deadline

    def take(self) -> tuple[bytes, IO[bytes] | None]:
        """Return the complete body: its bytes if they are few, else a file, which the caller closes."""
        file: Any = self._file
        file.seek(0)
        if self.size > BODY_IN_MESSAGE:
            return b"", file
        with file:
            return file.read(), None

    def close(self) -> None:
        """Drop the body of a request that will not be completed."""
        self._file.close()


class FramedBody(RequestBody):
    """A body of HTTP/1.1, which ends where its framing says."""

    __slots__ = ("_reader", "chunked")

    def __init__(self, head: RequestHead, options: Settings, now: float) -> None:
        super().__init__(head, options, now)
        self.chunked = head.length is None
        self._reader = body_reader(head)

    def feed(self, data: bytes) -> bytes | None:
        """Add what has been read.

        :returns: what follows the body; None: the body is not complete yet.
        :raises BadRequest: it is malformed or too large.
        """
        parts, rest = self._reader.feed(data)
        part = parts[0] if len(parts) == 1 else b"".join(parts)
        self.add(part)
        self.received += len(data) - len(part)
        return rest
