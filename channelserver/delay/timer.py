"""Schedules the looks into the table of delayed messages.

:meth:`DelayTimer.expect` and :meth:`DelayTimer.looked` run in any thread, the rest in the reactor thread. Owns the time
of the next look, which a lock guards. Touches no database: a look is a message to a worker thread.

One call of the reactor is always scheduled: for the earliest known message, but at most :data:`LOOK_SECONDS` ahead,
because other processes store messages, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("channelserver.delay")

#: Longest pause between two looks, in seconds.
LOOK_SECONDS = 5.0
#: Shortest pause between two looks, in seconds.
SHORTEST_PAUSE = 0.02
#: Seconds after which an unfinished look counts as lost.
OVERDUE_SECONDS = 60.0

_running: dict[str, DelayTimer] = {}


def announce(layer: str, due: float) -> None:
    """Take note of a stored message that is due at `due` (Unix time). Any thread, any process."""
    timer = _running.get(layer)
    if timer is not None:
        timer.expect(due)


class DelayTimer:
    """Starts a look whenever a message is due.

    :param look: makes a worker thread look and then call :meth:`looked`.
    :param call_later: ``call_later(seconds, function, *arguments)`` runs the function in the reactor thread.
    :param clock: returns Unix time in seconds; for tests.
    """

    def __init__(
        self,
        layer: str,
        look: Callable[[], object],
        call_later: Callable[..., object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layer = layer
        self._look = look
        self._call_later = call_later
        self._clock = clock
        self._lock = threading.Lock()
        self._number = 0  # of the scheduled call; earlier calls have no effect
        self._next = 0.0
        self._looking: float | None = None  # start of the current look
        self._expected: float | None = None  # earliest message announced during a look, which may miss it
        self._stopped = True

    def start(self) -> None:
        _running[self._layer] = self
        with self._lock:
            self._stopped = False
            self._plan(0)

    def stop(self) -> None:
        if _running.get(self._layer) is self:
            del _running[self._layer]
        with self._lock:
            self._stopped = True

    def expect(self, due: float) -> None:
        """Take note of a new message that is due at `due` (Unix time)."""
        with self._lock:
            if self._looking is not None:
                self._expected = due if self._expected is None else min(due, self._expected)
            elif due < self._next:
                self._plan(due - self._clock())

    def looked(self, due: float | None) -> None:
        """Take note of the end of a look.

        :param due: when the next message is due (Unix time); None: no message is known.
        """
        with self._lock:
            times = [time for time in (due, self._expected) if time is not None]
            self._looking = self._expected = None
            self._plan(min(times) - self._clock() if times else LOOK_SECONDS)

    def _plan(self, seconds: float) -> None:
        """Schedule the next look. The lock is held.

        :param seconds: until it, if this is within the limits.
        """
        if self._stopped:
            return
        seconds = min(max(seconds, SHORTEST_PAUSE), LOOK_SECONDS)
        self._next = self._clock() + seconds
        self._number += 1
        self._call_later(seconds, self._fire, self._number)

    def _fire(self, number: int) -> None:
        with self._lock:
            if number != self._number or self._stopped:
                return
            now = self._clock()
            idle = self._looking is None or not 0 <= now - self._looking < OVERDUE_SECONDS
            if idle:
                self._looking, self._expected = now, None
            self._plan(LOOK_SECONDS)  # even if this look is lost, there is another one
        if idle:
            try:
                self._look()
            except Exception:
                logger.exception("cannot look for delayed messages")
