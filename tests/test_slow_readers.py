"""Clients that do not read, or write more than is wanted, cost themselves and nobody else (rules 14, 15 and 20).

The server is a process of its own, and its memory is what the kernel says.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import ClientConnection
from zope.interface import implementer

from channelserver import bridge as bridge_module
from channelserver.bridge import Bridge
from channelserver.server.websocket.frames import Opcode
from tests.fakes import FakeReactor, FakeServer, FakeTransport, StrictTestCase, read_frames
from tests.process import TIMEOUT, Server, ServerTestCase, project
from tests.test_websocket import handshake

MB = 1_000_000


class Memory:
    """The memory of a process, from now on."""

    def __init__(self, server: Server) -> None:
        self._folder = Path(f"/proc/{server.process.pid}")
        (self._folder / "clear_refs").write_text("5")  # forget the peak
        self._begin = self._read("VmRSS")

    def _read(self, name: str) -> int:
        match = re.search(rf"{name}:\s+(\d+) kB", (self._folder / "status").read_text())
        assert match is not None
        return int(match[1]) * 1024

    @property
    def growth(self) -> int:
        """Bytes by which it has grown at its peak."""
        return self._read("VmHWM") - self._begin


def connect_deaf(server: Server) -> socket.socket:
    """Open a connection on which the kernel takes little for us."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
    connection.settimeout(TIMEOUT)
    connection.connect(("127.0.0.1", server.port))
    return connection


