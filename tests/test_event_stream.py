"""Event streams: answers that the reactor holds and groups feed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import requests
from django.http import StreamingHttpResponse
from twisted.trial.unittest import SynchronousTestCase

import tests  # noqa: F401  # sets Django up
from channelserver import EventStream
from channelserver.layers.base import EVENTS
from channelserver.layers.events import encode_event
from channelserver.server.replies import FEEDS_A_TURN, MAX_FEEDS, Replies
from channelserver.workers.responses import give
from tests.crowd import Crowd
from tests.process import TIMEOUT, Server, ServerTestCase, SharedServerTestCase, project, wait_until
from tests.redis_server import RedisServer

FIRST = "retry: 2500\n\ndata: first\ndata: lines\n\nevent: hello\ndata: x\n\n"


class EncodeTests(SynchronousTestCase):
    """Messages as events."""

    def test_text(self) -> None:
        """Each line of text, whatever ends it, is a line of data; no other character ends one."""
        for text, lines in (
            ("a", ["a"]),
            ("", [""]),
            ("a\nb\r\nc\rd", ["a", "b", "c", "d"]),
            ("a\x0b\x85\u2028b", ["a\x0b\x85\u2028b"]),
            ("\n", ["", ""]),
            ("\x00 \U0001f600", ["\x00 \U0001f600"]),
        ):
            self.assertEqual(encode_event({"text": text}).decode(), "".join(f"data: {line}\n" for line in lines) + "\n")

    def test_surrogate(self) -> None:
        """A lone surrogate is replaced."""
        self.assertEqual(encode_event({"text": "a\ud83db"}).decode(), "data: a\ufffdb\n\n")

    def test_fields(self) -> None:
        """The other fields; a line's end in them cannot begin another field."""
        event = encode_event({"text": "not this", "data": "x", "event": "e\ndata: y", "id": "1\x00\r2", "retry": 5})
        self.assertEqual(event, b"event: e data: y\nid: 1 2\nretry: 5\ndata: x\n\n")

    def test_nothing(self) -> None:
        """Bytes alone are no event."""
        self.assertEqual(encode_event({"bytes": b"x"}), b"")


class ResponseTests(SynchronousTestCase):
    """The response that a view returns."""

    def test_head(self) -> None:
        """It streams, is not stored, and passes middleware that measures or compresses."""
        response = EventStream(groups=["a"], headers={"X-Own": "1"})
        self.assertIsInstance(response, StreamingHttpResponse)
        self.assertEqual(response["Content-Type"], "text/event-stream")
        self.assertEqual((response["Cache-Control"], response["X-Accel-Buffering"]), ("no-store", "no"))
        self.assertEqual((response["X-Own"], response.status_code, list(response)), ("1", 200, []))

    def test_wrong(self) -> None:
        """Wrong arguments are errors of the view."""
        wrong: Any
        for wrong in ({"groups": "abc"}, {"groups": ["a b"]}, {"first": [1]}):
            self.assertRaises(TypeError, EventStream, **wrong)


class GiveTests(SynchronousTestCase):
    """How a response comes to the server."""

    def test_member_first(self) -> None:
        """The stream is a member before the client sees anything: what a client then has sent, it gets."""
        done = []
        layer = mock.Mock()
        layer.group_add = lambda group, channel: done.append((group, channel))
        layer.dispatch = lambda channel, content: done.append((channel, sorted(content)))
        response = EventStream(groups=["a", "b"])
        give(layer, "reply", {"status": 200, "headers": []}, {EVENTS: None}, response)
        self.assertEqual(done, [("a", "reply"), ("b", "reply"), ("reply", sorted(["status", "headers", EVENTS]))])


