"""Clients of asynchronous views, streams, files and event streams: they leave, stop reading, come by hundreds.

Over HTTP/1.1, HTTP/1.1 in TLS, and HTTP/2.
"""

from __future__ import annotations

import json
import random
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.certificates import write_pair
from tests.http2_client import HTTP2Client
from tests.process import TIMEOUT, Server, ServerTestCase, SharedServerTestCase, project, wait_until
from tests.readers import HTTP1Reader, HTTP2Reader, Reader, shut
from tests.test_async_views import notes

FILES = project("asynchronous")
#: More than a client's and a server's kernel hold.
LARGE = bytes(range(256)) * 64 * 1024  # 16 MiB


class ReaderTestCase(SharedServerTestCase):
    """One server with two threads; the clients speak HTTP/1.1."""

    files = FILES
    arguments = ("--threads", "2")
    secure = False

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "notes.txt").unlink(missing_ok=True)

    def start(self, *arguments: str, port: int = 0) -> Server:
        (self.folder / "large.bin").write_bytes(LARGE)
        certificate, key = write_pair(self.folder)
        tls = ("--tls-cert", certificate, "--tls-key", key) if self.secure else ()
        return super().start(*arguments, *tls, port=port)

    @property
    def certificate(self) -> str:
        """The path of the server's certificate, if it speaks TLS."""
        return str(self.folder / "cert.pem") if self.secure else ""

    def open(self, path: str, small: bool = False) -> Reader:
        """Ask for a page."""
        reader = HTTP1Reader(self.server, path, self.certificate, small)
        self.addCleanup(shut, reader)
        return reader

    def get(self, path: str) -> str:
        """Ask for a page, on a connection of its own; return its body."""
        reader = self.open(path)
        reader.head()
        return reader.rest().decode()

    def wait_note(self, line: str, count: int = 1) -> None:
        """Wait until the project has noted something."""
        wait_until(lambda: notes(self.server).count(line) >= count, f"{count} x {line!r} in {notes(self.server)[-20:]}")

    def health(self) -> dict[str, Any]:
        """Return the figures of the server."""
        found: dict[str, Any] = json.loads(self.get("/-/health"))
        return found


class ReaderTests(ReaderTestCase):
    """What a client does, and what the server does then."""

    def test_leaves_view(self) -> None:
        """A view is cancelled."""
        reader = self.open("/hang/")
        self.wait_note("hang begins")
        reader.leave()
        self.wait_note("hang cancelled")

    def test_leaves_stream(self) -> None:
        """An asynchronous iterator is closed; a plain one, too."""
        for path, note in (
            ("/parts/?s=0.01", "parts closed"),
            ("/parts-in-thread/?count=100000", "plain parts closed"),
        ):
            reader = self.open(path)
            reader.read_until(b"2\n")
            reader.leave()
            self.wait_note(note)
        wait_until(lambda: self.health()["streams"] == 0, "the end of the streams")

    def test_leaves_events(self) -> None:
        """An event stream is no member any more."""
        reader = self.open("/events/")
        reader.read_until(b"data: first\n\n")
        self.assertEqual(self.health()["streams"], 1)
        reader.leave()
        wait_until(lambda: self.health()["streams"] == 0, "the end of the stream")

    def test_connection_lost(self) -> None:
        """The same when the connection goes."""
        readers = [self.open(path) for path in ("/hang/", "/parts/?s=0.01", "/events/")]
        self.wait_note("hang begins")
        self.wait_note("part 1")
        for reader in readers:
            shut(reader)
        self.wait_note("hang cancelled")
        self.wait_note("parts closed")
        wait_until(lambda: self.health()["streams"] == 0, "the end of the stream")

    def test_reader_stops(self) -> None:
        """Of an endless stream that nobody reads, less than 1 MiB is produced, by a coroutine or a plain iterator."""
        for path, note, small in (
            ("/parts/?s=0&n=20000", "parts closed", True),
            ("/parts/?s=0&n=20000", "parts closed", False),
            ("/parts-in-thread/?s=0&count=1000000&n=20000", "plain parts closed", True),
        ):
            (self.folder / "notes.txt").unlink(missing_ok=True)
            reader = self.open(path, small)

            def produced() -> int:
                return sum(line.startswith("part ") for line in notes(self.server))

            wait_until(lambda: produced() > 5, "the stream's begin")
            before = -1
            while produced() != before:  # until it stands still
                before = produced()
                self.get("/where/")
                time.sleep(0.2)
            # Parts have 40 000 bytes, from the 11th on 60 000. Beside 256 KiB of ours there is what the kernel keeps.
            self.assertLess(before * 60_000 - 200_000, 1024 * 1024)
            reader.leave()
            self.wait_note(note)  # closed while it waits for room, too

    def test_file(self) -> None:
        """A file arrives whole, from plain and asynchronous views, while its slow readers hold nothing."""
        slow = [self.open(path, small=True) for path in ["/file/", "/async-file/"] * 10]
        for reader in slow:
            self.assertEqual(reader.head()[1]["content-length"], str(len(LARGE)))
        wait_until(lambda: (self.health()["busy"], self.health()["coroutines"]) == (0, 0), "rest")
        for path in ("/file/", "/async-file/"):
            reader = self.open(path)
            reader.head()
            self.assertEqual(reader.rest(), LARGE)
        for reader in slow:
            reader.leave()

    def test_streams_in_parts(self) -> None:
        """A stream's parts come one by one, and its end comes."""
        reader = self.open("/parts-of-a-plain-view/")
        self.assertEqual(reader.head()[0], 200)
        self.assertEqual(reader.rest().decode(), "".join(f"{n} event-loop\n" for n in range(3)))
        self.assertEqual(self.get("/parts-in-thread/?s=0"), "0\n1\n2\n")

    def test_events(self) -> None:
        """A group's message reaches each of many."""
        readers = [self.open("/events/") for _ in range(10)]
        for reader in readers:
            reader.read_until(b"data: first\n\n")
        self.get("/send/?text=all")
        for reader in readers:
            reader.read_until(b"data: all\n\n")

    def test_many_slow_readers(self) -> None:
        """Downloads that nobody reads, and event streams of plain iterators, leave the threads to others."""
        number = 200
        slow = [self.open("/file/", small=True) for _ in range(number)]
        streams = [self.open("/parts-in-thread/?count=1000&s=0.2") for _ in range(6)]
        for reader in [*slow, *streams]:
            self.assertEqual(reader.head()[0], 200)
        self.assertTrue(self.get("/plain/").startswith("worker-"))
        self.assertEqual(self.get("/where/"), "event-loop")
        self.assertLess(threads_of(self.server), 25)  # of the process, the reactor's and the loop's included
        for reader in streams:
            reader.leave()


