"""The Redis layer when Redis fails: stopped, emptied, silent, cut off, full, closed to us, replaced."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import ChannelFull, RedisChannelLayer
from channelserver.layers.base import FAILED
from channelserver.layers.redis import RedisUnavailable
from tests.certificates import write_pair
from tests.process import TIMEOUT, wait_until
from tests.redis_server import Proxy, RedisServer, Watched
from tests.test_redis_hosts import RedisServerTestCase, say


class Outlet:
    """The connections of a process that has none: keeps what arrives."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, Any]] = []

    def __contains__(self, channel: object) -> bool:
        return True

    def client_of(self, channel: str) -> Any:
        return None

    def deliver(self, channel: str, content: dict[str, Any]) -> None:
        """Keep it."""
        self.arrived.append((channel, content))

    def deliver_group(self, channels: Collection[str], content: dict[str, Any]) -> None:
        """Keep it, once for each."""
        self.arrived.extend((channel, content) for channel in channels)

    def deliver_waiting(self, channel: str, content: dict[str, Any], timeout: float) -> bool:
        """Keep it."""
        self.deliver(channel, content)
        return True


class FailureTestCase(SynchronousTestCase):
    """Layers of this process, each of which is a host of its own."""

    def redis(self, *options: str, **arguments: Any) -> RedisServer:
        """Start a server."""
        server = RedisServer(*options, **arguments)
        self.addCleanup(server.remove)
        return server

    def layer(self, *hosts: Any, **parameters: Any) -> RedisChannelLayer:
        """Make a layer."""
        layer = RedisChannelLayer(list(hosts), **parameters)
        self.addCleanup(layer.close)
        return layer

    def member(self, token: str, *hosts: Any, **parameters: Any) -> tuple[RedisChannelLayer, Outlet, str]:
        """Make a layer with an outlet; return also the name of a connection."""
        layer, outlet = self.layer(*hosts, **parameters), Outlet()
        layer.attach(f"websocket.send.{token}!", outlet)
        return layer, outlet, f"websocket.send.{token}!1"

    def until_sent(self, layer: RedisChannelLayer, channel: str = "a") -> None:
        """Send until it works."""

        def sent() -> bool:
            try:
                layer.send(channel, {"value": "again"})
            except RedisUnavailable:
                return False
            return True

        wait_until(sent, "Redis's return")


class StoppedTests(FailureTestCase):
    """Redis goes away, and comes back."""

    def test_killed_and_back(self) -> None:
        """While it is away, sends say so at once; then all goes on, memberships included, with an empty Redis."""
        redis = self.redis()
        first, outlet, channel = self.member("first", redis.url)
        second, other, _ = self.member("second", redis.url)
        first.group_add("g", channel)
        second.send("a", {"value": 1})
        self.assertEqual(second.group_channels("g"), [channel])
        redis.kill()
        with self.assertRaisesRegex(ChannelFull, "the message may or may not have arrived|cannot be reached"):
            wait_until(lambda: first.send("a", {"value": 2}), "an error")
        # The words of what is known without waiting; else it "could not be reached within 5 s".
        with self.assertRaisesRegex(RedisUnavailable, "cannot be reached: "):
            wait_until(lambda: first.send("a", {"value": 2}), "an error")
        first.send_group("g", {"text": "here"})  # its own members get it all the same
        self.assertEqual(outlet.arrived, [(channel, {"text": "here"})])
        wait_until(lambda: "nothing listens there" in first.problem(), "a word for the health report")
        self.assertTrue(first.drops.totals()["no Redis"])
        redis.start()
        self.until_sent(second)

        def arrived() -> bool:
            second.send_group("g", {"text": "there"})
            return (channel, {"text": "there"}) in outlet.arrived

        wait_until(arrived, "a group send from elsewhere")
        wait_until(lambda: first.drops.totals().get("gap"), "the count of the gap")
        wait_until(lambda: not first.problem(), "health")
        wait_until(lambda: second.group_channels("g") == [channel], "the member's return")
        self.assertEqual(other.arrived, [])

    def test_emptied(self) -> None:
        """Somebody deletes everything: memberships are told again with the next sign of life."""
        redis = self.redis()
        first, _, channel = self.member("first", redis.url)
        second = self.layer(redis.url)
        first.group_add("g", channel)
        wait_until(lambda: second.group_channels("g") == [channel], "the member")
        # In one go, for a sign of life may follow at once.
        empty = redis.command("EVAL", "redis.call('FLUSHALL') return redis.call('DBSIZE')", "0")
        self.assertEqual(empty, b":0\r\n")
        redis.command("SCRIPT", "FLUSH")
        wait_until(lambda: second.group_channels("g") == [channel], "the member's return")

    def test_silent(self) -> None:
        """A server that is there but does not answer is given up; when it answers, all goes on."""
        redis = self.redis()
        layer = self.layer(redis.url)
        layer.send("a", {"value": 1})
        redis.freeze()
        try:
            given_up = "did not answer within 5 s|was lost; the message may or may not have arrived"
            with self.assertRaisesRegex(RedisUnavailable, given_up) as caught:
                layer.send("a", {"value": 2})
            self.assertFalse(caught.exception.retry)  # it may arrive yet
            wait_until(lambda: layer.problem(), "a word for the health report")
        finally:
            redis.thaw()
        self.until_sent(layer)
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 1}))

    def test_cut_off(self) -> None:
        """Connections that end in the middle of an answer, at whatever byte, are made again."""
        redis = self.redis()
        proxy = Proxy(redis.port)
        self.addCleanup(proxy.close)
        layer = self.layer(("127.0.0.1", proxy.port))
        other = self.layer(redis.url)
        for limit in (1, 3, 10, 40, 80, 200, 1000):
            other.send("big", {"data": b"x" * 500})
            proxy.limit(limit)
            try:
                layer.receive(["big"])
            except RedisUnavailable:
                pass
            proxy.limit(None)
            self.until_sent(layer)
        layer.flush()
        layer.send("a", {"value": 1})
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 1}))