def open_deaf(server: Server, path: str) -> socket.socket:
    """Open a WebSocket that is not read from."""
    connection = connect_deaf(server)
    connection.sendall(handshake(path, host="localhost"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return connection


class Reader(threading.Thread):
    """Reads what a group gets."""

    def __init__(self, connection: ClientConnection, number: int, arrived: Callable[[], object]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._connection = connection
        self._number = number
        self._arrived = arrived

    def run(self) -> None:
        """Read."""
        for _ in range(self._number):
            self.found.append(self._connection.recv(TIMEOUT)[:20].rstrip("x"))
            self._arrived()


class GroupTests(ServerTestCase):
    """Rule 14."""

    files = project("slow_readers_group")
    number = 1600

    def test_rule_14_a_member_that_never_reads(self) -> None:
        """100 MB for a group: who does not read is closed with 1013, the others get all of it, memory stays."""
        server = self.start()
        with server.connect("/sender/") as sender, server.connect("/one/") as one, server.connect("/two/") as two:
            sender.send("warm up")
            for member in (sender, one, two):
                member.recv(TIMEOUT)
            memory = Memory(server)
            deaf = open_deaf(server, "/deaf/")
            self.addCleanup(deaf.close)
            # The members are as fast as this process is, so what is sent must not run away from them.
            ahead = [threading.Semaphore(16) for _ in range(3)]
            readers = [
                Reader(member, self.number, semaphore.release)
                for member, semaphore in zip((sender, one, two), ahead, strict=True)
            ]
            for reader in readers:
                reader.start()
            for number in range(self.number):
                for semaphore in ahead:
                    self.assertTrue(semaphore.acquire(timeout=TIMEOUT), number)
                sender.send(str(number))
            for reader in readers:
                reader.join(TIMEOUT)
                self.assertEqual(reader.found, [str(number) for number in range(self.number)])
            self.assertLess(memory.growth, 20 * MB)
        server.wait_for(r"'/deaf/': closed with 1013, the client does not read: \d+ bytes were waiting")
        server.wait_for(r"WebSocket CLOSE /deaf/ .* code=1013 ")

    def test_a_client_that_pings_and_does_not_read(self) -> None:
        """Answers that nobody reads do not pile up; who reads again gets the last of them (RFC 6455 section 5.5.3). Who
        sends thousands is disconnected.
        """
        server = self.start()
        memory = Memory(server)
        deaf = open_deaf(server, "/deaf/")
        self.addCleanup(deaf.close)
        many = b"".join(b"\x89\xfd\x00\x00\x00\x00" + b"%125d" % number for number in range(1000))
        deaf.sendall(many + b"\x89\x84\x00\x00\x00\x00last")
        data = b""
        while not data.endswith(b"\x8a\x04last"):
            data = data[-6:] + deaf.recv(1 << 16)
        try:
            for _ in range(300):  # 40 MB
                deaf.sendall(many)
            while deaf.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        server.wait_for("too many pings")
        server.wait_for("WebSocket CLOSE /deaf/ .* code=1008 ")
        self.assertLess(memory.growth, 10 * MB)


@implementer(IWriteDescriptor)
class PairTransport(FakeTransport):
    """A transport over a socket whose other end nobody reads; within a turn of the reactor it writes only if told to.

    :param reactor: the reactor.
    """

    def __init__(self, reactor: FakeReactor) -> None:
        super().__init__(reactor)
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.slow = True

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._ours.fileno()

    def doWrite(self) -> None:
        """See ``IWriteDescriptor``."""
        rest = self._under_way[self._ours.send(self._under_way) :]
        self._under_way = b""
        if rest:
            self._under_way = rest
        else:
            self._flush(True)

    def taken(self) -> bytes:
        """Return what the kernel has taken, and close."""
        with self._ours, self._theirs:
            self._ours.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: self._theirs.recv(1 << 16), b""))


class BurstTests(StrictTestCase):
    """Rule 14 within one turn of the reactor, in which it can write nothing by itself."""

    def burst(self, number: int) -> tuple[FakeServer, PairTransport]:
        """Send so many messages of 50 000 bytes to a socket for which 100 000 may wait."""
        server = self.make_server(send_buffer_bytes=100_000)
        client = server.connect()
        client.send(handshake())
        channel = server.message("websocket.connect")["reply_channel"]
        server.reply(channel, accept=True)
        transport = PairTransport(server.reactor)
        transport.protocol, client.protocol.transport = client.protocol, transport
        transport.registerProducer(client.protocol, True)
        client.transport = transport
        for _ in range(number):
            server.layer.send(channel, {"bytes": b"x" * 50_000})
        server.turn()
        return server, transport

    def test_what_the_kernel_takes_does_not_wait(self) -> None:
        """Before a client counts as slow, the kernel is given what it takes."""
        server, transport = self.burst(5)
        self.assertEqual(server.layer.drops.totals(), {})
        self.assertGreater(len(transport.taken()), 65536)

    def test_but_nothing_more(self) -> None:
        """When the kernel takes nothing any more, the limit holds; what was written is whole frames."""
        server, transport = self.burst(50)
        self.expect_logged("slow reader")
        self.assertEqual(server.layer.drops.totals(), {"slow reader": 2})
        frames = read_frames(transport.taken() + transport._under_way)
        self.assertEqual({(opcode, len(payload)) for opcode, payload in frames[:-1]}, {(Opcode.BINARY, 50_000)})
        self.assertEqual(frames[-1], (Opcode.CLOSE, (1013).to_bytes(2, "big") + b"too slow"))


class SenderTests(SynchronousTestCase):
    """Threads that send faster than the reactor takes."""

    def test_they_wait(self) -> None:
        """A thread is held up as soon as a MiB is on its way, and goes on when the reactor has dealt with it."""
        calls: list[Any] = []
        wake = threading.Semaphore(0)
        done: list[int] = []
        reactor = Clock()

        def call_from_thread(function: Any) -> None:
            calls.append(function)
            wake.release()

        reactor.callFromThread = call_from_thread  # type: ignore[attr-defined]
        bridge = Bridge(reactor)

        def send() -> None:
            for number in range(20):
                bridge.post_data(300_000, done.append, number)

        self.patch(bridge_module, "PATIENCE", TIMEOUT)
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        rounds = 0
        while len(done) < 20:
            self.assertTrue(wake.acquire(timeout=TIMEOUT))
            before = len(done)
            calls.pop(0)()
            self.assertLessEqual(len(done) - before, 4)
            rounds += 1
        thread.join(TIMEOUT)
        self.assertEqual(done, list(range(20)))
        self.assertGreaterEqual(rounds, 5)

    def test_the_reactor_does_not(self) -> None:
        """What the reactor's own thread sends cannot be waited for there."""
        calls: list[Any] = []
        reactor = Clock()
        reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        bridge = Bridge(reactor)
        self.patch(bridge_module, "PATIENCE", TIMEOUT)
        done: list[int] = []

        def send() -> None:
            for number in range(5):
                bridge.post_data(1_000_000, done.append, number)

        bridge.post(send)
        began = time.monotonic()
        while calls:
            calls.pop(0)()
        self.assertEqual(done, list(range(5)))
        self.assertLess(time.monotonic() - began, TIMEOUT)


class AnswerTests(ServerTestCase):
    """Rule 20: slow clients of HTTP."""

    files = project("slow_readers_http")

    def test_requests_without_end_and_no_answer_read(self) -> None:
        """Who sends requests for 200 MB of answers and reads nothing holds one answer, and loses the connection."""
        server = self.start("--http-timeout", "1")
        server.get("/1000000")
        memory = Memory(server)
        with connect_deaf(server) as deaf:
            deaf.sendall(b"GET /1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
            server.wait_for(r"HTTP GET /1000000 200 \d+ .* broken off")
            self.assertLess(server.output.count("HTTP GET /1000000 200 1000000"), 10)
            try:
                while deaf.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass
        self.assertLess(memory.growth, 10 * MB)
        self.assertEqual(server.get("/10").status_code, 200)

    def test_a_slow_download(self) -> None:
        """The deadline is for the next part, not for all of a large answer; nothing of it is lost."""
        size = 8_000_000
        server = self.start("--http-timeout", "4")
        memory = Memory(server)
        with connect_deaf(server) as slow:
            slow.sendall(b"GET /%d HTTP/1.0\r\nHost: localhost\r\n\r\n" % size)
            begun = time.monotonic()
            received = 0
            data = slow.recv(1 << 14)
            while data:
                received += len(data)
                while received / size > (time.monotonic() - begun) / 10:  # so that all of it takes ten seconds
                    time.sleep(0.001)
                data = slow.recv(1 << 14)
        self.assertGreater(received, size)
        self.assertLess(memory.growth, 3 * size)
        server.wait_for(rf"HTTP GET /{size} 200 {size} ")

    def test_the_kernel_keeps_little(self) -> None:
        """Of an answer that nobody reads, the kernel holds little more than the client's buffer."""
        server = self.start()
        with connect_deaf(server) as deaf:
            deaf.sendall(b"GET /8000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            deaf.recv(1)
            time.sleep(0.2)  # it would have taken megabytes by now
            here, there = server.port, deaf.getsockname()[1]
            (held,) = [
                int(fields[4].partition(":")[0], 16)
                for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
                if (fields[1][-5:], fields[2][-5:]) == (f":{here:04X}", f":{there:04X}")
            ]
        self.assertLess(held, 0.5 * MB)


class FloodTests(ServerTestCase):
    """Rule 15: a client that sends faster than its messages are consumed."""

    files = project("slow_readers_flood")
    extra_settings = """
        CHANNEL_LAYERS["default"]["CONFIG"] = {"channel_capacity": {"websocket.receive": 110}}
    """
    number, size = 4000, 50_000

    def test_rule_15_reading_is_paused(self) -> None:
        """200 MB wait at the client, not in the server; others are answered; in the end everything has arrived."""
        server = self.start("--threads", "3")
        memory = Memory(server)
        texts = [str(count) for count in range(self.number)]
        with server.connect("/flood/", max_queue=None) as flood, server.connect("/other/") as other:
            sent: list[str] = []

            def send() -> None:
                for text in texts:
                    flood.send(text.ljust(self.size))
                    sent.append(text)

            sender = threading.Thread(target=send)
            sender.start()
            # The server goes on with its work, and takes no more of this client's.
            quiet = 0
            while quiet < 100:
                before = len(sent)
                other.send("still there?")
                self.assertEqual(other.recv(TIMEOUT), "still ther")
                quiet = quiet + 1 if len(sent) == before else 0
            self.assertLess(len(sent), self.number)
            with server.connect("/go/") as go:
                go.send("")
                self.assertEqual(go.recv(TIMEOUT), "gone")
            self.assertEqual([flood.recv(TIMEOUT).strip() for _ in texts], texts)
            sender.join(TIMEOUT)
        self.assertLess(memory.growth, 25 * MB)
