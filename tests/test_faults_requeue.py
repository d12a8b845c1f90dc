"""Messages that may be consumed twice (``requeue``) survive an outage of Redis, and an emptied one."""

from __future__ import annotations

from threading import Event
from typing import Any, ClassVar

from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import ChannelFull, RedisChannelLayer
from channelserver.layers.losses import DropCounter
from channelserver.layers.redis import copies, emptied, host, shard
from channelserver.layers.redis.copies import Parcel
from channelserver.layers.redis.errors import RedisUnavailable
from channelserver.layers.redis.shard import Books
from channelserver.layers.waiting import Delivery
from tests.process import TIMEOUT, wait_until
from tests.redis_server import Proxy
from tests.test_faults_redis import FaultTestCase


class Consumer:
    """Consumes channel "a" of a layer.

    :param threads: messages that it may have in hand.
    """

    def __init__(self, layer: RedisChannelLayer, threads: int = 1000) -> None:
        self.layer = layer
        self.taken: list[Delivery] = []
        layer.requeued = frozenset({"a"})
        served = Event()
        layer._engine().bridge.post(lambda: (layer.serve(["a"], threads), served.set()))
        assert served.wait(TIMEOUT)

    def numbers(self) -> list[int]:
        """Take what has come, and return all that has ever come."""
        while (delivery := self.layer.queues.take(("a",))) is not None:
            self.taken.append(delivery)
        return [delivery.content["number"] for delivery in self.taken]

    def finish(self) -> None:
        """Consume what was taken."""
        for delivery in self.taken:
            self.layer.queues.finish(delivery)


class RequeueTestCase(FaultTestCase):
    """A sender and a consumer."""

    parameters: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        super().setUp()
        self.patch(copies, "REPORTED", 1.5)
        self.patch(emptied, "REPORT_SECONDS", 3.0)
        self.server = self.redis()
        self.sender = self.layer(self.way(), **self.parameters)
        self.sender.requeued = frozenset({"a"})
        self.until_sent(self.sender, "other")

    def way(self) -> str:
        """Return the sender's URL of Redis."""
        return self.server.url

    def consumer(self) -> Consumer:
        return Consumer(self.layer(self.server.url, **self.parameters))

    def send(self, *numbers: int) -> None:
        """Send as a consumer or a view does at its end."""
        for number in numbers:
            self.sender.dispatch_unasked("a", {"number": number})

    def kept(self) -> int:
        """Return how many copies the sender has."""
        return len(self.sender._engine().copies)

    def waiting(self) -> int:
        """Return how many messages wait in Redis."""
        return int(self.server.command("LLEN", "channelserver:q:a")[1:])

    def come(self, consumer: Consumer, numbers: list[int]) -> None:
        """Wait until messages have come, each of them once; consume them, and see that nothing is lost or kept."""
        wait_until(lambda: len(set(consumer.numbers())) >= len(numbers), "the messages")
        self.assertEqual(sorted(consumer.numbers()), numbers)
        consumer.finish()
        wait_until(lambda: not self.kept(), "the end of the copies")
        self.assertEqual(self.lost(self.sender, consumer.layer).keys() - {"gap"}, set())


class EmptiedTests(RequeueTestCase):
    """Redis is emptied, or starts anew."""

    def test_they_wait(self) -> None:
        """Those that waited are put back; those in hand are not."""
        consumer = self.consumer()
        self.send(1, 2)
        wait_until(lambda: consumer.numbers() == [1, 2], "the first ones")
        consumer.layer.retire()
        self.send(3, 4)
        self.sender.send("a", {"number": 5})
        wait_until(lambda: self.waiting() == 3, "the next ones")
        self.server.command("FLUSHDB")
        wait_until(lambda: self.waiting() == 3, "what is put back")
        self.assertEqual(len(self.logged("3 message.s. that Redis .* are put back")), 1)
        other = self.consumer()
        wait_until(lambda: sorted(other.numbers()) == [3, 4, 5], "the rest")
        consumer.finish()
        self.come(other, [3, 4, 5])
        self.assertEqual(consumer.numbers(), [1, 2])

    def test_emptied_again(self) -> None:
        """Before they could be put back, and after that."""
        self.send(1, 2, 3)
        for _ in range(2):
            self.server.command("FLUSHDB")
            wait_until(lambda: self.server.command("EXISTS", "channelserver:books") == b":1\r\n", "the notice")
        wait_until(lambda: self.waiting() == 3, "what is put back")
        self.server.command("FLUSHDB")
        self.come(self.consumer(), [1, 2, 3])

    def test_started_anew(self) -> None:
        """What waited, and what is sent while nothing listens, comes when Redis is there again."""
        self.send(1, 2)
        wait_until(lambda: self.waiting() == 2, "messages")
        self.server.kill()
        wait_until(lambda: not self.sender._engine().is_up("a"), "the outage")
        self.send(3, 4)
        with self.assertRaises(RedisUnavailable):
            self.sender.send("a", {"number": 5})  # whoever asks gets an answer, and may send again
        self.server.start()
        self.come(self.consumer(), [1, 2, 3, 4])

    def test_flushed(self) -> None:
        """Who empties the layer on purpose gets nothing back."""
        self.send(1, 2)
        wait_until(lambda: self.waiting() == 2, "messages")
        self.layer(self.server.url).flush()
        wait_until(lambda: not self.kept(), "the end of the copies")

    def test_the_holder_dies(self) -> None:
        """Others get what it held, although Redis has been emptied meanwhile."""
        consumer = self.consumer()
        self.send(1)
        wait_until(lambda: consumer.numbers() == [1], "the message")
        self.server.command("FLUSHDB")
        name = consumer.layer._name
        wait_until(lambda: self.server.command("HLEN", f"channelserver:kept:{name}") == b":1\r\n", "what it tells")
        consumer.layer.close()
        self.come(self.consumer(), [1])


