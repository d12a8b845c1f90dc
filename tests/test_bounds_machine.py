"""Errors of the machine, and of clients in great numbers: the server goes on, says so in few lines, and recovers."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import select
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import requests
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.throttled_log import ThrottledLog
from channelserver.server.http.body import BODY_IN_MEMORY, memory_space, space
from channelserver.workers import threads
from channelserver.workers.loop import EventLoop, _DaemonExecutor
from channelserver.workers.streams import Streams
from channelserver.workers.threads import NoThreadError
from tests.fakes import PATIENCE, StrictTestCase
from tests.lab import TEXT, LabTestCase, RawClient
from tests.process import TIMEOUT, ServerTestCase, free_port, project, wait_until


class DescriptorTests(ServerTestCase):
    """No more descriptors (EMFILE)."""

    files = project("bounds_machine")

    def test_connections(self) -> None:
        """Clients beyond get 503 or nothing, those who are served go on, files are opened; all is well afterwards."""
        server = self.start()
        early = RawClient(server)
        self.addCleanup(early.close)
        self.assertEqual(server.get("/file").status_code, 200)  # what this imports is there then
        limit = 128
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            crowd = []
            for _ in range(3 * limit):
                with contextlib.suppress(ConnectionError):  # the server may have none to accept it with
                    crowd.append(stack.enter_context(RawClient(server)))
            for client in crowd:
                with contextlib.suppress(ConnectionError):
                    client.request("/")
            served = sum(b" 200 OK" in _first_line(client) for client in crowd)
            self.assertGreater(served, limit // 4)
            self.assertLess(served, limit)
            early.request("/file")
            self.assertEqual(early.head().status, 200)
            begun = _processor_seconds(server.process.pid)
            time.sleep(1.0)
            self.assertLess(_processor_seconds(server.process.pid) - begun, 0.5, "it spins")
        wait_until(lambda: _status(server) == 200, "service again")
        self.assertNotIn("Traceback", server.output)
        lines = [line for line in server.lines if "HTTP GET" not in line]
        self.assertLess(len(lines), 20, lines)
        self.assertIn("descriptors", server.output)

    def test_none_at_all(self) -> None:
        """Even if not one is left, nothing spins, and service goes on as soon as there are some."""
        server = self.start()
        self.assertEqual(server.get("/").status_code, 200)
        used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        usual = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used - 2, used * 10))
        with ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(RawClient(server))
            begun = _processor_seconds(server.process.pid)
            time.sleep(1.0)
            self.assertLess(_processor_seconds(server.process.pid) - begun, 0.5, "it spins")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used * 10, used * 10))
        self.assertGreater(usual[0], 0)
        wait_until(lambda: _status(server) == 200, "service again")
        self.assertNotIn("Traceback", server.output)
        self.assertLess(len([line for line in server.lines if "HTTP GET" not in line]), 20, server.output)


class LogTests(ServerTestCase):
    """Logs that cannot be written."""

    files = project("bounds_machine")

    def begin(self, stdout: int | IO[bytes], *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start a server whose output nobody reads; return it and its URL."""
        port = free_port()
        command = self.twistd("--settings", "settings", "--port", str(port), "--log-format", "text", *arguments)
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=stdout, stderr=stdout, start_new_session=True
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return requests.get(url + "/-/health", timeout=TIMEOUT).ok
            except requests.ConnectionError:
                return False

        wait_until(up, "the server")
        return process, url

    def ask(self, url: str, number: int, path: str = "/") -> None:
        """Send requests, and see that each is answered."""
        with requests.Session() as session:
            for _ in range(number):
                self.assertEqual(session.get(url + path, timeout=TIMEOUT).status_code, 200)

    def test_nobody_reads_the_output(self) -> None:
        """The server does not wait; what is too much is counted; when somebody reads, the log goes on."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        process, url = self.begin(writing)
        os.close(writing)
        self.ask(url, 1000, "/" + "x" * 2000)
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 1 << 20)  # what fits into it, the server writes once a second
        text, asked = b"", False
        ends = time.monotonic() + TIMEOUT
        while b"/the-last" not in text:
            self.assertLess(time.monotonic(), ends, text[-200:])
            if select.select([reading], [], [], 0.1)[0]:
                text += os.read(reading, 65536)
            elif not asked or b"could not be written" in text:
                asked = True
                self.ask(url, 1, "/the-last")
        self.assertRegex(text, rb"\d+ line\(s\) of the log could not be written")
        self.assertGreater(text.count(b"GET /xxx"), 400)
        self.assertIsNone(process.poll())

    def test_a_full_disk(self) -> None:
        """Neither the log nor the access log can be written: requests are answered."""
        with open("/dev/full", "wb") as full:
            _, url = self.begin(full, "--access-log", "/dev/full")
        self.ask(url, 50)

    def test_a_full_disk_for_the_access_log(self) -> None:
        """One line says so, whatever the number of requests."""
        server = self.start("--access-log", "/dev/full")
        self.ask(server.url(""), 50)
        server.wait_for("access log: a line cannot be written: .*No space left")
        self.assertEqual(server.output.count("No space left"), 1)
        self.assertNotIn("Traceback", server.output)


class BadFrameTests(LabTestCase):
    """Lines of the log that clients cause."""

    files = project("bounds_machine")

    def test_no_json(self) -> None:
        """Frames without JSON, and for streams that there are not, are counted; the socket stays open."""
        for path, frames in (
            ("/json/", (b"{", b"[" * 100_000, b"")),
            ("/streams/", (b"{", b"1", b'{"stream": "x", "payload": {}}', b'{"stream": "json", "payload": 1}')),
        ):
            client = RawClient(self.server).open(path)
            self.addCleanup(client.close)
            for _ in range(20):
                for frame in frames:
                    client.send_frame(TEXT, frame)
            client.send_frame(TEXT, b'{"stream": "json", "payload": {"a": 1}}')
            self.assertIn('"a": 1', str(client.data()))
        log = self.log()
        self.assertNotIn("Traceback", log)
        self.assertLessEqual(log.count("bad client message"), 2)

    def test_malformed_frames(self) -> None:
        """Frames that break the protocol, too."""
        for _ in range(20):
            with RawClient(self.server).open("/json/") as client:
                client.send(b"\xff\xff")
                client.rest()
        log = self.log()
        self.assertLessEqual(log.count("closed with 1002"), 1)


def _first_line(client: RawClient) -> bytes:
    try:
        return client.read_until(b"\r\n")
    except (TimeoutError, AssertionError):
        return b""


def _status(server: Any) -> int:
    try:
        return int(server.get("/").status_code)
    except requests.ConnectionError:
        return 0


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ThreadRoomTests(SynchronousTestCase):
    """The system has no room for another thread; the pool's are in ``test_pool``."""

    def setUp(self) -> None:
        self.logged: list[str] = []
        self.patch(threads, "thread_log", ThrottledLog(time.monotonic, self.logged.append))

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self.unpatch = self.patch(threading.Thread, "start", start)

    def test_the_event_loop(self) -> None:
        """A message for a coroutine waits, and the loop begins when there is room."""
        loop = EventLoop()
        self.assertRaises(NoThreadError, loop.post, print)
        self.assertRaises(NoThreadError, loop.post, print)
        self.assertFalse(loop.running)
        self.assertEqual(len(self.logged), 1)
        self.unpatch.restore()
        done = threading.Event()
        self.assertTrue(loop.post(done.set))
        self.assertTrue(done.wait(PATIENCE))
        self.assertTrue(loop.stop(PATIENCE))

    def test_to_thread(self) -> None:
        """``asyncio.to_thread`` raises; nothing is done later."""
        executor = _DaemonExecutor()
        called = threading.Event()
        self.assertRaises(NoThreadError, executor.submit, called.set)
        self.unpatch.restore()
        self.assertEqual(executor.submit(lambda: 3).result(PATIENCE), 3)
        self.assertFalse(called.is_set())

    def test_a_stream(self) -> None:
        """A streamed response that needs a thread is refused; one that waits begins later."""
        later: list[Any] = []
        streams = Streams(SimpleNamespace(retry=later.append, thread_done=lambda: None), 1)
        refused: list[int] = []
        guest = SimpleNamespace(away=False, guests=1)
        streams.add(guest, lambda: None, lambda: refused.append(1))
        self.assertEqual((refused, len(streams)), ([1], 0))
        streams.enter()
        begun = threading.Event()
        streams.add(guest, begun.set, lambda: refused.append(2))
        streams.leave()
        self.assertEqual(len(later), 1)
        self.unpatch.restore()
        later[0]()
        self.assertTrue(begun.wait(PATIENCE))
        self.assertEqual(refused, [1])