class FeedTests(SynchronousTestCase):
    """A group's message on its way to many streams."""

    def setUp(self) -> None:
        self.posted: list[Any] = []  # what the next turns of the reactor do
        bridge = mock.Mock()
        bridge.post = self.posted.append
        self.replies = Replies(bridge)
        self.seen: dict[str, list[Any]] = {}
        for _ in range(2 * FEEDS_A_TURN + 1):
            self.add(self.replies.events.add)
        self.streams = list(self.seen)

    def add(self, enter: Callable[[str], object]) -> str:
        request = mock.Mock()
        name = self.replies.add(self.replies.http_prefix, request)
        request.feed = request.reply = request.group_reply = self.seen.setdefault(name, []).append
        enter(name)
        return name

    def turn(self) -> None:
        self.posted.pop(0)()

    def test_part_by_part(self) -> None:
        """Each turn of the reactor feeds some streams; each stream has its messages in the order of the sends."""
        self.replies._fan_out(self.streams, {"text": "a"})
        self.assertEqual(sum(map(len, self.seen.values())), FEEDS_A_TURN)
        plain = self.add(lambda name: None)
        self.replies._deliver(plain, {"content": b"at once"})
        self.replies._fan_out(self.streams, {"text": "b"})
        self.replies._deliver(self.streams[0], {"text": "c"})
        self.assertEqual(self.seen.pop(plain), [{"content": b"at once"}])
        while self.posted:
            self.turn()
        wanted = [b"data: a\n\n", b"data: b\n\n"]
        self.assertEqual(self.seen.pop(self.streams[0]), [*wanted, {"text": "c"}])
        self.assertEqual(list(self.seen.values()), [wanted] * (len(self.streams) - 1))

    def test_few(self) -> None:
        """A few streams are fed at once."""
        self.replies._fan_out(self.streams[:3], {"text": "a"})
        self.assertEqual(self.posted, [])
        self.assertEqual(sum(map(len, self.seen.values())), 3)

    def test_close(self) -> None:
        """What ends the streams comes after all that was sent before."""
        self.replies._fan_out(self.streams, {"text": "a"})
        self.replies._fan_out(self.streams, {"close": True})
        self.assertEqual(list(self.seen.values()), [[b"data: a\n\n", {"close": True}]] * len(self.streams))
        while self.posted:
            self.turn()

    def test_flood(self) -> None:
        """A backlog does not grow for ever: beyond a number of sends the reactor does all at once."""
        for _ in range(MAX_FEEDS):
            self.replies._fan_out(self.streams, {"text": "a"})
        self.turn()
        self.assertEqual({len(events) for events in self.seen.values()}, {MAX_FEEDS})
        self.assertEqual(self.posted, [])


class Stream:
    """A client of an event stream."""

    def __init__(self, server: Server, path: str = "/news/") -> None:
        self.answer = requests.get(server.url(path), stream=True, timeout=TIMEOUT)
        self.parts = self.answer.iter_content(None)
        self.text = ""

    def read(self, wanted: str) -> None:
        """Read until the text so far ends with `wanted`."""
        ends = time.monotonic() + TIMEOUT
        while not self.text.endswith(wanted):
            if time.monotonic() > ends:  # the server's pings keep the read from failing
                raise AssertionError(f"{wanted!r} did not come; what came: {self.text!r}")
            self.text += next(self.parts).decode()

    def rest(self) -> str:
        """Read to the end."""
        self.text += b"".join(self.parts).decode()
        return self.text


