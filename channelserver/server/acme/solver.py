"""Chooses the challenges of an order, and has all processes answer them.

Runs in the reactor thread; owns nothing that lasts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

Opener = Callable[[str, str, str, str], Awaitable[object]]
Closer = Callable[[str, str, str], object]


class ServedChallenges:
    """The challenges of one order.

    :param opener: has all processes and hosts answer a challenge.
    :param closer: ends that.
    :param kinds: that can be answered, the preferred one first.
    :param avoided: the kind that has failed; empty: none has.
    """

    def __init__(self, opener: Opener, closer: Closer, kinds: Sequence[str], avoided: str) -> None:
        self._kinds = kinds
        self._opener = opener
        self._closer = closer
        self.avoided = avoided
        #: The kinds that the authority offers, and that the server can answer.
        self.offered: list[str] = []

    def choose(self, name: str, offered: Sequence[str]) -> str | None:
        """Return the preferred kind that is offered, but another one if that has failed."""
        self.offered = [kind for kind in self._kinds if kind in offered]
        return min(self.offered, key=lambda kind: kind == self.avoided, default=None)

    async def open(self, kind: str, name: str, token: str, key_authorization: str) -> None:
        """Answer a challenge in all processes."""
        await self._opener(kind, name, token, key_authorization)

    def close(self, kind: str, name: str, token: str) -> None:
        """No longer answer it, at first here."""
        self._closer(kind, name, token)
