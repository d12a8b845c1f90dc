"""Static files served by the reactor."""

from __future__ import annotations

import gzip
import os
import pathlib
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.settings import SettingCodes

from channelserver.server.common.access import AccessLog
from channelserver.server.edge import memory, static
from channelserver.server.edge.files import OpenFile
from channelserver.server.edge.static import LOOK_SECONDS, SETTLE_SECONDS, WAITS, StaticFiles
from channelserver.server.http import source
from channelserver.server.http.dispatch import MAX_KEY, Dispatcher
from channelserver.server.http.reader import MAX_EMPTY_LINES
from channelserver.server.http.source import BLOCK
from channelserver.server.http2.connection import HTTP2Connection
from channelserver.server.http2.state import State
from tests.fakes import Client, FakeServer, FakeTransport, Response, StrictTestCase, get, parse_responses, request

LARGE = bytes(range(256)) * 4096  # a megabyte
CSS = b"body { color: teal }\n" * 100


Asking = Callable[..., Response]


class StaticTestCase(StrictTestCase):
    """A server with a folder of files, under /static/."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.outside = pathlib.Path(folder.name)
        self.folder = self.outside / "files"
        self.write("chat.css", CSS)
        self.write("large.bin", LARGE)
        self.write("small.txt", b"small")
        self.server = self.serve()

    def write(self, path: str, data: bytes) -> pathlib.Path:
        """Write a file into the folder."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (1_500_000_000, 1_500_000_000))
        return file

    def serve(self, *arguments: Any, **more: Any) -> FakeServer:
        """Make the list of files, and a server for it."""
        self.files = StaticFiles(str(self.folder), *(arguments or ("/static/",)), **more)
        self.server = self.make_server(static=self.files)
        return self.server

    def ask(self, path: str, *lines: str, method: str = "GET") -> Response:
        """Request a path; return the response, which must be the static files'."""
        client = self.server.connect()
        client.send(request(method, path, *lines))
        self.assertIsNone(self.server.take("http.request"), f"{path} went to Django")
        return client.response(method)

    def assertDjangos(self, path: str) -> None:
        """Assert that a path is none of the files': Django gets it."""
        self.assertEqual(self.server.connect().request(get(path))["query_string"], b"")


class FileTests(StaticTestCase):
    """Whole files."""

    def test_file(self) -> None:
        """A file is sent with its type, length, tag, time, and how long it may be kept."""
        response = self.ask("/static/chat.css")
        self.assertEqual((response.status, response.body), (200, CSS))
        self.assertEqual(response.header("content-type"), 'text/css; charset="utf-8"')
        self.assertEqual(response.header("content-length"), str(len(CSS)))
        self.assertEqual(response.header("last-modified"), "Fri, 14 Jul 2017 02:40:00 GMT")
        self.assertRegex(response.header("etag") or "", r'^"[0-9a-f]+-[0-9a-f]+"$')
        self.assertIn("max-age=60", response.header("cache-control") or "")

    def test_connection_is_kept(self) -> None:
        """Several files come on one connection, in order."""
        client = self.server.connect()
        client.send(get("/static/chat.css") + get("/static/small.txt") + get("/static/chat.css"))
        self.assertEqual([response.body for response in client.responses()], [CSS, b"small", CSS])
        self.assertFalse(client.transport.over)

    def test_every_answer_closes_its_file(self) -> None:
        """Whatever the answer is, no descriptor is left open."""
        before = os.listdir("/proc/self/fd")
        for lines, status in (
            ((), 200), (("Range: bytes=0-9",), 206), (("Range: bytes=9999999-",), 416), (("If-None-Match: *",), 304),
        ):  # fmt: skip
            for name in ("chat.css", "large.bin"):
                self.assertEqual(self.ask(f"/static/{name}", *lines).status, status)
        self.ask("/static/chat.css", method="HEAD")
        self.ask("/static/chat.css", method="POST")
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_empty_file(self) -> None:
        """A file may be empty."""
        self.write("empty.txt", b"")
        response = self.ask("/static/empty.txt")
        self.assertEqual((response.status, response.body, response.header("content-length")), (200, b"", "0"))

    def test_sizes_around_a_block(self) -> None:
        """Files of a block, and a byte more or less, are whole."""
        for size in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK):
            self.write("file.bin", LARGE[:size])
            self.serve()
            self.assertEqual(self.ask("/static/file.bin").body, LARGE[:size], size)

    def test_head(self) -> None:
        """HEAD gets the same headers, and no body."""
        client = self.server.connect()
        client.send(request("HEAD", "/static/chat.css"))
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        self.assertEqual(client.response("HEAD").header("content-length"), str(len(CSS)))
        client.send(get("/static/small.txt"))
        self.assertEqual(len(client.responses("HEAD")), 2)

    def test_other_methods(self) -> None:
        """Other methods are refused with 405, which tells the right ones."""
        for method in ("POST", "PUT", "DELETE"):
            response = self.ask("/static/chat.css", method=method)
            self.assertEqual((response.status, response.header("allow"), response.body), (405, "GET, HEAD", b""))

    def test_query_string(self) -> None:
        """A query string, as some pages add to beat caches, changes nothing."""
        self.assertEqual(self.ask("/static/chat.css?v=2").body, CSS)

    def test_subfolders_and_odd_names(self) -> None:
        """Files in folders are there, and names with blanks and umlauts, percent-encoded."""
        self.write("a/b/ö x.txt", b"found")
        self.serve()
        self.assertEqual(self.ask("/static/a/b/%C3%B6%20x.txt").body, b"found")

    def test_mounted_site(self) -> None:
        """On a mounted site the files are below its root, which the proxy may have cut off."""
        self.serve("/static/", "/app")
        self.assertEqual(self.ask("/app/static/chat.css").body, CSS)
        self.assertEqual(self.ask("/static/chat.css").body, CSS)
        self.assertDjangos("/application/static/chat.css")

    def test_access_log(self) -> None:
        """Files are in the access log."""
        self.ask("/static/chat.css")
        self.assertTrue(self.server.access[0].startswith("HTTP GET /static/chat.css 200 2100 "), self.server.access)


