"""Copies of messages that may be consumed twice (``requeue``), kept by their sender until their consumers have ended.

Runs in the thread of the reactor; owns the copies of this process, whether or not that consumes anything itself.

Redis forgets what waits in it when it is emptied, and takes nothing while it cannot be reached. A copy outlives both:
when Redis is there again, the sender puts in what is missing. Redis knows which messages have a copy (``copies:HOST``),
whether they wait or are held, and publishes the number of each one that has ended. A host that was not subscribed for
a moment asks which of its messages are gone.

A message that came before Redis was emptied may still be in the hands of a consumer. So the hosts tell Redis what they
hold, and the sender waits for that before it puts anything back.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime

from channelserver.layers.base import ChannelFull
from channelserver.layers.content import Content
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.names import local_prefix
from channelserver.layers.redis import scripts
from channelserver.layers.redis.errors import RedisUnavailable
from channelserver.layers.redis.seal import DAY
from channelserver.layers.redis.shard import Shard, next_number

logger = logging.getLogger("channelserver.layers.redis")

#: Copies of one process, and bytes in their sealed messages; beyond, there is no room for further ones.
MOST, MOST_BYTES = 100_000, 64 * 1024 * 1024
#: Seconds after which all hosts have reported to a Redis that was emptied what they hold; and by which clocks differ.
REPORTED, MARGIN = 3.0, 0.5
#: Times that the connection may break while a message is put in again: Redis may have a lower limit for its size.
TRIES = 10
#: Numbers in one question.
BATCH = 500


class Parcel:
    """A message to an ordinary channel, on its way into Redis or there.

    :param data: the sealed message.
    :param reply: its reply channel; empty: it has none.
    :param urgent: ignore the capacity, and keep it for a day.
    :param token: another message with the same one does nothing.
    :param patient: the sender does not wait for the outcome, so it is to be put in whenever Redis is there.
    """

    __slots__ = (
        "again", "channel", "content", "copied", "data", "epoch", "number", "order", "patient", "reply", "shard",
        "since", "size", "token", "tries", "urgent",
    )  # fmt: skip

    def __init__(
        self, channel: str, content: Content, data: bytes, reply: str = "", urgent: bool = False, token: str = "",
        patient: bool = False,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.content = content
        self.data = data
        self.reply = reply
        self.urgent = urgent
        self.token = token
        self.patient = patient
        #: Whether Redis is to know that there is a copy.
        self.copied = False
        #: Whether it had been sent before, so that there must be room.
        self.again = False
        #: That of one that is sent later is higher; and the number by which Redis knows it.
        self.order, self.number = next_number(), 0
        #: Its server, if there is a copy.
        self.shard: Shard | None = None
        #: The epoch of the books in which it is; 0: in none, as far as this process knows.
        self.epoch = 0
        self.size = len(data)
        self.since = 0.0
        #: How often the connection broke while it was put in again.
        self.tries = 0


class Copies:
    """The copies of one process.

    :param name: of this host.
    :param known: returns channels whose messages may be consumed twice.
    :param put: puts a parcel into Redis; returns whether it may be consumed twice. Raises ``ChannelFull``.
    :param server_of: returns the server that a parcel belongs to.
    :param seal: returns a parcel's message, sealed anew.
    :param note_back: called with a server, an epoch and the number of messages of that time that are put back.
    """

    def __init__(
        self,
        name: str,
        reactor: IReactorTime,
        known: Callable[[], frozenset[str]],
        put: Callable[[Parcel], Coroutine[Any, Any, bool]],
        server_of: Callable[[Parcel], Shard],
        seal: Callable[[Parcel], bytes],
        drops: DropCounter,
        note_back: Callable[[Shard, int, int], object],
    ) -> None:
        self._name = name
        self._reactor = reactor
        self._known = known
        self._put = put
        self._server_of = server_of
        self._seal = seal
        self._drops = drops
        self._note_back = note_back
        self._learned: set[str] = set()  # channels of which Redis has said so
        self._kept: dict[int, Parcel] = {}
        self._bytes = 0
        self._waiting: dict[Shard, deque[Parcel]] = {}  # what must be put in
        self._putting: set[Shard] = set()

    def __len__(self) -> int:
        return len(self._kept)

    async def send(self, parcel: Parcel) -> None:
        """Put in a message; if it may be consumed twice, keep a copy until it has ended.

        :raises ChannelFull: there is no room in its channel, or for another copy.
        :raises RedisUnavailable: Redis cannot be reached, and somebody waits for the outcome.
        """
        queue = local_prefix(parcel.channel)
        if queue not in self._known() and queue not in self._learned:
            if await self._put(parcel):
                self._learned.add(queue)
                self._keep(parcel)
                self._arrived(parcel)
            return
        if not self._has_room(parcel):
            raise ChannelFull(
                f"channel {queue!r} is full: {len(self._kept)} messages of this process, {self._bytes} bytes, have not "
                "been consumed yet, so that it must keep them (requeue)"
            )
        parcel.number = next_number()
        shard = self._keep(parcel)
        if parcel.patient and (self._waiting.get(shard) or not shard.is_up):
            self._wait(shard, parcel)  # behind those that wait
            return
        try:
            await self._put(parcel)
        except RedisUnavailable:
            if not parcel.patient:
                self._forget(parcel)
                raise
            self._wait(shard, parcel)
        except BaseException:
            self._forget(parcel)
            raise
        else:
            self._arrived(parcel)

    def _has_room(self, parcel: Parcel) -> bool:
        return len(self._kept) < MOST and (self._bytes + parcel.size <= MOST_BYTES or not self._kept)

    def _keep(self, parcel: Parcel) -> Shard:
        shard = parcel.shard = self._server_of(parcel)
        parcel.since = self._reactor.seconds()
        self._kept[parcel.number] = parcel
        self._bytes += parcel.size
        parcel.copied = True
        return shard

    def _forget(self, parcel: Parcel) -> None:
        if self._kept.get(parcel.number) is parcel:
            del self._kept[parcel.number]
            self._bytes -= parcel.size

    @staticmethod
    def _arrived(parcel: Parcel) -> None:
        parcel.data = b""  # another time, it must be sealed anew
        if parcel.shard is not None and parcel.shard.books is not None:
            parcel.epoch = parcel.shard.books.epoch

    def over(self, number: int) -> None:
        """Forget a message that has ended."""
        if (parcel := self._kept.get(number)) is not None:
            self._forget(parcel)

    def flush(self) -> None:
        """Forget all: somebody has emptied the channel layer on purpose."""
        self._kept.clear()
        self._bytes = 0
        for waiting in self._waiting.values():
            waiting.clear()
        self._drops.note_unsent(0)

    def unsent(self) -> Counter[str]:
        """Return how many messages have not been put in, by channel: this process ends."""
        self._drops.note_unsent(0)
        return Counter(parcel.channel for parcel in self._kept.values() if not parcel.epoch)

    # -- putting in, and putting back ----------------------------------------------------------------------------------

    def connected(self, shard: Shard) -> None:
        """There is a new connection to a server: put in what waits for that, and ask for what has ended meanwhile."""
        self._go_on(shard)
        self.look(shard)

    def emptied(self, shard: Shard, epoch: int) -> int:
        """A server has been emptied: put back what was in it, soon; return how many messages that are, at most.

        :param epoch: of its former books.
        """
        self._reactor.callLater(REPORTED, self.look, shard)
        return sum(parcel.epoch == epoch for parcel in self._of(shard))

    def beat(self, shard: Shard, asked: bool) -> None:
        """Go on if something went wrong; call it every second.

        :param asked: whether another command learns each second whether the server was emptied.
        """
        self._go_on(shard)
        if not asked and shard.is_up and self._kept:
            shard.change(scripts.MISSING, self._name).addErrback(lambda failure: None)

    def look(self, shard: Shard) -> None:
        """Ask a server which messages are neither waiting nor held there any more."""
        there = {parcel.number: parcel for parcel in self._of(shard) if parcel.epoch}
        for parcel in there.values():
            if parcel.since < self._reactor.seconds() - DAY:
                self._forget(parcel)  # somebody has taken it out of Redis by hand
        if there and shard.is_up:
            defer.ensureDeferred(self._look(shard, there)).addErrback(lambda failure: failure.trap(ChannelFull))

    async def _look(self, shard: Shard, there: dict[int, Parcel]) -> None:
        numbers, missing = list(there), list[int]()
        for at in range(0, len(numbers), BATCH):
            (found,) = await shard.change(scripts.MISSING, self._name, *numbers[at : at + BATCH])
            missing += map(int, found)
        books = shard.books
        assert books is not None, "the answers had them"
        reported = shard.since(books.epoch) > REPORTED - MARGIN
        back = Counter({parcel.epoch: 0 for parcel in there.values() if parcel.epoch != books.epoch and reported})
        again: list[Parcel] = []
        for number, parcel in ((number, there[number]) for number in missing):
            if self._kept.get(number) is not parcel or not parcel.epoch:
                pass  # it has ended, or waits, meanwhile
            elif parcel.epoch == books.epoch:
                self._forget(parcel)
            elif reported:
                back[parcel.epoch] += 1
                parcel.epoch = 0
                again.append(parcel)
        if again:
            self._wait(shard, *sorted(again, key=lambda parcel: parcel.order))
        for epoch, number in back.items():
            self._note_back(shard, epoch, number)
        if back.total():
            logger.warning("%d message(s) that Redis %s has lost are put back", back.total(), shard.address)
        self._go_on(shard)

    def _of(self, shard: Shard) -> list[Parcel]:
        return [parcel for parcel in self._kept.values() if parcel.shard is shard]

    def _wait(self, shard: Shard, *parcels: Parcel) -> None:
        """Let parcels wait in the order in which they were sent; several are in this order already."""
        for parcel in parcels:
            parcel.data = b""
            parcel.again = True
        waiting, later = self._waiting.setdefault(shard, deque()), deque[Parcel]()
        while waiting and waiting[-1].order > parcels[0].order:
            later.appendleft(waiting.pop())
        waiting.extend(sorted((*parcels, *later), key=lambda parcel: parcel.order))
        self._note_waiting()

    def _note_waiting(self) -> None:
        self._drops.note_unsent(sum(map(len, self._waiting.values())))

    def _go_on(self, shard: Shard) -> None:
        if self._waiting.get(shard) and shard.is_up and shard not in self._putting:
            self._putting.add(shard)
            defer.ensureDeferred(self._put_waiting(shard))

    async def _put_waiting(self, shard: Shard) -> None:
        try:
            await self._put_all(shard, self._waiting[shard])
        finally:
            self._putting.discard(shard)

    async def _put_all(self, shard: Shard, waiting: deque[Parcel]) -> None:
        while waiting and shard.is_up:
            parcel = waiting.popleft()
            if self._kept.pop(parcel.number, None) is not parcel:
                continue  # it has ended meanwhile
            parcel.number = next_number()
            self._kept[parcel.number] = parcel
            try:
                parcel.data = self._seal(parcel)
                await self._put(parcel)
            except RedisUnavailable as error:
                parcel.tries += not shard.is_up
                if parcel.tries < TRIES:
                    self._wait(shard, parcel)
                    break  # it goes on with the next connection, or the next second
                self._forget(parcel)
                self._drops.record(Reason.UNKNOWN, parcel.channel, hint=f"it breaks each connection: {error}")
            except Exception:
                logger.exception("cannot put a message to %r into Redis %s", parcel.channel, shard.address)
                self._forget(parcel)
                self._drops.add(Reason.ERROR)
            else:
                self._arrived(parcel)
            self._note_waiting()
