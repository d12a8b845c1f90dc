"""Which threads of a pool are awake, and which are parked.

Any thread; the lock, held for moments, guards it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from channelserver.workers.worker_thread import WorkerThread

#: Seconds on the same job after which a thread counts as waiting for something.
PATIENCE = 0.002
#: The interpreter's switch interval in seconds while several threads are awake; otherwise it stays as it is (5 ms).
CROWDED_SWITCH = 0.001


class Parking:
    """The threads that are awake, and those that are parked.

    :param turn_began: as of :class:`channelserver.workers.pool.WorkerPool`.
    """

    def __init__(self, turn_began: Callable[[], float] = time.monotonic) -> None:
        self._turn_began = turn_began
        self._lock = threading.Lock()
        self._awake: set[WorkerThread] = set()
        self._parked: list[WorkerThread] = []
        self._crowded = False
        self._usual_switch = sys.getswitchinterval()

    def _flowing(self, besides: WorkerThread | None) -> bool:
        """Whether an awake thread is between two jobs, or has just begun one."""
        limit = self._turn_began() - PATIENCE
        for state in self._awake:
            if state is not besides and (state.busy_since == 0.0 or state.busy_since > limit):
                return True
        return False

    def _wake(self, number: int) -> None:
        parked = self._parked
        for _ in range(min(number, len(parked))):
            place = -1
            if parked[-1].guests:  # rather one without: a message that takes long would keep them waiting
                place = next((place for place in range(len(parked) - 1, -1, -1) if not parked[place].guests), -1)
            self._unpark(parked.pop(place))
        self._set_switch_interval()

    def _unpark(self, state: WorkerThread) -> None:
        state.busy_since = 0.0
        self._awake.add(state)
        state.gate.release()

    def _set_switch_interval(self) -> None:
        """Switch threads more often while several are awake, since the reactor also competes with them, a few times
        for each message. The caller holds the lock.
        """
        crowded = len(self._awake) > 1
        if crowded != self._crowded:
            self._crowded = crowded
            sys.setswitchinterval(CROWDED_SWITCH if crowded else self._usual_switch)