class TLSTests(ReaderTests):
    """HTTP/1.1 in TLS."""

    secure = True


class HTTP2Tests(ReaderTests):
    """HTTP/2, each request on a connection of its own."""

    secure = True

    def open(self, path: str, small: bool = False) -> Reader:
        reader = HTTP2Reader(self.server, path, self.certificate, small)
        self.addCleanup(shut, reader)
        return reader

    def test_head(self) -> None:
        """HEAD of an event stream has a head, and leaves no stream and no membership behind."""
        client = HTTP2Client(self.server, self.certificate)
        self.addCleanup(client.close)
        answer = client.get("/events/", "HEAD")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "text/event-stream"))
        self.assertEqual((answer.ended, bytes(answer.body)), (True, b""))
        wait_until(lambda: self.get("/groups/") == "{}", "the end of all memberships")
        self.assertEqual(self.health()["streams"], 0)

    def test_one_connection(self) -> None:
        """All on one connection: streams that nobody reads do not hold up the others."""
        first = self.open("/events/")
        assert isinstance(first, HTTP2Reader)
        others = [
            HTTP2Reader(self.server, path, "", client=first.client)
            for path in ["/events/"] * 20 + ["/parts/?s=0.01"] + ["/hang/"]
        ]
        for reader in others[:20]:
            reader.read_until(b"data: first\n\n")
        self.get("/send/?text=all")
        for reader in others[:20]:
            reader.read_until(b"data: all\n\n")
        others[20].read_until(b"3\n")
        others[20].leave()
        self.wait_note("hang begins")
        others[21].leave()
        self.wait_note("parts closed")
        self.wait_note("hang cancelled")
        self.get("/send/?text=more")
        first.read_until(b"data: more\n\n")
        wait_until(lambda: self.health()["streams"] == 21, "the end of all other streams")


