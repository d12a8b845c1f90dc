"""How much of a streamed response is under way to its client.

The sender, in a worker thread or another one, waits or is called back; the reactor thread does not wait. Owned by the
exchange.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Bytes of a streamed response which may be under way to a connection before the sending thread waits.
WINDOW = 256 * 1024


class Flow:
    """How much of a streamed response is under way; for one sender, which waits or is called back, and the reactor
    thread, which does not wait.
    """

    __slots__ = ("_changed", "_gone", "_under_way", "_waiting", "held")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._gone = False
        #: Bytes of the part that a waiting thread has in hand.
        self.held = 0
        self._waiting: list[Callable[[bool], object]] = []

    def send(self, size: int, timeout: float) -> bool:
        """Wait for room, then count `size` bytes as under way. Return False if the client has gone, or had no room in
        time.
        """
        with self._changed:
            if self._under_way >= WINDOW and not self._gone:
                self.held = size
                self._changed.wait_for(lambda: self._under_way < WINDOW or self._gone, timeout)
                self.held = 0
            if self._gone or self._under_way >= WINDOW:
                return False
            self._under_way += size
            return True

    def send_then(self, size: int, done: Callable[[bool], object]) -> None:
        """Count `size` bytes as under way, and call ``done(True)`` when there is room for more, or ``done(False)`` when
        the client has gone.
        """
        room = self.add(size, done)
        if room is not None:
            done(room)

    def add(self, size: int, done: Callable[[bool], object]) -> bool | None:
        """Count `size` bytes as under way; for a sender that does not wait.

        :returns: True: there is room for more; False: the client has gone; None: ``done(True)`` is called when there is
            room, ``done(False)`` if the client goes.
        """
        with self._changed:
            self._under_way += size
            if self._gone or self._under_way < WINDOW:
                return not self._gone
            self._waiting.append(done)
            return None

    def sent(self, size: int) -> None:
        """Count `size` bytes as arrived."""
        waiting: list[Callable[[bool], object]] = []
        with self._changed:
            self._under_way -= size
            if self._under_way < WINDOW:
                self._changed.notify_all()
                waiting, self._waiting = self._waiting, waiting
        for done in waiting:
            done(True)

    def close(self) -> None:
        """The client has gone: wake the sender."""
        waiting: list[Callable[[bool], object]] = []
        with self._changed:
            self._gone = True
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, waiting
        for done in waiting:
            done(False)
