"""Which server processes are alive, and how to wake them: one folder for each database.

Runs in any thread; owns this process's two files in that folder.

A server holds a lock on a file named after it. The kernel frees the lock when the process ends, however it ends, so
nobody has to guess: a file that can be locked belongs to a dead process. The lock is one of ``fcntl(2)``, which a
forked child does not inherit. Beside it lies a datagram socket: one byte wakes the server's claimer.

For SQLite the folder lies beside the database file, so whoever shares the database shares the folder. For another
database it is one of this machine, and :mod:`channelserver.jobs.postgresql` knows about servers on others.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

_LOCK, _WAKE = ".lock", ".wake"
#: Bytes in the file for a job that is under way: its identifier and a space.
_SLOT = 33
#: This process's own: its locks do not hinder itself, and closing a file of theirs would free them (fcntl(2)).
_own: set[str] = set()
os.register_at_fork(after_in_child=_own.clear)  # a forked child has none of these locks


def folder_of(connection: Any) -> Path | None:
    """Return the folder for a database; None for one in memory, which no other process can see.

    :param connection: Django's.
    """
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return None if connection.is_in_memory_db() else _beside(str(settings["NAME"]))
    where = "\0".join(str(settings.get(key, "")) for key in ("HOST", "PORT", "NAME"))
    name = hashlib.sha256(where.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"channelserver-{os.getuid()}" / f"jobs-{name}"


@lru_cache
def _beside(name: str) -> Path | None:
    return Path(os.path.realpath(name.removeprefix("file:").partition("?")[0]) + "-jobs") if name else None


class Presence:
    """That this process is alive, for as long as it is.

    :param folder: from :func:`folder_of`.
    :raises OSError: nothing can be created there.
    """

    def __init__(self, folder: Path | None) -> None:
        #: Names this start of this process; never a host or a process id, which another start may have again.
        self.id = secrets.token_hex(8)
        _own.add(self.id)
        self._folder = folder
        self._lock: int | None = None
        self._slots: list[str] = []
        self._guard = threading.Lock()
        #: Becomes readable when another process has something to do; None for a database in memory.
        self.socket: socket.socket | None = None
        if folder is None:
            return
        _make_folder(folder)
        self._make_files(folder)

    def _make_files(self, folder: Path) -> None:
        new = folder / (self.id + ".new")
        lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with self._guard:
            old, self._lock = self._lock, lock
            for number, job in enumerate(self._slots):
                os.pwrite(lock, job.ljust(_SLOT).encode(), number * _SLOT)
        if old is not None:
            os.close(old)
        new.rename(folder / (self.id + _LOCK))  # nobody finds it without its lock
        if self.socket is not None:
            self.socket.close()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        with _short(folder) as short:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{short}/{self.id}{_WAKE}")
            self.socket.bind(f"{short}/{self.id}{_WAKE}")

    def renew(self) -> bool:
        """Make the files again if somebody has removed them; return whether that was so."""
        if self._folder is None or self._lock is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._folder / (self.id + _LOCK))
            if os.path.samestat(found, os.fstat(self._lock)) and (self._folder / (self.id + _WAKE)).exists():
                return False
        _make_folder(self._folder)
        self._make_files(self._folder)
        return True

    def close(self) -> None:
        """Remove the files: this process runs no more jobs."""
        _own.discard(self.id)
        if self._folder is None or self._lock is None:
            return
        assert self.socket is not None
        self.socket.close()
        for suffix in (_WAKE, _LOCK):
            with contextlib.suppress(OSError):
                os.unlink(self._folder / (self.id + suffix))
        os.close(self._lock)
        self._lock = None

    # -- which jobs are under way --------------------------------------------------------------------------------------

    def began(self, job: str) -> None:
        """Note in the file that a job is under way: if this process dies now, the job may be the cause."""
        self._note("", job)

    def ended(self, job: str) -> None:
        """The job is no longer under way."""
        self._note(job, "")

    def _note(self, old: str, new: str) -> None:
        with self._guard:
            if self._lock is None:
                return
            if old in self._slots:
                slot = self._slots.index(old)
                self._slots[slot] = new
            elif not old:
                slot = len(self._slots)
                self._slots.append(new)
            else:
                return
            with contextlib.suppress(OSError):  # the disk is full; the job goes on
                os.pwrite(self._lock, new.ljust(_SLOT).encode(), slot * _SLOT)

    def under_way(self, owner: str) -> set[str] | None:
        """Return the jobs that were under way when a process ended; None: that is not known here."""
        if self._folder is None:
            return None
        try:
            return set((self._folder / (owner + _LOCK)).read_text().split())
        except (OSError, UnicodeDecodeError):
            return None

    def is_dead(self, owner: str) -> bool | None:
        """Whether the process `owner` has ended; None: it is not of this machine, or of another folder.

        For SQLite every owner is of this folder, so one without a file has ended.
        """
        if owner in _own:
            return False
        if self._folder is None:
            return True
        try:
            descriptor = os.open(self._folder / (owner + _LOCK), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:  # such as too many open files: no reason to give it up
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def touch(self) -> None:
        """Note that this process has looked into the tables."""
        if self._lock is not None:
            os.utime(self._lock)

    def is_first(self, seconds: float) -> bool:
        """Whether no other process of this machine looks into the tables while all are idle.

        :param seconds: one that has not looked for so long, though it lives, stands still.
        """
        if self._folder is None:
            return True
        for name in os.listdir(self._folder):
            owner, suffix = os.path.splitext(name)
            if suffix != _LOCK or owner >= self.id:
                continue
            with contextlib.suppress(OSError):
                looked = (self._folder / name).stat().st_mtime
                if abs(time.time() - looked) < seconds and self.is_dead(owner) is False:
                    return False
        return True

    def forget(self, owner: str) -> None:
        """Remove the files of a process that has ended."""
        if self._folder is not None:
            for suffix in (_WAKE, _LOCK):
                with contextlib.suppress(OSError):
                    os.unlink(self._folder / (owner + suffix))

    def forget_dead(self) -> None:
        """Remove the files of all processes that have ended."""
        if self._folder is None:
            return
        for name in os.listdir(self._folder):
            owner, suffix = os.path.splitext(name)
            if suffix == _LOCK and self.is_dead(owner):
                self.forget(owner)


def wake(folder: Path | None, but: str = "") -> None:
    """Wake the claimers of a database's servers on this machine. Never raises, never waits.

    :param but: one of them that needs no waking.
    """
    if folder is None:
        return
    try:
        names = [name for name in os.listdir(folder) if name.endswith(_WAKE) and name != but + _WAKE]
    except OSError:
        return  # no server has run jobs of this database
    if not names:
        return
    with contextlib.suppress(OSError), _short(folder) as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.setblocking(False)
        for name in names:
            with contextlib.suppress(OSError):  # it has ended; or it is about to wake up anyway
                end.sendto(b"!", f"{short}/{name}")


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Give a folder a short name: the path of a Unix socket has at most 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"the folder {str(folder)!r} belongs to another user, or others may write to it")


def _is_ours(folder: Path) -> bool:
    status = os.lstat(folder)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
