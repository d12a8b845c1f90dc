"""The body of one request, as it comes in.

Runs in the reactor thread; owned by its connection or stream, until the complete body is taken out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
import threading
from typing import IO

from channelserver.server.common.options import Settings
from channelserver.server.http.http1 import BadRequest, RequestHead, body_reader

#: A body up to this many bytes travels in the message; a larger one goes to a temporary file.
BODY_IN_MESSAGE = 64 * 1024
#: Bytes of memory that an open temporary file takes.
FILE_BYTES = 10 * 1024

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Space:
    """The bytes in the temporary files of all bodies of this process. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used = 0

    def add(self, size: int) -> None:
        """Enter bytes; less than 0: they are no longer there."""
        with self._lock:
            self.used += size


space = _Space()


class BodyFile(io.BufferedRandom):
    """A temporary file of a body. Whoever has it closes it, in any thread."""

    def __init__(self, raw: io.FileIO) -> None:
        self._entered = 0
        super().__init__(raw)

    def enter(self, size: int, limit: int) -> None:
        """Enter that `size` bytes more will be written.

        :param limit: of all files together.
        :raises OSError: there is no space (ENOSPC).
        """
        if space.used + size > limit:
            raise OSError(errno.ENOSPC, f"{space.used} bytes of bodies are stored, of at most {limit}")
        self._entered += size
        space.add(size)

    def close(self) -> None:
        entered, self._entered = self._entered, 0
        space.add(-entered)
        super().close()


class RequestBody:
    """Collects a body, in memory as long as it is small; enforces the limits of size and rate.

    :param now: seconds of the server's clock.
    :raises BadRequest: its Content-Length is too large.
    """

    __slots__ = ("_began", "_data", "_file", "_options", "received", "size")

    def __init__(self, head: RequestHead, options: Settings, now: float) -> None:
        self._options = options
        self._began = now
        self._check(head.length or 0)
        self._data: bytes | bytearray = b""
        self._file: BodyFile | None = None
        #: Bytes so far; and the bytes they were sent as.
        self.size = self.received = 0

    def add(self, data: bytes) -> None:
        """Add a part.

        :raises BadRequest: the body is too large, or cannot be stored.
        """
        self._check(self.size + len(data))
        self.size += len(data)
        self.received += len(data)
        if self._file is None and self.size <= BODY_IN_MESSAGE:
            if not self._data:
                self._data = data
                return
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
            return
        try:
            limit = self._options.body_disk // self._options.processes
            if self._file is None:
                self._file = BodyFile(tempfile.TemporaryFile(buffering=0))
                self._file.enter(len(self._data), limit)
                self._file.write(self._data)
                self._data = b""
            self._file.enter(len(data), limit)
            self._file.write(data)
        except OSError as error:
            raise _not_stored(error) from error

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

    def waited(self, seconds: float) -> None:
        """Take out of account that the client was not allowed to send for some time."""
        self._began += seconds

    def kept(self) -> int:
        """Return how many bytes of memory it takes: none of those in a file, but the file's own buffer."""
        return len(self._data) if self._file is None else FILE_BYTES

    def take(self) -> tuple[bytes, IO[bytes] | None]:
        """Return the complete body: its bytes if they are few, else a file, which the caller closes.

        :raises BadRequest: it cannot be stored.
        """
        file = self._file
        if file is None:
            return bytes(self._data), None
        try:
            file.seek(0)
        except OSError as error:
            raise _not_stored(error) from error
        self._file = None
        return b"", file

    def close(self) -> None:
        """Drop the body of a request that will not be completed."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what is still in its buffer may not fit on the disk
                file.close()


def _not_stored(error: OSError) -> BadRequest:
    """Return the answer to a body for which there is no room (507), or no file descriptor or memory now (503)."""
    status = 507 if error.errno in _DISK_FULL else 503
    return BadRequest(f"the server cannot store the request body: {error.strerror or error}", status)


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