MEGABYTE = 1024 * 1024


def post(length: int) -> bytes:
    """Return the head of a request with a body."""
    return b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


class BodyDiskTests(StrictTestCase):
    """Disk space for the bodies of all requests together."""

    def test_bounded(self) -> None:
        """Beyond the limit a body gets 507; there is room again when another has been dropped, or read."""
        server = self.make_server(body_disk=250_000, client_memory=MEGABYTE)
        begun = server.connect()
        begun.send(post(200_000) + b"x" * 150_000)
        self.assertEqual(space.used, 150_000)
        refused = server.connect()
        refused.send(post(200_000) + b"x" * 150_000)
        server.turn()
        self.assertTrue(refused.received.startswith(b"HTTP/1.1 507 "), refused.received)
        self.assertEqual(space.used, 150_000)
        begun.leave()
        self.assertEqual(space.used, 0)
        complete = server.connect()
        complete.send(post(200_000) + b"x" * 200_000)
        server.turn()
        delivery = server.take("http.request")
        assert delivery is not None
        self.assertEqual(space.used, 200_000)
        self.assertEqual(len(delivery.attachment.read()), 200_000)
        delivery.attachment.close()
        self.assertEqual(space.used, 0)


class BodyMemoryTests(StrictTestCase):
    """Memory for the bodies of all requests together."""

    def used(self) -> tuple[int, int]:
        """Return the bytes of bodies in memory, and on the disk."""
        return memory_space.used, space.used

    def test_bounded(self) -> None:
        """Beyond the limit a body goes on in a file; there is room again when another has been dropped, or read."""
        server = self.make_server(client_memory=4 * MEGABYTE)
        begun, other = server.connect(), server.connect()
        begun.send(post(400_000) + b"x" * 300_000)
        self.assertEqual(self.used(), (300_000, 0))
        other.send(post(400_000) + b"x" * 200_000)
        self.assertEqual(self.used(), (500_000, 0))
        begun.send(b"x" * 50_000)
        self.assertEqual(self.used(), (200_000, 350_000))
        begun.leave()
        self.assertEqual(self.used(), (200_000, 0))
        other.send(b"x" * 200_000)
        server.turn()
        self.assertEqual(self.used(), (400_000, 0))
        kept = server.site.memory.figures()["used"]
        self.assertTrue(400_000 <= kept < 500_000, kept)  # once
        delivery = server.take("http.request")
        assert delivery is not None
        self.assertEqual(delivery.attachment.read(), b"x" * 400_000)
        with os.fdopen(os.dup(delivery.attachment.fileno()), "rb") as file:  # what another process gets
            self.assertEqual(file.read(), b"x" * 400_000)
        self.assertEqual(self.used(), (400_000, 400_000))
        delivery.attachment.close()
        server.layer.queues.finish(delivery)
        self.assertEqual(self.used(), (0, 0))
        self.assertLess(server.site.memory.figures()["used"], 50_000)

    def test_file_that_nobody_closes(self) -> None:
        """The bytes are free when it is."""
        server = self.make_server()
        server.connect().send(post(100_000) + b"x" * 100_000)
        self.assertEqual(self.used(), (100_000, 0))
        self.assertIsNotNone(server.take("http.request"))
        gc.collect()
        self.assertEqual(self.used(), (0, 0))

    def test_memory_in_use(self) -> None:
        """While clients take half of the memory, bodies go to files."""
        server = self.make_server(client_memory=4 * MEGABYTE)
        server.site.memory.bytes += 2 * MEGABYTE
        server.connect().send(post(200_000) + b"x" * 100_000)
        self.assertEqual(self.used(), (0, 100_000))

    def test_large(self) -> None:
        """A body over the limit for one goes to a file, at once if its length is known."""
        server = self.make_server(client_memory=1024 * MEGABYTE)
        known, chunked = server.connect(), server.connect()
        known.send(post(BODY_IN_MEMORY + 1) + b"x" * 100_000)
        self.assertEqual(self.used(), (0, 100_000))
        known.leave()
        chunked.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(BODY_IN_MEMORY // MEGABYTE):
            chunked.send(b"100000\r\n" + b"x" * MEGABYTE + b"\r\n")
        self.assertEqual(self.used(), (BODY_IN_MEMORY, 0))
        chunked.send(b"1\r\nx\r\n")
        self.assertEqual(self.used(), (0, BODY_IN_MEMORY + 1))


class GiveBackTests(SynchronousTestCase):
    """Freed memory goes back to the system."""

    SCRIPT = """
import os
from channelserver.server.common.machine import give_memory_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

give_memory_back()
before = resident()
del [bytearray(b"x") * 30_000_000][0]
kept = []
for _ in range(40):
    large = bytearray(b"x") * 2_000_000
    kept.append(bytearray(b"x") * 20_000)
    kept.append(large)
del large, kept[1::2]
print(resident() - before)
"""

    BODIES = """
import resource
from channelserver.server.common.machine import give_memory_back

give_memory_back()
for number in range(110):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"".join([bytes([number]) * 262_144 for _ in range(4)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def run_script(self, script: str) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", script]
        return int(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)

    def test_pages_of_megabytes(self) -> None:
        """What small pieces lie between does not keep large ones, also after a much larger one was freed."""
        self.assertLess(self.run_script(self.SCRIPT), 10_000_000)

    def test_uploads(self) -> None:
        """The bodies of uploads of 1 MiB, one after the other, use the same pages of memory: new ones take long."""
        self.assertLess(self.run_script(self.BODIES), 1000)
