"""Faults of Redis and of those who use it: each is noticed, survived, logged and counted."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from concurrent.futures import Future
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import RedisChannelLayer
from channelserver.layers.base import ChannelFull
from channelserver.layers.redis import emptied, shard
from channelserver.layers.redis.answer import Answer
from channelserver.layers.redis.errors import RedisUnavailable
from channelserver.layers.redis.replies import ReplyReader
from channelserver.layers.redis.seal import ReplayError, Sealer
from tests.process import TIMEOUT, wait_until
from tests.redis_server import Proxy
from tests.test_redis_failures import FailureTestCase
from tests.test_redis_hosts import RedisServerTestCase, say


class CountingReader(ReplyReader):
    """Counts how often it begins to read a value."""

    begun = 0

    def _next(self) -> Any:
        self.begun += 1
        return super()._next()


class LongReplyTests(SynchronousTestCase):
    """Answers that come in many parts."""

    def test_each_value_is_read_once(self) -> None:
        """An array in parts takes no more work than one that comes whole, but for one value a part."""
        names = [b"websocket.send.host!%d" % number for number in range(2000)]
        answer = b"*2\r\n*2000\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names) + b":7\r\n"
        reader = CountingReader()
        parts = [answer[at : at + 10] for at in range(0, len(answer), 10)]
        values = [value for part in parts for value in reader.feed(part)]
        self.assertEqual(values, [[names, 7]])
        self.assertLessEqual(reader.begun, len(names) + 3 + len(parts))

    def test_nested(self) -> None:
        """Arrays in arrays, empty ones, missing ones and errors, byte by byte."""
        answer = b"*4\r\n*0\r\n*-1\r\n*1\r\n*1\r\n$0\r\n\r\n-ERR no\r\n+OK\r\n$-1\r\n*0\r\n"
        reader = ReplyReader()
        values = [value for byte in answer for value in reader.feed(bytes([byte]))]
        self.assertEqual(values[0][:3], [[], None, [[b""]]])
        self.assertEqual(str(values[0][3]), "ERR no")
        self.assertEqual(values[1:], ["OK", None, []])
        with self.assertRaisesRegex(ValueError, "nested"):
            reader.feed(b"*1\r\n" * 20)


class FaultTestCase(FailureTestCase):
    """Layers of this process, and what they log."""

    def setUp(self) -> None:
        """Listen to the log."""
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[method-assign]
        logger = logging.getLogger("channelserver.layers")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

    def logged(self, pattern: str) -> list[logging.LogRecord]:
        """Return the lines of the log that match."""
        return [record for record in self.records if re.search(pattern, record.getMessage())]

    @staticmethod
    def lost(*layers: RedisChannelLayer) -> dict[str, int]:
        """Return how many messages some layers have counted as lost, by reason."""
        total: dict[str, int] = {}
        for layer in layers:
            for reason, number in layer.drops.totals().items():
                total[reason] = total.get(reason, 0) + number
        return total


class EmptiedTests(FaultTestCase):
    """Redis is emptied while all connections stay up."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.redis()
        self.first, self.outlet, self.socket = self.member("first", self.server.url)
        self.second, self.other, _ = self.member("second", self.server.url)
        self.first.group_add("g", self.socket)
        wait_until(lambda: self.second.group_channels("g") == [self.socket], "the member")
        # Old books: messages to groups go only to hosts with members.
        begun = str((int(time.time()) - 60) * 1_000_000)
        self.server.command("HSET", "channelserver:books", "epoch", begun)
        wait_until(lambda: all(self.epoch(layer) == int(begun) for layer in (self.first, self.second)), "the old books")
        for layer in (self.first, self.second):
            layer.drops._totals.clear()
        del self.records[:]

    @staticmethod
    def epoch(layer: RedisChannelLayer) -> int:
        """Return the epoch of the books that a layer knows."""
        books = layer._engine().shards[0].books
        return books.epoch if books else 0

    def test_groups_lose_nothing(self) -> None:
        """A message sent right after it arrives, whoever has noticed; then the memberships are there again."""
        self.server.command("FLUSHDB")
        for number in range(20):
            self.second.send_group("g", {"number": number})
        wait_until(lambda: len(self.outlet.arrived) == 20, "all messages")
        self.assertEqual([content["number"] for _, content in self.outlet.arrived], list(range(20)))
        self.assertEqual(self.other.arrived, [])
        wait_until(lambda: self.second.group_channels("g") == [self.socket], "the member's return")
        wait_until(lambda: self.lost(self.first, self.second) == {"gap": 2}, "a gap for each host")
        self.assertEqual(len(self.logged("was emptied")), 2)

    def test_waiting_messages_are_counted_once(self) -> None:
        """They are counted by one host, however many there are, as the last change had left them."""
        self.patch(emptied, "REPORT_SECONDS", 1.5)
        for number in range(12):
            (self.first if number % 2 else self.second).send("a", {"number": number})
        for number in range(2):
            self.assertEqual(self.second.receive(["a"])[1], {"number": number})
        self.server.command("FLUSHDB")
        wait_until(lambda: self.lost(self.first, self.second) == {"gap": 2}, "the gaps")
        self.server.command("FLUSHDB")  # what the hosts have told each other is gone, too
        wait_until(lambda: self.lost(self.first, self.second) == {"gap": 4, "Redis emptied": 10}, "the count")
        self.assertEqual(len(self.logged("lost: Redis emptied")), 1)
        self.first.send("a", {"value": 1})
        self.assertEqual(self.second.receive(["a"]), ("a", {"value": 1}))
        self.assertEqual(self.second.receive(["a"]), (None, None))