class ServedTests(SharedServerTestCase):
    """On a real server with one worker thread."""

    files = project("event_stream")
    arguments = ("--threads", "1")
    extra_settings = (
        'MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", "django.middleware.common.CommonMiddleware"]'
    )

    def test_first(self) -> None:
        """What the view says comes first; the head is as it should be, GZipMiddleware notwithstanding."""
        stream = Stream(self.server)
        stream.read(FIRST)
        self.assertEqual(stream.text, FIRST)
        self.assertEqual(stream.answer.headers["Content-Type"], "text/event-stream")
        self.assertNotIn("Content-Encoding", stream.answer.headers)
        self.assertNotIn("Content-Length", stream.answer.headers)

    def test_group(self) -> None:
        """One send reaches sockets and streams, of plain and asynchronous views; the thread is free meanwhile."""
        streams = [Stream(self.server, path) for path in ["/news/", "/async-news/"] * 5]
        for stream in streams:
            stream.read("\n\n")
        with self.server.connect("/") as client:
            self.assertEqual(self.server.get("/send/?text=caf\u00e9").text, "sent")
            self.assertEqual(client.recv(TIMEOUT), "caf\u00e9")
        for stream in streams:
            stream.read("event: e\nid: 7\ndata: caf\u00e9\n\n")

    def test_end(self) -> None:
        """``close`` ends the streams of a group, after a word about when to come back."""
        stream = Stream(self.server)
        stream.read(FIRST)
        self.server.get("/end/")
        self.assertEqual(stream.rest(), FIRST + "retry: 2500\n\n")

    def test_client_leaves(self) -> None:
        """It is no member any more."""
        stream = Stream(self.server)
        stream.read(FIRST)
        self.assertGreaterEqual(self.server.get("/-/health").json()["streams"], 1)
        stream.answer.close()
        wait_until(lambda: self.server.get("/-/health").json()["streams"] == 0, "the end of the stream")
        self.assertEqual(self.server.get("/send/?text=x").text, "sent")

    def test_head_and_old_clients(self) -> None:
        """HEAD has no body; HTTP/1.0 gets events without chunks."""
        answer = requests.head(self.server.url("/news/"), timeout=TIMEOUT)
        self.assertEqual((answer.status_code, answer.headers["Content-Type"]), (200, "text/event-stream"))
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT) as client:
            client.sendall(b"GET /news/ HTTP/1.0\r\nHost: localhost\r\n\r\n")
            seen = b""
            while not seen.endswith(FIRST.encode()):
                seen += client.recv(65536)
            self.assertEqual(seen.partition(b"\r\n\r\n")[2].decode(), FIRST)


class StopTests(ServerTestCase):
    """The end of the server, and clients that do not read."""

    files = project("event_stream")

    def test_drain(self) -> None:
        """SIGTERM ends the streams in an orderly way."""
        server = self.start()
        stream = Stream(server)
        stream.read(FIRST)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(stream.rest(), FIRST + "retry: 2500\n\n")

    def test_slow_reader(self) -> None:
        """A client that does not read is cut off and counted; others go on."""
        server = self.start("--send-buffer-bytes", "100000")
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /news/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertTrue(client.recv(10))
            stream = Stream(server)
            stream.read(FIRST)
            for _ in range(200):
                server.get("/send/?text=x&times=40000")
                stream.read("\n\n")
                refused = server.get("/-/health").json()["refused"]
                if refused:
                    break
            self.assertEqual(refused, {"slow reader": 1})

    def test_siblings(self) -> None:
        """A group's message reaches the streams of other processes."""
        server = self.start("--processes", "2")
        server.wait_for("process 2 serves")
        streams = [Stream(server) for _ in range(8)]
        for stream in streams:
            stream.read(FIRST)
        server.get("/send/?text=x")
        for stream in streams:
            stream.read("event: e\nid: 7\ndata: x\n\n")

    def test_sibling_killed(self) -> None:
        """The streams of a process that dies end; the others go on, and its successor has new ones."""
        server = self.start("--processes", "2")
        server.wait_for("process 2 serves")
        streams: dict[int, list[Stream]] = defaultdict(list)

        def in_both() -> bool:
            stream = Stream(server, "/process/")
            stream.read("\n\n")
            streams[int(stream.text.removeprefix("data: "))].append(stream)
            return len(streams) == 2

        wait_until(in_both, "a stream in each process")
        (killed,) = set(streams) - {server.process.pid}
        os.kill(killed, signal.SIGKILL)
        for stream in streams.pop(killed):
            with self.assertRaises(requests.exceptions.ChunkedEncodingError):
                stream.rest()
        for text in ("while one is dead", "later"):
            server.get(f"/send/?text={text}")
            for stream in streams[server.process.pid]:
                stream.read(f"data: {text}\n\n")
            if text != "later":
                wait_until(in_both, "a stream in the successor")
                streams[server.process.pid] += streams.pop(next(pid for pid in streams if pid != server.process.pid))


