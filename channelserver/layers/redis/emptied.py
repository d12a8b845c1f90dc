"""Counts the messages that waited in a Redis when it was emptied, or that a dead host held.

Runs in the thread of the reactor; owns what this host knew of the Redis before.

The host that made the last change of a queue knows how many messages waited, and how many hosts held. So each host
tells Redis what it knew of the former books, how many of these messages it has, and how many it puts back, because it
has copies of them (:mod:`.copies`); later, the first one that asks counts what the best of them knew. If Redis is
emptied again meanwhile, they tell it again.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.redis import scripts
from channelserver.layers.redis.shard import Books, Shard

#: Seconds until all hosts have told what they knew; and for which they tell it again.
REPORT_SECONDS, KNOWN = 5.0, 60.0


class _Former:
    """The former books of a server."""

    def __init__(self, shard: Shard, books: Books, held: int, back: int, since: float) -> None:
        self.shard = shard
        self.books = books
        self.held = held
        self.back = back
        self.since = since
        self.counted = False


class Emptied:
    """What one host knew of books that are gone.

    :param name: of the host.
    :param asks: whether it counts; not if it may end at any time.
    """

    def __init__(self, name: str, reactor: IReactorTime, asks: bool, drops: DropCounter) -> None:
        self.asks = asks
        self._name = name
        self._reactor = reactor
        self._drops = drops
        self._former: list[_Former] = []

    def tell(self, shard: Shard, books: Books, held: int, back: int) -> None:
        """Tell the other hosts what this one knew of a server that has been emptied.

        :param held: how many messages this host has that it held for it.
        :param back: how many it puts back, at most; see :meth:`put_back`.
        """
        now = self._reactor.seconds()
        former = _Former(shard, books, held, back, now)
        self._former = [one for one in self._former if one.since > now - KNOWN] + [former]
        for one in self._former:
            if one.shard is shard:
                self._run(one, "counted" if one.counted else "").addErrback(lambda failure: None)
        if self.asks:
            self._reactor.callLater(REPORT_SECONDS, self._ask, former)

    def put_back(self, shard: Shard, epoch: int, number: int) -> None:
        """Tell the other hosts how many messages of former books this one puts back."""
        for one in self._former:
            if one.shard is shard and one.books.epoch == epoch:
                one.back = number
                self._run(one, "").addErrback(lambda failure: None)

    def _run(self, former: _Former, what: str | int) -> Any:
        return former.shard.run(scripts.EMPTIED, *former.books, self._name, former.held, former.back, what)

    def _ask(self, former: _Former) -> None:
        def again(_: Failure | None = None) -> None:
            if former.shard.commands.state != "closed":
                self._reactor.callLater(REPORT_SECONDS, self._ask, former)

        def told(answer: list[int]) -> None:
            own, counted, waiting, died = answer
            former.counted = bool(counted)
            if own:
                hint = f"they waited in Redis {former.shard.address}"
                self._drops.record(Reason.EMPTIED, "any channel", waiting, hint)
                self._drops.record(Reason.DIED, "any channel", died, "its host had ended when Redis was emptied")
            elif not counted:
                again()  # emptied again: the others have to tell it again

        self._run(former, int(REPORT_SECONDS * 1000)).addCallbacks(told, again)
