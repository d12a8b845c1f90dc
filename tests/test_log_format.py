"""One format for all lines of the log: text for people, JSON for programs."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.lines import LEVELS, Lines
from channelserver.server.common.options import resolve
from channelserver.start.logs import observer
from tests.process import TIMEOUT, ServerTestCase, project, wait_until
from tests.raw import Raw

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
        server = self.run_process(
            self.command("serve", "--port", "0", "--processes", "2", "--log-format", "json", "--max-body-bytes", "10"),
            PYTHONWARNINGS="default",
        ).wait_until_up()
        server.wait_for("process 2 serves, too")
        paths = ("good", "broken", "broken_too", "words", "twisted", "stream", "query", "group", "nosuch", "a%0ab%20c")

        def ask(number: int) -> int:
            url = server.url(f"/{paths[number % len(paths)]}/?q=%0a\u2028&token=x")
            try:
                return requests.get(
                    url, headers={"Host": "localhost" if number % 7 else "evil"}, timeout=TIMEOUT
                ).status_code
            except requests.exceptions.ChunkedEncodingError:
                return 200

        with ThreadPoolExecutor(4) as threads:
            statuses = list(threads.map(ask, range(200)))
        self.assertEqual({200, 404, 500}, set(statuses))
        server.post("/good/", data=b"x" * 100)
        for _ in range(4):
            with Raw(server.port) as raw:
                raw.send(b"nonsense\r\n\r\n").answer()
            with server.connect("/chat\n") as socket:
                socket.send("a text\nfor an error")
                wait_until(lambda: "a text\\\\nfor an error" in server.output or "a text" in server.output)
        self.manage("send", "elsewhere", "{}")
        server.wait_for("a coroutine")
        self.assertEqual(server.stop(), 0)
        entries = []
        for line in server.lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                self.fail(f"no JSON: {line!r}\n{server.output}")
            self.assertEqual(list(entries[-1])[:5], KEYS, line)
            self.assertIn(entries[-1]["level"], LEVELS)
            self.assertRegex(entries[-1]["ts"], rf"^{STAMP}$")
        tracebacks = "".join(entry["traceback"] or "" for entry in entries)
        for text in (
            "a view\nwith", "an asynchronous view", "ZeroDivisionError", "in a stream", "syntax error",
            "a text\nfor an error", "a coroutine", "legacy error", "nobody handles this", "in the reactor",
        ):  # fmt: skip
            self.assertIn(text, tracebacks)
        requested = [1 for entry in entries if entry["logger"] == "channelserver.access" and "status" in entry]
        self.assertEqual(len(requested), 205)
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


#: Writes access lines into a file of its own.
LOGGING = """
LOGGING = {
    "version": 1,
    "formatters": {"own": {"format": "%(status)s %(size)s %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": BASE_DIR / "site.log", "formatter": "own"}},
    "loggers": {"channelserver.access": {"handlers": ["file"], "propagate": False, "level": "INFO"}},
}
"""