class ElsewhereTests(ServerTestCase):
    """The view runs in another process than the one that has the stream."""

    files = project("event_stream")

    def try_streams(self, server: Server) -> None:
        """A group's message reaches streams and sockets; one that has left is no member."""
        wait_until(lambda: server.get("/plain/").text == "plain", "a worker")
        streams = [Stream(server, path) for path in ("/news/", "/async-news/")]
        for stream in streams:
            stream.read("\n\n")
        left = Stream(server)
        left.answer.close()
        with server.connect("/") as client:
            self.assertEqual(server.get("/send/?text=x").text, "sent")
            self.assertEqual(client.recv(TIMEOUT), "x")
        for stream in streams:
            stream.read("event: e\nid: 7\ndata: x\n\n")
        self.assertEqual(server.stop(), 0)
        for stream in streams:
            stream.rest()

    def test_worker_process(self) -> None:
        """``runworker`` beside a server without threads."""
        server = self.start("--threads", "0")
        self.run_process([sys.executable, "manage.py", "runworker", "--threads", "2"])
        self.try_streams(server)

    def test_redis(self) -> None:
        """The same over Redis."""
        redis = RedisServer()
        self.addCleanup(redis.remove)
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(
                "CHANNEL_LAYERS = {'default': {'BACKEND': 'channelserver.layers.RedisChannelLayer', "
                f"'ROUTING': 'routing.channel_routing', 'CONFIG': {{'hosts': ['{redis.url}']}}}}}}\n"
            )
        server = self.start("--threads", "0")
        self.run_process([sys.executable, "manage.py", "runworker", "--threads", "2"])
        self.try_streams(server)


class CrowdTests(ServerTestCase):
    """Hundreds of streams, six threads."""

    files = project("event_stream")

    def streams(self, server: Server, number: int) -> list[socket.socket]:
        """Open event streams; return when each has its first events."""
        clients = []
        for _ in range(number):
            client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
            self.addCleanup(client.close)
            client.sendall(b"GET /news/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            clients.append(client)
        for client in clients:
            self.read(client, b"data: x\n\n\r\n")
        return clients

    @staticmethod
    def read(client: socket.socket, end: bytes) -> bytes:
        """Read until there is nothing more than this."""
        seen = b""
        while not seen.endswith(end):
            part = client.recv(65536)
            assert part, seen[-1000:]
            seen += part
        return seen

    def test_many(self) -> None:
        """500 streams hold no thread: the site answers, and a message reaches each."""
        server = self.start("--threads", "6")
        clients = self.streams(server, 500)
        health = server.get("/-/health").json()
        self.assertEqual((health["streams"], health["busy"], health["status"]), (500, 0, "ready"))
        self.assertLess(len(list(Path(f"/proc/{server.process.pid}/task").iterdir())), 12)
        self.assertEqual(server.get("/plain/").text, "plain")
        server.get("/send/?text=all")
        for client in clients:
            self.read(client, b"event: e\nid: 7\ndata: all\n\n\r\n")
        self.assertEqual(server.get("/plain/").text, "plain")

    def test_sockets_too(self) -> None:
        """A group of 250 WebSockets and 250 streams: each gets the message, which is encoded once for each kind."""
        server = self.start("--threads", "6")
        clients = self.streams(server, 250)
        with Crowd(server.port) as crowd:
            sockets = crowd.grow(250)
            before = server.get("/counts/").json()
            server.get("/send/?text=all")
            for client in clients:
                self.read(client, b"event: e\nid: 7\ndata: all\n\n\r\n")
            for one in sockets:
                self.assertEqual(self.read(one, b"all"), b"\x81\x03all")
            after = server.get("/counts/").json()
        self.assertEqual({what: after[what] - before[what] for what in after}, {"frame": 1, "event": 1})

    def test_any_text(self) -> None:
        """Line ends, NUL, emoji and a mebibyte arrive; bytes are for sockets alone."""
        server = self.start()
        texts = ["a\r\nb\rc\nd", "\x00", "\U0001f600 \u2028 caf\u00e9", "", "\r\n", "x" * 2**20]
        with ExitStack() as stack:
            client = stack.enter_context(server.connect("/", max_size=None))
            stream = Stream(server)
            stream.read(FIRST)
            for text in texts:
                stream.text = ""
                server.post("/post/?as=bytes", data=b"\x00\r\n")
                server.post("/post/?as=text", data=text.encode())
                lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
                stream.read(wanted := "".join(f"data: {line}\n" for line in lines) + "\n")
                self.assertEqual(stream.text, wanted)
                self.assertEqual([client.recv(TIMEOUT), client.recv(TIMEOUT)], [b"\x00\r\n", text])

    def test_never_reads(self) -> None:
        """What waits for clients that never read is bounded: they are cut off before it is 20 MB."""
        server = self.start()
        stream = Stream(server)
        stream.read(FIRST)
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /news/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertTrue(client.recv(10))
            server.get("/send/?text=x&times=500000")  # what the server needs for such a message at all
            stream.read("xx\n\n")
            before = self.memory(server)
            for _ in range(60):
                stream.text = ""
                server.get("/send/?text=x&times=500000")
                stream.read("xx\n\n")
            self.assertLess(self.memory(server) - before, 20_000)
            self.assertEqual(server.get("/-/health").json()["refused"], {"slow reader": 1})

    @staticmethod
    def memory(server: Server) -> int:
        """Return the most memory the server has had, in KiB."""
        text = Path(f"/proc/{server.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:"))


