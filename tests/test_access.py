"""The access log."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.access import AccessLog
from channelserver.server.common.lines import Lines

#: A line of Apache's and nginx's "combined" format.
COMBINED = re.compile(
    r'(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [-+]\d{4}\] "([^"]*)" (\d{3}) (\d+) "([^"]*)" "([^"]*)"'
)


def exchange(path: str = "/a", query: bytes = b"", status: int = 200, client: Any = ("192.0.2.7", 50123)) -> Any:
    """Return what the log reads of an exchange."""
    fields = [[b"user-agent", b'Firefox "1"'], [b"referer", b"http://a.example/"]]
    head = SimpleNamespace(method="GET", path=path, query_string=query, headers=fields, version="1.1")
    return SimpleNamespace(head=head, client=client, status=status, size=1234)


class AccessLogTests(SynchronousTestCase):
    """Lines for people and for programs."""

    def setUp(self) -> None:
        self.lines: list[str] = []
        self.text = AccessLog(self.append)
        self.json = AccessLog(self.append, Lines(as_json=True))

    def append(self, line: str) -> None:
        """Note a line; of text the part behind its time, level and logger, which each has."""
        start = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[-+]\d\d:\d\d INFO    channelserver\.access: ", line)
        self.assertTrue(start or line.startswith("{"), line)
        self.lines.append(line[start.end() :] if start else line)

    def test_request(self) -> None:
        """A request's line has method, path with query, status, size, time and client."""
        self.text.http(exchange(query=b"b=c"), 0.01234)
        self.assertEqual(self.lines, ["HTTP GET /a?b=c 200 1234 [0.012 s, 192.0.2.7:50123]"])

    def test_broken_off(self) -> None:
        """A request whose client left says so; without any answer its status is 499."""
        self.text.http(exchange(), 1.0, complete=False)
        self.assertIn("broken off", self.lines[0])
        self.text.http(exchange(status=0), 1.0, complete=False)
        self.assertIn(" 499 ", self.lines[1])

    def test_request_as_json(self) -> None:
        """As JSON, a request is one object on one line."""
        self.json.http(exchange(), 0.5)
        (line,) = self.lines
        self.assertNotIn("\n", line)
        entry = json.loads(line)
        self.assertRegex(entry.pop("ts"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[-+]\d\d:\d\d$")
        self.assertEqual(
            entry,
            {
                "level": "info", "logger": "channelserver.access", "traceback": None,
                "message": "HTTP GET /a 200 1234 [0.500 s, 192.0.2.7:50123]", "protocol": "http", "event": "GET",
                "path": "/a", "client": "192.0.2.7:50123", "status": 200, "size": 1234, "seconds": 0.5,
                "complete": True,
            },
        )  # fmt: skip

    def test_socket(self) -> None:
        """A socket has a line when it opens, closes or is refused, with what is known then."""
        self.text.socket("open", "/s", ("192.0.2.7", 50123))
        self.text.socket("close", "/s", ("192.0.2.7", 50123), code=1000, seconds=1.23456, received=3, sent=4)
        self.text.socket("refuse", "/s", None, status=403)
        self.assertEqual(
            self.lines,
            [
                "WebSocket OPEN /s [192.0.2.7:50123]",
                "WebSocket CLOSE /s [192.0.2.7:50123] code=1000 seconds=1.235 received=3 sent=4",
                "WebSocket REFUSE /s [-] status=403",
            ],
        )

    def test_socket_as_json(self) -> None:
        """As JSON, an event of a socket is an object, too."""
        self.json.socket("close", "/s", None, code=1000)
        entry = json.loads(self.lines[0])
        self.assertEqual(
            (entry["protocol"], entry["event"], entry["code"], entry["client"]), ("websocket", "CLOSE", 1000, "-")
        )

    def test_handshakes(self) -> None:
        """Handshakes are logged only where people watch."""
        self.text.socket("handshake", "/s", None)
        self.assertEqual(self.lines, [])
        self.text.with_handshakes = True
        self.text.socket("handshake", "/s", None)
        self.assertIn("HANDSHAKE", self.lines[0])

    def test_one_word(self) -> None:
        """A path with a blank is quoted, so that nobody takes its end for the status."""
        self.text.http(exchange(path="/a 200 5"), 0.0)
        self.assertIn('HTTP GET "/a 200 5" 200 1234 [', self.lines[0])

    def test_one_line_each(self) -> None:
        """Whatever is in a path, it makes no further line, and does not speak to a terminal."""
        for log in (self.text, self.json):
            del self.lines[:]
            log.http(exchange(path="/a\nHTTP GET /forged 200\r\x1b[2J\x85\u2028", query=b"\xff"), 0.0)
            log.socket("open", "/a\nb\x1b[2J\u2028", None)
            self.assertEqual(len(self.lines), 2)
            for line in self.lines:
                self.assertTrue(line.isprintable(), line)
                self.assertEqual(len(line.splitlines()), 1, line)

    def test_session_keys(self) -> None:
        """A session key in the query string is not for the log; the rest of the query is."""
        for log in (self.text, self.json):
            log.http(exchange(query=b"a=b&session_key=secret&c=d"), 0.0)
            line = self.lines.pop()
            self.assertNotIn("secret", line)
            self.assertIn("a=b&session_key=", line)
            self.assertIn("&c=d", line)

    def test_secrets(self) -> None:
        """No secret parameter is for the log, however its name is written; all others are."""
        hidden = (
            "session_key", "session%5Fkey", "%73ession_key", "SESSION_KEY", "sessionid", "token", "access%5ftoken",
            "api_key", "apikey", "key", "X-Amz-Signature", "sig", "password", "passwd", "client_secret", "auth", "code",
            "%63ode", "sid",
        )  # fmt: skip
        shown = ("keyword", "monkey", "author", "page", "q", "a%20b", "zip_code", "design")
        for log in (self.text, self.json):
            for name in hidden:
                log.http(exchange(query=f"a=b%20c&{name}=hunter2&d=e".encode()), 0.0)
                line = self.lines.pop()
                self.assertNotIn("hunter2", line)
                self.assertIn(f"a=b%20c&{name}=", line)
                self.assertIn("&d=e", line)
            for name in shown:
                log.http(exchange(query=f"{name}=visible".encode()), 0.0)
                self.assertIn(f"?{name}=visible", self.lines.pop())

    def test_full(self) -> None:
        """On request, lines have the user agent and the referer, which no client can forge a line by."""
        log = AccessLog(self.append, style="full")
        log.http(exchange(), 0.5)
        head = exchange().head
        head.headers = [[b"user-agent", b"a\x1b[2J\n\xff\\"]]
        log.socket("open", "/s", None, head)
        self.assertEqual(
            self.lines,
            [
                r'HTTP GET /a 200 1234 [0.500 s, 192.0.2.7:50123] "http://a.example/" "Firefox \x221\x22"',
                r'WebSocket OPEN /s [-] referer="" agent="a\x1b[2J\x0a\xc3\xbf\x5c"',
            ],
        )
        AccessLog(self.append, Lines(as_json=True), "full").http(exchange(), 0.5)
        entry = json.loads(self.lines[2])
        self.assertEqual((entry["referer"], entry["agent"]), ("http://a.example/", 'Firefox "1"'))

    def test_combined(self) -> None:
        """The format of Apache and nginx, as GoAccess and fail2ban read it; a WebSocket has one line."""
        log = AccessLog(self.lines.append, style="combined")
        log.http(exchange("/a b\n", b"c=d&token=x"), 0.5)
        log.socket("open", "/s", None)
        log.socket("close", "/s", None, code=1000)
        log.socket("refuse", "/s", ("2001:db8::1", 5), exchange().head, status=403)
        found = [COMBINED.fullmatch(line) for line in self.lines]
        self.assertEqual(
            [match and match.groups() for match in found],
            [
                ("192.0.2.7", "GET /a%20b%0A?c=d&token=%E2%80%A6 HTTP/1.1", "200", "1234", "http://a.example/",
                 r"Firefox \x221\x22"),
                ("-", "GET /s HTTP/1.1", "101", "0", "-", "-"),
                ("2001:db8::1", "GET /s HTTP/1.1", "403", "0", "http://a.example/", r"Firefox \x221\x22"),
            ],
        )  # fmt: skip

    def test_through_logging(self) -> None:
        """To a logger goes the message, with the figures beside it."""
        log, passed = AccessLog(None), []
        log.pass_on = lambda message, figures: passed.append((message, figures))
        log.http(exchange(), 0.5)
        log.socket("open", "/s", None)
        self.assertEqual(
            [message for message, _ in passed],
            ["HTTP GET /a 200 1234 [0.500 s, 192.0.2.7:50123]", "WebSocket OPEN /s [-]"],
        )
        self.assertEqual(passed[0][1]["status"], 200)

    def test_off(self) -> None:
        """Without a place to write to, no line is made."""
        log = AccessLog(None)
        log._event = self.fail  # type: ignore[method-assign]
        log.http(exchange(), 0.0)
        log.socket("open", "/s", None)

    def test_full_disk(self) -> None:
        """If the log cannot be written, the request goes on, and the error is passed on, to be logged in sums."""

        def full(line: str) -> None:
            raise OSError("disk full")

        log, reasons = AccessLog(full), []
        log.on_error = reasons.append
        log.http(exchange(), 0.0)
        self.assertEqual(reasons, ["a line cannot be written: disk full"])

    def test_unix_socket(self) -> None:
        """A client on a Unix socket has no address."""
        self.text.http(exchange(client=None), 0.0)
        self.assertIn(", -]", self.lines[0])
