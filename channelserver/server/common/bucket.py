"""A token bucket: how often a client may do what costs it nothing.

Runs in the reactor thread; owned by a connection.
"""

from __future__ import annotations


class Bucket:
    """Tokens that are taken one by one, and come back with time.

    :param burst: how many there are at most.
    :param per_second: how many come back in a second.
    :param now: seconds of a clock.
    """

    __slots__ = ("_burst", "_left", "_per_second", "_since")

    def __init__(self, burst: int, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = float(burst)
        self._since = now

    def take(self, now: float, number: int = 1) -> bool:
        """Take some; return False if there are not so many."""
        left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
        self._left = left - number if left >= number else left
        return left >= number

    def give(self, tokens: float) -> None:
        """Put some back."""
        self._left = min(self._burst, self._left + tokens)