class MiddlewareTests(ServerTestCase):
    """Middleware sees the head, as on any response."""

    files = project("event_stream")
    migrate = True
    extra_settings = 'MIDDLEWARE = ["policy.content_security_policy", *MIDDLEWARE]'

    def test_head(self) -> None:
        """A policy is added, the session is stored and found again."""
        server = self.start("--threads", "1")
        cookies: Any = None
        for visit in ("1", "2"):
            with requests.get(server.url("/in-session/"), stream=True, timeout=TIMEOUT, cookies=cookies) as answer:
                self.assertEqual(answer.headers["Content-Security-Policy"], "default-src 'self'")
                self.assertEqual(next(answer.iter_content(None)).decode(), f"data: {visit}\n\n")
                cookies = cookies or answer.cookies
                self.assertIn("sessionid", cookies)


class PlainIteratorTests(ServerTestCase):
    """Event streams of plain iterators."""

    files = project("event_stream")

    def test_cap(self) -> None:
        """They count as streams that hold a thread: some run, some wait, one more is refused, and the site answers.
        The log says once what to do about it.
        """
        server = self.start("--threads", "2", "--max-streams", "3")
        running = [Stream(server, "/in-thread/") for _ in range(3)]
        for stream in running:
            stream.read("data: 0\n\n")
        waiting = []
        for number in range(4, 7):
            client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
            self.addCleanup(client.close)
            client.sendall(b"GET /in-thread/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            waiting.append(client)
            wait_until(lambda number=number: server.get("/-/health").json()["streams"] == number, "a stream that waits")
        refused = server.get("/in-thread/")
        self.assertEqual((refused.status_code, refused.headers["Retry-After"]), (503, "5"))
        self.assertEqual(server.get("/plain/").text, "plain")
        running[0].answer.close()
        self.assertTrue(waiting[0].recv(10))  # it is its turn
        server.wait_for(
            "the event stream of '/in-thread/' holds a thread .* return channelserver.EventStream, or an async"
        )
        self.assertEqual(server.output.count("holds a thread"), 1)
        server.kill()
