"""When to look for delayed messages that are due.

:meth:`DelayTimer.expect` and :meth:`DelayTimer.looked` run in any thread, the rest in the reactor thread. Owns the time
of the next look; one lock, held for moments, guards it. Touches no database: a look is a message to a worker thread.

There is one call of the reactor ahead at any time: for the earliest message that is known of, at the latest after
:data:`LOOK_SECONDS`, because other processes store messages, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("channelserver.delay")

#: Seconds between two looks at the table, for messages that other processes have stored.
LOOK_SECONDS = 5.0
#: Seconds between two looks at least: when there is more to send than one look takes, or another process is at it.
SHORTEST_PAUSE = 0.02
#: Seconds after which a look that has not come back is taken to be lost.
OVERDUE_SECONDS = 60.0

_running: dict[str, DelayTimer] = {}


def announce(layer: str, due: float) -> None:
    """Say that a message has been stored which is due at `due`, a time of the epoch. Any thread, any process."""
    timer = _running.get(layer)
    if timer is not None:
        timer.expect(due)


class DelayTimer:
    """Has the table looked at whenever a message is due.

    :param layer: alias of the channel layer whose messages these are.
    :param look: has a worker thread look, and call :meth:`looked` after that.
    :param call_later: ``call_later(seconds, function, *arguments)`` runs the function in the reactor thread.
    :param clock: returns the time of the epoch, in seconds; for tests.
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
        self._number = 0  # of the call that counts; earlier ones mean nothing any more
        self._next = 0.0
        self._looking: float | None = None  # since when
        self._expected: float | None = None  # the earliest message announced during a look, which may have missed it
        self._stopped = True

    def start(self) -> None:
        """Look now, and from now on."""
        _running[self._layer] = self
        with self._lock:
            self._stopped = False
            self._plan(0)

    def stop(self) -> None:
        """Look no more."""
        if _running.get(self._layer) is self:
            del _running[self._layer]
        with self._lock:
            self._stopped = True

    def expect(self, due: float) -> None:
        """Take note of a new message."""
        with self._lock:
            if self._looking is not None:
                self._expected = due if self._expected is None else min(due, self._expected)
            elif due < self._next:
                self._plan(due - self._clock())

    def looked(self, due: float | None) -> None:
        """Take note of the end of a look.

        :param due: when the next message is due; None: none is known of.
        """
        with self._lock:
            times = [time for time in (due, self._expected) if time is not None]
            self._looking = self._expected = None
            self._plan(min(times) - self._clock() if times else LOOK_SECONDS)

    def _plan(self, seconds: float) -> None:
        """Have the next look after so many seconds, or sooner. The lock is held."""
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
            self._plan(LOOK_SECONDS)  # whatever becomes of this look, there will be another
        if idle:
            try:
                self._look()
            except Exception:
                logger.exception("cannot look for delayed messages")