class OtherPathTests(StaticTestCase):
    """What is no file goes to Django."""

    def test_unknown_names(self) -> None:
        """Other paths, folders, and names in another case are none of the files'."""
        self.write("a/b.txt", b"x")
        self.serve()
        for path in (
            "/", "/static", "/static/", "/static/none.css", "/static/a", "/static/a/", "/static/CHAT.CSS", "/chat.css",
            "/staticchat.css", "/static/chat.css/", "/static//chat.css",
            "//static/chat.css", "/static/chat.css%00",
        ):  # fmt: skip
            self.assertDjangos(path)

    def test_no_way_out(self) -> None:
        """No path leads out of the folder, however it is written."""
        (self.outside / "secret.txt").write_bytes(b"secret")
        for path in (
            "/static/../secret.txt", "/static/%2e%2e/secret.txt", "/static/..%2fsecret.txt",
            "/static/a/../../secret.txt", "/static/..%5csecret.txt", "/static/%2e%2e%2fsecret.txt",
            "/static/./chat.css", "/static/a/../chat.css",
            "/static/" + "%2f" + str(self.outside).lstrip("/") + "/secret.txt",
        ):  # fmt: skip
            self.assertDjangos(path)

    def test_hidden_files(self) -> None:
        """Files and folders whose name begins with a dot stay hidden."""
        for name in (".htpasswd", ".git/config", "a/.env", "a/.svn/b/c.txt"):
            self.write(name, b"secret")
        self.write("a/b.c.txt", b"open")
        self.serve()
        for name in (".htpasswd", ".git/config", "a/.env", "a/.svn/b/c.txt"):
            self.assertDjangos("/static/" + name)
        self.assertEqual(self.ask("/static/a/b.c.txt").body, b"open")


class ChangeTests(StaticTestCase):
    """Files that come, change and go while the server runs."""

    def test_file_that_comes(self) -> None:
        """A new file is found at once, also where another request has missed it."""
        self.assertDjangos("/static/later.css")
        self.write("later.css", b"x")
        self.assertEqual(self.ask("/static/later.css").body, b"x")

    def test_file_that_goes(self) -> None:
        """A file that has gone may be about to be replaced: its requests wait a moment, then get 404; and after that
        its path is Django's.
        """
        self.ask("/static/chat.css")
        (self.folder / "chat.css").unlink()
        clients = [self.server.connect() for _ in range(3)]
        for client in clients:
            client.send(get("/static/chat.css"))
            self.assertEqual(client.received, b"")
        self.server.pass_time(SETTLE_SECONDS)
        self.assertEqual([client.response().status for client in clients], [404] * 3)
        self.assertDjangos("/static/chat.css")

    def test_file_that_is_replaced_by_collectstatic(self) -> None:
        """It removes the file, makes it anew and writes it: whoever asks meanwhile waits, and gets the new one."""
        self.ask("/static/chat.css")
        (self.folder / "chat.css").unlink()
        client = self.server.connect()
        client.send(get("/static/chat.css"))
        with open(self.folder / "chat.css", "wb") as file:
            self.server.pass_time(SETTLE_SECONDS)
            self.assertEqual(client.received, b"", "it is still empty")
            file.write(b"new " * 100)
        os.utime(self.folder / "chat.css", (1_500_000_001, 1_500_000_001))
        self.server.pass_time(SETTLE_SECONDS)
        self.assertEqual(client.response().body, b"new " * 100)

    def test_client_that_does_not_wait(self) -> None:
        """A client may leave while its file is about to be replaced."""
        self.ask("/static/chat.css")
        (self.folder / "chat.css").unlink()
        client = self.server.connect()
        client.send(get("/static/chat.css"))
        client.leave()
        self.server.pass_time(SETTLE_SECONDS)

    def test_file_that_changes_all_the_time(self) -> None:
        """Such a file is sent as it is, after some waiting."""
        client = self.server.connect()
        for number in range(WAITS):
            with open(self.folder / "chat.css", "ab") as file:
                file.write(b"more")
            if number == 0:
                client.send(get("/static/chat.css"))
            self.assertEqual(client.received, b"")
            self.server.pass_time(SETTLE_SECONDS)
        self.assertEqual(client.response().body, CSS + b"more" * WAITS)

    def test_same_size_within_a_second(self) -> None:
        """Another content of the same length has another tag, even if it was written in the same second."""
        tags = []
        for moment, content in ((100, b"one"), (200, b"two")):
            path = self.write("small.txt", content)
            os.utime(path, ns=(moment, moment))
            response = self.ask("/static/small.txt")
            self.assertEqual(response.body, content)
            tags.append(response.header("etag"))
        self.assertNotEqual(*tags)

    def test_many_files(self) -> None:
        """What the server knows of files is bounded, however many paths lead to one."""
        self.patch(static, "MAX_KNOWN", 10)
        (self.folder / "again").symlink_to(self.folder)
        for depth in range(30):
            self.assertEqual(self.ask("/static/" + "again/" * depth + "chat.css").body, CSS)
            self.assertLessEqual(len(self.files._known), 10)


