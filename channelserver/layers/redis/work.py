"""The queues of a process that also takes work from Redis.

Safe from any thread, as :mod:`channelserver.layers.queues`. Owns the waiting messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from channelserver.layers.content import Content
from channelserver.layers.queues import WorkQueues
from channelserver.layers.redis.shard import Shard
from channelserver.layers.waiting import Callback, Delivery


class Claim(NamedTuple):
    """Where Redis holds a message, and what it must be told again if it is emptied."""

    shard: Shard
    id: str
    #: What ``held`` tells of it (see :mod:`.scripts`).
    what: str
    #: The host that has a copy, and its number there; empty: there is none.
    copy: str = ""
    #: Its name and the sealed message, if it goes to another worker when this process dies.
    name: str = ""
    data: bytes = b""

    @property
    def end(self) -> str:
        """What tells Redis that it has been consumed (see ``finish.lua``)."""
        return f"{self.id} {self.copy}" if self.copy else self.id


class Fetched(Delivery):
    """A message that came from Redis.

    ``claim`` says what to report to Redis when it has been consumed.
    """

    foreign = True

    __slots__ = ("claim", "done")

    def __init__(self, channel: str, content: Content, sent: float, expires: float, claim: Claim) -> None:
        super().__init__(channel, content, sent, expires)
        self.claim = claim
        self.done = False


class FetchedQueues(WorkQueues):
    """:class:`WorkQueues` that report when a fetched message has been consumed."""

    #: Called with each :class:`Fetched` when it has been consumed, from any thread.
    on_done: Callable[[Fetched], object] = staticmethod(lambda delivery: None)
    #: Called with each one that no longer occupies a thread, from any thread.
    on_release: Callable[[Fetched], object] = staticmethod(lambda delivery: None)

    def put_fetched(self, channel: str, content: Content, seconds: float, claim: Claim) -> Fetched:
        """Let a message from Redis wait for a worker, whatever the capacity: a thread is idle.

        :param seconds: until it expires.
        :param claim: see :class:`Fetched`.
        """
        now = self._clock()
        delivery = Fetched(channel, content, now, now + seconds, claim)
        self.add(delivery)
        return delivery

    def release(self, delivery: Delivery) -> None:
        if isinstance(delivery, Fetched):
            self.on_release(delivery)

    def finish(self, delivery: Delivery) -> None:
        super().finish(delivery)
        self._settle(delivery)

    def flush(self) -> None:
        with self._lock:
            fetched = [item for queue in self._queues.values() for item in queue.ready if isinstance(item, Fetched)]
        super().flush()
        for delivery in fetched:
            self._settle(delivery)

    def _drop_expired(self, delivery: Delivery, calls: list[Callback]) -> Callback:
        drop = super()._drop_expired(delivery, calls)
        calls.append(lambda: self._settle(delivery))
        return drop

    def _settle(self, delivery: Delivery) -> None:
        if isinstance(delivery, Fetched) and not delivery.done:
            delivery.done = True
            self.on_done(delivery)
