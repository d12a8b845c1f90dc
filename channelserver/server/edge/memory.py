"""Small files in memory, ready to be sent.

Runs in the reactor thread; owns their content.

A file is looked at (``stat``) in each turn of the reactor in which it is sent, and read again when it has changed. A
file is only kept if its times are some moments old: a change in the same moment would not show in them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from channelserver.server.edge.files import OpenFile, State
from channelserver.server.http.ready import Ready
from channelserver.server.http.source import BLOCK

#: Bytes of all files together; each counts as :data:`ENTRY` bytes more. Those that came first are dropped first.
MAX_BYTES, ENTRY = 16 * 1024 * 1024, 1024
#: Seconds after a file's last change before it is kept.
SETTLED = 0.1


class Known(Protocol):
    """What else is known of a file."""

    #: Until when the same variants of it are there.
    look_at: float


class InMemory(Ready):
    """A file in memory.

    :param place: its path.
    :param status: its status, from before it was read.
    """

    __slots__ = ("_identity", "_known", "_looked", "_place")

    def __init__(self, place: str, status: os.stat_result, known: Known, state: State, body: bytes) -> None:
        super().__init__(state.fields, body)
        self._place = place
        self._known = known
        self._identity = _identity(status)
        self._looked = -1.0  # in this turn of the reactor

    def is_current(self, turn: float, now: Callable[[], float]) -> bool:
        if self._looked == turn:
            return True
        if now() >= self._known.look_at:
            return False
        try:
            if _identity(os.stat(self._place)) != self._identity:
                return False
        except OSError:
            return False
        self._looked = turn
        return True

    def forget(self) -> None:
        """Give the content up: it is not current any more."""
        self._message, self._looked, self._identity = b"", -1.0, ()


class Memory:
    """Files by path and content coding, of at most :data:`MAX_BYTES`."""

    __slots__ = ("_files", "bytes")

    def __init__(self) -> None:
        self._files: dict[tuple[str, bytes], InMemory] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    def get(self, path: str, coding: bytes) -> InMemory | None:
        """Return a file if it is there; it may have changed."""
        return self._files.get((path, coding))

    def add(self, path: str, place: str, file: OpenFile, known: Known, state: State) -> None:
        """Keep a file if it is small and has not changed in the last moments.

        :param place: where it is, for ``stat``.
        :raises OSError: it cannot be read.
        """
        status, now = os.fstat(file.fileno()), time.time()
        if file.size > BLOCK or any(0 <= now - each < SETTLED for each in (status.st_mtime, status.st_ctime)):
            return
        body = os.pread(file.fileno(), file.size, 0)
        if len(body) == file.size == status.st_size:
            self.drop(path, state.coding)
            self._files[path, state.coding] = InMemory(place, status, known, state, body)
            self.bytes += len(body) + ENTRY
            while self.bytes > MAX_BYTES:
                self.drop(*next(iter(self._files)))

    def drop(self, path: str, coding: bytes) -> None:
        """Drop a file if it is there."""
        file = self._files.pop((path, coding), None)
        if file is not None:
            self.bytes -= file.size + ENTRY
            file.forget()

    def clear(self) -> None:
        """Drop all files."""
        for key in list(self._files):
            self.drop(*key)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file changes, or another one takes its place."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