class MemoryTests(StaticTestCase):
    """Small files that are sent from memory."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(memory, "SETTLED", 0.0)
        self.opened: list[str] = []
        self.patch(static, "OpenFile", self._open)

    def _open(self, place: str) -> OpenFile:
        self.opened.append(os.path.basename(place))
        return OpenFile(place)

    def serve(self, *arguments: Any, **more: Any) -> FakeServer:
        """The same, without an access log: with one, heads are read."""
        server = super().serve(*arguments, **more)
        server.site.access_log = AccessLog(None)
        return server

    def connect(self, *lines: str) -> Asking:
        """Open a connection; return what requests a path on it, and returns the response."""
        client = self.server.connect()

        def ask(path: str, *more: str, method: str = "GET", version: str = "1.1") -> Response:
            client.send(request(method, path, *lines, *more, version=version))
            self.assertIsNone(self.server.take("http.request"), f"{path} went to Django")
            return parse_responses(client.news(), method)[0]

        return ask

    def test_once_opened(self) -> None:
        """A small file is opened once, whoever asks; the answer is the same but for its date."""
        first = self.ask("/static/chat.css")
        for ask in (self.connect(), self.connect("Cookie: a=b")):
            for _ in range(3):
                response = ask("/static/chat.css")
                self.assertEqual((response.status, response.body), (200, CSS))
                for headers in (response.headers, first.headers):
                    headers[:] = sorted(header for header in headers if header[0] != "date")
                self.assertEqual(response.headers, first.headers)
        self.assertEqual(self.opened, ["chat.css"])

    def test_date(self) -> None:
        """The date is that of the answer."""
        ask = self.connect()
        for second in (b"1", b"2"):
            self.server.site.date_field = lambda value=second: (b"Date", value, b"Date: %b\r\n" % value)  # type: ignore[method-assign,misc]
            for _ in range(3):
                response = ask("/static/chat.css")
                self.assertEqual((response.header("date"), response.body), (second.decode(), CSS))

    def test_hsts(self) -> None:
        """Over HTTPS the answer says that browsers are to use HTTPS only, if the site does."""
        client = self.server.connect()
        client.protocol.hsts = (b"Strict-Transport-Security", b"1", b"Strict-Transport-Security: 1\r\n")
        for _ in range(3):
            client.send(get("/static/chat.css"))
            response = parse_responses(client.news())[0]
            self.assertEqual((response.header("strict-transport-security"), response.body), ("1", CSS))
        self.assertIsNone(self.connect()("/static/chat.css").header("strict-transport-security"))

    def test_changes(self) -> None:
        """Every change shows in the next answer, even if size and time are as before; so does a file's end."""
        path, ask = self.folder / "small.txt", self.connect()
        for content in (b"other", b"longer than before", b"", b"again"):
            self.write("small.txt", content)
            for _ in range(3):
                self.assertEqual(ask("/static/small.txt").body, content)
        for content in (b"third", b"forth"):
            os.replace(self.write("new.txt", content), path)
            for _ in range(3):
                self.assertEqual(ask("/static/small.txt").body, content)
        path.unlink()
        client = self.server.connect()
        client.send(get("/static/small.txt"))
        self.server.pass_time(SETTLE_SECONDS)
        self.assertEqual(client.response().status, 404)

    def test_one_look_in_a_turn(self) -> None:
        """In one turn of the reactor a file is looked at once."""
        self.patch(self.server.site.bridge, "turn_began", lambda: 17.0)
        ask = self.connect()
        for _ in range(2):
            self.assertEqual(ask("/static/small.txt").body, b"small")
        (self.folder / "small.txt").unlink()
        self.assertEqual(ask("/static/small.txt").body, b"small")
        self.patch(self.server.site.bridge, "turn_began", lambda: 18.0)
        self.write("small.txt", b"new")
        self.assertEqual(ask("/static/small.txt").body, b"new")

    def test_just_changed(self) -> None:
        """A file that has just been changed is read each time: the next change might not show."""
        self.patch(memory, "SETTLED", 1e6)
        ask = self.connect()
        for _ in range(3):
            self.assertEqual(ask("/static/small.txt").body, b"small")
        self.assertEqual((self.opened, len(self.files._memory)), (["small.txt"] * 3, 0))

    def test_large_files(self) -> None:
        """They are not kept."""
        ask = self.connect()
        self.write("larger.bin", LARGE[: BLOCK + 1])
        self.write("block.bin", LARGE[:BLOCK])
        for _ in range(2):
            self.assertEqual(ask("/static/larger.bin").body, LARGE[: BLOCK + 1])
            self.assertEqual(ask("/static/block.bin").body, LARGE[:BLOCK])
        self.assertEqual(self.opened, ["larger.bin", "block.bin", "larger.bin"])

    def test_limit(self) -> None:
        """All together have a limit in bytes; those that came first go first, whatever refers to them."""
        self.patch(memory, "MAX_BYTES", 4 * (1000 + memory.ENTRY))
        ask, kept = self.connect(), []
        for number in range(10):
            self.write(f"{number}.bin", b"%d" % number * 1000)
            for _ in range(2):
                self.assertEqual(ask(f"/static/{number}.bin").body, b"%d" % number * 1000)
            self.assertLessEqual(self.files._memory.bytes, memory.MAX_BYTES)
            kept.append(self.files._memory.get(f"/static/{number}.bin", b""))
        self.assertEqual([each.is_current(0.0, lambda: 0.0) for each in kept if each], [False] * 6 + [True] * 4)
        self.assertEqual(len(self.files._memory), 4)
        for number in range(10):
            self.assertEqual(ask(f"/static/{number}.bin").body, b"%d" % number * 1000)

    def test_other_requests(self) -> None:
        """Conditions, parts, HEAD and old clients get what they ask for, also on a connection that was served so."""
        ask = self.connect()
        tag = ask("/static/chat.css").header("etag")
        for _ in range(2):
            self.assertEqual(ask("/static/chat.css").body, CSS)
            self.assertEqual(ask("/static/chat.css", f"If-None-Match: {tag}").status, 304)
            self.assertEqual(ask("/static/chat.css", "If-Modified-Since: Fri, 14 Jul 2017 02:40:00 GMT").status, 304)
            self.assertEqual(ask("/static/chat.css", "Range: bytes=1-3").body, CSS[1:4])
            self.assertEqual(ask("/static/chat.css", method="HEAD").body, b"")
            self.assertEqual(ask("/static/chat.css", method="POST").status, 405)
        self.assertEqual(
            ask("/static/chat.css", "Connection: keep-alive", version="1.0").header("connection"), "keep-alive"
        )
        self.assertEqual(ask("/static/chat.css", "Connection: close").header("connection"), "close")

    def test_codings(self) -> None:
        """Each coding of a file is kept once; whether the client takes it is asked each time."""
        self.write("chat.css.gz", gzip.compress(CSS))
        for _ in range(2):
            for value, coding in (("gzip", "gzip"), ("br;q=0.5, gzip", "gzip"), ("", None), ("br", None)):
                ask = self.connect(f"Accept-Encoding: {value}")
                for _ in range(2):
                    response = ask("/static/chat.css")
                    self.assertEqual((response.status, response.header("content-encoding")), (200, coding), value)
            self.assertEqual(self.connect("Accept-Encoding: identity;q=0")("/static/chat.css").status, 406)
            response = self.connect("Accept-Encoding: br", "Accept-Encoding: gzip")("/static/chat.css")
            self.assertEqual(response.header("content-encoding"), "gzip")
        self.assertEqual(sorted(self.opened), ["chat.css", "chat.css.gz"])

    def test_variant_that_comes(self) -> None:
        """A new variant is found within a second."""
        ask = self.connect("Accept-Encoding: gzip")
        self.assertIsNone(ask("/static/chat.css").header("content-encoding"))
        self.write("chat.css.gz", gzip.compress(CSS))
        self.server.pass_time(LOOK_SECONDS)
        for _ in range(2):
            self.assertEqual(ask("/static/chat.css").header("content-encoding"), "gzip")
        self.assertEqual(self.connect()("/static/chat.css").header("vary"), "Accept-Encoding")

    def test_rows(self) -> None:
        """Requests that come at once, for files and for Django, are answered in their order."""
        self.ask("/static/chat.css")
        client = self.server.connect()
        client.send(get("/static/chat.css"))
        client.send(get("/static/chat.css") + get("/page") + get("/static/small.txt"))
        client.send(get("/static/chat.css"))
        self.assertEqual([each.body for each in client.responses()], [CSS, CSS])
        self.server.reply(self.server.message("http.request"), status=200, content=b"page")
        self.assertEqual([each.body for each in client.responses()], [CSS, CSS, b"page", b"small", CSS])

    def test_bytes_that_follow(self) -> None:
        """What looks like the end of a repeated request, but is none, is read as ever."""
        ask = self.connect()
        ask("/static/chat.css")
        for line in (b"GET /static/chat.css HTTP/1.1\r\nnonsense", b"nonsense", b"", b"GET /static/chat.css HTTP/2.0"):
            client = self.server.connect()
            client.send(get("/static/chat.css"))
            client.news()
            client.send(line + get("/").partition(b" HTTP/1.1")[2])
            self.assertIn(parse_responses(client.news())[0].status, (400, 505), line)

    def test_empty_lines_between(self) -> None:
        """An empty line before a repeated request counts for that request alone, and so does the time for its head."""
        client = self.server.connect()
        for _ in range(3):
            client.send(get("/static/chat.css"))
        for _ in range(MAX_EMPTY_LINES + 1):
            client.send(b"\r\n")
            client.send(get("/static/chat.css"))
        self.assertEqual([each.status for each in client.responses()], [200] * (MAX_EMPTY_LINES + 4))
        client.send(b"GET")
        self.server.pass_time(self.server.options.header_timeout + 1)
        self.assertEqual(client.responses()[-1].status, 408)

    def test_long_fields_are_not_kept(self) -> None:
        """What finds an answer is short, whatever clients send."""
        client = self.server.connect()
        client.send(get("/static/chat.css"))
        for size in (100, MAX_KEY, 30_000):
            client.send(get("/static/chat.css", "Accept-Encoding: " + "x" * size))
            client.send(get("/static/chat.css?" + "x" * size))
        self.assertEqual([each.body for each in client.responses()], [CSS] * 7)
        keys = [len(line) + len(encodings) for line, encodings in client.protocol._dispatcher._ready]
        self.assertEqual(len(keys), 2)
        self.assertLess(max(keys), MAX_KEY)

    def test_client_that_does_not_read(self) -> None:
        """It gets no more than it has room for, and is cut off after the time for an answer."""
        self.ask("/static/chat.css")
        client = self.server.connect()
        client.transport.slow = True
        for _ in range(300):
            client.send(get("/static/chat.css"))
        self.assertLess(len(client.transport._under_way), 2 * client.transport.FULL)
        self.server.pass_time(119)
        self.assertFalse(client.transport.aborted)
        self.server.pass_time(3)
        self.assertTrue(client.transport.aborted)

    def test_idle(self) -> None:
        """A connection that was served so is closed when it has been idle for long."""
        client = self.server.connect()
        for _ in range(3):
            client.send(get("/static/chat.css"))
            self.server.pass_time(70)
        self.assertFalse(client.transport.over)
        self.server.pass_time(10)
        self.assertTrue(client.transport.over)

    def test_stop(self) -> None:
        """When the server stops, the answer says that the connection is closed."""
        client = self.server.connect()
        for _ in range(2):
            client.send(get("/static/chat.css"))
        client.news()
        self.server.site.draining = True
        client.send(get("/static/chat.css"))
        self.assertEqual(parse_responses(client.news())[0].header("connection"), "close")

    def test_memory_is_short(self) -> None:
        """Then these requests get 503 as all others."""
        ask = self.connect()
        for _ in range(2):
            self.assertEqual(ask("/static/chat.css").status, 200)
        self.patch(self.server.site.memory, "mark", -1)
        self.assertEqual(ask("/static/chat.css").status, 503)

    def test_access_log(self) -> None:
        """A line is written for each."""
        lines: list[str] = []
        self.server.site.access_log = AccessLog(lines.append)
        ask = self.connect()
        for _ in range(3):
            ask("/static/chat.css?v=1")
        self.assertEqual(
            [line.partition("HTTP ")[2].partition(" [")[0] for line in lines], ["GET /static/chat.css?v=1 200 2100"] * 3
        )