class EmptiedServersTests(RedisServerTestCase):
    """The same with servers that consume."""

    def quick(self, *arguments: str) -> Any:
        """Start a server that does not look for lost work."""
        path = self.folder / "settings.py"
        text = path.read_text()
        if "SEARCH_EVERY" not in text:
            path.write_text(f"{text}\nfrom channelserver.layers.redis import host\nhost.SEARCH_EVERY = 10**9\n")
        return self.start(*arguments)

    def test_work_is_found(self) -> None:
        """Messages to idle servers are consumed, although Redis has forgotten who is idle."""
        server = self.quick("--threads", "2")
        front = self.quick("--threads", "0")
        self.wait_until_connected(front)
        for number in range(3):
            wait_until(lambda: self.redis.command("SCARD", "channelserver:idle:work") == b":1\r\n", "an idle server")
            self.redis.command("FLUSHDB")
            self.shell(f"from channelserver import Channel; Channel('work').send({{'number': {number}}})")
            wait_until(lambda: len(self.notes("work")) == number + 1, "the work")  # noqa: B023
            self.redis.command("FLUSHDB")
            self.assertEqual(front.get("/body/").status_code, 200)
        server.wait_for("was emptied")
        self.assertNotIn(" lost: ", server.output + front.output)


class DeathTests(RedisServerTestCase):
    """Processes are killed with messages in their hands."""

    def setUp(self) -> None:
        """What they had counts as lost a little sooner."""
        super().setUp()
        self.set_lifetime(5.0)

    def set_lifetime(self, seconds: float) -> None:
        """Set how long a process that is cut off may be back."""
        with open(self.folder / "settings.py", "a") as settings:
            settings.write(f"\nfrom channelserver.layers.redis import host\nhost.LIFETIME = {seconds}\n")

    def hold(self, number: int) -> None:
        """Let all threads of all workers have a message, and as many wait."""
        (self.folder / "hold").touch()
        code = (
            f"from channelserver import Channel\nfor n in range({number}): Channel('work').send({{'number': 300 + n}})"
        )
        self.shell(code)

    def test_survivors_count(self) -> None:
        """One of the survivors counts and logs what is lost, once; the rest is consumed."""
        workers = [self.worker(2) for _ in range(3)]
        self.hold(10)
        wait_until(lambda: len(self.notes("work")) == 6, "busy workers")
        workers[0].kill()
        pattern = r"2 message.s. to 'work' lost: its worker process ended; it was host "
        wait_until(lambda: any(re.search(pattern, worker.output) for worker in workers[1:]), "the log")
        (self.folder / "hold").unlink()
        wait_until(lambda: len(self.notes("work")) == 10, "the rest")
        for worker in workers[1:]:
            self.assertEqual(worker.stop(), 0)
        self.assertEqual(sum(len(re.findall(" lost: ", worker.output)) for worker in workers), 1)

    def test_next_start_counts(self) -> None:
        """If there are no survivors, the next process to start counts."""
        worker = self.worker(2)
        self.hold(3)
        wait_until(lambda: len(self.notes("work")) == 2, "a busy worker")
        worker.kill()
        (self.folder / "hold").unlink()
        following = self.worker(1)
        following.wait_for(r"2 message.s. to 'work' lost: its worker process ended")
        wait_until(lambda: len(self.notes("work")) == 3, "the rest")
        self.assertEqual(following.stop(), 0)
        self.assertEqual(following.output.count(" lost: "), 1)

    def test_redis_is_emptied_meanwhile(self) -> None:
        """What a dead process held is counted although Redis knows nothing of it any more; what others held is not."""
        dying = self.worker(2)
        self.hold(2)
        wait_until(lambda: len(self.notes("work")) == 2, "a busy worker")
        self.hold(3)  # before the other asks for work, or it would not know of the third
        other = self.worker(2)
        wait_until(lambda: len(self.notes("work")) == 4, "another one")
        dying.kill()
        self.redis.command("FLUSHDB")
        other.wait_for(r"2 message.s. to 'any channel' lost: its worker process ended; its host had ended")
        other.wait_for(r"1 message.s. to 'any channel' lost: Redis emptied")
        (self.folder / "hold").unlink()
        self.assertEqual(other.stop(), 0)
        self.assertEqual(other.output.count(" lost: "), 2)

    def test_cut_off(self) -> None:
        """A worker that was cut off and taken for dead has consumed its messages: they do not count as lost."""
        self.set_lifetime(TIMEOUT)
        proxy = Proxy(self.redis.port)
        self.addCleanup(proxy.close)
        direct, self.way = self.way, f"redis://127.0.0.1:{proxy.port}/0"
        worker = self.worker(2)
        self.way = direct
        self.hold(2)
        wait_until(lambda: len(self.notes("work")) == 2, "a busy worker")
        proxy.limit(0)
        other = self.worker(2)
        other.wait_for("host .* is dead, or cut off")
        (self.folder / "hold").unlink()
        wait_until(lambda: len(self.notes("done")) == 2, "the end of the work")
        proxy.limit(None)
        keys = [b"channelserver:doubted", *self.keys("held:*")]
        wait_until(lambda: self.redis.command("EXISTS", *keys) == b":0\r\n", "the report")
        for each in (worker, other):
            self.assertEqual(each.stop(), 0)
            self.assertNotIn(" lost: ", each.output)

    def keys(self, pattern: str) -> list[bytes]:
        """Return the names of keys."""
        (words,) = ReplyReader().feed(self.redis.command("KEYS", f"channelserver:{pattern}"))
        return list(words)

    def test_requeue(self) -> None:
        """With it, others consume what the dead process had begun, before what came later; nothing is lost."""
        dying = self.worker(2, "--requeue")
        self.hold(2)
        wait_until(lambda: len(self.notes("work")) == 2, "a busy worker")
        following = self.worker(2, "--requeue")
        dying.kill()
        following.wait_for(r"2 message.s. to 'work' of host .*, which has ended, go to others")
        wait_until(lambda: sorted(self.notes("work")) == ["300", "300", "301", "301"], "the second try")
        (self.folder / "hold").unlink()
        self.assertEqual(following.stop(), 0)
        self.assertNotIn(" lost: ", following.output)


