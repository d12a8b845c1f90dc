"""One connection of any protocol costs little memory, whatever it does: those beside plain HTTP and WebSockets, which
:mod:`tests.test_bounds_memory` has.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy

from h2.settings import SettingCodes

from channelserver.processes import wire
from channelserver.server.websocket.frames import Opcode
from tests.certificates import client_context, write_pair
from tests.http2_client import INITIAL_WINDOW, HTTP2Client
from tests.lab import RawClient
from tests.process import Server, ServerTestCase, free_port, project
from tests.raw import Raw
from tests.test_bounds_memory import MIB, ONE, TURNS, frame
from tests.test_slow_readers import Memory

PAGE = b"GET /page/2000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class OneConnectionTests(ServerTestCase):
    """Clients that take or give as much as they can, each on one connection."""

    files = project("bounds")

    def setUp(self) -> None:
        super().setUp()
        self.certificate, key = write_pair(self.folder)
        plain, self.redirect = free_port(), free_port()
        options = ("--tls-cert", self.certificate, "--tls-key", key, f"--endpoint=tcp:{plain}:interface=127.0.0.1")
        self.secure = self.start(*options, "--redirect-http", "--redirect-port", str(self.redirect))
        self.plain = copy(self.secure)
        self.plain.port, self.secure.port = plain, int(self.secure.wait_for(r"https://127\.0\.0\.1:(\d+)")[1])
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.honest = self.stack.enter_context(Raw(plain))

    def attacks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Return what the clients do, and a name for each."""
        yield "TLS: pages", lambda: self.push(self.tls(), PAGE * 100)
        yield "TLS: a body", lambda: self.push(self.tls(), self.upload())
        yield "TLS: a hello", lambda: self.push(self.connect(self.secure.port), b"\x16\x03\x01\x40\x00" * MIB)
        yield "TLS: a WebSocket message", lambda: self.push(self.tls("/"), frame(Opcode.TEXT, b"x" * MIB)[:-1])
        yield "HTTP/2: pages", lambda: self.pages({INITIAL_WINDOW: 0})
        yield "HTTP/2: pages and large windows", lambda: self.pages({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        yield "HTTP/2: bodies", self.bodies
        yield "an event stream", self.events
        yield "local socket: requests", self.ask
        yield "redirect port: lines", lambda: self.push(self.connect(self.redirect), b"\r\n" * 5 * MIB)
        yield "redirect port: requests", lambda: self.push(self.connect(self.redirect), PAGE * 100_000)

    def upload(self) -> bytes:
        return b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n" + bytes(8 * MIB)

    def connect(self, port: int) -> socket.socket:
        """Connect; the kernel keeps little for this client."""
        client = self.stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
        client.connect(("127.0.0.1", port))
        return client

    def tls(self, path: str | None = None) -> ssl.SSLSocket:
        """Do a handshake; with a path, open a WebSocket."""
        context = client_context(self.certificate, "http/1.1")
        client = context.wrap_socket(self.connect(self.secure.port), server_hostname="localhost")
        self.stack.enter_context(client)
        if path is not None:
            opening = RawClient.__new__(RawClient)
            opening.socket = client
            opening.handshake(path)
            self.assertIn(b" 101 ", client.recv(1000))
        return client

    def push(self, client: socket.socket, data: bytes) -> None:
        """Send as long as the server takes bytes."""
        client.setblocking(False)
        view, idle = memoryview(data), 0
        while view and idle < TURNS:
            try:
                view = view[client.send(view[:MIB]) :]
                idle = 0
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.honest.request("/")
                idle += 1
            except OSError:
                return

    def http2(self, settings: dict[int, int] | None = None) -> HTTP2Client:
        client = HTTP2Client(self.secure, self.certificate, settings)
        self.stack.callback(client.close)
        return client

    def pages(self, settings: dict[int, int]) -> None:
        client = self.http2(settings)
        for _ in range(100):
            client.send("/page/2000000")

    def bodies(self) -> None:
        client = self.http2()
        for _ in range(99):
            number = client.send("/", "POST", ended=False)
            with contextlib.suppress(Exception):  # the connection's window is closed
                for _ in range(4):
                    client.state.send_data(number, bytes(15_000))
            client.flush()

    def ask(self) -> None:
        """Ask another process's questions, and read no answer."""
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(self.folder / "channelserver.sock"))
        question = wire.pack([wire.VERSION, 1, "global_statistics", ["default"]])
        self.push(client, (len(question).to_bytes(wire.PREFIX, "big") + question) * 300_000)

    def events(self) -> None:
        self.push(self.connect(self.plain.port), EVENTS)
        for _ in range(200):
            self.honest.request("/feed/65536")

    def test_all(self) -> None:
        """Each costs less than 10 MiB."""
        for server in (self.plain, self.secure):
            self.warm(server)
        for name, attack in self.attacks():
            memory = Memory(self.plain)
            attack()
            for _ in range(TURNS):
                self.honest.request("/")
            self.assertLess(memory.growth, ONE, name)
        self.assertNotIn("Traceback", self.secure.output)

    def warm(self, server: Server) -> None:
        """Have the server import what it needs."""
        if server is self.secure:
            self.http2().get("/page/2000000")
        with RawClient(self.plain).open("/") as client:
            client.send(frame(Opcode.TEXT, b"x" * 100_000))
            client.data()
        self.honest.request("/page/2000000")