class MemoryOverHTTP2Tests(MemoryTests):
    """The same over HTTP/2."""

    def connect(self, *lines: str) -> Asking:
        over_http1 = super().connect(*lines)
        state = H2Connection()
        state.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        state.local_settings.acknowledge()
        state.initiate_connection()
        state.increment_flow_control_window(2**30)
        transport = FakeTransport(self.server.reactor)
        connection = transport.protocol = HTTP2Connection(self.server.site, None, Dispatcher(self.server.site))
        connection.makeConnection(transport)  # type: ignore[arg-type]
        self.addCleanup(transport.client_leaves)
        read = 0

        def flush() -> list[Any]:
            nonlocal read
            transport.deliver(state.data_to_send())
            happened: list[Any] = []
            for _ in range(20):
                self.server.turn()
                received, read = transport.received[read:], len(transport.received)
                happened += state.receive_data(received)
            return happened

        def ask(path: str, *more: str, method: str = "GET", version: str = "1.1") -> Response:
            fields = [line.partition(": ") for line in (*lines, *more)]
            if version == "1.0" or "Connection" in [name for name, _, _ in fields]:
                return over_http1(path, *more, method=method, version=version)
            pseudo = [(":method", method), (":scheme", "http"), (":authority", "testserver"), (":path", path)]
            number = state.get_next_available_stream_id()
            rest = [(name.lower(), value) for name, _, value in fields]
            state.send_headers(number, [*pseudo, *rest], end_stream=True)
            happened = flush()
            self.assertIsNone(self.server.take("http.request"), f"{path} went to Django")
            headers, body = {}, b""
            for event in happened:
                headers.update(getattr(event, "headers", None) or {})
                body += getattr(event, "data", b"")
            self.assertIn(StreamEnded, map(type, happened))
            text = b"".join(b"%b: %b\r\n" % pair for pair in headers.items() if pair[0] != b":status")
            raw = b"HTTP/1.1 %b OK\r\n%b\r\n%b" % (headers[b":status"], text, body)
            return parse_responses(raw, method)[0]

        flush()
        return ask

    def test_without_a_stream(self) -> None:
        """A file that is asked for again needs no stream."""
        sent: list[int] = []
        real = State.send_ready
        self.patch(State, "send_ready", lambda state, *all: sent.append(all[0]) or real(state, *all))
        ask = self.connect("Accept: */*")
        for _ in range(4):
            ask("/static/chat.css")
        self.assertEqual(sent, [5, 7])  # the first one is given to h2, the second one is new


