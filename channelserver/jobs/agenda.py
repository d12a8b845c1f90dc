"""When a process has to do something for its jobs next, though nobody wakes it.

Runs in any thread, :class:`Clock` in the claimer's; owns the time of the next waiting job or schedule.
"""

from __future__ import annotations

import threading
import time

#: Seconds by which the clock must have gone back.
BACK_SECONDS = 60.0


class Agenda:
    """The next time at which a job or a schedule is due, Unix time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: float | None = None
        self._announced: float | None = None  # the earliest since a look began, which may miss it

    @property
    def next(self) -> float | None:
        """The next time; None: nothing waits."""
        with self._lock:
            return self._next

    def expect(self, at: float) -> None:
        """Something is due at `at`."""
        with self._lock:
            if self._next is None or at < self._next:
                self._next = at
            if self._announced is None or at < self._announced:
                self._announced = at

    def look_begins(self) -> None:
        """The database is asked from now on."""
        with self._lock:
            self._announced = None

    def looked(self, times: list[float]) -> None:
        """The database has answered.

        :param times: what is due, and when.
        """
        with self._lock:
            if self._announced is not None:
                times = [*times, self._announced]
            self._next = min(times, default=None)


class Clock:
    """Notices that somebody has set the clock back: what was planned by it is now too late."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def was_set_back(self) -> bool:
        """Whether it was, since the last call."""
        before, self._ahead = self._ahead, time.time() - time.monotonic()
        return self._ahead < before - BACK_SECONDS
