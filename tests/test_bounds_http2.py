"""HTTP/2: what one client can take of the server's memory, descriptors and time, whatever it sends.

The server is a process of its own; each client behaves as one that attacks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from h2.connection import H2Connection
from hpack import Encoder, NeverIndexedHeaderTuple

from channelserver.server.common.account import CONNECTION_BYTES, SMALL
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http2.connection import BACKLOG, FRAMES_A_TURN, HTTP2Connection
from channelserver.server.http2.kept import FULL_SECONDS
from tests.certificates import write_pair
from tests.fakes import FakeServer, FakeTransport, StrictTestCase
from tests.http2_client import INITIAL_WINDOW, HTTP2Client
from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until
from tests.raw import Raw

MIB = 1024 * 1024
NO_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 2, 8, 11
RUNNING = 16
#: Open files for one connection.
DESCRIPTORS = 8


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


class BoundsTestCase(ServerTestCase):
    """Tests on a server with a certificate."""

    files = project("bounds_http2")
    extra_settings = """
        from pathlib import Path
        STATIC_URL, STATIC_ROOT = "/static/", str(Path(__file__).parent / "static")
    """

    def setUp(self) -> None:
        """Write the project, the certificate and a large file."""
        super().setUp()
        self.certificate, self.key = write_pair(self.folder)
        (self.folder / "large.bin").write_bytes(b"%08d" % 7 * 50_000)

    def start_tls(self, *arguments: str) -> Server:
        """Start a server that speaks HTTP/2, and have it import what it needs."""
        server = self.start("--tls-cert", self.certificate, "--tls-key", self.key, *arguments)
        self.client(server).get("/hello")
        return server

    def client(self, server: Server, settings: dict[int, int] | None = None) -> HTTP2Client:
        """Open a connection."""
        client = HTTP2Client(server, self.certificate, settings)
        self.addCleanup(client.close)
        return client

    @property
    def called(self) -> int:
        """How many requests have reached their views."""
        path = self.folder / "called"
        return path.stat().st_size if path.exists() else 0

    def resident(self, server: Server) -> int:
        """Bytes of memory of the server now."""
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def descriptors(self, server: Server) -> int:
        """Open files of the server now."""
        return len(os.listdir(f"/proc/{server.process.pid}/fd"))

    def open_windows(self, client: HTTP2Client, size: int) -> None:
        """Have a client with closed windows take all that it has asked for."""
        client.takes = False
        client.state.increment_flow_control_window(64 * MIB)
        for number, answer in client.answers.items():
            if not answer.over:
                client.state.increment_flow_control_window(size, number)
        client.flush()

    def assert_serves(self, server: Server) -> None:
        """Assert that others are served, and that nothing went wrong within the server."""
        client = self.client(server)
        self.assertEqual(client.get("/hello").status, 200)
        client.close()
        self.assertNotIn("Traceback", server.output)


class AnswerTests(BoundsTestCase):
    """Answers that a client asks for and does not take."""

    def test_unread_answers(self) -> None:
        """100 requests for 2 MB each: 16 at most reach the application, in little memory; in the end all is sent."""
        server = self.start_tls()
        warm = self.client(server, {INITIAL_WINDOW: 4 * MIB})
        warm.state.increment_flow_control_window(64 * MIB)
        for number in [warm.send("/large?number=1") for _ in range(8)]:
            warm.finish(number)
        (self.folder / "called").unlink()
        before, descriptors = self.resident(server), self.descriptors(server)
        client = self.client(server, {INITIAL_WINDOW: 0})
        numbers = [client.send(f"/large?number={index}") for index in range(100)]
        client.wait(lambda: len([number for number in numbers if client.answers[number].status]) >= 2)
        self.assert_serves(server)
        self.assertLess(self.resident(server) - before, 10 * MIB)
        self.assertLessEqual(self.descriptors(server) - descriptors, DESCRIPTORS)
        self.assertLessEqual(self.called, RUNNING)
        for number in numbers[20:]:
            client.state.reset_stream(number, CANCEL)
            client.answers[number].reset = CANCEL
        self.open_windows(client, 2_000_000)
        for index, number in enumerate(numbers[:20]):
            self.assertEqual(bytes(client.finish(number).body), b"%08d" % index * 250_000)
        self.assertEqual(self.called, 20)

    def test_parts(self) -> None:
        """The same for answers in large parts."""
        server = self.start_tls()
        before = self.resident(server)
        client = self.client(server, {INITIAL_WINDOW: 0})
        numbers = [client.send("/parts") for _ in range(20)]
        client.wait(lambda: len([number for number in numbers if client.answers[number].status]) >= 2)
        self.assert_serves(server)
        self.assertLess(self.resident(server) - before, 10 * MIB)
        self.open_windows(client, 1_500_000)
        for number in numbers:
            body = bytes(client.finish(number).body)
            self.assertEqual(body, b"".join(b"%08d" % part * 12_500 for part in range(15)))

    def test_files(self) -> None:
        """100 requests for a file that is not taken: few are open; in the end all is sent."""
        server = self.start_tls()
        client = self.client(server, {INITIAL_WINDOW: 0})
        client.get("/hello", "HEAD")
        before = self.descriptors(server) - 1
        numbers = [client.send("/file") for _ in range(100)]
        client.wait(lambda: len([number for number in numbers if client.answers[number].status]) >= 8)
        self.assert_serves(server)
        self.assertLessEqual(self.called, RUNNING)
        self.assertLessEqual(self.descriptors(server) - before, DESCRIPTORS)
        self.open_windows(client, 400_000)
        for number in numbers:
            self.assertEqual(bytes(client.finish(number).body), b"%08d" % 7 * 50_000)

    def test_static_files(self) -> None:
        """The same for parts of static files, which the reactor opens by itself."""
        (self.folder / "static").mkdir()
        (self.folder / "large.bin").rename(self.folder / "static" / "large.bin")
        server = self.start_tls()
        client = self.client(server, {INITIAL_WINDOW: 0})
        client.get("/hello", "HEAD")
        before = self.descriptors(server) - 1
        part = [("range", "bytes=8-320007")]
        numbers = [client.send("/static/large.bin", extra=part) for _ in range(100)]
        client.wait(lambda: len([number for number in numbers if client.answers[number].status]) >= 8)
        self.assert_serves(server)
        self.assertLessEqual(self.descriptors(server) - before, DESCRIPTORS)
        self.open_windows(client, 400_000)
        for number in numbers:
            self.assertEqual(bytes(client.finish(number).body), b"%08d" % 7 * 40_000)

    def test_a_file_that_is_replaced(self) -> None:
        """A file that was closed meanwhile and is another one now: the answer breaks off, and is never mixed."""
        server = self.start_tls()
        client = self.client(server, {INITIAL_WINDOW: 0})
        numbers = [client.send("/file") for _ in range(8)]
        client.wait(lambda: all(answer.status for answer in client.answers.values()))
        (self.folder / "new.bin").write_bytes(b"x" * 400_000)
        (self.folder / "new.bin").rename(self.folder / "large.bin")
        self.open_windows(client, 2_000_000)
        for number in numbers:
            answer = client.finish(number)
            self.assertEqual(set(answer.body), set(b"07"))
        complete = [number for number in numbers if client.answers[number].ended]
        self.assertLess(len(complete), 8)
        for number in complete:
            self.assertEqual(len(client.answers[number].body), 400_000)
        self.assert_serves(server)

    def test_a_byte_now_and_then(self) -> None:
        """A client that opens its windows by a byte at a time loses its answers after ``http_timeout``."""
        server = self.start_tls("--http-timeout", "2")
        client = self.client(server, {INITIAL_WINDOW: 0})
        numbers = [client.send(path) for path in ("/large?number=1", "/parts", "/file")]
        client.takes = False
        client.socket.settimeout(0.05)
        ends = time.monotonic() + TIMEOUT
        opened = 0.0
        while not all(client.answers[number].over for number in numbers):
            self.assertLess(time.monotonic(), ends)
            if time.monotonic() > opened + 0.2:
                opened = time.monotonic()
                for number in numbers:
                    if client.answers[number].status and not client.answers[number].over:
                        client.state.increment_flow_control_window(1, number)
                client.flush()
            try:
                client.read()
            except TimeoutError:
                pass
        for number in numbers:
            self.assertIn(client.answers[number].reset, (CANCEL, INTERNAL_ERROR))
        self.assert_serves(server)

    def test_taken_back(self) -> None:
        """A request that its client resets keeps its place for a second: resets do not flood the workers."""
        server = self.start_tls("--threads", "1")
        client = self.client(server)
        for _ in range(10):
            for number in [client.send("/held") for _ in range(RUNNING)]:
                client.state.reset_stream(number, CANCEL)
            client.flush()
        begin = time.monotonic()
        last = client.send("/hello")
        wait_until(lambda: self.called == 1)
        (self.folder / "go-on").touch()
        self.assertEqual(client.finish(last).status, 200)
        passed = time.monotonic() - begin
        self.assertLessEqual(self.called, RUNNING * (1 + int(passed + 1)))
        self.assertLess(self.called, 160)
        self.assert_serves(server)


class BodyTests(BoundsTestCase):
    """Bodies that a client begins."""

    def test_unfinished_bodies(self) -> None:
        """99 bodies of more than 64 KiB, unfinished: few files are open; when they go on, all arrive whole."""
        server = self.start_tls()
        client = self.client(server)
        client.get("/hello")
        before, memory = self.descriptors(server) - 1, self.resident(server)
        body = os.urandom(300_000)
        numbers = [client.send("/digest", "POST", ended=False) for _ in range(99)]
        sent = dict.fromkeys(numbers, 0)
        for number in numbers:
            while sent[number] < 65_536:
                client.wait(lambda number=number: client.state.local_flow_control_window(number) > 0)  # type: ignore[misc]
                part = min(16_000, 65_536 - sent[number], client.state.local_flow_control_window(number))
                client.state.send_data(number, body[sent[number] : sent[number] + part])
                sent[number] += part
                client.flush()
        client.get("/hello")
        for number in numbers:
            part = min(64, client.state.local_flow_control_window(number))
            if part > 0:
                client.state.send_data(number, body[sent[number] : sent[number] + part])
                sent[number] += part
        client.get("/hello")
        self.assert_serves(server)
        self.assertGreater(sum(sent.values()), 6_000_000)
        self.assertLessEqual(self.descriptors(server) - before, DESCRIPTORS)
        self.assertLess(self.resident(server) - memory, 12 * MIB)
        while sent:
            for number in list(sent):
                room = min(client.state.local_flow_control_window(number), 16_000)
                part = body[sent[number] : sent[number] + room]
                if room > 0:
                    sent[number] += len(part)
                    client.state.send_data(number, part, end_stream=sent[number] == len(body))
                    if sent[number] == len(body):
                        del sent[number]
            client.flush()
            if sent and all(client.state.local_flow_control_window(number) <= 0 for number in sent):
                client.read()
        expected = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for number in numbers:
            self.assertEqual(json.loads(client.finish(number).body), expected)
        wait_until(lambda: self.descriptors(server) == before + 1)

    def test_slow_bodies(self) -> None:
        """The minimum rate of a body holds for each stream, as over HTTP/1.1."""
        server = self.start_tls("--body-timeout", "1", "--min-body-rate", "100")
        client = self.client(server)
        number = client.send("/digest", "POST", ended=False)
        client.socket.settimeout(0.1)
        ends = time.monotonic() + TIMEOUT
        while not client.answers[number].over:
            self.assertLess(time.monotonic(), ends)
            client.state.send_data(number, b"x")
            client.flush()
            try:
                client.read()
            except TimeoutError:
                pass
        self.assertEqual(client.answers[number].status, 408)
        self.assert_serves(server)

    def test_header_options(self) -> None:
        """The options for request heads hold."""
        server = self.start_tls("--max-header-fields", "10", "--max-header-bytes", "1000")
        client = self.client(server)
        self.assertEqual(client.get("/hello", extra=[(f"x-{index}", "") for index in range(9)]).status, 200)
        self.assertEqual(client.get("/hello", extra=[(f"x-{index}", "") for index in range(40)]).status, 431)
        self.assertEqual(client.get("/hello", extra=[("x-long", "y" * 1000)]).status, 431)

    def upload_both(self, server: Server, http1: Any, http2: HTTP2Client) -> list[int]:
        """Upload 150 000 bytes over both protocols; return the statuses."""
        first = http1.request("/digest", method="POST", body=b"x" * 150_000)
        number = http2.send("/digest", "POST", ended=False)
        http2.upload(number, b"x" * 150_000)
        return [first.status, http2.finish(number).status]

    def spool_errors(self, limit: int, value: Callable[[Server], int], status: int) -> None:
        """Assert the status of uploads while the server's process has a limit, and that it recovers by itself."""
        self.write({"plain.sock": ""})
        (self.folder / "plain.sock").unlink()
        server = self.start_tls("--unix-socket", str(self.folder / "plain.sock"), "--client-memory=1MiB")
        process = server.process.pid
        with Raw(str(self.folder / "plain.sock")) as http1:
            http2 = self.client(server)
            self.assertEqual(self.upload_both(server, http1, http2), [200, 200])
            soft, hard = resource.prlimit(process, limit)
            resource.prlimit(process, limit, (value(server), hard))
            try:
                statuses = self.upload_both(server, http1, http2)
            finally:
                resource.prlimit(process, limit, (soft, hard))
            self.assertEqual(statuses, [status, status])
            self.assertEqual(http2.get("/hello").status, 200)
        with Raw(str(self.folder / "plain.sock")) as http1:
            self.assertEqual(self.upload_both(server, http1, http2), [200, 200])
        self.assertEqual(len([line for line in server.lines if "cannot store the request body" in line]), 1)
        self.assertNotIn("Traceback", server.output)

    def test_no_descriptor(self) -> None:
        """No file descriptor is free for a body: 503, over both protocols, and one line in the log."""
        self.spool_errors(resource.RLIMIT_NOFILE, self.first_free, 503)

    def first_free(self, server: Server) -> int:
        """The first free descriptor of the server, when it has closed the files of bodies."""
        folder = f"/proc/{server.process.pid}/fd"

        def all_closed() -> bool:
            return not any("(deleted)" in os.readlink(f"{folder}/{name}") for name in os.listdir(folder))

        wait_until(all_closed, "the files of bodies are closed")
        found = {int(name) for name in os.listdir(folder)}
        return next(number for number in range(len(found) + 1) if number not in found)

    def test_no_disk(self) -> None:
        """The file system takes no more of a body: 507."""
        self.spool_errors(resource.RLIMIT_FSIZE, lambda server: 10_000, 507)