class OddEntryTests(StaticTestCase):
    """Links, special files and unreadable ones."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "dangling.css").symlink_to(self.folder / "nowhere.css")
        (self.folder / "loop.css").symlink_to(self.folder / "loop.css")
        (self.folder / "itself").symlink_to(self.folder)
        os.mkfifo(self.folder / "pipe.css")
        self.socket = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.socket.close)
        self.socket.bind(str(self.folder / "socket.css"))
        self.socket.listen()

    def test_they_are_named(self) -> None:
        """All of them, each with the reason; links that lead to files and folders are none of them."""
        (self.folder / "linked.css").symlink_to(self.folder / "chat.css")
        found = sorted(line.removeprefix(f"{self.folder}/") for line in static.unusable(str(self.folder)))
        self.assertEqual(
            found,
            [
                "dangling.css (dangling link)", "loop.css (too many levels of symbolic links)",
                "pipe.css (not a regular file)", "socket.css (not a regular file)",
            ],
        )  # fmt: skip

    def test_they_are_django_s(self) -> None:
        """Nothing is sent of them, and nobody waits for the other end of a FIFO."""
        for name in ("dangling", "loop", "pipe", "socket"):
            self.assertDjangos(f"/static/{name}.css")

    def test_links_of_collectstatic(self) -> None:
        """``collectstatic --link`` links to the source folders, which are elsewhere."""
        source = self.outside / "app.css"
        source.write_bytes(b"source")
        os.utime(source, (1, 1))
        (self.folder / "app.css").symlink_to(source)
        self.assertEqual(self.ask("/static/app.css").body, b"source")


class ConditionTests(StaticTestCase):
    """RFC 9110 section 13: files that the client has already."""

    def setUp(self) -> None:
        super().setUp()
        self.tag = self.ask("/static/chat.css").header("etag") or ""

    def assertNotModified(self, *lines: str) -> None:
        """Assert that the client is told that its copy is good."""
        client = self.server.connect()
        client.send(get("/static/chat.css", *lines))
        response = client.response()
        self.assertEqual((response.status, response.body), (304, b""), lines)
        self.assertEqual(response.header("etag"), self.tag)
        self.assertIsNone(response.header("content-type"))
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        self.assertFalse(client.transport.over)

    def test_tag(self) -> None:
        """With the file's tag the answer is 304, with another one the file."""
        self.assertNotModified(f"If-None-Match: {self.tag}")
        self.assertEqual(self.ask("/static/chat.css", 'If-None-Match: "other"').body, CSS)

    def test_lists_and_weak_tags(self) -> None:
        """Section 13.1.2: one of several tags, weak ones, and a star will do."""
        for value in (f'"other", {self.tag}', f"W/{self.tag}", "*"):
            self.assertNotModified(f"If-None-Match: {value}")

    def test_time(self) -> None:
        """With a time not before the file's the answer is 304, with an earlier one the file."""
        self.assertNotModified("If-Modified-Since: Fri, 14 Jul 2017 02:40:00 GMT")
        self.assertNotModified("If-Modified-Since: Sat, 15 Jul 2017 02:40:00 GMT")
        for value in ("Thu, 13 Jul 2017 02:40:00 GMT", "nonsense", ""):
            self.assertEqual(self.ask("/static/chat.css", f"If-Modified-Since: {value}").body, CSS)

    def test_tag_beats_time(self) -> None:
        """If both are there, the tag counts."""
        lines = ('If-None-Match: "other"', "If-Modified-Since: Sat, 15 Jul 2017 02:40:00 GMT")
        self.assertEqual(self.ask("/static/chat.css", *lines).status, 200)

    def test_changed_file(self) -> None:
        """Another content or another time has another tag."""
        self.write("chat.css", CSS + b"x")
        self.serve()
        self.assertNotEqual(self.ask("/static/chat.css").header("etag"), self.tag)

    def test_dates_that_are_none(self) -> None:
        """Whatever stands where a date should, the answer is the file."""
        for value in ("x" * 5000, "Fri, 99 Jul 99999999999 02:40:00 GMT", ",,,", "0"):
            self.assertEqual(self.ask("/static/chat.css", f"If-Modified-Since: {value}").body, CSS, value)


