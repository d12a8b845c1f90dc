"""What is kept for a client is freed when its connection closes, and not when Python next looks for garbage.

The server, whose garbage collector is off, says how many connections are in its memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy

from channelserver.server.websocket.frames import Opcode
from tests.certificates import client_context, write_pair
from tests.http2_client import INITIAL_WINDOW, HTTP2Client
from tests.lab import RawClient
from tests.process import Server, ServerTestCase, free_port, project, wait_until
from tests.raw import Raw
from tests.test_bounds_memory import frame

PAGE = b"GET /page/5000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n"


class ClosedTests(ServerTestCase):
    """Clients that leave in the middle of something."""

    files = project("bounds")
    extra_settings = "import gc; gc.disable()"

    def setUp(self) -> None:
        super().setUp()
        self.certificate, key = write_pair(self.folder)
        port = free_port()
        endpoint = f"--endpoint=tcp:{port}:interface=127.0.0.1"
        self.secure = self.start("--tls-cert", self.certificate, "--tls-key", key, endpoint)
        self.plain = copy(self.secure)
        self.plain.port, self.secure.port = port, int(self.secure.wait_for(r"https://127\.0\.0\.1:(\d+)")[1])
        self.leaving = ExitStack()
        self.addCleanup(lambda: self.leaving.close())

    def attacks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Return what clients are in the middle of, and a name for each."""
        yield "a head", lambda: self.send(b"GET / HTTP/1.1\r\nCookie: a")
        yield "a body in memory", lambda: self.send(UPLOAD + bytes(60_000))
        yield "a body in a file", lambda: self.send(UPLOAD + bytes(69_000))
        yield "a page", lambda: self.send(PAGE)
        yield "an event stream", lambda: self.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield "a WebSocket message", lambda: self.socket("/").send(frame(Opcode.TEXT, b"x" * 100_000)[:-1])
        yield "WebSocket frames", lambda: self.socket("/flood/").send(frame(Opcode.TEXT, b"30"))
        yield "half a TLS hello", lambda: self.connect(self.secure).send(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
        yield "TLS", self.tls
        yield "a page over TLS", lambda: self.tls().sendall(PAGE)
        yield "HTTP/2 answers", self.answers
        yield "HTTP/2 bodies", self.bodies

    def connect(self, server: Server) -> RawClient:
        """Connect to a port, until the end of the attack."""
        client = RawClient(server, 8 * 1024)
        self.leaving.callback(client.close)
        return client

    def send(self, data: bytes) -> None:
        """Send the beginning of something over HTTP/1.1."""
        self.connect(self.plain).send(data)

    def socket(self, path: str) -> RawClient:
        """Open a WebSocket."""
        return self.connect(self.plain).open(path)

    def tls(self) -> ssl.SSLSocket:
        """Do a TLS handshake."""
        context = client_context(self.certificate, "http/1.1")
        return self.leaving.enter_context(
            context.wrap_socket(self.connect(self.secure).socket, server_hostname="localhost")
        )

    def http2(self) -> HTTP2Client:
        """Open a connection with closed windows."""
        client = HTTP2Client(self.secure, self.certificate, {INITIAL_WINDOW: 0})
        self.leaving.callback(client.close)
        return client

    def answers(self) -> None:
        """Ask for answers and take none."""
        client = self.http2()
        for path in ("/page/500000", "/page/1000", "/events"):
            client.send(path)

    def bodies(self) -> None:
        """Begin more bodies than may have a file."""
        client = self.http2()
        for _ in range(8):
            number = client.send("/", "POST", [("content-length", "70000")], ended=False)
            client.state.send_data(number, bytes(100))
        client.flush()

    def test_left(self) -> None:
        """The connection is freed, whatever the client was in the middle of."""
        with Raw(self.plain.port) as honest:

            def kept() -> bytes:
                return honest.request("/kept").body

            honest.request("/")
            before = kept()
            for name, attack in self.attacks():
                with self.leaving:
                    attack()
                    for _ in range(5):
                        honest.request("/")
                    self.assertNotEqual(kept(), before, name)
                wait_until(lambda: kept() == before, f"the end of {name}, which is kept: {before!r}", 5.0)