class SealedTests(EmptiedTests):
    """The same with encryption: each message can be opened once, so it is sealed anew."""

    parameters: ClassVar[dict[str, Any]] = {"symmetric_encryption_keys": ["secret"]}


class OutageTests(RequeueTestCase):
    """Redis cannot be reached."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(shard, "ANSWER_SECONDS", 1.0)

    def way(self) -> str:
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.close)
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def test_swallowed(self) -> None:
        """Messages in transit, and those that are sent in the outage, come once, in their order."""
        self.send(1)
        self.proxy.swallow()
        host = self.sender._engine()
        for number in range(2, 5):
            host.bridge.post(self.sender.dispatch_unasked, "a", {"number": number})
        wait_until(lambda: not host.is_up("a"), "the outage")
        self.send(5, 6)
        consumer = self.consumer()
        self.come(consumer, [1, 2, 3, 4, 5, 6])
        self.assertEqual(consumer.numbers(), [1, 2, 3, 4, 5, 6])

    def test_answers_are_swallowed(self) -> None:
        """What has arrived does not come again."""
        host = self.sender._engine()
        self.proxy.swallow(there=False)
        for number in range(1, 4):
            host.bridge.post(self.sender.dispatch_unasked, "a", {"number": number})
        wait_until(lambda: self.waiting() == 3, "the messages")
        self.come(self.consumer(), [1, 2, 3])

    def test_ends_are_missed(self) -> None:
        """A sender that was cut off learns then which messages have ended; they do not come again."""
        consumer = self.consumer()
        self.send(1, 2)
        wait_until(lambda: consumer.numbers() == [1, 2], "the messages")
        self.proxy.swallow()
        consumer.finish()
        wait_until(lambda: self.server.command("KEYS", "channelserver:copies:*") == b"*0\r\n", "the ends")
        self.assertEqual(self.kept(), 2)
        wait_until(lambda: not self.kept(), "the end of the copies")
        self.assertEqual((consumer.numbers(), self.lost(self.sender).keys() - {"gap"}), ([1, 2], set()))

    def test_too_many(self) -> None:
        """There is room for so many copies; further messages are refused as by a full channel."""
        self.patch(copies, "MOST", 3)
        self.send(1, 2, 3)
        with self.assertRaisesRegex(ChannelFull, "have not been consumed yet"):
            self.send(4)
        self.patch(copies, "MOST", 4)
        self.patch(copies, "MOST_BYTES", 100)
        with self.assertRaisesRegex(ChannelFull, "have not been consumed yet"):
            self.sender.send("a", {"number": 5, "text": "x" * 100})
        self.patch(copies, "MOST", 3)
        consumer = self.consumer()
        self.come(consumer, [1, 2, 3])
        self.send(6)
        self.come(consumer, [1, 2, 3, 6])

    def test_out_of_memory(self) -> None:
        """A Redis without memory gives out what it has, and drops what has expired; so it takes messages again."""
        self.server.command("CONFIG", "SET", "maxmemory", "6mb")
        number = 0
        with self.assertRaisesRegex(RedisUnavailable, "out of memory"):
            while True:
                self.sender.send("a", {"number": number, "text": "x" * 50_000})
                number += 1
        for more in range(3):  # these wait
            self.sender.dispatch_unasked("a", {"number": number + more, "text": "x" * 50_000})
        consumer = self.consumer()
        wait_until(lambda: len(consumer.numbers()) == number, "what Redis has")
        consumer.finish()
        consumer.taken = []
        self.come(consumer, [number, number + 1, number + 2])

    def test_signs_of_life_out_of_memory(self) -> None:
        """A Redis without memory still learns that hosts live: later, nobody takes them for dead."""
        self.consumer()
        wait_until(lambda: self.server.command("EXISTS", "channelserver:hosts") == b":1\r\n", "the host")
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        hosts = lambda: self.server.command("ZRANGE", "channelserver:hosts", "0", "-1", "WITHSCORES")  # noqa: E731
        before = hosts()
        wait_until(lambda: hosts() != before, "the next sign")

    def test_expired_out_of_memory(self) -> None:
        """A Redis without memory drops what has expired: there is room again."""
        self.sender.expiry = 0.5
        self.server.command("CONFIG", "SET", "maxmemory", "6mb")
        with self.assertRaisesRegex(RedisUnavailable, "out of memory"):
            while True:
                self.sender.send("a", {"text": "x" * 50_000})
        consumer = self.consumer()
        consumer.layer.retire()
        self.patch(host, "SWEEP_EVERY", 2)
        wait_until(lambda: not self.waiting(), "the sweep")
        self.sender.send("a", {"text": "x" * 50_000})

    def test_stopped_meanwhile(self) -> None:
        """A process that ends before Redis is back counts what it takes with it."""
        self.server.kill()
        wait_until(lambda: not self.sender._engine().is_up("a"), "the outage")
        self.send(1, 2)
        self.sender.close()
        self.assertEqual(self.lost(self.sender).get("no Redis"), 2)

    def test_what_breaks_the_connection(self) -> None:
        """A message that Redis answers by closing the connection is given up, and counted; the next ones arrive."""
        self.patch(copies, "TRIES", 2)
        self.server.command("CONFIG", "SET", "proto-max-bulk-len", "1mb")
        host = self.sender._engine()
        for number, size in ((1, 0), (2, 2**21), (3, 0)):
            host.bridge.post(self.sender.dispatch_unasked, "a", {"number": number, "text": "x" * size})
        wait_until(lambda: self.waiting() == 2, "the others")
        wait_until(lambda: self.kept() == 2, "the end of the copy")
        self.assertEqual(self.lost(self.sender).get("unknown"), 1)

    def test_sender_without_routes(self) -> None:
        """A process that knows no routes learns of Redis which messages to keep."""
        self.sender.requeued = frozenset()
        consumer = self.consumer()
        wait_until(lambda: self.server.command("EXISTS", "channelserver:requeued") == b":1\r\n", "the news")
        consumer.layer.retire()
        self.send(1, 2)
        self.assertEqual(self.kept(), 2)
        self.server.command("FLUSHDB")
        self.come(self.consumer(), [1, 2])


class Server:
    """What copies use of a server: it was emptied, and takes nothing more."""

    is_up = True
    address = "redis://test"
    books = Books(1, 1, 0, 0)

    async def change(self, script: str, name: str, *numbers: int) -> list[list[int]]:
        """Return the missing ones: all."""
        return [list(numbers)]

    def since(self, epoch: int) -> float:
        """Return the seconds since then."""
        return 60.0


class CountedParcel(Parcel):
    """Counts how often its place among others was asked for."""

    asked = 0

    @property
    def order(self) -> int:
        """Return its number."""
        CountedParcel.asked += 1
        return self._order

    @order.setter
    def order(self, number: int) -> None:
        self._order = number


class OrderTests(SynchronousTestCase):
    """Copies without Redis."""

    def test_many_are_put_back(self) -> None:
        """What is put back comes before what was sent later and waits, in a time that grows as their number does."""
        server, number = Server(), 1000

        async def put(parcel: Parcel) -> bool:
            await defer.Deferred() if server.books.epoch == 2 else None
            return True

        kept = copies.Copies(
            "host", Clock(), lambda: frozenset({"a"}), put,  # type: ignore[arg-type]
            lambda parcel: server,  # type: ignore[arg-type,return-value]
            lambda parcel: b"", DropCounter(Clock().seconds), lambda *_: None,
        )  # fmt: skip
        for at in range(2 * number):
            server.is_up = at < number
            defer.ensureDeferred(kept.send(CountedParcel("a", {}, b"", patient=True)))
        server.is_up, server.books = True, Books(2, 2, 0, 0)
        CountedParcel.asked = 0
        kept.look(server)  # type: ignore[arg-type]
        self.assertLess(CountedParcel.asked, 10 * number)
        (waiting,) = kept._waiting.values()
        orders = [parcel.order for parcel in waiting]
        self.assertEqual((len(orders), orders), (2 * number - 1, sorted(orders)))  # one is being put in