class RangeTests(StaticTestCase):
    """RFC 9110 section 14: parts of files."""

    def assertPart(self, value: str, start: int, end: int) -> None:
        """Assert that a range is answered with the bytes from `start` to before `end`."""
        response = self.ask("/static/large.bin", f"Range: bytes={value}")
        self.assertEqual(response.status, 206, value)
        self.assertEqual(response.header("content-range"), f"bytes {start}-{end - 1}/{len(LARGE)}")
        self.assertEqual(response.header("content-length"), str(end - start))
        self.assertEqual(response.body, LARGE[start:end])

    def test_parts(self) -> None:
        """From and to, from on, the last ones; and no further than the end."""
        size = len(LARGE)
        self.assertPart("0-99", 0, 100)
        self.assertPart("100-199999", 100, 200_000)
        self.assertPart(f"{size - 10}-", size - 10, size)
        self.assertPart("-10", size - 10, size)
        self.assertPart(f"{size - 10}-{size + 10}", size - 10, size)

    def test_single_bytes(self) -> None:
        """A range may be a single byte: the first, the last, any."""
        self.assertPart("0-0", 0, 1)
        self.assertPart("5-5", 5, 6)
        self.assertPart("-1", len(LARGE) - 1, len(LARGE))

    def test_beyond_the_end(self) -> None:
        """A range behind the end is answered with 416 and the file's size."""
        response = self.ask("/static/chat.css", f"Range: bytes={len(CSS)}-")
        self.assertEqual((response.status, response.header("content-range")), (416, f"bytes */{len(CSS)}"))

    def test_ranges_not_understood(self) -> None:
        """Other units, several ranges and nonsense are ignored: the whole file comes."""
        for value in (
            "lines=1-2", "bytes=0-1,3-4", "bytes=a-b", "bytes", "bytes=", "", "bytes=-", "bytes=5-4", "bytes=+0-1",
            "bytes=0-" + "9" * 5000,
        ):  # fmt: skip
            response = self.ask("/static/chat.css", f"Range: {value}")
            self.assertEqual((response.status, response.body), (200, CSS), value)

    def test_empty_file(self) -> None:
        """An empty file has no part."""
        self.write("empty.txt", b"")
        for value in ("0-", "0-0", "-1"):
            self.assertEqual(self.ask("/static/empty.txt", f"Range: bytes={value}").status, 416)

    def test_head(self) -> None:
        """A range of a HEAD sends no body."""
        client = self.server.connect()
        client.send(request("HEAD", "/static/large.bin", "Range: bytes=0-99"))
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))

    def test_if_range(self) -> None:
        """Section 13.1.5: a range of another state of the file is no use: the whole file comes."""
        tag = self.ask("/static/chat.css").header("etag")
        for value, status in (
            (tag, 206), ('"other"', 200), ("Fri, 14 Jul 2017 02:40:00 GMT", 206),
            ("Fri, 14 Jul 2017 02:39:59 GMT", 200),
        ):  # fmt: skip
            response = self.ask("/static/chat.css", "Range: bytes=0-9", f"If-Range: {value}")
            self.assertEqual((value, response.status), (value, status))


