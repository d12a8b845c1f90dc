"""Static files served by the reactor."""

from __future__ import annotations

import gzip
import os
import pathlib
import tempfile
from typing import Any

from channelserver.server.edge.static import StaticFiles
from channelserver.server.http import exchange as exchange_module
from channelserver.server.http import source
from channelserver.server.http.source import BLOCK, FileSource
from tests.fakes import Client, FakeServer, Response, StrictTestCase, get, request

LARGE = bytes(range(256)) * 4096  # a megabyte
CSS = b"body { color: teal }\n" * 100


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

    def test_empty_file(self) -> None:
        """A file may be empty; it is closed like any other."""
        opened: list[Any] = []

        class Watched(FileSource):
            def __init__(self, exchange: Any, file: Any) -> None:
                opened.append(file)
                super().__init__(exchange, file)

        self.patch(exchange_module, "FileSource", Watched)
        self.write("empty.txt", b"")
        self.serve()
        response = self.ask("/static/empty.txt")
        closed = [file.closed for file in opened]
        for file in opened:
            file.close()
        self.assertEqual(closed, [True])
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
        """On a mounted site the files are below its root."""
        self.serve("/static/", "/app")
        self.assertEqual(self.ask("/app/static/chat.css").body, CSS)
        self.assertDjangos("/static/chat.css")

    def test_length_of_the_list(self) -> None:
        """The list has all files."""
        self.assertEqual(len(self.files), 3)

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

    def test_files_made_later(self) -> None:
        """The list is made once, at the start."""
        self.write("later.css", b"x")
        self.assertDjangos("/static/later.css")

    def test_files_that_have_gone(self) -> None:
        """A file of the list that has gone meanwhile is answered with 404, and logged; the connection is kept."""
        (self.folder / "chat.css").unlink()
        client = self.server.connect()
        client.send(get("/static/chat.css") + get("/static/small.txt"))
        self.assertEqual([response.status for response in client.responses()], [404, 200])
        self.expect_logged("chat.css")


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
        for value in ("lines=1-2", "bytes=0-1,3-4", "bytes=a-b", "bytes", "bytes=", ""):
            response = self.ask("/static/chat.css", f"Range: {value}")
            self.assertEqual((response.status, response.body), (200, CSS), value)

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
                self.assertLessEqual(file.tell() - len(client.received), 4 * BLOCK)
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
