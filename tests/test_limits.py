"""What a client can take up has a limit in size and in time; those who stay within it notice nothing of the rest."""

from __future__ import annotations

import resource
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.throttled_log import ThrottledLog, printable
from channelserver.layers.turns import address_key
from channelserver.server.common.access import AccessLog
from channelserver.server.common.limits import (
    MAX_REFUSALS,
    SPARE_DESCRIPTORS,
    Admission,
    Refusal,
    raise_descriptor_limit,
)
from channelserver.server.common.options import resolve
from channelserver.server.http.base import LINGER
from channelserver.server.http.connection import HTTPConnection, HTTPFactory
from channelserver.server.http.proxy import ProxyPolicy
from channelserver.server.site import Site
from channelserver.server.websocket.origin import OriginPolicy
from tests.process import TIMEOUT, SharedServerTestCase, project, wait_until
from tests.raw import Raw, head


class Reactor(Clock):
    """A clock which also does what threads hand over."""

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        """See ``IReactorFromThreads``."""
        self.callLater(0, function, *arguments)


class Transport(StringTransport):
    """Remembers how it was closed."""

    closed = ""

    def loseConnection(self) -> None:
        """See ``ITransport``."""
        self.closed = self.closed or "lost"

    def abortConnection(self) -> None:
        """See ``ITCPTransport``."""
        self.closed = "aborted"


def make_site(reactor: Reactor, **options: Any) -> Site:
    """Return the surroundings of connections."""
    return Site(
        InMemoryChannelLayer(clock=reactor.seconds),
        resolve(options, {}),
        Bridge(reactor),
        reactor,
        OriginPolicy(["*"]),
        AccessLog(None),
        proxies=ProxyPolicy(options.get("trust_proxy", ())),
    )


