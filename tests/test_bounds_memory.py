"""What the server keeps for its clients is bounded in bytes: for each connection, and for all of them (rule 15).

The server is a process of its own, and its memory is what the kernel says. Nothing waits for a time: the server has
done what it does with an attacker's bytes when it has answered an honest client often enough in the meantime.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from channelserver.server.websocket.frames import FIN, RSV1, Opcode
from tests.fakes import FakeServer, StrictTestCase, get
from tests.lab import RawClient
from tests.process import ServerTestCase, project, wait_until
from tests.raw import Raw
from tests.test_slow_readers import Memory
from tests.test_websocket import handshake

MIB = 1024 * 1024
#: What one connection may cost the server, whatever it does.
ONE = 10 * MIB
#: Answers to an honest client in which the server has turned to everybody.
TURNS = 20


def frame(opcode: int, payload: bytes, first: int = FIN) -> bytes:
    """Return a client's frame, with a mask that changes nothing."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([first | opcode]) + length + bytes(4) + payload


def text(size: int) -> bytes:
    """Return a text of so many bytes; one character makes Python keep it in four times as many."""
    face = "\N{GRINNING FACE}".encode()
    return face + b"x" * (size - len(face))


def packed(data: bytes) -> bytes:
    """Return a frame of a compressed message."""
    compressor = zlib.compressobj(9, wbits=-12)
    return frame(Opcode.TEXT, (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], FIN | RSV1)


class BoundsTestCase(ServerTestCase):
    """A server, an honest client, and attackers."""

    files = project("bounds")
    arguments: tuple[str, ...] = ()

    def begin(self) -> None:
        """Start the server, and let it do everything once: it imports some things late."""
        self.server = self.start("--threads", "8", "--compression", *self.arguments)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.honest = self.stack.enter_context(Raw(self.server.port))
        for compression in ("deflate", None):
            with self.server.connect("/", compression=compression) as client:
                client.send("x" * 200_000)
                client.recv()
        with self.server.connect("/hold/") as client:
            client.send("begin")  # the event loop
            client.recv()
        self.honest.request("/page/100000")
        wait_until(lambda: self.honest.request("/masker").body == b"True")
        self.turns()

    def turns(self) -> None:
        """Let the server turn to everybody."""
        for _ in range(TURNS):
            self.assertEqual(self.honest.request("/").status, 200)

    def attacker(self, path: str | None = None, **fields: str) -> socket.socket:
        """Connect a client that reads as little as possible; with a path, open a WebSocket."""
        client = RawClient(self.server, 8 * 1024)
        self.stack.callback(client.close)
        if path is not None:
            client.open(path, **fields)
        return client.socket

    def push(self, attacker: socket.socket, data: bytes) -> int:
        """Send until the server takes no more; return how many bytes it has taken."""
        attacker.setblocking(False)
        view, sent, idle = memoryview(data), 0, 0
        while sent < len(data) and idle < TURNS:
            try:
                sent += attacker.send(view[sent : sent + MIB])
                idle = 0
            except BlockingIOError:
                self.honest.request("/")
                idle += 1
            except ConnectionError:
                break
        return sent

    def used(self) -> int:
        """Return what the server says that it keeps for its clients."""
        figures: dict[str, Any] = self.server.get("/-/health").json()
        return int(figures["client_memory"]["used"])