class SilentHostTests(FailureTestCase):
    """Hosts that give no sign of life."""

    def test_dead_or_slow(self) -> None:
        """One that has gone is forgotten soon, and its clients are told; one that still listens is left alone."""
        redis = self.redis()
        seconds = int(redis.command("TIME").split(b"\r\n")[2])
        listener = socket.create_connection(("127.0.0.1", redis.port))
        self.addCleanup(listener.close)
        listener.sendall(b"SUBSCRIBE channelserver:host:slow\r\n")
        self.assertIn(b"subscribe", listener.recv(1000))
        layer, outlet, channel = self.member("first", redis.url)
        for name in ("gone", "slow"):
            redis.command("ZADD", "channelserver:hosts", str((seconds - 5) * 1000), name)
            redis.command("HSET", f"channelserver:held:{name}", "1", f"http.request {channel}")
        layer.send("a", {})  # it connects
        wait_until(lambda: outlet.arrived, "the news")
        self.assertEqual(outlet.arrived, [(channel, {FAILED: 502})])
        self.assertEqual(redis.command("EXISTS", "channelserver:held:slow"), b":1\r\n")
        self.assertNotIn(b"gone", redis.command("ZRANGE", "channelserver:hosts", "0", "-1"))
        self.assertIn(b"slow", redis.command("ZRANGE", "channelserver:hosts", "0", "-1"))


