"""The number of connections of each process of a server, in shared memory.

Runs in the reactor thread of each process; owns that process's own number.
"""

from __future__ import annotations

import mmap
import os

#: Bytes of a number.
_SIZE = 8
#: Stands for a process that is not running.
_ABSENT = 2**64 - 1

#: A process with more than this many connections more than another one leaves the next connection to that one.
SLACK = 1


class Shares:
    """The number of connections of each process.

    :param descriptor: of the shared memory; stays open.
    :param number: which of them this is, from 1.
    """

    def __init__(self, descriptor: int, processes: int, number: int) -> None:
        self.descriptor = descriptor
        self._number = number
        self._others = [other for other in range(1, processes + 1) if other != number]
        self._counts = memoryview(mmap.mmap(descriptor, processes * _SIZE)).cast("Q")

    @classmethod
    def make(cls, processes: int) -> Shares:
        """Return the shares of the first process; the others are not running yet."""
        descriptor = os.memfd_create("channelserver-shares")
        os.ftruncate(descriptor, processes * _SIZE)
        shares = cls(descriptor, processes, 1)
        for number in range(2, processes + 1):
            shares.gone(number)
        return shares

    def count(self, connections: int) -> None:
        """Set the number of connections of this process."""
        self._counts[self._number - 1] = connections

    def gone(self, number: int) -> None:
        """Note that a process is not running."""
        self._counts[number - 1] = _ABSENT

    def total(self) -> int:
        """Return the sum over all processes."""
        return sum(self._present([self._number, *self._others]))

    def ahead(self) -> bool:
        """Whether another process should take the next connection."""
        others = self._present(self._others)
        return bool(others) and self._counts[self._number - 1] > min(others) + SLACK

    def _present(self, numbers: list[int]) -> list[int]:
        return [count for number in numbers if (count := self._counts[number - 1]) != _ABSENT]