class VariantTests(StaticTestCase):
    """Files that are there compressed, too."""

    def setUp(self) -> None:
        super().setUp()
        self.zipped = gzip.compress(CSS)
        self.write("chat.css.gz", self.zipped)
        self.write("chat.css.br", b"brotli")
        self.serve()

    def test_by_encoding(self) -> None:
        """A client gets the smallest variant it understands, and caches are told."""
        for accepted, encoding, body in (
            (None, None, CSS), ("gzip", "gzip", self.zipped), ("gzip, deflate, br", "br", b"brotli"),
            ("identity", None, CSS),
        ):  # fmt: skip
            lines = [f"Accept-Encoding: {accepted}"] if accepted else []
            response = self.ask("/static/chat.css", *lines)
            self.assertEqual((response.header("content-encoding"), response.body), (encoding, body))
            self.assertEqual(response.header("content-length"), str(len(body)))
            self.assertEqual(response.header("vary"), "Accept-Encoding")
            self.assertIn("text/css", response.header("content-type") or "")

    def test_head(self) -> None:
        """HEAD tells the length of the variant."""
        response = self.ask("/static/chat.css", "Accept-Encoding: gzip", method="HEAD")
        self.assertEqual(response.header("content-length"), str(len(self.zipped)))

    def test_weights(self) -> None:
        """RFC 9110 section 12.5.3: what the client refuses it does not get, and what it likes best comes first."""
        for accepted, encoding in (
            ("gzip;q=0", None), ("gzip;q=0, br;q=0.000", None), ("gzip; q=0.5, br ; q = 0.4", "gzip"),
            ("GZIP;Q=1", "gzip"), ("x-gzip", "gzip"), ("gzip;q=0.5, identity", None), ("deflate", None), ("", None),
            ("*", None), ("*;q=0.5, gzip;q=0.5", "gzip"), ("identity;q=0, gzip", "gzip"), ("identity;q=0, *", "br"),
            ("*;q=0, gzip;q=0.1", "gzip"), ("gzip;q=0, *", None), ("gzipped", None),
        ):  # fmt: skip
            response = self.ask("/static/chat.css", f"Accept-Encoding: {accepted}")
            self.assertEqual(
                (accepted, response.status, response.header("content-encoding")), (accepted, 200, encoding)
            )

    def test_nothing_acceptable(self) -> None:
        """Who refuses plain content, and takes no coding that is there, gets 406."""
        for accepted in ("identity;q=0", "*;q=0", "deflate, identity;q=0", "gzip;q=0, br;q=0, identity;q=0"):
            response = self.ask("/static/chat.css", f"Accept-Encoding: {accepted}")
            self.assertEqual((response.status, response.header("vary")), (406, "Accept-Encoding"), accepted)
        self.assertEqual(self.ask("/static/large.bin", "Accept-Encoding: identity;q=0").status, 406)

    def test_tags(self) -> None:
        """Each variant has a tag of its own: else a cache would join a part of one with a part of another."""
        tags = {
            accepted: self.ask("/static/chat.css", f"Accept-Encoding: {accepted}").header("etag") or ""
            for accepted in ("identity", "gzip", "br")
        }
        self.assertEqual(len(set(tags.values())), 3)
        for accepted in tags:
            for other, tag in tags.items():
                lines = (f"Accept-Encoding: {accepted}", f"If-None-Match: {tag}")
                response = self.ask("/static/chat.css", *lines)
                self.assertEqual(response.status, 304 if accepted == other else 200)
                self.assertEqual(
                    (response.header("etag"), response.header("vary")), (tags[accepted], "Accept-Encoding")
                )
                lines = (f"Accept-Encoding: {accepted}", "Range: bytes=1-3", f"If-Range: {tag}")
                self.assertEqual(self.ask("/static/chat.css", *lines).status, 206 if accepted == other else 200)

    def test_part_of_a_variant(self) -> None:
        """A range counts the bytes of the variant."""
        response = self.ask("/static/chat.css", "Accept-Encoding: gzip", "Range: bytes=1-3")
        self.assertEqual((response.status, response.body), (206, self.zipped[1:4]))
        self.assertEqual(response.header("content-range"), f"bytes 1-3/{len(self.zipped)}")
        self.assertEqual(response.header("content-encoding"), "gzip")

    def test_variants_that_come_and_go(self) -> None:
        """Within a second, a new variant is used; one that has gone is not missed."""
        (self.folder / "chat.css.br").unlink()
        self.assertEqual(self.ask("/static/chat.css", "Accept-Encoding: br, gzip").header("content-encoding"), "gzip")
        (self.folder / "chat.css.gz").unlink()
        self.assertEqual(self.ask("/static/chat.css", "Accept-Encoding: br, gzip").body, CSS)
        self.write("chat.css.br", b"again")
        self.server.pass_time(LOOK_SECONDS)
        self.assertEqual(self.ask("/static/chat.css", "Accept-Encoding: br, gzip").body, b"again")

    def test_variant_of_an_old_file(self) -> None:
        """When the file alone has been replaced, its variants are those of the old one: they are not used."""
        self.ask("/static/chat.css", "Accept-Encoding: gzip")
        os.utime(self.write("chat.css", b"new"), (1_500_000_001, 1_500_000_001))
        self.server.pass_time(LOOK_SECONDS)
        response = self.ask("/static/chat.css", "Accept-Encoding: gzip")
        self.assertEqual((response.body, response.header("content-encoding")), (b"new", None))

    def test_uncompressed_file_has_no_vary(self) -> None:
        """A file without variants does not vary."""
        self.assertIsNone(self.ask("/static/large.bin").header("vary"))


