"""Chooses the challenges of an order, and has all processes answer them.

Runs in the reactor thread; owns nothing that lasts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from channelserver.server.acme.served import Served


class ServedChallenges:
    """The challenges of one order.

    :param told: returns what fires when all processes know what `served` has.
    :param kinds: that can be answered, the preferred one first.
    :param avoided: the kind that has failed; empty: none has.
    """

    def __init__(self, served: Served, told: Callable[[], Awaitable[None]], kinds: Sequence[str], avoided: str) -> None:
        self._kinds = kinds
        self._served = served
        self._told = told
        self.avoided = avoided
        #: The kinds that the authority offers, and that the server can answer.
        self.offered: list[str] = []

    def choose(self, name: str, offered: Sequence[str]) -> str | None:
        """Return the preferred kind that is offered, but another one if that has failed."""
        self.offered = [kind for kind in self._kinds if kind in offered]
        return min(self.offered, key=lambda kind: kind == self.avoided, default=None)

    async def open(self, kind: str, name: str, token: str, key_authorization: str) -> None:
        """Answer a challenge in all processes."""
        self._served.open(kind, name, token, key_authorization)
        await self._told()

    def close(self, kind: str, name: str, token: str) -> None:
        """No longer answer it, at first here."""
        self._served.close(kind, name, token)
