"""One Redis server as the layer uses it: a connection for commands and a connection for published messages.

Runs in the thread of its reactor; owns the two connections.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import txredisapi
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from channelserver.layers.base import ChannelFull
from channelserver.layers.redis import scripts
from channelserver.layers.redis.address import Address
from channelserver.layers.redis.connection import RedisConnection, explain
from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.protocol import CommandProtocol, SubscriberProtocol
from channelserver.layers.throttled_log import ThrottledLog

logger = logging.getLogger("channelserver.layers.redis")

#: Seconds within which Redis has to answer.
ANSWER_SECONDS = 4.0
#: One in so many calls of :meth:`Shard.look` pings the subscriber's connection, and asks for Redis's time on the other.
PING_EVERY, TIME_EVERY = 2, 10


#: The numbers of the connections of this process, and of the messages that it puts in.
_connections, _numbers = itertools.count(1), itertools.count(1)


def next_number() -> int:
    """Return a number for a message, see :meth:`Shard.put`."""
    return next(_numbers)


class Books(NamedTuple):
    """What Redis knows of its queues, which it forgets when it is emptied; see ``prelude.lua``."""

    #: When these books were begun, in microseconds.
    epoch: int
    #: The number of the last change.
    serial: int
    #: How many messages wait, and how many hosts hold.
    waiting: int
    held: int


class Shard:
    """One server.

    :param host: the name of this process.
    :param prefixes: of the keys, and of the statistics.
    :param channels: the pub/sub channels to subscribe to.
    :param received: called with each message that is published there.
    :param ready: called with each new connection for commands.
    :param hearing: called when both connections are up, with the seconds since the server was last heard if the
        subscription was lost; None at the start.
    :param emptied: called with the former books and the new ones when Redis has lost what it knew.
    :param refusals: the log of commands that Redis refused.
    :param offset: returns milliseconds to be added to the server's clock.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        host: str,
        prefixes: tuple[str, str],
        channels: list[str],
        received: Callable[[bytes], object],
        ready: Callable[[Shard], object],
        hearing: Callable[[Shard, float | None], object],
        emptied: Callable[[Shard, Books, Books], object],
        refusals: ThrottledLog,
        offset: Callable[[], int],
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._host = host
        self._connection = 0  # its number
        self._unsure: dict[int, defer.Deferred[list[Any]]] = {}  # messages of which nobody knows whether they arrived
        self._prefixes = prefixes
        self._ready = ready
        self._hearing = hearing
        self._emptied = emptied
        self.books: Books | None = None
        self._refusals = refusals
        self._offset = offset
        self._deaf_since: float | None = None
        self._looks = 0
        self._clock = 0.0  # Redis's clock minus ours, in seconds
        self.refusal = ""  # why Redis refused the last command; empty: it did not
        self.commands = RedisConnection[CommandProtocol](
            reactor, address, "commands", CommandProtocol, self._greet, self._commands_up
        )
        self.subscriber = RedisConnection[SubscriberProtocol](
            reactor, address, "subscription", lambda seconds, lost: SubscriberProtocol(seconds, lost, received),
            lambda protocol: protocol.subscribe(channels), self._subscriber_up, self._deaf,
        )  # fmt: skip

    def start(self) -> None:
        self.commands.start()
        self.subscriber.start()

    def close(self) -> None:
        self.commands.close()
        self.subscriber.close()
        self._settle([])

    @property
    def is_up(self) -> bool:
        """Whether commands can be sent."""
        return self.commands.state == "up"

    def problem(self) -> str:
        """Return what is wrong; empty: nothing."""
        text = self.commands.problem or self.subscriber.problem or self.refusal
        return f"Redis {self.address}: {text}" if text else ""

    def now(self) -> float:
        """Return Redis's time in milliseconds, or very nearly."""
        seconds: float = self._reactor.seconds()
        return (seconds + self._clock) * 1000 + self._offset()

    def since(self, epoch: int) -> float:
        """Return the seconds since some books were begun."""
        return max(0.0, self.now() - self._offset() - epoch / 1000) / 1000

    def _synchronize(self, protocol: CommandProtocol) -> defer.Deferred[Any]:
        def answered(answer: list[bytes]) -> None:
            self._clock = int(answer[0]) + int(answer[1]) / 1e6 - self._reactor.seconds()

        asked: defer.Deferred[Any] = protocol.execute_command("TIME")
        return asked.addCallback(answered)

    def _greet(self, protocol: CommandProtocol) -> defer.Deferred[Any]:
        """Begin a connection: ask which of the messages have arrived that were being sent over the last one."""
        self._connection = next(_connections)
        words = self._offset(), self._host, self._connection
        greeted: defer.Deferred[Any] = protocol.eval(scripts.GREET, self._prefixes, words)
        greeted.addErrback(lambda failure: failure.trap(txredisapi.ResponseError) and [])  # the next command tells why
        return greeted.addCallback(self._settle).addCallback(lambda _: self._synchronize(protocol))

    def _settle(self, answer: list[Any]) -> None:
        unsure, self._unsure = self._unsure, {}
        for number, sent in unsure.items():
            if not answer:
                sent.errback(self._unknown())
            elif number > int(answer[0]):
                sent.errback(RedisUnavailable(f"the connection to Redis {self.address} was lost; it did not arrive"))
            else:
                sent.callback([int(str(number).encode() not in answer[1]), 0])

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(self, script: str, *arguments: Any) -> defer.Deferred[Any]:
        """Run a script; return a Deferred of its answer, or of :class:`RedisUnavailable`."""
        return self._ask(lambda protocol: protocol.eval(script, self._prefixes, (self._offset(), *arguments)))

    def change(self, script: str, *arguments: Any) -> defer.Deferred[list[Any]]:
        """Run a script whose answer ends with the books; return a Deferred of the answer without them."""
        return self.run(script, *arguments).addCallback(self._booked)

    def put(self, script: str, number: int, *arguments: Any) -> defer.Deferred[list[Any]]:
        """Run a script that puts in a message; return a Deferred of its answer without the books. If the connection is
        lost, the next one asks whether the message has arrived.

        :param number: of the message, from :func:`next_number`: higher than that of the last one.
        """
        sent = self.change(script, self._host, self._connection, number, *arguments)
        sent.addErrback(self._lost, number)
        return sent

    def take(self, wanted: int, waiting: bool, holds: bool, channels: Iterable[str]) -> defer.Deferred[list[Any]]:
        """Take messages; see ``pop.lua``."""
        words = self._host, self._connection, wanted, int(waiting), int(holds), *channels
        return self.change(scripts.POP, *words)

    def reclaim(self, emptied: bool, lifetime: int, held: Iterable[str | bytes]) -> defer.Deferred[list[Any]]:
        """Tell what this process holds; see ``reclaim.lua``."""
        return self.change(scripts.RECLAIM, self._host, self._connection, int(emptied), lifetime, *held)

    def _lost(self, failure: Failure, number: int) -> defer.Deferred[list[Any]]:
        if not failure.check(DeliveryUnknown) or self.commands.state == "closed":
            return defer.fail(failure)
        sent: defer.Deferred[list[Any]] = defer.Deferred()
        self._unsure[number] = sent
        return sent

    def _booked(self, answer: list[Any]) -> list[Any]:
        *rest, (epoch, *numbers) = answer
        old, new = self.books, Books(int(epoch), *numbers)
        if old is None or new.epoch != old.epoch or new.serial > old.serial:
            self.books = new
            if old is not None and new.epoch != old.epoch:
                self._emptied(self, old, new)
        return rest

    def command(self, *words: Any) -> defer.Deferred[Any]:
        """Send one command; return a Deferred of the answer, or of :class:`RedisUnavailable`."""
        return self._ask(lambda protocol: protocol.execute_command(*words))

    def _ask(self, ask: Callable[[CommandProtocol], defer.Deferred[Any]]) -> defer.Deferred[Any]:
        protocol = self.commands.protocol
        if protocol is None or protocol.overdue() > ANSWER_SECONDS:
            return defer.fail(self.unavailable())
        try:
            answer = ask(protocol)
        except txredisapi.RedisError:
            return defer.fail(self.unavailable())
        return answer.addCallbacks(self._done, self._refused)

    def _done(self, answer: Any) -> Any:
        self.refusal = ""
        return answer

    def _refused(self, failure: Failure) -> Failure:
        problem = failure.value
        if isinstance(problem, ChannelFull):
            return failure
        if isinstance(problem, txredisapi.ResponseError):
            self.refusal = explain(problem)
            self._refusals.count("command refused", f"Redis {self.address}: {self.refusal}", self.refusal)
            protocol = self.commands.protocol
            if protocol is not None and str(problem).startswith(("READONLY", "NOAUTH", "MASTERDOWN")):
                protocol.transport.abortConnection()  # no longer the server we connected to
            raise RedisUnavailable(f"Redis {self.address} refused the message: {self.refusal}")
        raise self._unknown()

    def _unknown(self) -> DeliveryUnknown:
        return DeliveryUnknown(
            f"the connection to Redis {self.address} was lost; the message may or may not have arrived"
        )

    def unavailable(self) -> RedisUnavailable:
        """Return the error for what cannot be sent now."""
        text = self.commands.problem or ("it does not answer" if self.is_up else "there is no connection yet")
        return RedisUnavailable(f"Redis {self.address} cannot be reached: {text}")

    async def delete_all(self, patterns: Iterable[str]) -> None:
        """Delete all keys that match one of `patterns`."""
        for pattern in patterns:
            cursor = b"0"
            while True:
                cursor, keys = await self.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                if keys:
                    await self.command("DEL", *keys)
                if cursor == b"0":
                    break

    # -- what is published ---------------------------------------------------------------------------------------------

    def _commands_up(self) -> None:
        self._ready(self)
        self._whole(self.subscriber)

    def _subscriber_up(self) -> None:
        self._whole(self.commands)

    def _whole(self, other: RedisConnection[Any]) -> None:
        """One connection is up. If the other one is, too, the server can be used."""
        if other.state != "up":
            other.hurry()
            return
        since, self._deaf_since = self._deaf_since, None
        self._hearing(self, None if since is None else self._reactor.seconds() - since)

    def _deaf(self, heard: float) -> None:
        if self._deaf_since is None:
            self._deaf_since = heard

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Abort a connection whose answers are overdue. Call it every few seconds."""
        self.commands.look(ANSWER_SECONDS)
        self.subscriber.look(ANSWER_SECONDS)
        self._looks += 1
        try:
            if self._looks % PING_EVERY == 0 and self.subscriber.protocol is not None:
                self.subscriber.protocol.execute_command("PING").addErrback(lambda failure: None)
            if self._looks % TIME_EVERY == 0 and self.commands.protocol is not None:
                self._synchronize(self.commands.protocol).addErrback(lambda failure: None)
        except txredisapi.RedisError:
            pass  # lost a moment ago; connectionLost() follows
