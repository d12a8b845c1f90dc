"""Standard output and standard error that never make the process wait, or fail.

Any thread writes; a lock, held for moments, guards the backlog. Owns what could not be written yet.

Several processes may write to the same pipe: that one of them finds room does not mean that there still is some when it
writes. So writes do not wait, either: a pipe or a terminal is opened anew for that, because others use the same open
file, whose mode must stay.

A pipe whose reader has stopped reading, or a terminal on which somebody pressed Ctrl-S, would stop the whole server at
the next line of its log. So what cannot be written at once is kept, up to :data:`BACKLOG`, and a thread writes it when
the reader goes on. What exceeds that, or cannot be written because the disk is full, is dropped, and one line says how
many were.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

#: Bytes that are kept for a reader that does not read.
BACKLOG = 1024 * 1024
#: Bytes written in one go: to a pipe that ``poll`` calls writable, so many fit (POSIX: PIPE_BUF).
PIECE = 4096
#: Seconds until a full disk is tried again.
PAUSE = 1.0


class LogStream:
    """Wraps a text stream; whatever it does not do itself, the stream does.

    :param stream: has a file descriptor.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._close, self._write = _writer(stream.fileno())
        os.register_at_fork(after_in_child=self._forked)
        self._lock = threading.RLock()  # a signal handler may write, too
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._pid = 0  # of the process whose thread empties the backlog; 0: none does
        self._poll = select.poll()
        self._poll.register(stream.fileno(), select.POLLOUT)

    def _forked(self) -> None:
        """Close what this opened: twistd's daemon must not keep a terminal or a pipe."""
        close, self._close = self._close, None
        if close is not None:
            self._write = partial(os.write, self._stream.fileno())
            close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, as soon as possible."""
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        with self._lock:
            if not self._waiting and not self._lost:
                data = self._send(data)
            if data:
                self._keep(data)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits that could be written."""

    def _send(self, data: bytes) -> bytes:
        """Write what can be written now; return the rest. The lock is held."""
        while data and self._poll.poll(0):
            try:
                written = self._write(data[:PIECE])
            except BlockingIOError:
                break
            except OSError:
                self._lost += data.count(b"\n") or 1
                return b""
            data = data[written:]
        return data

    def _keep(self, data: bytes) -> None:
        if self._bytes + len(data) > BACKLOG or self._lost:
            self._lost += data.count(b"\n") or 1
        else:
            self._waiting.append(data)
            self._bytes += len(data)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            try:
                threading.Thread(target=self._empty, name="log", daemon=True).start()
            except (RuntimeError, MemoryError):  # the system has no room for a thread; the next line tries again
                self._pid = 0

    def _empty(self) -> None:
        """Write the backlog as the reader reads."""
        while True:
            ready = self._poll.poll(int(PAUSE * 1000))
            with self._lock:
                if ready and self._write_backlog():
                    self._pid = 0
                    return
            if ready and self._lost:  # else there would be no pause
                threading.Event().wait(PAUSE)

    def _write_backlog(self) -> bool:
        """Return whether nothing waits any more. The lock is held."""
        while self._waiting:
            data = self._waiting.popleft()
            rest = self._send(data)
            self._bytes -= len(data) - len(rest)
            if rest:
                self._waiting.appendleft(rest)
                return False
        if self._lost:
            lost, self._lost = self._lost, 0
            rest = self._send(f"channelserver: {lost} line(s) of the log could not be written\n".encode())
            if rest or self._lost:
                self._lost = lost
                return False
        return True


def _writer(descriptor: int) -> tuple[Callable[[], object] | None, Callable[[bytes], int]]:
    """Return a function that writes to what `descriptor` is open for, and before it, what closes what it needs for
    that; None: nothing.

    The function does not wait. It returns how many bytes it has written, and raises ``BlockingIOError`` if nothing can
    be written now.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        end = socket.socket(fileno=os.dup(descriptor))
        return end.close, lambda data: end.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        try:
            path = f"/proc/self/fd/{descriptor}"
            own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            return partial(os.close, own), partial(os.write, own)
        except OSError:
            pass  # another user's terminal, or there is no /proc
    return None, partial(os.write, descriptor)


def protect_standard_streams() -> None:
    """Have nothing wait for whoever reads the standard output or the standard error of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
            setattr(sys, name, LogStream(stream))
            setattr(sys, f"__{name}__", getattr(sys, name))
        except (AttributeError, OSError, ValueError):  # there is none, or it is no file
            pass