class SilentNetworkTests(FaultTestCase):
    """Connections to Redis that carry nothing any more, and do not end."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.redis()
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.close)

    def check(self, **directions: bool) -> None:
        """Let the connections carry nothing; see that the log tells how long that was so."""
        layer, outlet, channel = self.member("first", f"redis://127.0.0.1:{self.proxy.port}/0")
        other = self.layer(self.server.url)
        layer.group_add("g", channel)
        wait_until(lambda: other.group_channels("g") == [channel], "the member")
        quick = self.patch(shard, "ANSWER_SECONDS", 1.0)
        self.proxy.swallow(**directions)
        began = time.time()
        wait_until(lambda: self.logged("no subscription"), "the gap")
        quick.restore()  # what is asked now may take a busy machine longer
        (given_up,) = self.logged(r"has not answered .*\(subscription\)")
        (gap,) = self.logged("no subscription")
        told = re.search("for ([0-9.]+) s", gap.getMessage())
        assert told is not None
        # Not less than from the cut to the moment when the connection was given up; told with one digit.
        self.assertGreaterEqual(float(told[1]) + 0.1, given_up.created - began)
        self.assertEqual(layer.drops.totals().get("gap"), 1)

        def arrived() -> bool:
            other.send_group("g", {"text": "again"})
            return bool(outlet.arrived)

        wait_until(arrived, "a message")

    def test_half_open(self) -> None:
        """Nothing passes in either direction."""
        self.check()

    def test_one_way(self) -> None:
        """Nothing comes back."""
        self.check(there=False)

    def test_other_way(self) -> None:
        """Nothing arrives."""
        self.check(back=False)


class InTransitTests(FaultTestCase):
    """The connection breaks while a message is being put in, or taken: nothing is lost, nothing comes twice."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.redis()
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.close)
        self.first = self.layer(f"redis://127.0.0.1:{self.proxy.port}/0", capacity=20)
        self.second = self.layer(self.server.url, capacity=20)

    def waiting(self) -> list[Any]:
        """Take all that waits."""
        found = []
        while (taken := self.second.receive(["a"]))[0] is not None:
            found.append(taken[1]["number"])  # type: ignore[index]
        return found

    def cut_answer(self, limit: int) -> None:
        """Let the connections break with the next answer, and be made again."""
        self.until_sent(self.first, "other")
        cuts = self.proxy.cuts
        self.proxy.limit(limit)

        def go_on() -> None:
            wait_until(lambda: self.proxy.cuts > cuts, "the cut")
            self.proxy.limit(None)

        Thread(target=go_on, daemon=True).start()

    def test_answer_is_lost(self) -> None:
        """The sender learns that the message has arrived; or that its channel was full."""
        for number, limit in enumerate((1, 3, 10, 20)):
            self.cut_answer(limit)
            (self.first.send if number % 2 else self.first.dispatch_unasked)("a", {"number": number})
        self.assertEqual(self.waiting(), [0, 1, 2, 3])
        for number in range(20):
            self.second.send("a", {"number": number})
        self.cut_answer(1)
        with self.assertRaisesRegex(ChannelFull, "is full"):
            self.first.send("a", {"number": 21})
        self.assertEqual(self.waiting(), list(range(20)))
        self.assertEqual(self.first.drops.totals().keys() - {"gap"}, set())

    def test_message_is_lost(self) -> None:
        """A message that has not arrived does not come later: its sender learns it, or it counts."""
        self.until_sent(self.first, "other")
        quick = self.patch(shard, "ANSWER_SECONDS", 0.5)
        self.proxy.swallow(back=False)
        with self.assertRaisesRegex(RedisUnavailable, "it did not arrive|cannot be reached"):
            self.first.send("a", {"number": 1})
        self.until_sent(self.first, "other")
        self.proxy.swallow(back=False)
        impatient = self.patch(Answer, "result", lambda answer, seconds: Future.result(answer, 0.1))
        self.first.dispatch_unasked("a", {"number": 2})  # which does not wait for ever
        wait_until(lambda: self.lost(self.first).get("no Redis") == 1, "the count")
        impatient.restore()  # the other layer connects only now, which takes a busy machine longer
        quick.restore()
        self.assertEqual(self.waiting(), [])
        self.assertEqual(self.lost(self.first).get("unknown"), None)

    def test_once(self) -> None:
        """A message with a token that is sent again, perhaps by another process, comes once."""
        for layer in (self.first, self.first, self.second):
            layer.dispatch_once("token", False, "a", {"number": 1})
        self.assertEqual(self.waiting(), [1])
        self.first.dispatch_once("another", False, "a", {"number": 2})
        self.assertEqual(self.waiting(), [2])


