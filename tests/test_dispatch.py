"""One dispatcher: each rule has the same result over HTTP/1.1, over HTTP/1.1 with TLS, and over HTTP/2.

A table with a row for each rule and a column for each protocol, on real servers over loopback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from tests.certificates import client_context, write_pair
from tests.http2_client import HTTP2Client
from tests.process import TIMEOUT, Server, ServerTestCase, wait_until
from tests.raw import Raw

URLS = """
    import time
    from pathlib import Path
    from django.http import HttpResponse, JsonResponse
    from django.urls import path, re_path

    HERE = Path(__file__).parent
    NAMES = ("REMOTE_ADDR", "HTTP_HOST", "SCRIPT_NAME", "PATH_INFO", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST",
             "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X_UNDER", "HTTP_X_DASH")

    def meta(request):
        found = {name: request.META[name] for name in NAMES if name in request.META}
        if "scheme" in request.GET:
            found |= {"scheme": request.scheme, "secure": request.is_secure()}
        return JsonResponse(found)

    def body(request):
        return JsonResponse({"size": len(request.read()), "length": request.META.get("CONTENT_LENGTH", "")})

    def hold(request):
        (HERE / "held").touch()
        while not (HERE / "go-on").exists():
            time.sleep(0.01)
        return HttpResponse("held")

    urlpatterns = [path(view.__name__, view) for view in (meta, body, hold)]
    urlpatterns += [re_path("^(-/health|static/.*|media/.*)", lambda request, name: HttpResponse("from Django"))]