class DeadlineTests(SynchronousTestCase):
    """A connection on a fake transport, with the clock in our hand."""

    def connect(self, **options: Any) -> HTTPConnection:
        """Open a connection."""
        self.reactor = Reactor()
        self.site = make_site(self.reactor, **options)
        self.site.start()
        self.transport = Transport()
        connection: HTTPConnection = HTTPFactory(self.site).buildProtocol(IPv4Address("TCP", "192.0.2.1", 4711))
        connection.makeConnection(self.transport)
        self.addCleanup(connection.connectionLost, None)
        return connection

    def wait(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        for _ in range(round(seconds * 10)):
            self.reactor.advance(0.1)

    def status(self) -> bytes:
        """Return the status of the answer so far, if there is one."""
        return self.transport.value()[9:12]

    def test_a_head_that_drips(self) -> None:
        """The time for a head runs from its first byte."""
        connection = self.connect(header_timeout=10.0)
        for byte in b"GET / HTTP":
            self.wait(0.9)
            connection.dataReceived(bytes((byte,)))
        self.assertEqual(self.status(), b"")
        self.wait(3)
        self.assertEqual((self.status(), self.transport.closed), (b"408", "lost"))
        self.assertEqual(self.site.throttled_log.totals(), {"slow request": 1})

    def test_silence(self) -> None:
        """A connection on which nothing is said is closed without a word."""
        self.connect(header_timeout=10.0)
        self.wait(9.8)
        self.assertEqual(self.transport.closed, "")
        self.wait(1)
        self.assertEqual((self.status(), self.transport.closed), (b"", "lost"))

    def test_empty_lines_gain_no_time(self) -> None:
        """What is skipped is no sign of life."""
        connection = self.connect(header_timeout=10.0)
        for _ in range(21):
            self.wait(0.5)
            connection.dataReceived(b"\r\n")
        self.wait(0.5)
        self.assertEqual(self.transport.closed, "lost")

    def test_keep_alive(self) -> None:
        """An idle connection is kept for a while, and then closed without a word."""
        connection = self.connect(header_timeout=10.0, keep_alive=20.0)
        connection.dataReceived(head("OPTIONS * HTTP/1.1"))
        self.assertEqual(self.status(), b"204")
        self.transport.clear()
        self.wait(19)
        self.assertEqual(self.transport.closed, "")
        self.wait(2)
        self.assertEqual((self.transport.value(), self.transport.closed), (b"", "lost"))

    def test_a_body_that_stops(self) -> None:
        """No byte for body_timeout: 408."""
        connection = self.connect(body_timeout=10.0)
        connection.dataReceived(head("POST / HTTP/1.1", "Content-Length: 100000"))
        self.wait(9)
        connection.dataReceived(b"x" * 50000)
        self.wait(9)
        self.assertEqual(self.status(), b"")
        self.wait(2)
        self.assertEqual((self.status(), self.transport.closed), (b"408", "lost"))

    def test_a_body_that_drips(self) -> None:
        """A byte now and then is not enough: after body_timeout, the least rate counts."""
        connection = self.connect(body_timeout=10.0, min_body_rate=100)
        connection.dataReceived(head("POST / HTTP/1.1", "Content-Length: 100000"))
        for _ in range(9):
            self.wait(1)
            connection.dataReceived(b"x")
        self.assertEqual(self.status(), b"")
        self.wait(2)
        self.assertEqual((self.status(), self.transport.closed), (b"408", "lost"))

    def test_a_slow_body_that_is_quick_enough(self) -> None:
        """Just above the least rate, a body may take as long as it takes; just below, it may not."""
        for size, wanted in ((110, b""), (80, b"408")):
            connection = self.connect(body_timeout=10.0, min_body_rate=100)
            connection.dataReceived(head("POST / HTTP/1.1", "Content-Length: 100000"))
            for _ in range(100):
                self.wait(1)
                if not self.transport.closed:
                    connection.dataReceived(b"x" * size)
            self.assertEqual(self.status(), wanted, size)

    def test_any_body_rate(self) -> None:
        """0 turns it off."""
        connection = self.connect(body_timeout=10.0, min_body_rate=0)
        connection.dataReceived(head("POST / HTTP/1.1", "Content-Length: 100000"))
        for _ in range(50):
            self.wait(5)
            connection.dataReceived(b"x")
        self.assertEqual((self.status(), self.transport.closed), (b"", ""))

    def answer(self, connection: HTTPConnection, **content: Any) -> None:
        """Answer the request under way."""
        (name,) = self.site.replies._connections
        self.site.replies.deliver(name, {"status": 200, **content})
        self.reactor.advance(0)

    def test_a_client_that_does_not_read(self) -> None:
        """It has http_timeout for what waits; then the connection is cut off, and counted."""
        connection = self.connect(http_timeout=10.0)
        connection.dataReceived(head("GET / HTTP/1.1"))
        connection.pauseProducing()
        self.answer(connection, content=b"x" * 100_000)
        self.wait(9)
        self.assertEqual(self.transport.closed, "")
        self.wait(2)
        self.assertEqual(self.transport.closed, "aborted")
        self.assertEqual(self.site.throttled_log.totals(), {"slow reader": 1})

    def test_a_client_that_reads_slowly(self) -> None:
        """A large answer is handed over part by part; the time is for each of them."""
        connection = self.connect(http_timeout=10.0)
        connection.dataReceived(head("GET / HTTP/1.1", "Connection: close"))
        self.transport.write = lambda data, write=self.transport.write: (write(data), connection.pauseProducing())[0]
        self.answer(connection, content=b"x" * 2_000_000)
        steps = 0
        while len(self.transport.value()) < 2_000_000 and steps < 50:
            self.assertLess(len(self.transport.value()), 300_000 * (steps + 1))
            self.wait(8)
            steps += 1
            connection.resumeProducing()
        self.assertGreater(steps, 5)
        self.assertEqual(self.transport.closed, "", "the last part is on its way")
        self.wait(8)
        connection.resumeProducing()
        self.assertEqual(self.transport.closed, "lost")

    def test_the_answer_before_the_end_is_not_cut_off(self) -> None:
        """What is on its way when a connection is to be closed has its time like any other answer."""
        connection = self.connect(http_timeout=60.0)
        connection.dataReceived(head("GET / HTTP/1.0"))
        connection.pauseProducing()
        self.answer(connection, content=b"x" * 100_000)
        self.wait(LINGER * 3)
        self.assertEqual(self.transport.closed, "")
        connection.resumeProducing()
        self.assertEqual(self.transport.closed, "lost")
        self.wait(60 + LINGER * 3)
        self.assertEqual(self.transport.closed, "aborted", "the client never closed its side")

    def test_no_answer(self) -> None:
        """A consumer that leaves the answer to nobody: 503."""
        connection = self.connect(http_timeout=10.0)
        connection.dataReceived(head("GET / HTTP/1.1"))
        self.wait(11)
        self.assertEqual((self.status(), self.transport.closed), (b"503", "lost"))


class AdmissionTests(SynchronousTestCase):
    """How many there may be."""

    def setUp(self) -> None:
        """Three in all, two of one address, proxies exempt."""
        self.reactor = Reactor()
        self.site = make_site(
            self.reactor, max_connections=5, max_connections_per_ip=2, trust_proxy=["10.0.0.0/8", "unix"]
        )
        self.factory = HTTPFactory(self.site)

    def connect(self, host: str | None) -> tuple[Any, Transport]:
        """Open a connection."""
        address = IPv4Address("TCP", host, 4711) if host else UNIXAddress(b"")
        protocol, transport = self.factory.buildProtocol(address), Transport()
        protocol.makeConnection(transport)
        return protocol, transport

    def test_of_one_address(self) -> None:
        """The third of an address is turned away, until one of the two has gone."""
        first, _ = self.connect("192.0.2.1")
        self.connect("192.0.2.1")
        refused, transport = self.connect("192.0.2.1")
        self.assertIsInstance(refused, Refusal)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 503 "))
        self.assertEqual(transport.closed, "lost")
        self.assertIsInstance(self.connect("192.0.2.2")[0], HTTPConnection)
        first.connectionLost(None)
        self.assertIsInstance(self.connect("192.0.2.1")[0], HTTPConnection)
        self.assertEqual(self.site.throttled_log.totals(), {"too many connections": 1})

    def test_proxies_are_exempt(self) -> None:
        """All the world comes from a proxy's address; and a Unix socket has none."""
        for host in ("10.0.0.1", "10.0.0.1", "10.0.0.1", None, None):
            self.assertIsInstance(self.connect(host)[0], HTTPConnection)

    def test_in_all(self) -> None:
        """Nobody is exempt from the limit of all."""
        opened = [self.connect("10.0.0.1")[0] for _ in range(5)]
        self.assertIsInstance(self.connect("10.0.0.1")[0], Refusal)
        self.assertIsInstance(self.connect(None)[0], Refusal)
        opened[0].connectionLost(None)
        self.assertIsInstance(self.connect(None)[0], HTTPConnection)

    def test_nothing_is_left(self) -> None:
        """When all have gone, no count remains."""
        opened = [self.connect(host)[0] for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "10.0.0.1")]
        for connection in opened:
            connection.connectionLost(None)
        self.assertEqual(self.site.admission._numbers, {})

    def test_refusals_are_limited_too(self) -> None:
        """A refused client has a moment to read why; when very many are refused, they are cut off."""
        for _ in range(5):
            self.connect("10.0.0.1")
        refused = [self.connect("192.0.2.1") for _ in range(MAX_REFUSALS + 2)]
        self.assertEqual([transport.closed for _, transport in refused[-3:]], ["lost", "aborted", "aborted"])
        self.reactor.advance(5)
        self.assertEqual({transport.closed for _, transport in refused}, {"aborted"})
        for protocol, _ in refused:
            protocol.connectionLost(None)
        self.assertEqual(self.site.admission.refusing, 0)
        self.assertEqual(self.connect("192.0.2.1")[1].closed, "lost")

    def test_what_is_one_address(self) -> None:
        """IPv4 as it is, IPv6 by its first half."""
        self.assertEqual(address_key("192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_key("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_key("2001:db8::1"), address_key("2001:db8::ffff:2"))
        self.assertNotEqual(address_key("2001:db8::1"), address_key("2001:db8:0:1::1"))
        self.assertEqual(address_key("2001:db8::1"), address_key("2001:db8:0:0:8000::1"))
        self.assertEqual(address_key("fe80::1%eth0"), address_key("fe80::2"))

    def test_one_of_each(self) -> None:
        """With a limit of one, the first is welcome and the second is not."""
        admission = Admission(10, 1)
        self.assertEqual(admission.refusal("192.0.2.1", 0, False), "")
        admission.entered("192.0.2.1")
        self.assertIn("1 of 192.0.2.1 are open, of at most 1", admission.refusal("192.0.2.1", 1, False))
        self.assertEqual(admission.refusal("192.0.2.1", 1, True), "")

    def test_no_limit(self) -> None:
        """0 means any number, and nothing is counted."""
        admission = Admission(10, 0)
        admission.entered("192.0.2.1")
        self.assertEqual((admission._numbers, admission.refusal("192.0.2.1", 9, False)), ({}, ""))


class DescriptorTests(SynchronousTestCase):
    """How many files the process may open."""

    def raised(self, soft: int, hard: int) -> tuple[list[Any], str]:
        """Ask for 1000 connections; return what was set, and what is said."""
        calls: list[Any] = []
        self.patch(resource, "getrlimit", lambda kind: (soft, hard))
        self.patch(resource, "setrlimit", lambda kind, limits: calls.append(limits))
        return calls, raise_descriptor_limit(1000)

    def test_raised_as_far_as_needed(self) -> None:
        """The limit is raised to what connections with bodies need, as far as it may be; if that is not enough for the
        connections themselves, the user is told.
        """
        endless, most, least = resource.RLIM_INFINITY, 8000 + SPARE_DESCRIPTORS, 1000 + SPARE_DESCRIPTORS
        for soft, hard, wanted in (
            (256, 100_000, [(most, 100_000)]),
            (256, most, [(most, most)]),
            (256, endless, [(most, endless)]),
            (most, 100_000, []),
            (most - 1, 100_000, [(most, 100_000)]),
            (256, least, [(least, least)]),
            (endless, endless, []),
            (100_000, 100_000, []),
        ):
            self.assertEqual(self.raised(soft, hard), (wanted, ""), (soft, hard))
        for soft, hard, wanted in ((256, least - 1, [(least - 1, least - 1)]), (512, 512, [])):
            calls, text = self.raised(soft, hard)
            self.assertEqual(calls, wanted)
            self.assertIn(f"{hard} open files, and max_connections asks for {least}", text)


class ThrottledLogTests(SynchronousTestCase):
    """Warnings which do not flood the log."""

    def test_the_first_at_once_the_rest_as_a_sum(self) -> None:
        """One line at once, one a minute for the others, by kind."""
        clock, lines = Clock(), []
        log = ThrottledLog(clock.seconds, lines.append)
        for number in range(533):
            log.count("bad request", f"number {number}")
        log.count("slow reader", "one")
        log.flush()
        self.assertEqual(lines, ["bad request: number 0", "slow reader: one"])
        clock.advance(60)
        log.flush()
        self.assertEqual(lines[2:], ["bad request: 532 more in 60 s"])
        clock.advance(60)
        log.flush()
        log.count("bad request", "after a while")
        self.assertEqual(lines[3:], ["bad request: after a while"])
        self.assertEqual(log.totals(), {"bad request": 534, "slow reader": 1})

    def test_lines_stay_lines(self) -> None:
        """What a client sends cannot begin a new line, move the cursor, or turn the direction of writing."""
        self.assertEqual(printable("a\nb\r\x1b[31m\u202e\udcff\u2028é"), "a\\nb\\r\\x1b[31m\\u202e\\udcff\\u2028é")


CROWD = 50


class CrowdTests(SharedServerTestCase):
    """Fifty at a time who do as little as they can, on a real server."""

    files = project("limits")
    arguments = (
        "--header-timeout", "4", "--body-timeout", "4", "--min-body-rate", "1000", "--http-timeout", "6",
        "--keep-alive", "3", "--threads", "4", "--trust-proxy", "192.0.2.1",
    )  # fmt: skip

    @contextmanager
    def others(self) -> Iterator[None]:
        """Meanwhile, somebody else makes requests one after the other: all of them must be answered."""
        stop = threading.Event()
        statuses: list[Any] = []

        def run() -> None:
            while not stop.is_set():
                try:
                    with Raw(self.server.port) as raw:
                        statuses.append(raw.request("/").status)
                        statuses.append(raw.request("/post", method="POST", body=b"x" * 100_000).status)
                except Exception as error:
                    statuses.append(repr(error))
                stop.wait(0.02)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.assertEqual(set(statuses), {200})
        self.assertGreater(len(statuses), 10)

    def drip(self, begin: bytes) -> tuple[list[bytes], float]:
        """Have fifty clients send `begin`, and then a byte each now and then, until all are closed.

        :returns: what each of them received, and how long it took.
        """
        selector = selectors.DefaultSelector()
        received: dict[Raw, bytes] = {}
        began = time.monotonic()
        for _ in range(CROWD):
            raw = Raw(self.server.port).send(begin)
            self.addCleanup(raw.socket.close)
            raw.socket.setblocking(False)
            received[raw] = b""
            selector.register(raw.socket, selectors.EVENT_READ, raw)
        drop = time.monotonic()
        while selector.get_map():
            self.assertLess(time.monotonic(), began + TIMEOUT, "not all are closed")
            for key, _ in selector.select(0.1):
                try:
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                except ConnectionResetError:
                    data = b""
                received[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
            if time.monotonic() > drop + 0.1:
                drop = time.monotonic()
                for key in list(selector.get_map().values()):
                    try:
                        key.fileobj.send(b"x")  # type: ignore[union-attr]
                    except (BrokenPipeError, ConnectionResetError):
                        pass
        selector.close()
        return list(received.values()), time.monotonic() - began

    def test_heads_that_drip(self) -> None:
        """All are answered with 408 and gone when the time for a head is over, though they go on sending."""
        with self.others():
            received, seconds = self.drip(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ")
        self.assertEqual({answer[:12] for answer in received}, {b"HTTP/1.1 408"})
        self.assertGreater(seconds, 3.5)

    def test_bodies_that_drip(self) -> None:
        """The same for bodies that come below the least rate."""
        with self.others():
            received, seconds = self.drip(head("POST /post HTTP/1.1", "Content-Length: 100000"))
        self.assertEqual({answer[:12] for answer in received}, {b"HTTP/1.1 408"})
        self.assertGreater(seconds, 3.5)

    def connections(self) -> int:
        """How many connections the server has, but for the one that asks."""
        return int(self.server.get("/-/health").json()["connections"]) - 1

    def test_answers_that_are_not_read(self) -> None:
        """Who does not read an answer is gone when its time is over; no worker waits for them."""
        wait_until(lambda: self.connections() == 0, "the end of earlier connections")

        def slow_readers() -> int:
            return int(self.server.get("/-/health").json()["refused"].get("slow reader", 0))

        before, began = slow_readers(), time.monotonic()
        for _ in range(CROWD):
            raw = Raw(self.server.port, receive_buffer=4096)
            self.addCleanup(raw.socket.close)
            raw.send(head("GET /big HTTP/1.1"))
        with self.others():
            wait_until(lambda: slow_readers() == before + CROWD, "the end of those who do not read")
        self.assertGreater(time.monotonic() - began, 5)
        wait_until(lambda: self.connections() == 0, "the end of their connections")
        self.server.wait_for("slow reader: an answer was not read in time")

    def test_streams_that_are_not_read(self) -> None:
        """The same for streamed answers, whose workers are free again afterwards."""
        wait_until(lambda: self.connections() == 0, "the end of earlier connections")
        for _ in range(3):
            raw = Raw(self.server.port, receive_buffer=4096)
            self.addCleanup(raw.socket.close)
            raw.send(head("GET /stream HTTP/1.1"))
        with self.others():
            wait_until(lambda: self.connections() <= 1, "the end of those who do not read")
        wait_until(lambda: self.server.get("/-/health").json()["busy"] == 0, "idle workers")

    def test_idle_connections(self) -> None:
        """A connection that is kept is closed when nothing is asked for on it."""
        with Raw(self.server.port) as raw:
            began = time.monotonic()
            self.assertEqual(raw.request("/").status, 200)
            self.assertTrue(raw.is_closed())
            self.assertGreater(time.monotonic() - began, 2.5)

    def test_too_many_connections(self) -> None:
        """One more than there may be gets 503 and is closed; when others have gone, there is room again."""
        server = self.start("--max-connections", "120", "--header-timeout", "600", "--local-socket", "")
        crowd = [Raw(server.port) for _ in range(120)]
        for raw in crowd:
            self.addCleanup(raw.socket.close)
        with Raw(server.port) as one_more:
            answer = one_more.send(head("GET / HTTP/1.1")).answer()
            self.assertEqual((answer.status, answer.get("connection")), (503, "close"))
            self.assertTrue(one_more.is_closed())
        with Raw(server.port) as another:
            self.assertEqual(another.answer().status, 503, "answered before anything is asked")
        for raw in crowd[:10]:
            raw.socket.close()

        def room() -> bool:
            with Raw(server.port) as raw:
                return raw.send(head("GET / HTTP/1.1")).answer().status == 200

        wait_until(room, "room for another connection")
        server.wait_for("too many connections")
        lines = [line for line in server.lines if "too many connections" in line]
        self.assertEqual(len(lines), 1, lines)


class PerAddressTests(SharedServerTestCase):
    """A limit for each address."""

    files = project("limits")
    arguments = ("--max-connections-per-ip", "3", "--trust-proxy", "127.0.0.5")

    def test_of_one_address(self) -> None:
        """The fourth of an address is turned away; other addresses, and proxies, are not."""
        opened = [Raw(self.server.port, source="127.0.0.9") for _ in range(3)]
        for raw in opened:
            self.addCleanup(raw.socket.close)
            self.assertEqual(raw.request("/").status, 200)
        with Raw(self.server.port, source="127.0.0.9") as fourth:
            self.assertEqual(fourth.answer().status, 503)
        with Raw(self.server.port) as other:
            self.assertEqual(other.request("/").status, 200)
        for _ in range(6):
            raw = Raw(self.server.port, source="127.0.0.5")
            self.addCleanup(raw.socket.close)
            self.assertEqual(raw.request("/", "X-Forwarded-For: 127.0.0.9").status, 200)
        opened[0].socket.close()

        def room() -> bool:
            with Raw(self.server.port, source="127.0.0.9") as raw:
                try:
                    return raw.request("/").status == 200
                except (BrokenPipeError, ConnectionResetError):
                    return False

        wait_until(room, "room for another connection")