class OneConnectionTests(BoundsTestCase):
    """One connection costs little, whatever it does."""

    def check(self, attack: Callable[[], object]) -> None:
        """Assert that an attack costs little."""
        self.begin()
        memory = Memory(self.server)
        attack()
        self.turns()
        self.assertLess(memory.growth, ONE)

    def test_waiting_messages(self) -> None:
        """60 messages of 1 MiB for a consumer that is busy."""

        def attack() -> None:
            sent = self.push(self.attacker("/hold/"), frame(Opcode.TEXT, text(MIB)) * 60)
            self.assertLess(sent, 12 * MIB)

        self.check(attack)
        self.assertGreater(self.used(), 4 * MIB)
        self.honest.request("/release")

    def test_waiting_messages_compressed(self) -> None:
        """The same, for which few bytes are sent."""

        def attack() -> None:
            self.push(self.attacker("/hold/", sec_websocket_extensions="permessage-deflate"), packed(text(MIB)) * 60)

        self.check(attack)
        self.honest.request("/release")
        wait_until(lambda: self.used() < MIB)

    def test_all_of_them_arrive(self) -> None:
        """What waits is not lost: a client that is honest, and sends more than fits, gets all its answers."""
        self.begin()
        with self.server.connect("/", compression=None) as client:
            for _ in range(30):
                client.send("x" * 1_000_000)
            self.assertEqual([client.recv() for _ in range(30)], ["1000000"] * 30)

    def test_unfinished_message(self) -> None:
        """A message whose end does not come, in many fragments."""
        part = frame(0, b"x" * 1000, 0)

        def attack() -> None:
            self.push(self.attacker("/"), frame(Opcode.TEXT, b"x", 0) + part * 1040)

        self.check(attack)
        self.assertGreater(self.used(), MIB)

    def test_unread_frames(self) -> None:
        """A client that does not read what it gets."""

        def attack() -> None:
            self.push(self.attacker("/flood/"), frame(Opcode.TEXT, b"60"))
            wait_until(lambda: self.used() > 2 * MIB)

        self.check(attack)

    def test_unread_and_waiting(self) -> None:
        """Both at once: while a client does not read, nothing is read from it."""

        def attack() -> None:
            attacker = self.attacker("/flood/")
            self.push(attacker, frame(Opcode.TEXT, b"50"))
            wait_until(lambda: self.used() > MIB)
            self.push(attacker, frame(Opcode.TEXT, text(MIB)) * 60)

        self.check(attack)

    def test_unread_page(self) -> None:
        """Pages of 5 MB, requested again and again."""

        def attack() -> None:
            self.push(self.attacker(), b"GET /page/5000000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
            wait_until(lambda: self.used() > 4 * MIB)

        self.check(attack)

    def test_unfinished_head(self) -> None:
        """A head that does not end, and a body that does not."""

        def attack() -> None:
            self.push(self.attacker(), b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 5000)
            self.push(
                self.attacker(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + bytes(8 * MIB)
            )

        self.check(attack)

    def test_header_names(self) -> None:
        """1000 header names of 31 KB: none is remembered."""

        def attack() -> None:
            with Raw(self.server.port) as raw:
                for number in range(1000):
                    self.assertEqual(raw.request("/", f"x{number}-{'a' * 31_000}: 1").status, 200)

        self.check(attack)


class CrowdTests(BoundsTestCase):
    """All connections together cost little more than ``--client-memory``."""

    number = 60
    limit = 40_000_000
    arguments = ("--client-memory", str(limit), "--http-timeout", "1000")

    def crowd(self) -> Iterator[Callable[[], object]]:
        """Return what each attacker does."""
        page = b"GET /page/5000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(self.number):
            yield lambda: self.attacker("/flood/").sendall(frame(Opcode.TEXT, b"55"))
            yield lambda: self.attacker().sendall(page)
            yield lambda: self.push(self.attacker("/"), frame(Opcode.TEXT, b"x" * MIB)[:-1])
            yield lambda: self.push(self.attacker("/hold/"), frame(Opcode.TEXT, text(MIB // 4)) * 4)
            yield lambda: self.push(
                self.attacker(), b"POST / HTTP/1.1\r\nContent-Length: 60000\r\nHost: a\r\n\r\n" + bytes(59999)
            )

    def test_memory_is_short(self) -> None:
        """Hundreds of attackers would take ten times the memory there is: those that hold most are closed, no other."""
        self.begin()
        sockets = [self.stack.enter_context(self.server.connect("/honest/")) for _ in range(5)]
        memory = Memory(self.server)
        refused = 0
        for attack in self.crowd():
            try:
                attack()
            except (AssertionError, ConnectionError):  # refused: there is no memory for one more
                refused += 1
        self.honest.request("/release")
        self.turns()
        self.assertLess(memory.growth, self.limit + 100 * MIB)
        for client in sockets:
            client.send("hello")
            self.assertEqual(client.recv(), "5")
        figures = self.server.get("/-/health").json()
        self.assertLess(figures["client_memory"]["used"], self.limit)
        self.assertGreater(figures["refused"]["memory is short"], self.number)
        self.assertLess(refused, self.number)
        self.server.wait_for("memory is short: closed, as \\d+ bytes were kept for it")


class RefusedTests(StrictTestCase):
    """Handshakes for which there is no room leave nothing."""

    def test_refused_without_trace(self) -> None:
        """No message tells the application of a socket of which it has never heard."""
        server: FakeServer = self.make_server(capacity=1)
        for _ in range(5):
            server.connect().send(handshake())
        server.turn()
        self.assertEqual(
            {name: server.layer.queues.statistics(name)["messages_pending"] for name in server.layer.queues.names()},
            {"websocket.connect": 1},
        )


class HeadTests(StrictTestCase):
    """Heads of requests, which browsers make large."""

    def test_entered_while_it_is_kept(self) -> None:
        """A large head is in the account as long as its request is with the application, and without weighing."""
        server = self.make_server()
        client = server.connect()
        (connection,) = server.site.connections
        account: Any = connection.account  # type: ignore[attr-defined]
        self.patch(type(account), "weigh", lambda account: self.fail("weighed"))
        idle = account.bytes
        for _ in range(3):
            client.send(get("/", f"Cookie: a={'x' * 6000}"))
            self.assertGreater(account.bytes, idle + 6000)
            server.reply(server.message("http.request"), status=200, content=b"done")
            self.assertEqual(account.bytes, idle)