class HashedNameTests(StaticTestCase):
    """Names with a hash of the content, as Django's manifest makes them."""

    def test_immutable(self) -> None:
        """Such files may be kept for ever, others for a minute or what is set."""
        self.write("chat.0123456789ab.css", CSS)
        self.write("a/b.abcdefabcdef.min.js", b"x")
        others = ("chat.0123456789a.css", "chat.0123456789abc.css", "0123456789ab/chat.css", "chat.0123456789AB.css")
        for name in others:
            self.write(name, CSS)
        self.serve("/static/", max_age=5)
        for name in ("chat.0123456789ab.css", "a/b.abcdefabcdef.min.js"):
            control = self.ask("/static/" + name).header("cache-control") or ""
            self.assertIn("immutable", control, name)
            self.assertIn("max-age=315360000", control)
        for name in ("chat.css", *others):
            control = self.ask("/static/" + name).header("cache-control") or ""
            self.assertNotIn("immutable", control, name)
            self.assertIn("max-age=5", control)


class SendingTests(StaticTestCase):
    """Large files, block by block."""

    def begin(self, path: str = "/static/large.bin") -> Client:
        """Request a large file, for a client that does not read."""
        client = self.server.connect()
        client.transport.slow = True
        client.send(get(path))
        return client

    def source(self, client: Client) -> Any:
        """Return what sends the file."""
        return client.protocol._exchange.source

    def test_no_faster_than_the_client_reads(self) -> None:
        """Of a large file, only as much is read as the client takes; in the end it has all of it."""
        client = self.begin()
        file = self.source(client)._file
        reads = 0
        while not client.received.endswith(LARGE):
            if not file.closed:
                self.assertLessEqual(file._offset - len(client.received), 4 * BLOCK)
            client.transport.client_reads()
            self.server.turn()
            reads += 1
            self.assertLess(reads, 100)
        self.assertGreater(reads, 4)
        self.assertEqual(client.response().body, LARGE)
        self.assertTrue(file.closed)

    def test_other_clients_have_their_turn(self) -> None:
        """While one client reads slowly, another gets the file."""
        slow = self.begin()
        fast = self.server.connect()
        fast.send(get("/static/large.bin"))
        self.assertEqual(fast.response().body, LARGE)
        self.assertLess(len(slow.received), len(LARGE))

    def test_client_that_leaves(self) -> None:
        """When the client leaves, the file is closed."""
        client = self.begin()
        file = self.source(client)._file
        self.assertFalse(file.closed)
        client.leave()
        self.assertTrue(file.closed)

    def test_client_that_does_not_read(self) -> None:
        """A client that does not read on is cut off after the time for an answer, and the file is closed."""
        client = self.begin()
        file = self.source(client)._file
        self.server.pass_time(119)
        self.assertFalse(client.transport.aborted)
        self.server.pass_time(3)
        self.assertTrue(client.transport.aborted)
        self.assertTrue(file.closed)

    def test_next_request(self) -> None:
        """The next request on the connection waits for the file's end."""
        client = self.begin()
        client.send(get("/static/chat.css"))
        for _ in range(30):
            client.transport.client_reads()
            self.server.turn()
        self.assertEqual([len(response.body) for response in client.responses()], [len(LARGE), len(CSS)])

    def test_file_that_shrinks(self) -> None:
        """If a file becomes shorter while it is sent, the connection breaks off, so that the client notices."""
        client = self.begin()
        os.truncate(self.folder / "large.bin", 300_000)
        for _ in range(20):
            client.transport.client_reads()
            self.server.turn()
        self.assertTrue(client.transport.aborted)
        self.assertFalse(client.response().complete)
        self.expect_logged("less than its Content-Length")

    def test_file_that_grows(self) -> None:
        """If it becomes longer, what was promised is sent, and no more."""
        client = self.begin()
        with open(self.folder / "large.bin", "ab") as file:
            file.write(b"more" * 100_000)
        for _ in range(30):
            client.transport.client_reads()
            self.server.turn()
        self.assertEqual(client.response().body, LARGE)
        self.assertFalse(client.transport.over)
        self.logged.clear()

    def test_disk_that_fails(self) -> None:
        """If the file cannot be read on, the connection breaks off, the file is closed, and the error logged."""
        client = self.begin()
        source = self.source(client)

        class Broken:
            closed = False

            def read(self, size: int) -> bytes:
                raise OSError("disk failed")

            def close(self) -> None:
                self.closed = True

        real, source._file = source._file, Broken()
        real.close()
        client.transport.client_reads()
        self.server.turn()
        self.assertTrue(client.transport.aborted)
        self.assertTrue(source._file.closed)
        self.expect_logged("large.bin", "disk failed")

    def test_draining(self) -> None:
        """A file under way is sent to its end when the server stops."""
        client = self.begin()
        self.server.site.draining = True
        client.protocol.drain()
        for _ in range(30):
            client.transport.client_reads()
            self.server.turn()
        self.assertEqual(client.response().body, LARGE)
        self.assertTrue(client.transport.over)

    def test_blocks(self) -> None:
        """A file is read in blocks of this size, not as a whole."""
        self.patch(source, "BLOCK", 1000)
        client = self.server.connect()
        client.send(get("/static/chat.css"))
        self.assertEqual(client.response().body, CSS)
