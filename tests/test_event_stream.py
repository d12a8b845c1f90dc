"""Event streams: answers that the reactor holds and groups feed."""

from __future__ import annotations

import socket
from typing import Any

import requests
from django.http import StreamingHttpResponse
from twisted.trial.unittest import SynchronousTestCase

import tests  # noqa: F401  # sets Django up
from channelserver import EventStream
from channelserver.layers.events import encode_event
from tests.process import TIMEOUT, Server, ServerTestCase, SharedServerTestCase, project, wait_until

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


class Stream:
    """A client of an event stream."""

    def __init__(self, server: Server, path: str = "/news/") -> None:
        self.answer = requests.get(server.url(path), stream=True, timeout=TIMEOUT)
        self.parts = self.answer.iter_content(None)
        self.text = ""

    def read(self, wanted: str) -> None:
        """Read until the text so far ends with `wanted`."""
        while not self.text.endswith(wanted):
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
                server.get("/send/?text=x&times=100000")
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
