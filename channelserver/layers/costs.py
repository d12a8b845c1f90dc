"""How long the messages of each path keep a worker thread.

Safe from any thread: one lock, held for moments. Owns the latest times.

Messages that are known to be quick need not wait behind those that are slow or unknown: see
:mod:`channelserver.layers.turns`, and the threads that are kept for them in :mod:`channelserver.workers.waking`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Hashable

#: Seconds up to which messages are of each level.
LEVELS = (0.002, 0.008, 0.032, 0.128)
#: The level of a message about whose path nothing is known: after those of less than 8 ms.
UNKNOWN = 1.5
#: Levels that are slow, as far as it is known, begin here.
SLOW = 3.0
#: Paths that are remembered.
MOST_PATHS = 4000
#: A longer time than before counts by this part: times are longer by chance, when threads compete, but never shorter.
WEIGHT = 1 / 8
#: Seconds for which threads are kept for quick messages after one was seen.
LATELY = 5.0


class Costs:
    """The times of the latest paths."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[int, float] = {}  # those last seen at the end
        #: Until when threads are kept for quick messages, on the clock of :meth:`record`.
        self.quick_until = 0.0

    def record(self, channel: str, path: Hashable, seconds: float, now: float) -> None:
        """Note how long a message has kept a thread.

        :param now: seconds of a clock.
        """
        key = hash((channel, path))  # a path may be as long as a request's head
        with self._lock:
            before = self._seconds.pop(key, None)
            known = seconds if before is None else before
            known = self._seconds[key] = seconds if seconds < known else known + (seconds - known) * WEIGHT
            if len(self._seconds) > MOST_PATHS:
                del self._seconds[next(iter(self._seconds))]
        if before is not None and max(before, known) < LEVELS[int(SLOW) - 1]:  # not by chance
            self.quick_until = now + LATELY

    def level(self, channel: str, path: Hashable) -> float:
        """Return how slow a message probably is: 0 for the quickest; :data:`UNKNOWN`."""
        seconds = self._seconds.get(hash((channel, path)))
        return UNKNOWN if seconds is None else bisect_right(LEVELS, seconds)


def is_slow(level: float) -> bool:
    """Whether messages of a level may not have the threads that are kept for quick ones."""
    return level == UNKNOWN or level >= SLOW