class ReplayTests(FaultTestCase):
    """Somebody who can read and write in Redis, but has no key, sends again what he has seen."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.redis()
        keys = {"symmetric_encryption_keys": ["new", "old"]}
        self.first, self.outlet, self.socket = self.member("first", self.server.url, **keys)
        self.second, self.other, self.other_socket = self.member("second", self.server.url, **keys)
        self.first.group_add("g", self.socket)
        wait_until(lambda: self.second.group_channels("g") == [self.socket], "the member")
        self.reader = ReplyReader()
        self.spy = socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT)
        self.addCleanup(self.spy.close)
        self.spy.sendall(b"PSUBSCRIBE channelserver:*\r\n")
        self.spied()

    def spied(self) -> Any:
        """Return the next thing that is published; at first, the confirmation."""
        values: list[Any] = []
        while not values:
            values = self.reader.feed(self.spy.recv(65536))
        return values[0][-1]

    def item(self, sealed: bytes, channel: str = "a") -> bytes:
        """Return something for a queue, with a long time left."""
        return b"p%d0%03d%b%b" % (10**14 * 9, len(channel), channel.encode(), sealed)

    def push(self, *items: bytes) -> None:
        """Put something into the queue of the channel "a"."""
        self.server.command("RPUSH", "channelserver:q:a", *items)

    def check_refused(self, number: int) -> None:
        """So many values are refused, and nothing else is there; the log has one line of it."""
        self.assertEqual(self.first.receive(["a"]), (None, None))
        self.assertEqual(self.first.drops.totals(), {"replayed": number})
        self.assertEqual(len(self.logged("lost: replayed")), 1)

    def test_group_message_in_a_queue(self) -> None:
        """What was published to a group is no message for a channel, not even with a membership of another one."""
        self.first.group_add("g", "b")
        self.second.send_group("g", {"text": "group"})
        sealed = re.sub(rb"^(s|e\w+ )", b"", self.spied())
        wait_until(lambda: self.outlet.arrived, "the message")
        ((_, stored),) = self.pairs("channelserver:queued:g")
        proof = stored.split(b":", 2)[2]
        self.push(self.item(b"q" + sealed), self.item(b"g%05d" % len(proof) + proof + sealed))
        self.push(self.item(b"g%05d" % len(sealed) + sealed + sealed))
        self.check_refused(3)
        self.assertEqual(self.first.receive(["b"]), ("b", {"text": "group"}))

    def pairs(self, key: str) -> list[tuple[bytes, bytes]]:
        """Return the items of a hash."""
        (words,) = ReplyReader().feed(self.server.command("HGETALL", key))
        return list(zip(words[::2], words[1::2], strict=True))

    def test_queued_twice(self) -> None:
        """A message that was taken is not taken again, and not from another channel; nor is an old one."""
        self.second.send("a", {"number": 1})
        (words,) = ReplyReader().feed(self.server.command("LRANGE", "channelserver:q:a", "0", "-1"))
        (item,) = words
        self.push(item)
        self.assertEqual(self.first.receive(["a"]), ("a", {"number": 1}))
        self.check_refused(1)
        self.second.send("b", {"number": 2})
        (words,) = ReplyReader().feed(self.server.command("LRANGE", "channelserver:q:b", "0", "-1"))
        self.push(words[0][:20] + b"a" + words[0][21:])
        self.check_refused(2)
        self.first.time_offset = 200_000
        self.push(self.item(words[0][21:]))
        self.check_refused(3)

    def test_published_twice(self) -> None:
        """What hosts tell each other is heard once, by the host it is for, and in time."""
        self.second.send(self.socket, {"text": "reply"})
        sealed = self.spied()
        wait_until(lambda: self.outlet.arrived, "the message")
        self.second.send(self.socket, {"text": "last"})
        wait_until(lambda: len(self.outlet.arrived) == 2, "the last message, which would come too late below")
        self.first.time_offset = -200_000
        for host in ("second", "first", "first"):
            self.server.command("PUBLISH", f"channelserver:host:{host}", sealed)
        wait_until(lambda: self.lost(self.first, self.second).get("replayed") == 3, "the refusals")
        self.assertEqual(self.other.arrived, [])
        self.assertEqual(self.outlet.arrived[0], (self.socket, {"text": "reply"}))
        self.assertNotIn((self.socket, {"text": "reply"}), self.outlet.arrived[1:])

    def test_old_keys_open(self) -> None:
        """Messages that were sealed with the old key are opened, once, too."""
        old = self.layer(self.server.url, symmetric_encryption_keys=["old"])
        old.send("a", {"number": 1})
        (words,) = ReplyReader().feed(self.server.command("LRANGE", "channelserver:q:a", "0", "-1"))
        self.push(*words)
        self.assertEqual(self.first.receive(["a"]), ("a", {"number": 1}))
        self.check_refused(1)


class SealTests(SynchronousTestCase):
    """The seals themselves."""

    def setUp(self) -> None:
        self.time = 10**9 * 1000.0
        self.sealers = [Sealer(["key"], "p:", lambda: self.time) for _ in range(2)]

    def opens(self, data: bytes, **arguments: Any) -> bool:
        """Whether the second one opens it."""
        try:
            self.sealers[1].unseal(data, ("queue", "a").__eq__, **arguments)
        except ReplayError:
            return False
        return True

    def test_each_once(self) -> None:
        """Thousands of messages, in any order, are each opened once, also after others of their time are forgotten."""
        sealed = [self.sealers[0].seal(("queue", "a"), number, seconds=60) for number in range(3000)]
        opened = [self.opens(data) for data in [*sealed[::2], *sealed[1::2]]]
        self.assertEqual(opened, [True] * 3000)
        for later in (0, 30, 45):
            self.time += later * 1000
            self.assertEqual([self.opens(data) for data in sealed[::100]], [False] * 30)
            self.assertTrue(self.opens(self.sealers[0].seal(("queue", "a"), later)))

    def test_time(self) -> None:
        """It is opened within its time, give or take what clocks differ."""
        for life, late, wanted in (
            (60, 70, True),
            (60, 80, False),
            (86400, 80000, True),
            (60, -10, True),
            (60, -20, False),
        ):
            data = self.sealers[0].seal(("queue", "a"), 1, seconds=life)
            self.time += late * 1000
            self.assertEqual(self.opens(data), wanted, (life, late))

    def test_places(self) -> None:
        """Something for several places is opened once in each; a foreign prefix is no place."""
        data = self.sealers[0].seal(("queue", "a"), 1)
        self.assertEqual([self.opens(data, where=where) for where in ("x", "y", "x", None, None)], [1, 1, 0, 1, 1])
        self.assertFalse(self.opens(Sealer(["key"], "q:", lambda: self.time).seal(("queue", "a"), 1)))
        self.assertFalse(self.opens(self.sealers[0].seal(("queue", "b"), 1)))

    def test_forked(self) -> None:
        """A forked child has a name and numbers of its own."""
        sealer = self.sealers[0]
        first = sealer.seal(("queue", "a"), 1)
        name = sealer._name
        sealer._process = -1  # as in a child
        self.assertTrue(self.opens(sealer.seal(("queue", "a"), 2)) and self.opens(first))
        self.assertNotEqual(sealer._name, name)


class FiguresTests(RedisServerTestCase):
    """A server of two processes."""

    def test_all_processes(self) -> None:
        """Health and statistics speak for both, whichever is asked; counters count on when one has been killed."""
        server = self.start("--processes", "2", "--threads", "2", "--ping-interval", "0")
        server.wait_for("process 2 serves")
        with self.sockets(server, 20) as clients:
            wait_until(lambda: server.get("/-/health").json()["websockets"] == 20, "all sockets")
            for _ in range(10):  # connections of either process
                self.assertEqual(server.get("/-/health").json()["websockets"], 20)
                self.assertEqual(server.get("/-/health").json()["threads"], 4)
            found = {}
            for client in clients:
                say(client, "statistics")
                process, groups, members, count = str(client.data()).split()
                self.assertEqual((groups, members), ("1", "20"))
                found[process] = int(count)
            self.assertEqual(len(found), 2)
            before = max(found.values())
            self.assertGreaterEqual(before, 20 + 20)  # a connect message of each, and a text
            for process in found:
                if int(process) != server.process.pid:
                    os.kill(int(process), signal.SIGKILL)
            server.wait_for("process 2 has ended")
            wait_until(lambda: server.output.count("process 2 serves") == 2, "another process")
        with self.sockets(server, 1) as (client,):
            say(client, "statistics")
            self.assertGreater(int(str(client.data()).split()[-1]), before)