"""

#: One hop behind the proxy, and what a client could write to look like one.
FORWARDED = {
    "x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "http", "x-forwarded-host": "localhost:8123",
    "x-real-ip": "198.51.100.7", "forwarded": "for=198.51.100.7;proto=http;host=\"localhost:8123\"",
}  # fmt: skip


class Result(NamedTuple):
    """What a client sees of an answer."""

    status: int
    #: Those of :data:`FIELDS` that are there.
    fields: dict[str, str]
    body: bytes


#: The fields of an answer that the dispatcher and those it asks decide about.
FIELDS = ("content-type", "content-length", "cache-control", "allow", "etag", "vary", "retry-after", "content-encoding")


class Request(NamedTuple):
    """A request, whatever it is sent as."""

    path: str
    method: str = "GET"
    fields: tuple[tuple[str, str], ...] = ()
    #: Parts of the body; before each but the first the client pauses. None: there is no body.
    parts: tuple[bytes, ...] | None = None
    #: Send the body's length before it.
    with_length: bool = True
    #: The body never ends.
    unfinished: bool = False
    #: Do not wait for the answer.
    leave: bool = False

    @property
    def sent_fields(self) -> list[tuple[str, str]]:
        """The fields beside the host."""
        length = [("content-length", str(sum(map(len, self.parts))))] if self.parts and self.with_length else []
        return [*self.fields, *length]


class HTTP1Column:
    """HTTP/1.1, plain or inside TLS.

    :param secure: inside TLS.
    """

    #: The answer came before the last part of the body was sent.
    early = False

    def __init__(self, server: Server, certificate: str, secure: bool) -> None:
        self.raw = Raw(server.port)
        if secure:
            context = client_context(certificate, "http/1.1")
            self.raw.socket = context.wrap_socket(self.raw.socket, server_hostname="localhost")

    def close(self) -> None:
        """Close the connection."""
        self.raw.socket.close()

    def ask(self, request: Request) -> Result:
        """Send a request; return the answer."""
        fields = request.sent_fields
        if request.parts is not None and not any(name == "content-length" for name, _ in fields):
            fields.append(("transfer-encoding", "chunked"))
        chunked = ("transfer-encoding", "chunked") in fields
        lines = [f"{request.method} {request.path} HTTP/1.1", "host: localhost", *(f"{n}: {v}" for n, v in fields)]
        self._send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        for number, part in enumerate(request.parts or ()):
            if number and self._answered():
                self.early = True
                break
            self._send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        else:
            if chunked and not request.unfinished:
                self._send(b"0\r\n\r\n")
        if request.leave:
            return Result(0, {}, b"")
        answer = self.raw.answer(request.method)
        return Result(answer.status, _chosen(answer.headers), answer.body)

    def _send(self, data: bytes) -> None:
        try:
            self.raw.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before its end

    def _answered(self) -> bool:
        """Wait as long as a slow client waits; return whether there is an answer."""
        self.raw.socket.settimeout(PAUSE)
        try:
            return self.raw._more()
        except TimeoutError:
            return False
        finally:
            self.raw.socket.settimeout(TIMEOUT)


class HTTP2Column:
    """HTTP/2."""

    early = False

    def __init__(self, server: Server, certificate: str) -> None:
        self.client = HTTP2Client(server, certificate)
        self.client.authority = "localhost"

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def ask(self, request: Request) -> Result:
        """Send a request; return the answer."""
        client, parts = self.client, request.parts
        number = client.send(request.path, request.method, request.sent_fields, ended=parts is None)
        for index, part in enumerate(parts or ()):
            if index and self._answered(number):
                self.early = True
                break
            client.upload(number, part, ended=index == len(parts or ()) - 1 and not request.unfinished)
        if request.leave:
            return Result(0, {}, b"")
        answer = client.finish(number)
        return Result(answer.status, _chosen(answer.headers.items()), bytes(answer.body))

    def _answered(self, number: int) -> bool:
        self.client.socket.settimeout(PAUSE)
        try:
            self.client.read()
        except TimeoutError:
            pass
        finally:
            self.client.socket.settimeout(TIMEOUT)
        return self.client.answers[number].over


def _chosen(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in fields if name in FIELDS}


#: Seconds between two parts of a body.
PAUSE = 0.25
COLUMNS: dict[str, Callable[[dict[str, Server], str], Any]] = {
    "HTTP/1.1": lambda servers, certificate: HTTP1Column(servers["plain"], certificate, False),
    "HTTP/1.1 with TLS": lambda servers, certificate: HTTP1Column(servers["TLS"], certificate, True),
    "HTTP/2": lambda servers, certificate: HTTP2Column(servers["TLS"], certificate),
}

MAX_FIELDS, MAX_BYTES, MAX_BODY = 20, 4000, 50_000
OPTIONS = (
    "--max-header-fields", str(MAX_FIELDS), "--max-header-bytes", str(MAX_BYTES), "--max-body-bytes", str(MAX_BODY),
    "--body-timeout", "3", "--min-body-rate", "1000", "--media", "--threads", "1",
)  # fmt: skip


def padding(name: str, size: int) -> tuple[tuple[str, str], ...]:
    """Return a field that makes the head of ``GET /meta`` `size` bytes long, as HTTP/1.1 writes it."""
    rest = len("GET /meta HTTP/1.1\r\nhost: localhost\r\n") + len(name) + len(": ")
    return ((name, "x" * (size - rest)),)


class Row(NamedTuple):
    """A rule, a request that tells whether it holds, and the answer."""

    rule: str
    request: Request
    status: int
    #: What the body of the answer, as JSON, has; None stands for a key that is not there.
    shown: dict[str, Any] | None = None
    #: What the text of the answer has in it.
    text: bytes = b""
    #: The answer comes before the last part of the body is sent.
    early: bool = False


#: The answer to a peer that is not trusted: as if it had sent none of these fields.
UNFORGED = {
    "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost", "HTTP_X_FORWARDED_FOR": None, "HTTP_X_FORWARDED_HOST": None,
    "HTTP_X_FORWARDED_PROTO": None, "HTTP_FORWARDED": None, "HTTP_X_REAL_IP": None,
}  # fmt: skip

FIELDS_TOO_MANY = tuple((f"x-{number}", "") for number in range(MAX_FIELDS))

#: On a server that trusts a proxy at another address.
UNTRUSTED = [
    *(Row(f"{name} of an untrusted peer", Request("/meta", fields=((name, value),)), 200, UNFORGED)
      for name, value in FORWARDED.items()),
    Row("health", Request("/-/health"), 200, {"status": "ready"}),
    Row("health: HEAD", Request("/-/health", "HEAD"), 200),
    Row("health: another method", Request("/-/health", "POST", parts=(b"x",)), 405),
    Row("OPTIONS *", Request("*", "OPTIONS"), 204),
    Row("static", Request("/static/a.css"), 200, text=b"static"),
    Row("static: HEAD", Request("/static/a.css", "HEAD"), 200),
    Row("static: a body is of no interest", Request("/static/a.css", parts=(b"x" * 1000,)), 200, text=b"static"),
    Row("static: not there", Request("/static/b.css"), 200, text=b"from Django"),
    Row("media", Request("/media/a.txt"), 200, text=b"media"),
    Row("media: a range", Request("/media/a.txt", fields=(("range", "bytes=1-2"),)), 206, text=b"ed"),
    Row("media: not there", Request("/media/b.txt"), 404),
    Row("as many fields as allowed", Request("/meta", fields=FIELDS_TOO_MANY[:-1]), 200),
    Row("too many fields", Request("/meta", fields=FIELDS_TOO_MANY), 431, text=b"more than 20 header fields"),
    Row("a head as long as allowed", Request("/meta", fields=padding("x-dash", MAX_BYTES)), 200),
    Row("a head that is too long", Request("/meta", fields=padding("x-dash", MAX_BYTES + 1)), 431,
        text=b"request head over 4000 bytes"),
    Row("a line that is too long", Request("/meta?" + "x" * MAX_BYTES), 414, text=b"request line over 4000 bytes"),
    Row("a body", Request("/body", "POST", parts=(b"x" * MAX_BODY,)), 200, {"size": MAX_BODY, "length": str(MAX_BODY)}),
    Row("413, told", Request("/body", "POST", parts=(b"x" * (MAX_BODY + 1),)), 413, text=b"over 50000 bytes"),
    Row("413, found out", Request("/body", "POST", parts=(b"x" * 30_000, b"x" * 30_000), with_length=False), 413,
        text=b"over 50000 bytes"),
    Row("minimum body rate", Request("/body", "POST", parts=(b"x",) * 60, with_length=False, unfinished=True), 408,
        text=b"the request body took too long", early=True),
    Row("a slow body that is quick enough",
        Request("/body", "POST", parts=(b"x" * 30_000, *(b"x",) * 14), with_length=False), 200, {"size": 30_014}),
    Row("a body that stops", Request("/body", "POST", parts=(b"x",), with_length=False, unfinished=True), 408,
        text=b"the request body took too long"),
    Row("HEAD", Request("/meta", "HEAD"), 200),
    Row("a name with an underscore", Request("/meta", fields=(("x_under", "1"), ("x-dash", "2"))), 200,
        {"HTTP_X_UNDER": None, "HTTP_X_DASH": "2"}),
    Row("an expectation", Request("/meta", fields=(("expect", "miracles"),)), 417),
    Row("CONNECT", Request("/meta", "CONNECT"), 501, text=b"CONNECT is not supported"),
    Row("no root path", Request("/meta"), 200, {"SCRIPT_NAME": "", "PATH_INFO": "/meta"}),
]  # fmt: skip

#: On a server that trusts its clients, below a root path.
TRUSTED = [
    *(Row(f"{name} of a trusted peer", Request("/site/meta", fields=((name, FORWARDED[name]),)), 200,
          {"REMOTE_ADDR": "198.51.100.7"}) for name in ("x-forwarded-for", "forwarded")),
    Row("X-Forwarded-Proto: https", Request("/site/meta?scheme", fields=(("x-forwarded-proto", "https"),)), 200,
        {"scheme": "https", "secure": True}),
    Row("X-Forwarded-Proto: http", Request("/site/meta?scheme", fields=(("x-forwarded-proto", "http"),)), 200,
        {"scheme": "http", "secure": False}),
    Row("X-Forwarded-Host of a trusted peer", Request("/site/meta", fields=(("x-forwarded-host", "localhost:8123"),)),
        200, {"HTTP_HOST": "localhost:8123"}),
    Row("all of them", Request("/site/meta?scheme", fields=tuple(FORWARDED.items())), 200,
        {"REMOTE_ADDR": "198.51.100.7", "HTTP_HOST": "localhost:8123", "scheme": "http"}),
    Row("a proxy that contradicts itself",
        Request("/site/meta", fields=(("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=198.51.100.8"))), 400,
        text=b"Forwarded does not agree with X-Forwarded-For"),
    Row("a malformed field", Request("/site/meta", fields=(("x-forwarded-for", "nobody"),)), 400,
        text=b"malformed X-Forwarded-For field"),
    Row("root path", Request("/site/meta"), 200, {"SCRIPT_NAME": "/site", "PATH_INFO": "/meta"}),
    Row("root path: static", Request("/site/static/a.css"), 200, text=b"static"),
    Row("root path: media", Request("/site/media/a.txt"), 200, text=b"media"),
    Row("health, asked by a proxy", Request("/-/health", fields=(("x-forwarded-for", "198.51.100.7"),)), 200,
        {"status": "ready", "connections": None}),
]  # fmt: skip


class DispatchTests(ServerTestCase):
    """The table."""

    files = {"urls.py": URLS, "static/a.css": "static", "media/a.txt": "media"}
    extra_settings = """
        STATIC_ROOT = BASE_DIR / "static"
        MEDIA_ROOT, MEDIA_URL = BASE_DIR / "media", "/media/"
        CHANNEL_LAYERS["default"]["CONFIG"] = {"channel_capacity": {"http.request": 1}}
    """

    def servers(self, *options: str) -> None:
        """Start one server with TLS and one without."""
        self.certificate, key = write_pair(self.folder)
        options = (*OPTIONS, "--local-socket", "", *options)
        plain = self.start(*options)
        self.running = {"plain": plain, "TLS": self.start("--tls-cert", self.certificate, "--tls-key", key, *options)}

    def column(self, name: str) -> Any:
        """Open a connection."""
        column = COLUMNS[name](self.running, self.certificate)
        self.addCleanup(column.close)
        return column

    def ask(self, row: Row, name: str) -> Result:
        """Have a request of the table answered in a column."""
        with closing(self.column(name)) as column:
            result: Result = column.ask(row.request)
            self.assertTrue(column.early or not row.early, f"{row.rule}, {name}: not before the whole body")
            return result

    def check(self, rows: list[Row]) -> None:
        """Have each request of the table answered in each column."""
        for row in rows:
            # What no worker answers takes seconds, and has room for all at once.
            with ThreadPoolExecutor(len(COLUMNS) if row.status == 408 else 1) as threads:
                results = dict(zip(COLUMNS, threads.map(partial(self.ask, row), COLUMNS), strict=True))
            for name, result in results.items():
                where = f"{row.rule}, {name}: {result}"
                self.assertEqual(result.status, row.status, where)
                self.assertIn(row.text, result.body, where)
                if row.request.method == "HEAD":
                    self.assertGreater(int(result.fields["content-length"]), 0, where)
                for key, value in (row.shown or {}).items():
                    self.assertEqual(json.loads(result.body).get(key), value, where)
            if row.rule.startswith("health"):  # its figures have more or fewer digits
                for result in results.values():
                    result.fields.pop("content-length")
            plain, encrypted, http2 = results.values()
            if row.shown is None or "status" not in row.shown:  # figures
                self.assertEqual(encrypted, http2, row.rule)
                self.assertEqual(plain, encrypted, row.rule)

    def test_untrusted(self) -> None:
        """Rules that hold for everyone, and the proxy rules for a peer that is not trusted."""
        self.servers("--trust-proxy", "192.0.2.1")
        self.check(UNTRUSTED)
        for name, server in self.running.items():
            refused = server.get("/-/health", verify=self.certificate).json()["refused"]
            columns = 1 if name == "plain" else 2
            bad = sum(row.status in (400, 413, 414, 417, 431, 501) for row in UNTRUSTED)
            slow = sum(row.status == 408 for row in UNTRUSTED)
            self.assertEqual(refused, {"bad request": bad * columns, "slow request": slow * columns}, name)
            self.assertNotIn("health", server.output)
            self.assertNotIn("Traceback", server.output)

    def test_trusted(self) -> None:
        """The proxy rules for a trusted peer, and a root path."""
        self.servers("--trust-proxy", "127.0.0.1", "--root-path", "/site")
        self.check(TRUSTED)

    def test_busy(self) -> None:
        """503, when the channel is full; what needs no worker is answered all the same."""
        self.servers()
        for name in COLUMNS:
            for file in (self.folder / "go-on", self.folder / "held"):
                file.unlink(missing_ok=True)
            with closing(self.column(name)) as first, closing(self.column(name)) as second:
                first.ask(Request("/hold", leave=True))
                wait_until((self.folder / "held").exists, "the worker is busy")
                second.ask(Request("/hold", leave=True))
                third = self.column(name)
                wait_until(
                    lambda column=third: self.health(column)["queues"]["http.request"] == 1, "the channel is full"
                )
                result = third.ask(Request("/meta"))
                self.assertEqual((result.status, result.body), (503, b"The server is busy; try again in a moment.\n"))
                self.assertEqual(third.ask(Request("/meta", "HEAD")).status, 503)
                self.assertEqual(third.ask(Request("*", "OPTIONS")).status, 204)
                self.assertEqual(third.ask(Request("/static/a.css")).body, b"static")
                self.assertEqual(third.ask(Request("/-/health")).status, 503)
                self.assertEqual(self.health(third)["status"], "overloaded")
                (self.folder / "go-on").touch()
                wait_until(lambda column=third: self.health(column)["busy"] == 0, "the worker is idle")

    def health(self, column: Any) -> dict[str, Any]:
        """Return the server's figures."""
        found: dict[str, Any] = json.loads(column.ask(Request("/-/health")).body)
        return found
