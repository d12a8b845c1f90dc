"""When a process has to do something for its jobs next, though nobody wakes it.

Runs in any thread; owns the time of the next waiting job or schedule.
"""

from __future__ import annotations

import threading


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
