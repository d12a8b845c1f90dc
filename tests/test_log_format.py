"""One format for all lines of the log: text for people, JSON for programs."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from channelserver.server.common.lines import LEVELS, Lines
from channelserver.server.common.options import resolve
from channelserver.start.logs import observer
from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until
from tests.raw import Raw

#: How long the server is busy.
BUSY_SECONDS = float(os.environ.get("CHANNELSERVER_TEST_BUSY_SECONDS", "10"))

#: The keys of each line.
KEYS = ["ts", "level", "logger", "message", "traceback"]

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[-+]\d\d:\d\d"


class LinesTests(SynchronousTestCase):
    """Lines, without a server."""

    def test_text(self) -> None:
        """Time, level, logger, message; a traceback follows."""
        self.assertRegex(Lines(False).line("info", "a.b", "hello"), rf"\A{STAMP} INFO    a\.b: hello\Z")
        line = Lines(False).line("error", "a", "hello", 1.9996, "Traceback:\n  x\n")
        self.assertRegex(line, rf"\A{STAMP} ERROR   a: hello\nTraceback:\n  x\Z")
        self.assertIn(":01.999", line)

    def test_colours(self) -> None:
        """Only levels have them, and only on a terminal; never in JSON."""
        for level in LEVELS:
            line = Lines(False, colours=True).line(level, "a", "hello")
            self.assertEqual(re.sub(r"\x1b\[[\d;]+m", "", line)[30:], Lines(False).line(level, "a", "hello")[30:])
            self.assertIn(f"m{level.upper()}", line)
            self.assertNotIn("\x1b", Lines(True, colours=True).line(level, "a", "hello"))

    def test_json(self) -> None:
        """Five keys, in this order, and others behind."""
        entry = json.loads(Lines(True).line("error", "a", 'b "c"\n', 0, None, more=[object]))
        self.assertEqual(list(entry), [*KEYS, "more"])
        self.assertRegex(entry.pop("ts"), rf"^{STAMP}$")
        self.assertEqual(list(entry.values())[:4], ["error", "a", 'b "c"\n', None])


class ObserverTests(SynchronousTestCase):
    """What is written of events."""

    def write(self, level: str, **options: Any) -> tuple[Logger, io.StringIO]:
        stream = io.StringIO()
        log = LogPublisher(observer(resolve({"log_level": level, "log_format": "text", **options}, {}), stream))
        return Logger("a", observer=log), stream

    def test_levels(self) -> None:
        """What is less important than ``--log-level`` is left out."""
        for number, level in enumerate(LEVELS):
            log, stream = self.write(level)
            for method in (log.debug, log.info, log.warn, log.error, log.critical):
                method("hello")
            self.assertEqual(stream.getvalue().count("\n"), 5 - number)

    def test_noise(self) -> None:
        """What Twisted says of ports is left out, unless debugging; what others say is not."""
        for level, count in (("info", 2), ("debug", 5)):
            log, stream = self.write(level)
            for text in ("HTTPFactory starting on 80", "(TCP Port 80 Closed)", "Server Shut Down.", "my own"):
                log.namespace = "twisted.scripts" if text == "Server Shut Down." else "log_legacy"
                log.info(text)
            log.namespace = "twisted.internet"
            log.emit(LogLevel.warn, "a warning")
            self.assertEqual(stream.getvalue().count("\n"), count, stream.getvalue())


class ServedTests(ServerTestCase):
    """With a server."""

    files = project("log_format")

    def test_each_line_is_json(self) -> None:
        """Of a busy while in two processes, with all sorts of errors: each line parses and has the five keys."""
        with (self.folder / "settings.py").open("a") as stream:
            stream.write(JOBS)
        self.make_tables()
        server = self.run_process(
            self.command("serve", "--port", "0", "--processes", "2", "--log-format", "json", "--max-body-bytes", "10"),
            PYTHONWARNINGS="default",
        ).wait_until_up()
        server.wait_for("process 2 serves, too")
        ends = time.monotonic() + BUSY_SECONDS
        with ThreadPoolExecutor(8) as threads:
            clients = [threads.submit(client, server, ends) for client in (ask, ask, ask, talk, err, listen)]
        answers = sum((client.result() for client in clients), Counter[int]())
        self.assertLessEqual({200, 400, 404, 413, 500, 101, 403}, set(answers))
        self.manage("send", "elsewhere", "{}")
        server.wait_for("a coroutine\\b")
        server.wait_for("a coroutine's job.*failed|failed.*a coroutine's job")
        self.assertEqual(server.stop(), 0)
        entries = []
        for line in server.lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                self.fail(f"no JSON: {line!r}")
            self.assertEqual(list(entries[-1])[:5], KEYS, line)
            self.assertIn(entries[-1]["level"], LEVELS)
            self.assertRegex(entries[-1]["ts"], rf"^{STAMP}$")
        tracebacks = "".join(entry["traceback"] or "" for entry in entries)
        for text in (
            "a view\nwith", "an asynchronous view", "ZeroDivisionError", "in a stream", "syntax error",
            "a text\nfor an error", "a coroutine", "legacy error", "nobody handles this", "in the reactor",
            "a job\nwith two lines", "a coroutine's job",
        ):  # fmt: skip
            self.assertIn(text, tracebacks)
        logged = Counter(
            entry["status"] for entry in entries if entry["logger"] == "channelserver.access" and "status" in entry
        )
        for status in (200, 404, 413, 500):
            self.assertEqual(logged[status], answers[status], f"{status}: {logged} {answers}")
        opened = [1 for entry in entries if entry.get("protocol") == "websocket" and entry["event"] == "OPEN"]
        self.assertEqual(len(opened), answers[101])
        messages = "\n".join(entry["message"] for entry in entries)
        self.assertIn("caught: said\nin two lines", messages)
        self.assertNotIn("below the level", messages)
        self.assertIn(2, {entry.get("process") for entry in entries})
        self.assertIn("'%s of %s' does not fit its arguments", messages)

    def test_text_and_level(self) -> None:
        """``--log-level warning`` leaves out the banner and what is logged of requests; what is printed stays."""
        self.write({"urls.py": "print('printed')\n" + self.files["urls.py"]})
        arguments = ("--port", "0", "--log-format", "text", "--log-level", "warning", "--unix-socket", "site.sock")
        for command in (self.command("serve", *arguments), self.twistd("--settings", "settings", *arguments)):
            server = self.run_process(command)
            wait_until((self.folder / "site.sock").exists)
            server.wait_for("migrations")
            self.assertEqual(server.stop(), 0)
            self.assertIn("printed", server.lines)
            for line in server.lines:
                self.assertRegex(line, rf"^(printed|{STAMP} WARNING channelserver\.check: .*)$")

    def test_access_log_through_logging(self) -> None:
        """To handlers of the project, with the figures; and in the combined format, to a file."""
        with (self.folder / "settings.py").open("a") as stream:
            stream.write(LOGGING)
        server = self.start("--access-log", "logging")
        server.get("/good/", headers={"User-Agent": "me"})
        wait_until(lambda: (self.folder / "site.log").read_text().count("\n") == 1)
        self.assertRegex((self.folder / "site.log").read_text(), r"^200 4 HTTP GET /good/ 200 4 \[")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("GET /good/", server.output)
        server = self.start("--access-log", "access.log", "--access-format", "combined")
        server.get("/good/", headers={"User-Agent": "me", "Referer": "http://localhost/"})
        with server.connect("/chat", user_agent_header="it"):
            pass
        self.assertEqual(server.stop(), 0)
        get, socket = (self.folder / "access.log").read_text().splitlines()
        self.assertRegex(get, r'^127\.0\.0\.1 - - \[.*\] "GET /good/ HTTP/1.1" 200 4 "http://localhost/" "me"$')
        self.assertRegex(socket, r'^127\.0\.0\.1 - - \[.*\] "GET /chat HTTP/1.1" 101 0 "-" "it"$')


def ask(server: Server, ends: float) -> Counter[int]:
    """Ask for all pages in turn until a time has come; return the statuses."""
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        while time.monotonic() < ends:
            for path in ("good", "broken", "broken_too", "words", "twisted", "stream", "query", "group", "nosuch",
                         "a%0ab%20c", "jobs"):  # fmt: skip
                url = server.url(f"/{path}/?q=%0a\u2028&token=x")
                try:
                    statuses[session.get(url, headers={"User-Agent": 'a "b" \\x'}, timeout=TIMEOUT).status_code] += 1
                except requests.exceptions.ChunkedEncodingError:
                    statuses[200] += 1
    return statuses


def talk(server: Server, ends: float) -> Counter[int]:
    """Open WebSockets whose messages are errors, and some that are refused."""
    statuses: Counter[int] = Counter()
    while time.monotonic() < ends:
        with server.connect("/chat%0a") as socket:
            socket.send("a text\nfor an error")
            socket.send(b"no text")
            statuses[101] += 1
        try:
            with server.connect("/chat", origin=Origin("http://evil.example")):
                statuses[101] += 1
        except InvalidStatus as error:
            statuses[error.response.status_code] += 1
    return statuses


def err(server: Server, ends: float) -> Counter[int]:
    """Send what is no request, or too large."""
    statuses: Counter[int] = Counter()
    while time.monotonic() < ends:
        for data in (b"nonsense \xff\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
            with Raw(server.port) as raw:
                statuses[raw.send(data).answer().status] += 1
        statuses[server.post("/good/", data=b"x" * 100).status_code] += 1
    return statuses


def listen(server: Server, ends: float) -> Counter[int]:
    """Open event streams, and leave them."""
    statuses: Counter[int] = Counter()
    while time.monotonic() < ends:
        with requests.get(server.url("/events/"), stream=True, timeout=TIMEOUT) as answer:
            statuses[answer.status_code] += 1
            next(answer.iter_lines())
    return statuses


#: Adds jobs to the settings.
JOBS = """
INSTALLED_APPS += ["channelserver.jobs"]
TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend"}}
"""

#: Writes access lines into a file of its own.
LOGGING = """
LOGGING = {
    "version": 1,
    "formatters": {"own": {"format": "%(status)s %(size)s %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": BASE_DIR / "site.log", "formatter": "own"}},
    "loggers": {"channelserver.access": {"handlers": ["file"], "propagate": False, "level": "INFO"}},
}
"""
