"""The long answers of one HTTP/2 connection that wait for the client: complete ones in memory, and files.

Runs in the reactor thread; owned by its connection, and owns a temporary file.

A connection has up to 16 requests with consumers, and each may bring an answer of megabytes, or an open file. The
largest answer stays in memory, as over HTTP/1.1; of all others, what exceeds :data:`MAX_IN_MEMORY` waits in one
temporary file. Of the files, the latest few stay open; the others are opened again when they are read.
"""

from __future__ import annotations

import os
import stat
import tempfile
from typing import IO, Any

from channelserver.server.http.source import WholeBody

#: Bytes of answers that wait in memory, beside the largest complete one.
MAX_IN_MEMORY = 2 * 1024 * 1024
#: Files of answers that are open at a time.
MAX_FILES = 3


class Answers:
    """The answers of one connection."""

    __slots__ = ("_files", "_spill", "parts", "whole")

    def __init__(self) -> None:
        #: Complete answers.
        self.whole: list[WholeBody] = []
        self._spill = Spill()
        #: Bytes of parts of answers that wait in memory.
        self.parts = 0
        self._files: dict[LateFile, None] = {}  # the open ones, those last read at the end

    @property
    def waiting(self) -> int:
        """Bytes of complete answers that wait, beside the largest of them."""
        if not self.whole:
            return 0
        self.whole = [whole for whole in self.whole if whole.left]
        sizes = [whole.left for whole in self.whole]
        return sum(sizes) - max(sizes, default=0)

    def add(self, whole: WholeBody) -> None:
        """Have a complete answer wait.

        :raises OSError: there is no room for it.
        """
        self.whole.append(whole)
        kept = sorted((each for each in self.whole if each.kept()), key=lambda each: each.kept())
        if len(kept) > 1 and self.parts + sum(each.kept() for each in kept[:-1]) > MAX_IN_MEMORY:
            victim = kept[-2]
            victim.move(self._spill.put(victim.rest()))

    def add_part(self, data: bytes) -> memoryview | Spilled:
        """Have a large part of an answer wait; return what it is taken from.

        :raises OSError: there is no room for it.
        """
        if self.parts + len(data) + self.largest_and_rest()[1] > MAX_IN_MEMORY:
            return self._spill.put(data)
        self.parts += len(data)
        return memoryview(data)

    def largest_and_rest(self) -> tuple[int, int]:
        """Return the bytes of the largest complete answer in memory, and those of all other complete ones."""
        if not self.whole:
            return 0, 0
        sizes = [whole.kept() for whole in self.whole]
        largest = max(sizes)
        return largest, sum(sizes) - largest

    def add_file(self, file: Any) -> Any:
        """Have a file wait; return what to read it from."""
        try:
            late = LateFile(self, file)
        except (AttributeError, OSError, ValueError):  # no plain file
            return file
        self.used(late)
        return late

    def used(self, file: LateFile) -> None:
        """A file is open, and being read."""
        files = self._files
        files.pop(file, None)
        files[file] = None
        if len(files) > MAX_FILES:
            for other in list(files)[:-MAX_FILES]:
                if other.park():
                    del files[other]

    def closed(self, file: LateFile) -> None:
        """A file is not needed any more."""
        self._files.pop(file, None)


class Spill:
    """A temporary file in which answers wait; it has no name, and exists as long as one of them does."""

    __slots__ = ("_file", "_regions")

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._regions: list[tuple[int, int]] = []  # begin and end, in order

    def put(self, data: bytes) -> Spilled:
        """Write `data` into the first gap that is large enough.

        :raises OSError: there is no room, or no file descriptor.
        """
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)
        begin = 0
        for start, end in self._regions:
            if start - begin >= len(data):
                break
            begin = end
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._file.fileno(), view, begin + len(data) - len(view)) :]
        region = begin, begin + len(data)
        self._regions.append(region)
        self._regions.sort()
        return Spilled(self, *region)

    def read(self, begin: int, size: int) -> bytes:
        """Return `size` bytes from `begin` on.

        :raises OSError: they cannot be read.
        """
        if self._file is None:
            return b""
        return os.pread(self._file.fileno(), size, begin)

    def free(self, begin: int, end: int) -> None:
        """Give a region up."""
        self._regions.remove((begin, end))
        if not self._regions and self._file is not None:
            self._file.close()
            self._file = None


class Spilled:
    """Bytes in a temporary file, in place of bytes in memory."""

    __slots__ = ("_begin", "_end", "_position", "_spill")

    def __init__(self, spill: Spill, begin: int, end: int) -> None:
        self._spill = spill
        self._begin = self._position = begin
        self._end = end

    def __len__(self) -> int:
        return self._end - self._position

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(len(self))
        return self._spill.read(self._position + start, stop - start)

    def take(self, size: int) -> bytes:
        """Take up to `size` bytes from the beginning.

        :raises OSError: they cannot be read.
        """
        data = self[:size]
        self._position += len(data)
        return data

    def close(self) -> None:
        """Give them up."""
        self._spill.free(self._begin, self._end)


class LateFile:
    """A file that can be closed while it waits, and opened again when it is read.

    :param file: open for reading; it may have an ``end``, before the file's.
    """

    __slots__ = ("_answers", "_end", "_file", "_name", "_position", "_status")

    def __init__(self, answers: Answers, file: Any) -> None:
        self._answers = answers
        self._file: Any = file
        self._end: int | None = getattr(file, "end", None)
        self._name = ""
        self._position = file.tell()
        self._status = os.fstat(file.fileno())

    def read(self, size: int) -> bytes:
        """Read the next bytes.

        :raises OSError: it cannot be read, or has been changed since it was closed.
        """
        if self._file is None:
            self._file = open(self._name, "rb", buffering=0)  # closed by park() or close()
            if not self._is_same(os.fstat(self._file.fileno())):
                raise OSError("it was changed while the client did not read")
        self._answers.used(self)
        if self._end is not None:
            size = min(size, self._end - self._position)
        data = os.pread(self._file.fileno(), size, self._position) if size else b""
        self._position += len(data)
        return data

    def park(self) -> bool:
        """Close it for now; return False if it cannot be found again."""
        file = self._file
        if file is not None:
            try:
                self._name = os.readlink(f"/proc/self/fd/{file.fileno()}")
                if not stat.S_ISREG(self._status.st_mode) or not self._is_same(os.stat(self._name)):
                    return False
            except OSError:  # it was removed; or this is not Linux
                return False
            self._file = None
            file.close()
        return True

    def close(self) -> None:
        """It is not needed any more."""
        self._answers.closed(self)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_same(self, status: os.stat_result) -> bool:
        names = ("st_dev", "st_ino", "st_mtime_ns", "st_size")
        return all(getattr(self._status, name) == getattr(status, name) for name in names)
