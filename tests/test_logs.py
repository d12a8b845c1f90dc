"""The access log: complete, one line for each event whatever clients send, and safe to rotate."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.access import AccessLog
from channelserver.server.common.lines import Lines
from channelserver.start.logs import AccessFile
from tests.process import TIMEOUT, ServerTestCase, wait_until
from tests.raw import Raw, head

URLS = """
    from django.http import HttpResponse
    from django.urls import re_path
    urlpatterns = [re_path("(?s).*", lambda request: HttpResponse("x" * 10))]
"""

ROUTING = """
    def receive(message):
        message.reply_channel.send({"text": message["text"]})
        message.reply_channel.send({"text": "and more"})
    channel_routing = {"websocket.receive": receive}
"""

#: Level, logger and traceback of access lines.
KEYS = ("info", "channelserver.access", None)

#: A path that would write a line of its own, color it, and turn its direction; percent-encoded.
EVIL = "/a%0aHTTP%20GET%20/forged%20200%0d%1b%5b31m%e2%80%ae%00%e2%80%a8"


class AccessLogTests(SynchronousTestCase):
    """Without a server."""

    def test_a_rotated_file_is_opened_anew(self) -> None:
        """Moved away, removed, or replaced: the next line goes into a file of the old name."""
        path = Path(self.mktemp())
        log = AccessFile(str(path))
        write = log.write
        self.addCleanup(log.close)
        write("one")
        moved = path.with_suffix(".1")
        path.rename(moved)
        write("two")
        self.assertEqual((moved.read_text(), path.read_text()), ("one\n", "two\n"))
        path.unlink()
        write("three")
        path.with_suffix(".new").write_text("")
        os.replace(path.with_suffix(".new"), path)
        write("four \udcff")
        self.assertEqual(path.read_text(), "four \\udcff\n")

    def test_a_log_that_cannot_be_written(self) -> None:
        """The reason is passed on; the request it was about goes on."""

        def write(line: str) -> None:
            raise OSError("disk full")

        log, reasons = AccessLog(write), []
        log.on_error = reasons.append
        log.socket("open", "/", None)
        self.assertEqual(reasons, ["a line cannot be written: disk full"])

    def test_control_characters(self) -> None:
        """In text a path is one printable word, in JSON it is itself."""
        for as_json in (False, True):
            lines: list[str] = []
            path = "/a\nforged \x1b[31m\u202e\u2028\x00\udcff"
            AccessLog(lines.append, Lines(as_json)).socket("open", path, ["127.0.0.1", 1])
            (line,) = lines
            self.assertTrue(line.isprintable(), line)
            if as_json:
                self.assertEqual(json.loads(line)["path"], path)


class ServedTests(ServerTestCase):
    """With a server."""

    files = {"urls.py": URLS, "routing.py": ROUTING}

    def test_json_lines_tell_all(self) -> None:
        """A line for a request, and two for a WebSocket, with codes, times and counts."""
        server = self.start("--access-log", "access.log", "--log-format", "json")
        server.get("/a?b=c&session_key=secret")
        server.post("/a b", data=b"x")
        with server.connect("/chat/?x") as socket:
            for _ in range(3):
                socket.send("hello")
                self.assertEqual([socket.recv(TIMEOUT), socket.recv(TIMEOUT)], ["hello", "and more"])
            socket.close(4001)
        path = self.folder / "access.log"
        wait_until(lambda: path.read_text().count("\n") == 4, "four lines")
        get, post, opened, closed = (json.loads(line) for line in path.read_text().splitlines())
        for line in (get, post, opened, closed):
            self.assertRegex(line.pop("ts"), r"^\d{4}-\d\d-\d\dT")
            self.assertEqual((line.pop("level"), line.pop("logger"), line.pop("traceback")), KEYS)
            self.assertIn(line["path"], line.pop("message"))
            self.assertRegex(line.pop("client"), r"^127\.0\.0\.1:\d+$")
        for line in (get, post, closed):
            self.assertTrue(0 <= line.pop("seconds") < 60)
        shared = {"protocol": "http", "status": 200, "size": 10, "complete": True}
        self.assertEqual(get, {**shared, "event": "GET", "path": "/a?b=c&session_key=…"})
        self.assertEqual(post, {**shared, "event": "POST", "path": "/a b"})
        self.assertEqual(opened, {"protocol": "websocket", "event": "OPEN", "path": "/chat/"})
        self.assertEqual(
            closed,
            {"protocol": "websocket", "event": "CLOSE", "path": "/chat/", "code": 4001, "received": 3, "sent": 6},
        )

    def test_no_client_writes_lines_of_its_own(self) -> None:
        """Whatever a path, a query, a host or an origin holds: each line of the log is one of ours."""
        server = self.start()
        with Raw(server.port) as raw:
            raw.request(EVIL)
            raw.request(f"/?q={EVIL}")
        for fields in (["Origin: http://evil\x85\u00a0[31m"], ["Sec-WebSocket-Protocol: a"], []):
            host = "evil.example" if not fields else "localhost"
            with Raw(server.port) as raw:
                lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", *fields)
                key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
                raw.send(head(f"GET {EVIL} HTTP/1.1", key, *lines, host=host)).answer()
        self.assertEqual(server.stop(), 0)
        for line in server.lines:
            self.assertRegex(line, r"\A(HTTP |WebSocket |\d{4}-\d\d-\d\dT)")
            self.assertTrue(line.isprintable(), line)
        self.assertEqual(server.output.count("GET /forged"), server.output.count("HTTP GET /forged"))
        self.assertIn("bad request", server.output)

    def test_django_logs_once(self) -> None:
        """Under DEBUG, with Django's default LOGGING: before and after the first request for an asynchronous view."""
        self.write(
            {
                "urls.py": """
                    from django.urls import path
                    def plain(request): raise ValueError("one")
                    async def asynchronous(request): raise ValueError("two")
                    urlpatterns = [path("plain/", plain), path("asynchronous/", asynchronous)]
                """
            }
        )
        with (self.folder / "settings.py").open("a") as stream:
            stream.write("DEBUG = True\n")
        server = self.start()
        for path in ("/plain/", "/asynchronous/", "/plain/", "/asynchronous/", "/nosuch/"):
            server.get(path)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(server.output.count("Internal Server Error: /plain/"), 2)
        self.assertEqual(server.output.count("Internal Server Error: /asynchronous/"), 2)
        self.assertEqual(server.output.count("Not Found: /nosuch/"), 1)

    def test_bad_requests_do_not_flood_the_log(self) -> None:
        """A hundred of them are a line at once, and a sum later; the access log has them all."""
        server = self.start("--access-log", "access.log")
        for _ in range(100):
            with Raw(server.port) as raw:
                self.assertEqual(raw.send(b"nonsense\r\n\r\n").answer().status, 400)
        wait_until(lambda: (self.folder / "access.log").read_text().count(" 400 ") == 100, "a hundred lines")
        server.wait_for("bad request")
        lines = [line for line in server.lines if "bad request" in line]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("bad request: malformed request line (client 127.0.0.1)", lines[0])
        self.assertEqual(server.get("/-/health").json()["refused"], {"bad request": 100})
