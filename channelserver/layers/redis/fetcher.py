"""Fetches work from Redis for the threads of this process.

Runs in the thread of the reactor; owns the list of messages that this process consumes.

A process takes at most one message for each thread, so that little is lost if it dies, and other hosts get their share.
Messages that occupy no thread (coroutines, streams) have a limit of their own.
There is no polling: Redis has a list of idle hosts, and each new message wakes one of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.python.failure import Failure

from channelserver.layers.chains import UNORDERED
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.names import local_prefix
from channelserver.layers.queues import MAX_IN_HAND
from channelserver.layers.redis import scripts
from channelserver.layers.redis.errors import DeliveryUnknown
from channelserver.layers.redis.letters import copy_of, from_queue, mark_copied, to_queue
from channelserver.layers.redis.seal import DAY, ReplayError, Sealer, SealError
from channelserver.layers.redis.shard import Shard
from channelserver.layers.redis.work import Claim, Fetched, FetchedQueues

logger = logging.getLogger("channelserver.layers.redis")


def lane_of(channel: str, reply: str) -> str:
    """Return the lane of the messages on an ordinary channel that have the same reply channel."""
    return f"{channel} {reply}"


def record_expired(drops: DropCounter, gone: list[Any]) -> None:
    """Count the expired messages that a script has dropped: channels, each with a number."""
    for channel, number in zip(gone[::2], gone[1::2], strict=True):
        drops.record(Reason.EXPIRED, channel.decode(), number, "no consumer took it in time")


def record_refused(drops: DropCounter, name: str, error: SealError) -> None:
    """Count something that came from Redis and was refused."""
    reason = Reason.REPLAYED if isinstance(error, ReplayError) else Reason.REJECTED
    drops.record(reason, name, hint=f"something in Redis was rejected: {error}")


class Fetcher:
    """Takes messages from all servers in turn.

    :param threads: how many messages this process may hold, besides those that occupy no thread.
    :param requeued: returns the channels whose messages go to another worker if this process dies with them.
    :param lifetime: milliseconds for which such a message waits.
    :param soon: ``soon(function)`` runs it in the next turn of the reactor.
    """

    def __init__(
        self,
        host: str,
        shards: Sequence[Shard],
        queues: FetchedQueues,
        channels: Sequence[str],
        threads: int,
        sealer: Sealer,
        drops: DropCounter,
        requeued: Callable[[], frozenset[str]],
        lifetime: int,
        soon: Callable[[Callable[[], object]], object],
    ) -> None:
        self._host = host
        self._queues = queues
        self._channels = list(channels)
        self._threads = max(1, threads)
        self._sealer = sealer
        self._drops = drops
        self._requeued = requeued
        self._lifetime = lifetime
        self._soon = soon
        self._outstanding: set[Fetched] = set()
        self._released: set[Fetched] = set()  # those of them that occupy no thread
        self._promising = list(shards)  # servers where there may be work, in the order in which to ask them
        self._asking = False
        self._unanswered: dict[Shard, int] = {}  # how many messages an answer that was lost had at most
        self._stopped = False
        self._finished: dict[Shard, list[str]] = {}
        self._reported: Counter[Shard] = Counter()  # how many of them are being reported
        self._reporting = False

    def connected(self, shard: Shard, emptied: bool = False) -> None:
        """There is a new connection to a server. What was being sent over the last one did not arrive, and waits again.

        :param emptied: the server has forgotten what this process holds.
        """
        self.report()  # what has been consumed must not come again
        held: list[str | bytes] = []
        for claim in (one.claim for one in self._outstanding if one.claim.shard is shard):
            held += (claim.id, claim.what, *((claim.name, claim.data) if emptied else ("", "")))
        if emptied:  # before the server could tell how many messages were in the answer
            hint = "the answer was lost, and then Redis was emptied; it had so many messages at most"
            self._drops.record(Reason.UNKNOWN, "any channel", self._unanswered.pop(shard, 0), hint)
        reclaimed = shard.reclaim(emptied, self._lifetime, held)
        reclaimed.addCallbacks(self._not_arrived, lambda failure: None, callbackArgs=(shard,))
        self.ready(shard)

    def _not_arrived(self, answer: list[Any], shard: Shard) -> None:
        self._unanswered.pop(shard, None)
        back, lost = answer
        if back:
            logger.info("%d message(s) that were being fetched when the connection broke wait again", len(back))
        for channel, number in Counter(lost).items():
            self._drops.record(
                Reason.UNKNOWN, channel.decode(), number, "the connection broke while it was being fetched"
            )

    def ready(self, shard: Shard) -> None:
        """There may be work on a server."""
        if self._stopped:
            self.report()
            return
        if shard not in self._promising:
            self._promising.append(shard)
        self.report()  # first: RECLAIM and FINISH must come before the next message of the same lane
        self._go()

    @property
    def requeued(self) -> frozenset[str]:
        """The channels that this process serves whose messages go to another worker if a process dies with them."""
        return self._requeued().intersection(self._channels)

    def search(self, shard: Shard, prefix: str) -> None:
        """Look on a server for work that no host was woken for. Usually there is none, which takes one command.

        :param prefix: of the server's keys.
        """
        if shard in self._promising or self._finished:
            self.ready(shard)
            return
        waiting = shard.command("EXISTS", *(f"{prefix}q:{channel}" for channel in self._channels))
        waiting.addCallbacks(lambda number: self.ready(shard) if number else None, lambda failure: None)

    def woken(self, shard: Shard, channel: str) -> None:
        """A message has arrived, and this host was chosen to take it."""
        if self._stopped or self._free <= 0:
            shard.run(scripts.PASS_ON, channel).addErrback(lambda failure: None)
        self.ready(shard)

    def retire(self, shards: Sequence[Shard]) -> None:
        self._stopped = True
        for shard in shards:
            shard.run(scripts.RETIRE, self._host, *self._channels).addErrback(lambda failure: None)

    # -- taking --------------------------------------------------------------------------------------------------------

    @property
    def _free(self) -> int:
        held, released = len(self._outstanding), len(self._released)
        return min(self._threads - held + released, MAX_IN_HAND - held)

    def _go(self) -> None:
        free = self._free
        if self._asking or self._stopped or free <= 0:
            return
        shard = next((shard for shard in self._promising if shard.is_up), None)
        if shard is None:
            return
        self._promising.remove(shard)
        self._asking = True
        self._channels.append(self._channels.pop(0))  # in turn
        kept = self._requeued()
        channels = [f"+{channel}" if channel in kept else channel for channel in self._channels]
        asked = shard.take(free, True, True, channels)
        asked.addCallback(self._taken, shard, free)
        asked.addErrback(self._not_taken, shard, free)

    def _taken(self, answer: list[Any], shard: Shard, asked: int) -> None:
        self._asking = False
        items, gone = answer
        record_expired(self._drops, gone)
        for index in range(0, len(items), 5):
            self._take(shard, *items[index : index + 5])
        if len(items) == asked * 5 and shard not in self._promising:
            self._promising.append(shard)
        self._go()

    def _take(self, shard: Shard, name: bytes, left: bytes, reply: bytes, data: bytes, number: bytes) -> None:
        channel = name.decode()
        lane = reply.decode()
        queue = local_prefix(channel)
        requeued = queue in self._requeued()
        queue = f"+{queue}" if requeued else queue
        claim = Claim(shard, number.decode(), f"{queue} {lane}", copy_of(data))
        if channel in self._queues.chains.unordered and lane.startswith(channel + " "):
            claim = claim._replace(what=f"{queue} ")
            self._finish(shard, f"~{claim.id}")  # the next one need not wait for this one
        try:
            content = from_queue(self._sealer, channel, data)
        except SealError as error:
            record_refused(self._drops, channel, error)
            self._finish(shard, claim.end)
            return
        if requeued:
            if self._sealer.encrypts:  # what another worker may get at any time must be sealed for longer
                data = mark_copied(to_queue(self._sealer, channel, content, DAY), claim.copy)
                shard.run(scripts.KEEP, self._host, claim.id, data).addErrback(lambda failure: None)
            if channel not in UNORDERED:
                claim = claim._replace(name=channel, data=data)
        # Counted before it can be finished.
        delivery = self._queues.put_fetched(channel, content, int(left) / 1000, claim)
        self._outstanding.add(delivery)

    def _not_taken(self, failure: Failure, shard: Shard, asked: int) -> None:
        self._asking = False
        if shard not in self._promising:
            self._promising.append(shard)
        if failure.check(DeliveryUnknown):
            self._unanswered[shard] = asked
            logger.info("the connection to Redis was lost while fetching work")
        # It goes on with the next connection or heartbeat.

    # -- finishing -----------------------------------------------------------------------------------------------------

    def release(self, delivery: Fetched) -> None:
        """Fetch another message in place of one that no longer occupies a thread."""
        if delivery in self._outstanding:
            self._released.add(delivery)
            self._go()

    def done(self, delivery: Fetched) -> None:
        self._outstanding.discard(delivery)
        self._released.discard(delivery)
        self._finish(delivery.claim.shard, delivery.claim.end)
        self._go()

    def _finish(self, shard: Shard, number: str) -> None:
        self._finished.setdefault(shard, []).append(number)
        if not self._reporting:
            self._reporting = True
            self._soon(self.report)

    def report(self) -> None:
        """Report to the servers which messages have been consumed."""
        self._reporting = False
        for shard in [shard for shard in self._finished if shard.is_up]:
            numbers = self._finished.pop(shard)
            self._reported[shard] += _whole(numbers)
            finished = shard.change(scripts.FINISH, self._host, *numbers)
            finished.addErrback(self._not_reported, shard, numbers)
            finished.addCallback(self._has_reported, shard, numbers)

    def _not_reported(self, failure: Failure, shard: Shard, numbers: list[str]) -> list[Any]:
        self._finished.setdefault(shard, [])[:0] = numbers  # reported by the next connection
        return []

    def _has_reported(self, _: list[Any], shard: Shard, numbers: list[str]) -> None:
        self._reported[shard] -= _whole(numbers)

    def held(self, shard: Shard) -> int:
        """Return how many messages the server holds for this host."""
        outstanding = sum(one.claim.shard is shard for one in self._outstanding)
        return outstanding + _whole(self._finished.get(shard, [])) + self._reported[shard]


def _whole(numbers: list[str]) -> int:
    """Return how many of some reports say that a message has been consumed."""
    return sum(not number.startswith("~") for number in numbers)