class FloodTests(BoundsTestCase):
    """Frames that cost a client nothing."""

    def flood(self, server: Server, data: bytes, number: int, client: HTTP2Client) -> None:
        """Send the same bytes so many times, without reading, until the server closes."""
        try:
            for _ in range(number):
                client.socket.sendall(data)
        except OSError:
            pass

    def test_frames_on_closed_streams(self) -> None:
        """Data, heads and trailers for streams that are closed end the connection, instead of a reset for each."""
        server = self.start_tls()
        for name, attack in {
            "data": frame(0, 0, 1, b"x" * 64),
            "large data": frame(0, 0, 1, b"x" * 1000),
            "last data": frame(0, 1, 1, b"x" * 64),
        }.items():
            client = self.client(server)
            client.get("/hello")
            self.flood(server, attack * 16, 1000, client)
            self.assertEqual(client.wait_goaway(), ENHANCE_YOUR_CALM, name)
            self.assertLess(self.resets(client), 2500, name)
        client = self.client(server)
        number = client.send("/digest", "POST", ended=False)
        client.state.reset_stream(number, CANCEL)
        client.flush()
        head = client.state.encoder.encode([(":method", "GET"), (":scheme", "https"), (":path", "/")])
        self.flood(server, frame(1, 4, number, head) * 16, 1000, client)
        self.assertEqual(client.wait_goaway(), ENHANCE_YOUR_CALM)
        self.assert_serves(server)

    def resets(self, client: HTTP2Client) -> int:
        """How many resets have come."""
        return len([event for event in client.events if type(event).__name__ == "StreamReset"])

    def test_health(self) -> None:
        """Requests for the health without pause, which the reactor answers, end the connection."""
        server = self.start_tls()
        client = self.client(server)
        client.goaway = None
        answered = 0
        while not client.closed and answered < 1000:
            try:
                numbers = [client.send("/-/health") for _ in range(20)]
                client.wait(lambda numbers=numbers: all(client.answers[number].over for number in numbers))  # type: ignore[misc]
            except (AssertionError, OSError):
                break
            answered += 20
        self.assertEqual(client.wait_goaway(), ENHANCE_YOUR_CALM)
        self.assertGreater(answered, 50)
        self.assert_serves(server)

    def test_settings(self) -> None:
        """Settings that nobody knows are not remembered, and many of them end the connection."""
        server = self.start_tls()
        before = self.resident(server)
        client = self.client(server)
        client.get("/hello")
        self.flood(server, frame(4, 0, 0, b"\x1a\x2a\0\0\0\1"), 100, client)  # a browser's
        self.assertEqual(client.get("/hello").status, 200)
        blocks = [
            frame(4, 0, 0, b"".join(struct.pack(">HI", 2700 * block + index, 1) for index in range(2700)))
            for block in range(1, 24)
        ]
        self.flood(server, b"".join(blocks), 100, client)
        self.assertEqual(client.wait_goaway(), ENHANCE_YOUR_CALM)
        self.assertLess(self.resident(server) - before, 4 * MIB)
        self.assert_serves(server)

    def test_violations_are_summed(self) -> None:
        """A hundred connections that break rules are a few lines in the log."""
        server = self.start_tls()
        for index in range(100):
            client = self.client(server)
            client.socket.sendall((frame(0, 0, 9, b"x"), frame(3, 0, 7, b"1234"), frame(8, 0, 0, b"\0" * 4))[index % 3])
            client.wait_goaway()
            client.close()
        self.assert_serves(server)
        self.assertLess(len([line for line in server.lines if "throttled_log" in line]), 5)