class WorkerProcessTests(ServerTestCase):
    """Views and streams run in a worker process, the clients are the server's."""

    files = FILES

    def test_leaves(self) -> None:
        """The client leaves: view, stream and the stream of a plain view end in the worker process."""
        server = self.start("--threads", "0")
        worker = self.run_process([sys.executable, "manage.py", "runworker", "--threads", "4"])
        for path, begin, end in (
            ("/hang/", "hang begins", "hang cancelled"),
            ("/parts/?s=1000", "part 1", "parts closed"),
        ):
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                wait_until(lambda begin=begin: begin in notes(server), begin)  # type: ignore[misc]
                self.assertNotIn(end, notes(server))
            wait_until(lambda end=end: end in notes(server), end)  # type: ignore[misc]
        self.assertEqual(worker.stop(), 0)

    def test_slow_readers(self) -> None:
        """Forty streams that nobody reads hold up no other, although asyncio has 32 threads."""
        server = self.start("--threads", "0")
        # As many messages as it has threads are a worker process's at a time.
        self.run_process([sys.executable, "manage.py", "runworker", "--threads", "45"])
        for number in range(1, 41):
            reader = HTTP1Reader(server, "/parts/?s=0&n=100000", small=True)
            self.addCleanup(shut, reader)
            wait_until(lambda number=number: notes(server).count("part 1") == number, "the stream")  # type: ignore[misc]
        self.assertEqual(server.get("/parts-of-a-plain-view/").text, "".join(f"{n} event-loop\n" for n in range(3)))

    def test_stop(self) -> None:
        """A worker process that stops cancels what is left after the drain timeout."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("CHANNELSERVER = {'drain_timeout': 0.5}\n")
        server = self.start("--threads", "0")
        worker = self.run_process([sys.executable, "manage.py", "runworker", "--threads", "2"])
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.sendall(b"GET /hang/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: "hang begins" in notes(server), "the view")
            self.assertEqual(worker.stop(), 0)
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 503 "))
        self.assertIn("hang cancelled", notes(server))


def threads_of(server: Server) -> int:
    """Return how many threads a server process has."""
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def descriptors_of(server: Server) -> int:
    """Return how many open files a server process has."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


class ChurnTests(ServerTestCase):
    """Clients that leave at random."""

    files = FILES
    #: How many clients, and how many at a time.
    clients, at_once = 800, 40
    timeout = 600

    def test_nothing_is_left(self) -> None:
        """Threads and descriptors are as before; no view, stream or membership is left, and nothing is logged."""
        (self.folder / "large.bin").write_bytes(LARGE)
        self.make_tables()
        server = self.start("--threads", "4", "--access-log", "", "--max-streams", "100")
        rng = random.Random(20)
        ways = [
            "/hang/", "/parts/?s=0.001", "/parts/?s=0&n=1000", "/parts-in-thread/?count=1000&s=0.001", "/events/",
            "/file/", "/async-file/", "/query/", "/iterate/", "/where/", "/locked/", "/locked-in-thread/",
            "/to-thread-briefly/", "/", "websocket",
        ]  # fmt: skip
        plans = [(rng.choice(ways), rng.random() * 0.3, rng.random() < 0.5) for _ in range(self.clients)]

        def visit(plan: tuple[str, float, bool]) -> None:
            path, patience, reads = plan
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
                upgrade = b""
                if path == "websocket":
                    path = "/x/"
                    upgrade = (
                        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                        b"Sec-WebSocket-Key: c2l4dGVlbiBieXRlcy4uLg==\r\n"
                    )
                client.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
                client.settimeout(patience)
                ends = time.monotonic() + patience  # some streams have no end
                try:
                    while reads and time.monotonic() < ends and client.recv(65536):
                        pass
                except TimeoutError:
                    pass

        def all_leave() -> None:
            with ThreadPoolExecutor(self.at_once) as pool:
                list(pool.map(visit, plans, timeout=5 * TIMEOUT))

        def at_rest() -> bool:
            health = server.get("/-/health").json()
            return (health["connections"], health["streams"], health["coroutines"], health["busy"]) == (1, 0, 0, 0)

        def threads() -> int:
            names = server.get("/thread-names/").text.split()
            ours = [name for name in names if not name.startswith("to-thread-")]  # asyncio keeps up to 32 of those
            self.assertLessEqual(len(names) - len(ours), 32)
            return len(ours)

        plans, rest = plans[:100], plans[100:]
        all_leave()  # threads and connections that stay are there now
        wait_until(at_rest, "rest")
        before = threads(), descriptors_of(server)
        plans = rest + plans
        all_leave()
        wait_until(at_rest, "rest")
        wait_until(lambda: threads() <= before[0], "the end of the threads")
        wait_until(lambda: descriptors_of(server) <= before[1], "the end of the open files")
        self.assertEqual(server.get("/groups/").json(), {})
        self.assertNotRegex(server.output, re.compile("Traceback|Exception|never awaited"))
