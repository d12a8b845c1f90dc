"""What each process of a server tells the others in shared memory: its connections, that its reactor runs, its losses.

Runs in the reactor thread of each process; owns that process's own numbers. A process that is stopped or whose reactor
hangs cannot send anything; that it no longer writes here, the others see at once and without asking it. What it has
counted here stays when it ends, and the process that replaces it goes on counting.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

from channelserver.layers.losses import INDEX, REASONS, Reason, named

#: How many numbers a process has: its connections; when its reactor last ran, in ms of the monotonic clock (0: it has
#: not yet), which all processes share; why it should be replaced; how many messages would be lost with it because they
#: wait in it for Redis; and its losses.
_NUMBERS = 4 + len(REASONS)
#: Why a process should be replaced, by the number that it writes.
WISHES = ("", "worker threads hung", "max requests", "all threads for jobs are lost to overdue jobs")
#: Bytes of a number, and of a process.
_SIZE = 8
BYTES = _NUMBERS * _SIZE
#: Stands for the connections of a process that is not running.
_ABSENT = 2**64 - 1

#: A process with more than this many connections more than another one leaves the next connection to that one.
SLACK = 1
#: Seconds between two beats, and those after which a process counts as silent.
BEAT, SILENT = 1.0, 3.0


class Shares:
    """The numbers of all processes.

    :param descriptor: of the shared memory; stays open.
    :param number: which of them this is, from 1.
    :param now: returns seconds of the system's monotonic clock.
    """

    def __init__(self, descriptor: int, processes: int, number: int, now: Callable[[], float] = time.monotonic) -> None:
        self.descriptor = descriptor
        self.number = number
        self.processes = processes
        self._now = now
        self._others = [other for other in range(1, processes + 1) if other != number]
        memory = memoryview(mmap.mmap(descriptor, processes * BYTES)).cast("Q")
        self._counts, self._beats = memory[:processes], memory[processes : 2 * processes]
        self._wishes = memory[2 * processes : 3 * processes]
        self._unsent = memory[3 * processes : 4 * processes]
        self._losses = [memory[4 * processes + index :: processes] for index in range(processes)]

    @classmethod
    def make(cls, processes: int, now: Callable[[], float] = time.monotonic) -> Shares:
        """Return the shares of the first process; the others are not running yet."""
        descriptor = os.memfd_create("channelserver-shares")
        os.ftruncate(descriptor, processes * BYTES)
        shares = cls(descriptor, processes, 1, now)
        for number in range(2, processes + 1):
            shares.gone(number)
        return shares

    def count(self, connections: int) -> None:
        """Set the number of connections of this process."""
        self._counts[self.number - 1] = connections

    def note_unsent(self, number: int) -> None:
        """Set how many messages would be lost with this process."""
        self._unsent[self.number - 1] = number

    def gone(self, number: int) -> int:
        """Note that a process is not running; count and return the messages that are lost with it."""
        index = number - 1
        self._counts[index] = _ABSENT
        unsent = self._unsent[index]
        self._beats[index] = self._wishes[index] = self._unsent[index] = 0
        self._losses[index][INDEX[Reason.UNSENT.value]] += unsent
        return unsent

    @property
    def losses(self) -> memoryview[int]:
        """The losses of this process, and of those that it replaces: a number for each reason."""
        return self._losses[self.number - 1]

    def lost(self) -> dict[str, int]:
        """Return the losses of all processes by reason."""
        return named(map(sum, zip(*self._losses, strict=True)))

    def total(self) -> int:
        """Return the sum over all processes."""
        return sum(count for count in self._counts if count != _ABSENT)

    def ahead(self) -> bool:
        """Whether another process should take the next connection; one that is silent would not."""
        own, counts = self._counts[self.number - 1], self._counts
        if self._wishes[self.number - 1]:  # its threads hang, or it is about to be replaced
            own = _ABSENT - SLACK - 1
        for number in self._others:
            if own > counts[number - 1] + SLACK and not self.silent(number):
                return True
        return False

    # -- who is alive --------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Note that the reactor of this process runs."""
        self._beats[self.number - 1] = int(self._now() * 1000) or 1

    def wish(self, wish: str) -> None:
        """Note why this process should be replaced: one of :data:`WISHES`."""
        self._wishes[self.number - 1] = WISHES.index(wish)

    def wish_of(self, number: int) -> str:
        """Return why a process should be replaced; empty: it should not."""
        return WISHES[self._wishes[number - 1]]

    def last_beat(self, number: int) -> int:
        """Return the time of a process's last beat; 0: it does not serve yet, or is not running."""
        return self._beats[number - 1]

    def silent(self, number: int) -> bool:
        """Whether a process is not there, or has not moved for :data:`SILENT` seconds."""
        return self._now() * 1000 - self._beats[number - 1] > SILENT * 1000

    def states(self) -> dict[str, str]:
        """Return for each process, by its number: ``serving``, ``silent`` or ``absent`` (not running, or starting).
        The last place is free until processes are replaced.
        """
        used = self.processes if self._beats[-1] else self.processes - 1
        return {
            str(number): ("absent" if not self._beats[number - 1] else "silent" if self.silent(number) else "serving")
            for number in range(1, used + 1)
        }