class RefusedTests(FailureTestCase):
    """Redis is there, but does not want to."""

    def setUp(self) -> None:
        """Listen to the log."""
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("channelserver.layers")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

    def assertLogged(self, part: str) -> None:
        """Wait for a line of the log."""
        wait_until(lambda: any(part in line for line in self.lines), f"{part!r} in the log")

    def test_password(self) -> None:
        """A wrong password, or none, is named; the right one works, and is not in the log."""
        redis = self.redis("--requirepass", "very secret")
        port = redis.port
        for url, word in ((f"redis://:wrong-one@127.0.0.1:{port}", "WRONGPASS"), (redis.url, "NOAUTH")):
            with self.assertRaisesRegex(RedisUnavailable, word):
                self.layer(url).send("a", {})
        self.layer(f"redis://:very%20secret@127.0.0.1:{port}").send("a", {})
        self.assertLogged("password is wrong")
        self.assertFalse([line for line in self.lines if "secret" in line or "wrong-one" in line])

    def test_user(self) -> None:
        """A user with no more rights than the page on Redis tells can do all."""
        rights = ["~p:*", "&p:*", "-@all", "+@connection", "+@read", "+@write", "+@pubsub", "+@scripting", "+time"]
        redis = self.redis("--user", "site", "on", ">secret", *rights)
        layer = self.layer(
            ("127.0.0.1", redis.port), prefix="p:", connection_kwargs={"username": "site", "password": "secret"}
        )
        layer.group_add("g", "a")
        layer.send_group("g", {"value": 1})
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 1}))
        self.assertEqual(layer.group_channels("g"), ["a"])
        layer.flush()
        redis.command("ACL", "SETUSER", "site", "-rpush")
        with self.assertRaisesRegex(RedisUnavailable, "lacks a permission"):
            layer.send("a", {"value": 1})
        self.assertLogged("lacks a permission")

    def test_unix_socket(self) -> None:
        """A Unix socket will do."""
        layer = self.layer(self.redis(unix=True).url)
        layer.send("a", {"value": 1})
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 1}))

    def test_out_of_memory(self) -> None:
        """A Redis without memory refuses messages; the error, the log and the health report say why."""
        layer = self.layer(self.redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction").url)

        def fill() -> None:
            for _ in range(200):
                layer.send("a", {"data": b"x" * 100_000})

        with self.assertRaisesRegex(RedisUnavailable, "out of memory"):
            fill()
        self.assertIn("out of memory", layer.problem())
        self.assertLogged("out of memory")

    def test_altered(self) -> None:
        """A value altered by hand, written with another key, or moved to another channel, is rejected and counted."""
        redis = self.redis()
        keyed = {"symmetric_encryption_keys": ["new", "old"]}
        layer = self.layer(redis.url, **keyed)
        queue = "channelserver:q:a"
        layer.send("a", {"value": "untouched"})
        raw = redis.command("LINDEX", queue, "0").split(b"\r\n", 1)[1].removesuffix(b"\r\n")
        self.assertNotIn(b"untouched", raw)
        redis.command("LSET", queue, "0", raw[:-10] + bytes([raw[-10] ^ 1]) + raw[-9:])
        self.assertEqual(layer.receive(["a"]), (None, None))
        self.layer(redis.url, symmetric_encryption_keys=["strange"]).send("a", {"value": 1})
        self.layer(redis.url).send("a", {"value": 1})
        self.assertEqual(layer.receive(["a"]), (None, None))
        layer.send("b", {"value": 1})
        redis.command("RENAME", "channelserver:q:b", queue)
        self.assertEqual(layer.receive(["a"]), (None, None))
        self.assertEqual(layer.drops.totals(), {"rejected": 3, "replayed": 1})
        self.assertLogged("rejected")
        self.layer(redis.url, symmetric_encryption_keys=["old"]).send("a", {"value": 2})
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 2}))

    def test_altered_publication(self) -> None:
        """What is published with a wrong key, or is nonsense, is rejected and counted."""
        redis = self.redis()
        layer, outlet, channel = self.member("first", redis.url, symmetric_encryption_keys=["right"])
        layer.group_add("g", channel)
        wait_until(lambda: layer.group_channels("g"), "the member")
        stranger = self.layer(redis.url, symmetric_encryption_keys=["wrong"])
        stranger.send_group("g", {"text": "wrong"})
        stranger.send(channel, {"text": "wrong"})
        for nonsense in (b"", b"s", b"x", b"sgarbage", b"w\xff", b"f\xff"):
            redis.command("PUBLISH", "channelserver:host:first", nonsense)
        wait_until(lambda: layer.drops.totals().get("rejected", 0) >= 5, "the count")
        self.assertEqual(outlet.arrived, [])
        redis.command("PUBLISH", "channelserver:host:first", f"f{channel}")
        wait_until(lambda: outlet.arrived == [(channel, {FAILED: 502})], "the news of a dead worker")

    def test_certificate(self) -> None:
        """TLS with a certificate for the host works; one for another name, or of a stranger, is refused."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        certificate, key = write_pair(folder)
        redis = self.redis("--bind", "127.0.0.1", "127.0.0.2", tls=(certificate, key))
        port = redis.port
        self.layer(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}").send("a", {"value": 1})
        layer = self.layer(f"rediss://localhost:{port}", connection_kwargs={"ssl_ca_certs": certificate})
        self.assertEqual(layer.receive(["a"]), ("a", {"value": 1}))
        for url in (f"rediss://127.0.0.2:{port}/0?ssl_ca_certs={certificate}", f"rediss://127.0.0.1:{port}/0"):
            refused = self.layer(url)
            with self.assertRaisesRegex(RedisUnavailable, "certificate is not valid"):
                refused.send("a", {})
            (shard,) = refused._engine().shards
            refused.close()
            self.assertEqual([shard.commands.state, shard.subscriber.state], ["closed", "closed"])
        self.assertLogged("'127.0.0.2'")


class SentinelTests(FailureTestCase):
    """A master that is replaced."""

    def test_failover(self) -> None:
        """When the Sentinel has made another one the master, all goes on there."""
        watched = Watched()
        self.addCleanup(watched.remove)
        hosts = watched.hosts
        first, outlet, channel = self.member("first", hosts)
        second = self.layer(hosts)
        first.group_add("g", channel)
        second.send("a", {"value": 1})
        watched.master.kill()
        self.until_sent(second)

        def arrived() -> bool:
            second.send_group("g", {"text": "there"})
            return (channel, {"text": "there"}) in outlet.arrived

        wait_until(arrived, "a group send by the new master")
        self.assertTrue(watched.replaced())
        self.assertIn(str(watched.replica.port), str(first.addresses[0]))


class Load:
    """Two servers with sockets of one group, and somebody on each who does not stop sending to it."""

    def __init__(self, case: RedisServerTestCase, stack: ExitStack) -> None:
        # No pings: hardly any of these clients reads, and none answers them.
        self.servers = [case.start("--ping-interval", "0") for _ in range(2)]
        self.crowds = [stack.enter_context(case.sockets(server, 20)) for server in self.servers]
        stack.callback(self.stop)
        self._stopped = threading.Event()
        #: How often either has sent.
        self._sent = [0, 0]
        self._threads = [threading.Thread(target=self._send, args=(index,), daemon=True) for index in (0, 1)]
        for index in (0, 1):
            self.hear(index, "before")
        for thread in self._threads:
            thread.start()

    def _send(self, index: int) -> None:
        while not self._stopped.wait(0.04):
            say(self.crowds[index][0], f"all load {index} {self._sent[index]}")
            self._sent[index] += 1

    def wait_for_more(self, number: int) -> None:
        """Wait until either has sent so many messages more."""
        before = list(self._sent)
        wait_until(lambda: all(now - then >= number for now, then in zip(self._sent, before, strict=True)), "more load")

    def hear(self, index: int, name: str) -> None:
        """Send from one server until a socket of the other has got one of these messages."""
        sender, receiver = self.crowds[index][1], self.crowds[1 - index][1]
        heard = threading.Event()

        def probe() -> None:
            while not heard.wait(0.05):
                say(sender, f"all {name} {index}")

        thread = threading.Thread(target=probe, daemon=True)
        thread.start()
        try:
            while receiver.data() != f"{name} {index}":
                pass
        finally:
            heard.set()
            thread.join(TIMEOUT)

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def check(self) -> None:
        """All sockets are open, and get what is sent from either server."""
        self.stop()
        for crowd in self.crowds:
            say(crowd[0], "all end")
        for client in self.crowds[0] + self.crowds[1]:
            for _ in range(2):
                while client.data() != "end":
                    pass


class LoadTests(RedisServerTestCase):
    """Redis is killed while two servers send to a group."""

    def test_killed_and_empty(self) -> None:
        """It comes back when many messages could not be passed on, with nothing in it."""
        with ExitStack() as stack:
            load = Load(self, stack)
            self.redis.kill()
            for server in load.servers:
                wait_until(lambda: "nothing listens" in server.get("/-/health").text, "the health report")  # noqa: B023
            load.wait_for_more(100)
            self.redis.start()
            self.check_return(load)
            for server in load.servers:
                wait_until(lambda: "redis" not in server.get("/-/health").json(), "health")  # noqa: B023

    def check_return(self, load: Load) -> None:
        """Wait until groups work in both directions; note how long that took; see what the log tells."""
        began = time.monotonic()
        for index in (0, 1):
            load.hear(index, "after")
        log.msg(f"{self.id()}: groups worked {time.monotonic() - began:.2f} s after the return of Redis")
        load.check()
        for server in load.servers:
            server.wait_for("no connection to Redis")
            server.wait_for("is back, after")
            server.wait_for(r"message.s. to 'all' lost: no Redis")
            server.wait_for(r"no subscription to Redis .* for [0-9.]+ s: messages from other hosts .* are lost")


class SentinelLoadTests(LoadTests):
    """The same with a Sentinel, which has another server to offer."""

    def start_redis(self) -> Any:
        """Start Redis twice, and a Sentinel."""
        self.watched = Watched()
        self.addCleanup(self.watched.remove)
        return self.watched.hosts

    def test_killed_and_empty(self) -> None:
        """The master is killed; the replica takes its place."""
        with ExitStack() as stack:
            load = Load(self, stack)
            self.watched.master.kill()
            wait_until(self.watched.replaced, "the new master")
            self.check_return(load)


class ServersTests(RedisServerTestCase):
    """Servers and workers, and a Redis that goes away."""

    def test_local(self) -> None:
        """What is local goes on without Redis."""
        server = self.start()
        with self.sockets(server, 2) as clients:
            say(clients[0], "all begin")
            for client in clients:
                self.assertEqual(client.data(), "begin")
            self.redis.kill()
            for number in range(20):
                say(clients[0], f"all away {number}")
            for client in clients:
                self.assertEqual([client.data() for _ in range(20)], [f"away {number}" for number in range(20)])

    def test_servers_without_threads(self) -> None:
        """Without Redis they answer 503 at once and keep their sockets; what comes meanwhile is consumed later."""
        front = self.start("--threads", "0")
        self.start("--threads", "2")
        self.wait_until_connected(front)
        with self.sockets(front, 1) as (client,):
            say(client, "count 0")
            self.assertEqual(client.data(), "0 1")
            self.redis.kill()
            wait_until(lambda: front.get("/body/").status_code == 503, "a refusal")
            say(client, "count 1")
            say(client, "count 2")
            self.redis.start()
            self.assertEqual(client.data(), "1 2")
            self.assertEqual(client.data(), "2 3")
            wait_until(lambda: front.get("/body/").status_code == 200, "an answer")

    def test_server_that_hears_nothing(self) -> None:
        """While answers would not reach it, a server without threads gives nothing to workers."""
        worker = self.start("--threads", "2")
        hosts = lambda: self.redis.command("PUBSUB", "CHANNELS", "channelserver:host:*").split(b"\r\n")[2:-1]  # noqa: E731
        (host,) = wait_until(hosts, "the worker's subscription")
        self.redis.command("ACL", "SETUSER", "front", "on", "nopass", "allkeys", "allchannels", "allcommands")
        self.way = f"redis://front:any@127.0.0.1:{self.redis.port}/0"
        front = self.start("--threads", "0")
        self.wait_until_connected(front)
        with self.sockets(front, 1) as (client,):
            say(client, "count 0")
            self.assertEqual(client.data(), "0 1")
            # Redis ends connections with subscriptions that are not allowed any more.
            self.redis.command("ACL", "SETUSER", "front", "resetchannels", b"&" + host, "&channelserver:everyone")
            wait_until(lambda: "lacks a permission" in front.get("/-/health").text, "the health report")
            say(client, "count 1")
            say(client, "count 2")
            self.assertEqual(front.get("/body/").status_code, 503)
            self.assertEqual(worker.get("/body/").status_code, 200)
            self.assertEqual(self.notes("order"), ["count 0"])
            self.redis.command("ACL", "SETUSER", "front", "allchannels")
            self.assertEqual(client.data(), "1 2")
            self.assertEqual(client.data(), "2 3")

    def test_worker_that_is_cut_off(self) -> None:
        """A worker whose connection ends in the middle of an answer loses no message, and none comes twice."""
        proxy = Proxy(self.redis.port)
        self.addCleanup(proxy.close)
        front = self.start("--threads", "0")
        self.way = f"redis://127.0.0.1:{proxy.port}/0"
        self.start("--threads", "2")
        self.wait_until_connected(front)
        with self.sockets(front, 1) as (client,):
            number = 0
            for limit in (5, 30, 60, 90, 120):
                proxy.limit(limit)
                answered, cuts = -1, proxy.cuts
                for _ in range(20):  # some answers are lost with the connection, and counted
                    number += 1
                    say(client, f"count {number}")
                wait_until(lambda: proxy.cuts > cuts, "the cut")  # noqa: B023
                proxy.limit(None)
                whole = number + 1
                while answered < whole:
                    if client.waits(1.0):
                        number += 1  # the one before may have been lost with another connection that was being cut
                        say(client, f"count {number}")
                        continue
                    following, count = map(int, str(client.data()).split())
                    self.assertGreater(following, answered)
                    self.assertEqual(count, following, "messages so far")
                    answered = following
