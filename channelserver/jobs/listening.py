"""How a claimer waits: for its own process, for others of this machine, and for others over PostgreSQL.

Runs in the claimer's thread, :meth:`Bell.ring` in any; owns an eventfd, and what it has asked of the connection.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any

from channelserver.jobs.presence import Presence

#: The PostgreSQL channel (``LISTEN``) of the jobs; the database is its scope.
NOTIFY_CHANNEL = "channelserver_jobs"
#: Seconds after which a silent server on another host is dead, though its connection seems to be there.
SILENT_SECONDS = 30.0
#: Seconds for which a server must have been without its lock: it may be connecting again.
UNLOCKED_SECONDS = 2.0
#: Seconds that a claimer waits for a locked row. With a longer wait, other servers would take this one for dead.
LOCK_SECONDS = 10


class Bell:
    """Wakes the claimer.

    :param presence: its socket hears the other processes of this machine.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._rung = False
        self._closed = False

    def ring(self) -> None:
        """Wake it, or keep it from falling asleep. Any thread."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                if not self._closed:
                    os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float, postgresql: PostgreSQL | None = None) -> bool:
        """Wait; return whether another process has called.

        :param postgresql: notifies; None: the database does not.
        """
        called = postgresql is not None and postgresql.has_notified()
        sources = [self._descriptor]
        if self._presence.socket is not None:
            sources.append(self._presence.socket.fileno())
        database = postgresql.descriptor() if postgresql is not None else None
        if database is not None:
            sources.append(database)
        poll = select.poll()
        for source in sources:
            poll.register(source, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(0.0 if called else max(0.0, seconds) * 1000)}
        if self._descriptor in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
        self._rung = False  # not before: who rings in between would be forgotten, and keep all others from ringing
        if self._presence.socket is not None and self._presence.socket.fileno() in ready:
            called = True
            with contextlib.suppress(OSError):
                while self._presence.socket.recv(64):
                    pass
        if postgresql is not None and database in ready:
            called = postgresql.take_notifications() or called
        return called

    def close(self) -> None:
        self._closed = True
        os.close(self._descriptor)


def key_of(owner: str) -> int:
    """Return the number of the advisory lock of a server."""
    return int(owner[:15], 16)


class PostgreSQL:
    """What a claimer does with a connection to PostgreSQL beside its queries.

    :param connection: Django's; the claimer's thread owns it.
    """

    def __init__(self, connection: Any, owner: str) -> None:
        self._connection = connection
        self._owner = owner
        self._prepared: Any = None
        self._unlocked: dict[str, float] = {}
        self._notified: list[Any] = []  # what came with the answer to a query
        #: Whether this connection has the lock. An earlier one may have it: PostgreSQL has not noticed its end.
        self.is_locked = False

    def prepare(self) -> None:
        """Listen, and lock the lock that says this process is alive, unless this connection does already."""
        self._connection.ensure_connection()
        is_new = self._prepared is not self._connection.connection
        if self.is_locked and not is_new:
            return
        with self._connection.cursor() as cursor:
            if is_new:
                self.is_locked = False
                raw = self._connection.connection
                if hasattr(raw, "add_notify_handler"):  # psycopg 3
                    raw.add_notify_handler(self._notified.append)
                cursor.execute(f"LISTEN {NOTIFY_CHANNEL}")
                cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [key_of(self._owner)])
            self.is_locked = cursor.fetchone()[0]
        self._prepared = self._connection.connection

    def descriptor(self) -> int | None:
        """Return what becomes readable when PostgreSQL notifies; None: there is no connection."""
        raw = self._connection.connection
        if raw is None:
            return None
        try:
            descriptor: int = raw.fileno()
        except Exception:  # it is closed
            return None
        return descriptor

    def has_notified(self) -> bool:
        """Take the notifications that came with the answers to queries; return whether another process sent one."""
        raw = self._connection.connection
        if raw is None:
            return False
        notified, own = self._notified, raw.info.backend_pid
        if not hasattr(raw, "add_notify_handler"):  # psycopg2
            notified = raw.notifies
        pids = {notification.pid for notification in notified}
        notified.clear()
        return bool(pids - {own})

    def take_notifications(self) -> bool:
        """Read what PostgreSQL has sent; return whether another process has.

        :raises Error: Django's, if the connection is gone.
        """
        raw = self._connection.connection
        pgconn = getattr(raw, "pgconn", None)
        with self._connection.wrap_database_errors:
            if pgconn is None:  # psycopg2
                raw.poll()
                return self.has_notified()
            pgconn.consume_input()
            pids = set()
            while (notification := pgconn.notifies()) is not None:
                pids.add(notification.be_pid)
            return bool(pids - {pgconn.backend_pid})

    def notify(self) -> None:
        """Wake the claimers of all hosts; :class:`Bell` leaves out this one's own."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [NOTIFY_CHANNEL])

    def are_dead(self, owners: set[str], silent: dict[str, float], now: float) -> tuple[set[str], bool]:
        """Return which servers of other hosts have ended, and whether others may have and want a second look.

        :param silent: for how many seconds each has been silent, where that is known.
        :param now: on the monotonic clock.
        """
        dead = {owner for owner in owners if silent.get(owner, 0.0) > SILENT_SECONDS}
        self._unlocked = {owner: since for owner, since in self._unlocked.items() if owner in owners}
        for owner in owners - dead:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [key_of(owner)])
                if not cursor.fetchone()[0]:
                    self._unlocked.pop(owner, None)
                    continue
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key_of(owner)])
            if now - self._unlocked.setdefault(owner, now) >= UNLOCKED_SECONDS:
                dead.add(owner)
        return dead, bool(self._unlocked.keys() - dead)
