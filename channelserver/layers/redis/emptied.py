"""Counts the messages that waited in a Redis when it was emptied.

Runs in the thread of the reactor; owns what this host knew of the Redis before.

The host that made the last change of a queue knows how many messages waited. So each host tells Redis what it knew of
the former books, and one of them, the first, asks later what the best of them knew. If Redis is emptied again
meanwhile, they tell it again.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.redis import scripts
from channelserver.layers.redis.shard import Books, Shard

#: Seconds until all hosts have told what they knew; and for which they tell it again.
TOLD, KNOWN = 3.0, 60.0


class Emptied:
    """What one host knew of books that are gone.

    :param host: its name; empty: it may end at any time, so it does not ask.
    """

    def __init__(self, reactor: IReactorTime, host: str, drops: DropCounter) -> None:
        self._reactor = reactor
        self.host = host
        self._drops = drops
        self._gone: list[tuple[Shard, Books, float]] = []
        self._asking: set[tuple[Shard, int]] = set()

    def tell(self, shard: Shard, books: Books) -> None:
        """Tell the other hosts what this one knew of a server that has been emptied."""
        now = self._reactor.seconds()
        self._gone = [entry for entry in self._gone if entry[2] > now - KNOWN]
        self._gone.append((shard, books, now))
        for where, known, _ in self._gone:
            if where is shard:
                self._run(shard, known).addCallbacks(self._told, lambda failure: None, callbackArgs=(shard, known))

    def _run(self, shard: Shard, books: Books) -> Any:
        return shard.run(scripts.EMPTIED, self.host, *books)

    def _told(self, answer: list[Any], shard: Shard, books: Books) -> None:
        if answer[0].decode() == self.host != "" and (shard, books.epoch) not in self._asking:
            self._asking.add((shard, books.epoch))
            self._reactor.callLater(TOLD, self._ask, shard, books)

    def _ask(self, shard: Shard, books: Books) -> None:
        def again(_: Failure | None = None) -> None:
            if shard.commands.state != "closed":
                self._reactor.callLater(TOLD, self._ask, shard, books)

        def told(answer: list[Any]) -> None:
            who, waiting, age = answer
            if age < TOLD * 1000:
                again()  # emptied again: the others have to tell it again
            elif who.decode() == self.host and waiting > 0:
                hint = f"they waited in Redis {shard.address}"
                self._drops.record(Reason.EMPTIED, "any channel", waiting, hint)

        self._run(shard, books).addCallbacks(told, again)
