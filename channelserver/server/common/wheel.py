"""One coarse timer for all deadlines of all connections.

Runs in the reactor thread; owns the deadlines.

A connection postpones its deadline thousands of times before it is due, so postponing costs nothing: the entry stays in
its slot, and when that is due, the wheel asks the owner for the actual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger("channelserver.server.wheel")


class Timed(Protocol):
    """Something with a deadline."""

    def on_tick(self, now: float) -> float | None:
        """Act on what is due; return when to call again, in seconds of the clock, or None for never."""


class Wheel:
    """Calls what is due, in slots of time; sleeps until the next slot with an entry.

    :param granularity: seconds in a slot.
    """

    def __init__(self, clock: IReactorTime, granularity: float = 0.5) -> None:
        self._clock = clock
        self._granularity = granularity
        self._slots: dict[int, set[Timed]] = {}
        self._slot_of: dict[Timed, int] = {}
        self._call: IDelayedCall | None = None
        self._next = 0  # the slot for which _call is set
        self.now: Callable[[], float] = clock.seconds
        #: The reactor's own, for what must not wait for a slot.
        self.call_later = clock.callLater

    def add(self, timed: Timed, when: float) -> None:
        """Call ``timed.on_tick`` at the time `when` or up to a slot later; earlier if it has an earlier entry."""
        slot = int(when / self._granularity) + 1
        current = self._slot_of.get(timed)
        if current is not None:
            if current <= slot:
                return
            self._take_out(timed, current)
        self._slot_of[timed] = slot
        entries = self._slots.get(slot)
        if entries is not None:
            entries.add(timed)
            return
        self._slots[slot] = {timed}
        if self._call is None or slot < self._next:
            self._sleep_until(slot)

    def remove(self, timed: Timed) -> None:
        """Remove the entry of `timed`, if it has one."""
        slot = self._slot_of.pop(timed, None)
        if slot is not None:
            self._take_out(timed, slot)

    def _take_out(self, timed: Timed, slot: int) -> None:
        entries = self._slots.get(slot)
        if entries is not None:  # None: this slot is being processed
            entries.discard(timed)
            if not entries:
                del self._slots[slot]

    def stop(self) -> None:
        self._slots.clear()
        self._slot_of.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _sleep_until(self, slot: int) -> None:
        if self._call is not None:
            self._call.cancel()
        self._next = slot
        delay = max(0.0, slot * self._granularity - self._clock.seconds())
        self._call = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._call = None
        now = self._clock.seconds()
        reached = int(now / self._granularity)
        for slot in sorted(slot for slot in self._slots if slot <= reached):
            for timed in self._slots.pop(slot, ()):
                if self._slot_of.pop(timed, None) is None:
                    continue  # an earlier entry has removed it
                try:
                    again = timed.on_tick(now)
                except Exception:  # one connection's error must not stop the deadlines of all others
                    _log.failure("error in a deadline of {timed!r}", timed=timed)
                    again = now + 1.0
                if again is not None:
                    self.add(timed, max(again, now))
        if self._slots:
            self._sleep_until(min(self._slots))
