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

from channelserver.server.common.account import ClientMemory
from channelserver.server.common.options import Settings
from channelserver.server.http.http1 import BadRequest, RequestHead, body_reader

#: A body up to this many bytes travels in the message; a larger one is a file: in memory, or on the disk.
BODY_IN_MESSAGE = 64 * 1024
#: A body over this many bytes is on the disk.
BODY_IN_MEMORY = 4 * 1024 * 1024
#: Larger bodies than :data:`BODY_IN_MESSAGE` take at most this part of ``client_memory`` together, and none while
#: clients take more than half of it.
SHARE = 1 / 8
#: Parts of fewer bytes are put together as they come: each object takes some memory of its own.
SMALL_PART = 4 * 1024
#: Bytes of memory that an open temporary file takes.
FILE_BYTES = 10 * 1024

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Space:
    """Bytes of all bodies of this process. Any thread."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close a file that nobody has closed while the lock is held.
        self._lock = threading.RLock()
        self.used = 0

    def add(self, size: int) -> None:
        """Enter bytes; less than 0: they are no longer there."""
        with self._lock:
            self.used += size


#: Those in temporary files; those of files in memory.
space, memory_space = _Space(), _Space()


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


class MemoryFile(io.BytesIO):
    """A body in memory that is read like a file. Whoever has it closes it, in any thread.

    :param data: the body; its bytes are entered in :data:`memory_space`.
    :param limit: of the bytes in all temporary files together.
    """

    def __init__(self, data: bytes, limit: int) -> None:
        self._limit = limit
        self._entered = len(data)
        self._copy: BodyFile | None = None
        super().__init__(data)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return self._entered

    def fileno(self) -> int:
        """Return the descriptor of a temporary file with the same bytes, for another process, which reads from the
        beginning.

        :raises OSError: it cannot be stored.
        """
        if self._copy is None:
            self._copy = BodyFile(tempfile.TemporaryFile(buffering=0))
            self._copy.enter(len(self.getbuffer()), self._limit)
            self._copy.write(self.getbuffer())
        self._copy.flush()
        self._copy.seek(0)
        return self._copy.fileno()

    def close(self) -> None:
        entered, self._entered = self._entered, 0
        memory_space.add(-entered)
        copy, self._copy = self._copy, None
        if copy is not None:
            with contextlib.suppress(OSError):
                copy.close()
        super().close()


class RequestBody:
    """Collects a body, in memory as long as there is room; enforces the limits of size and rate.

    :param now: seconds of the server's clock.
    :param memory: what is kept for all clients.
    :raises BadRequest: its Content-Length is too large.
    """

    __slots__ = ("_began", "_entered", "_file", "_memory", "_options", "_parts", "most", "received", "size")

    def __init__(self, head: RequestHead, options: Settings, now: float, memory: ClientMemory) -> None:
        self._options = options
        self._began = now
        self._check(head.length or 0)
        self._memory = memory
        self._parts: list[bytes | bytearray] = []
        self._entered = 0  # bytes in memory_space
        self._file: BodyFile | None = None
        #: Bytes of it that may be in memory. Of one that is known to be larger, they need not be moved later.
        self.most = BODY_IN_MEMORY if (head.length or 0) <= BODY_IN_MEMORY else BODY_IN_MESSAGE
        #: Bytes so far; and the bytes they were sent as.
        self.size = self.received = 0

    def add(self, data: bytes) -> None:
        """Add a part.

        :raises BadRequest: the body is too large, or cannot be stored.
        """
        self._check(self.size + len(data))
        self.size += len(data)
        self.received += len(data)
        if not data:
            return
        if self._file is None and self._fits():
            parts = self._parts
            if len(data) >= SMALL_PART or not parts:
                parts.append(data)
            elif isinstance(parts[-1], bytearray):
                parts[-1] += data
            else:
                parts.append(bytearray(data))
            return
        try:
            if self._file is None:
                self._file = BodyFile(tempfile.TemporaryFile(buffering=0))
                self._file.enter(self.size - len(data), self._disk)
                self._file.writelines(self._parts)
                self._drop_parts()
            self._file.enter(len(data), self._disk)
            self._file.write(data)
        except OSError as error:
            raise _not_stored(error) from error

    def _fits(self) -> bool:
        """Whether all of it may be in memory. If so, that is entered."""
        size, memory = self.size, self._memory
        if size <= BODY_IN_MESSAGE:
            return True
        more = size - self._entered
        if (
            size > self.most
            or memory_space.used + more > memory.limit * SHARE
            or memory.bytes + more > memory.limit // 2
        ):
            return False
        self._entered = size
        memory_space.add(more)
        return True

    def _drop_parts(self) -> None:
        self._parts = []
        entered, self._entered = self._entered, 0
        memory_space.add(-entered)

    @property
    def _disk(self) -> int:
        """Bytes that this process's temporary files may take together."""
        return int(self._options.body_disk // self._options.processes)

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
        return self.size if self._file is None else FILE_BYTES

    def take(self) -> tuple[bytes, IO[bytes] | None]:
        """Return the complete body: its bytes if they are few, else a file, which the caller closes.

        :raises BadRequest: it cannot be stored.
        """
        file = self._file
        if file is None:
            data = b"".join(self._parts)
            self._parts = []
            if not self._entered:
                return data, None
            self._entered = 0  # by the file from now on
            return b"", MemoryFile(data, self._disk)
        try:
            file.seek(0)
        except OSError as error:
            raise _not_stored(error) from error
        self._file = None
        return b"", file

    def close(self) -> None:
        """Drop the body of a request that will not be completed."""
        self._drop_parts()
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

    __slots__ = ("_length", "_reader", "chunked")

    def __init__(self, head: RequestHead, options: Settings, now: float, memory: ClientMemory) -> None:
        super().__init__(head, options, now, memory)
        self.chunked = head.length is None
        self._length = head.length or 0
        self._reader = body_reader(head)

    @property
    def left(self) -> int:
        """Bytes that are still to come; less: it is chunked."""
        return self._length - self.size

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