class UnreadTests(BoundsTestCase):
    """The minimum rate at which answers are read."""

    def test_http1(self) -> None:
        """Over HTTP/1.1, too: a client that reads a few bytes now and then is cut off."""
        server = self.start("--http-timeout", "2")
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(partial(self.read_slowly, server), ("/large?number=1", "/file", "/parts")))
        self.assertNotIn("Traceback", server.output)

    def read_slowly(self, server: Server, path: str) -> None:
        """Read an answer in that way, until the server ends the connection."""
        with Raw(server.port, receive_buffer=4096) as client:
            client.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
            ends = time.monotonic() + TIMEOUT
            while True:
                self.assertLess(time.monotonic(), ends)
                try:
                    if not client.socket.recv(100):
                        break
                except ConnectionResetError:
                    break
                time.sleep(0.1)


class OddFrameTests(StrictTestCase):
    """Connections without a network, to which frames of all kinds come."""

    def connect(self, server: FakeServer) -> FakeTransport:
        """Open a connection, with a request whose body is coming, and one that is answered."""
        transport = FakeTransport(server.reactor)
        connection = HTTP2Connection(server.site, None, Dispatcher(server.site))
        transport.protocol = connection
        connection.makeConnection(transport)
        state = H2Connection()
        state.initiate_connection()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "testserver"), (":path", "/")]
        state.send_headers(1, fields)
        state.send_headers(3, [(":method", "GET"), *fields[1:]], end_stream=True)
        transport.deliver(state.data_to_send())
        server.turn()
        server.reply(server.message("http.request"), status=200, content=b"x")
        return transport

    def test_all_kinds(self) -> None:
        """Whatever comes, the connection goes on or ends in order; nothing is logged but sums."""
        server = self.make_server()
        for kind in range(12):
            for flags in (0, 1, 4, 8, 0x20, 0xFF):
                for number in (0, 1, 2, 3, 5, 2**31 - 1):
                    for size in (0, 1, 4, 5, 6, 8, 100):
                        transport = self.connect(server)
                        for payload in (bytes(size), b"\xff" * size):
                            transport.deliver(frame(kind, flags, number, payload))
                            server.turn()
                        transport.client_leaves()
                        server.messages("http.request")
        self.flushLoggedErrors()

    def test_pings_of_a_client_that_does_not_read(self) -> None:
        """What waits for a client that does not read is bounded: it is not read from any more."""
        server = self.make_server(http_timeout=100)
        transport = self.connect(server)
        transport.slow = True
        transport.protocol.transport.write(b"x" * (FakeTransport.FULL + 1))
        for _ in range(50):
            if transport.reading:
                transport.deliver(frame(6, 0, 0, b"12345678") * 150)
                server.pass_time(1)
        self.assertFalse(transport.reading)
        self.assertLess(len(transport._under_way), FakeTransport.FULL + 2 * BACKLOG)
        transport.slow = False
        transport.client_reads()
        server.turn()
        self.assertTrue(transport.reading)
        self.assertFalse(transport.over)
        transport.client_leaves()

    def test_turns(self) -> None:
        """A turn of the reactor handles a bounded number of frames; the rest follows."""
        server = self.make_server()
        transport = self.connect(server)
        before = len(transport.received)
        transport.protocol.dataReceived(frame(6, 0, 0, b"12345678") * 1000)
        self.assertFalse(transport.reading)
        self.assertEqual(len(transport._under_way), FRAMES_A_TURN * 17)
        transport.protocol.dataReceived(frame(6, 0, 0, b"12345678") * 100)
        server.turn()
        self.assertTrue(transport.reading)
        self.assertEqual(len(transport.received) - before, 1100 * 17)
        transport.client_leaves()

    def test_records(self) -> None:
        """That holds for all that one read from the socket brings, also if it comes in many small TLS records."""
        server = self.make_server()
        transport = self.connect(server)
        server.reactor.turn_began = 1.0
        server.site.bridge._turning = server.reactor  # as this package's own reactor, which knows that
        for _ in range(1000):
            transport.protocol.dataReceived(frame(6, 0, 0, b"12345678"))
        self.assertEqual(len(transport._under_way), FRAMES_A_TURN * 17)
        before = len(transport.received)
        server.turn()
        self.assertEqual(len(transport.received) - before, 1000 * 17)
        server.reactor.turn_began = 2.0
        transport.protocol.dataReceived(frame(6, 0, 0, b"12345678"))
        self.assertEqual(len(transport._under_way), 17)
        transport.client_leaves()

    def test_kept(self) -> None:
        """What a connection keeps is in its account, and out of it when it is not kept any more."""
        server = self.make_server()
        transport = self.connect(server)
        connection = transport.protocol
        idle = connection.kept()
        transport.deliver(b"".join(frame(0, 0, 1, b"x" * 16000) for _ in range(3)))
        server.turn()
        self.assertEqual(connection.kept() - idle, 48_000)
        self.assertLess(abs(connection.account.bytes - connection.kept()), SMALL + 1)
        transport.deliver(frame(0, 1, 1, b"x" * 10_000))
        server.turn()
        delivery = server.take("http.request")
        assert delivery is not None
        server.reply(delivery.content, status=200, content=b"y" * 3_000_000)
        server.layer.queues.finish(delivery)  # until then the body counts
        self.assertGreater(connection.kept() - idle, 2_900_000)
        transport.deliver(frame(8, 0, 0, struct.pack(">I", 4_000_000)) + frame(8, 0, 1, struct.pack(">I", 4_000_000)))
        server.turn()
        self.assertLess(connection.kept(), idle)
        self.assertEqual(connection.memory.requests, 0)
        transport.client_leaves()
        server.pass_time(2.0)  # what waits in queues is looked at each second
        self.assertEqual(server.site.memory.bytes, 0)

    def test_an_application_that_does_not_wait(self) -> None:
        """Parts that are sent without waiting for the client: the connection is closed before they fill the memory."""
        server = self.make_server()
        transport = self.connect(server)
        transport.deliver(frame(0, 1, 1, b"x"))
        message = server.message("http.request")
        server.reply(message, status=200, content=b"y" * 60_000, more_content=True)
        for _ in range(500):
            server.reply(message, content=b"y" * 60_000, more_content=True)
            if not transport.over:
                self.assertLess(transport.protocol.memory.size, CONNECTION_BYTES + 1_200_000)
                server.pass_time(0.5 if transport.protocol.memory.size > CONNECTION_BYTES else 0)
        self.assertTrue(transport.over)
        transport.client_leaves()
        server.pass_time(2.0)  # what waits in queues is looked at each second
        self.assertEqual(server.site.memory.bytes, 0)

    def test_too_much_is_kept(self) -> None:
        """A connection that keeps more than its share is not read from, and closed after some time."""
        server = self.make_server(max_header_bytes=60_000, body_timeout=1000, min_body_rate=0)
        transport = self.connect(server)
        encoder = Encoder()
        for number in range(5, 190, 2):
            fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"testserver"), (b":path", b"/")]
            fields += [(b"x-%d" % index, b"%07d" % number * 700) for index in range(10)]
            block = encoder.encode([NeverIndexedHeaderTuple(name, value) for name, value in fields], huffman=False)
            parts = [block[begin : begin + 16384] for begin in range(0, len(block), 16384)]
            transport.deliver(frame(1, 4 if len(parts) == 1 else 0, number, parts[0]))
            for index, part in enumerate(parts[1:], 2):
                transport.deliver(frame(9, 4 if index == len(parts) else 0, number, part))
            for _ in range(4):
                transport.deliver(frame(0, 0, number, b"x" * 16_000))
            server.turn()
        self.assertFalse(transport.reading)
        self.assertLess(transport.protocol.account.bytes, CONNECTION_BYTES + 300_000)
        server.pass_time(FULL_SECONDS + 1)
        self.assertTrue(transport.over)
        transport.client_leaves()
        server.pass_time(2.0)  # what waits in queues is looked at each second
        self.assertEqual(server.site.memory.bytes, 0)
