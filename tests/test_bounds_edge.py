"""The edge under attack, and under changes: static and media files, hosts, health, logs, Unix sockets.

Rules that hold for each protocol are asked over HTTP/1.1, over TLS and over HTTP/2.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from tests.certificates import write_pair
from tests.process import TIMEOUT, Server, ServerTestCase, wait_until
from tests.raw import Raw
from tests.test_dispatch import COLUMNS, Request

PAGES = """
    from django.core.files.storage import default_storage
    from django.http import HttpResponse
    from django.template import Context, Template
    from django.urls import path, re_path

    def page(request):
        static = Template("{% load static %}{% static 'a.css' %}").render(Context())
        return HttpResponse(f"{static} {default_storage.url('a.txt')}")

    urlpatterns = [path("page", page), re_path("", lambda request: HttpResponse("from Django", status=404))]
"""
FOLDERS = """
    STATIC_ROOT, STATIC_URL = BASE_DIR / "static", "/static/"
    MEDIA_ROOT, MEDIA_URL = BASE_DIR / "media", "/media/"
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
"""


def age(path: Path, seconds: int = 3600) -> None:
    """Make a file older, so that nobody takes it for half written."""
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


class FilesTestCase(ServerTestCase):
    """A project with static and media files."""

    files = {"urls.py": PAGES, "static/a.css": "static", "media/a.txt": "media"}
    extra_settings = FOLDERS

    def setUp(self) -> None:
        """Write the files."""
        super().setUp()
        self.static = self.folder / "static"
        for path in (self.static / "a.css", self.folder / "media" / "a.txt"):
            age(path)

    def servers(self, *options: str) -> None:
        """Start one server with TLS and one without."""
        self.certificate, key = write_pair(self.folder)
        options = ("--local-socket", "", *options)
        plain = self.start(*options)
        self.running = {"plain": plain, "TLS": self.start("--tls-cert", self.certificate, "--tls-key", key, *options)}

    def column(self, name: str) -> Any:
        """Open a connection."""
        return COLUMNS[name](self.running, self.certificate)


class ChangingFilesTests(FilesTestCase):
    """Files dropped into STATIC_ROOT, replaced and removed, while clients load them without a pause."""

    #: Sizes of what is sent as a whole, and of what is sent in parts.
    SIZES = {"small.css": 20_000, "large.bin": 700_000}
    ROUNDS = 6

    def setUp(self) -> None:
        """Write the first contents."""
        super().setUp()
        for name in self.SIZES:
            self.replace(name, 0)

    def content(self, name: str, number: int) -> bytes:
        """Return the content of a file after `number` changes: its length changes, too."""
        return bytes([65 + number]) * (self.SIZES[name] + number)

    def replace(self, name: str, number: int) -> None:
        """Replace a file as collectstatic does (remove, write anew) and, in other rounds, as rsync does (rename)."""
        data, path = self.content(name, number), self.static / name
        if number % 2:
            path.unlink()
            with open(path, "xb") as file:
                for start in range(0, len(data), 65536):
                    file.write(data[start : start + 65536])
                    file.flush()
        else:
            temporary = self.static / ".new"
            temporary.write_bytes(data)
            temporary.replace(path)

    def load(self, name: str, seen: dict[str, bytes | None]) -> None:
        """Ask for the files again and again, on one connection, until the end.

        :param seen: where the last content of each is noted; None: there was none.
        """
        valid = {file: {self.content(file, number) for number in range(self.ROUNDS + 1)} for file in self.SIZES}
        try:
            with closing(self.column(name)) as column:
                while not self.over.is_set():
                    for file in self.SIZES:
                        result = column.ask(Request(f"/static/{file}"))
                        assert result.status == 200, f"{name}, {file}: {result.status}"
                        assert result.body in valid[file], f"{name}, {file}: {len(result.body)} bytes"
                        seen[file] = result.body
                    result = column.ask(Request("/static/comes.txt"))
                    assert (result.status, result.body) in ((200, b"here"), (404, result.body)), result
                    seen["comes.txt"] = result.body if result.status == 200 else None
        except BaseException as error:
            self.errors.append(f"{name}: {error!r}")

    def test_changes_under_load(self) -> None:
        """No reset, no truncated answer, and everybody gets the new content."""
        self.servers()
        self.over, self.errors = threading.Event(), list[str]()
        clients: list[tuple[str, dict[str, bytes | None]]] = [(name, {}) for name in COLUMNS for _ in range(2)]
        threads = [threading.Thread(target=self.load, args=client) for client in clients]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, self.ROUNDS + 1):
                for name in self.SIZES:
                    self.replace(name, number)
                comes = self.static / "comes.txt"
                if number % 2:
                    (self.static / ".new").write_bytes(b"here")
                    (self.static / ".new").replace(comes)
                else:
                    comes.unlink()
                wanted: dict[str, bytes | None] = {name: self.content(name, number) for name in self.SIZES}
                wanted["comes.txt"] = b"here" if number % 2 else None

                def all_have(wanted: dict[str, bytes | None] = wanted) -> bool:
                    return bool(self.errors) or all(dict(seen) == wanted for _, seen in clients)

                wait_until(all_have, "everybody has the new files")
        finally:
            self.over.set()
            for thread in threads:
                thread.join(TIMEOUT)
        self.assertEqual(self.errors, [])
        for server in self.running.values():
            self.assertNotIn("Traceback", server.output)


class OddFilesTests(FilesTestCase):
    """Dangling links, loops and special files in STATIC_ROOT."""

    def setUp(self) -> None:
        """Make them."""
        super().setUp()
        (self.static / "dangling.css").symlink_to("nowhere.css")
        (self.static / "loop").symlink_to("loop")
        (self.static / "itself").symlink_to(".")
        os.mkfifo(self.static / "pipe.css")
        (self.folder / "source.css").write_text("source")
        age(self.folder / "source.css")
        (self.static / "linked.css").symlink_to(self.folder / "source.css")

    def test_start(self) -> None:
        """They are named in one line; all other files are served, those that ``collectstatic --link`` links to, too."""
        self.servers("--media")
        lines = [line for line in self.running["plain"].output.splitlines() if "STATIC_ROOT" in line]
        self.assertEqual(len(lines), 1, lines)
        for name in ("dangling.css (dangling link)", "loop (too many", "pipe.css (not a regular file)"):
            self.assertIn(name, lines[0])
        for name in COLUMNS:
            with closing(self.column(name)) as column:
                for path, body in (("a.css", b"static"), ("linked.css", b"source"), ("itself/a.css", b"static")):
                    self.assertEqual(column.ask(Request(f"/static/{path}")).body, body, (name, path))
                for path in ("dangling.css", "loop", "pipe.css", "itself", ""):
                    self.assertEqual(column.ask(Request(f"/static/{path}")).body, b"from Django", (name, path))

    def test_check(self) -> None:
        """``--check`` finds no error in them."""
        server = self.run_process(self.twistd("--settings", "settings", "--check"))
        self.assertEqual(server.wait(), 0, server.output)
        self.assertIn("dangling.css (dangling link)", server.output)
        self.assertNotIn("Traceback", server.output)


class ContentCodingTests(FilesTestCase):
    """Compressed variants, over each protocol."""

    def test_weights_and_tags(self) -> None:
        """A refused coding is not sent, each variant has its tag, and ``Vary`` is sent."""
        zipped = gzip.compress(b"static")
        (self.static / "a.css.gz").write_bytes(zipped)
        age(self.static / "a.css.gz", 1800)
        self.servers()
        for name in COLUMNS:
            with closing(self.column(name)) as column:
                tags = {}
                for accepted, coding, status in (
                    ("gzip", "gzip", 200), ("gzip;q=0", None, 200), ("*", None, 200), ("identity;q=0, *", "gzip", 200),
                    ("identity;q=0", None, 406), ("*;q=0", None, 406), ("identity", None, 200),
                ):  # fmt: skip
                    result = column.ask(Request("/static/a.css", fields=(("accept-encoding", accepted),)))
                    where = f"{name}, {accepted}: {result}"
                    self.assertEqual((result.status, result.fields.get("content-encoding")), (status, coding), where)
                    self.assertEqual(result.fields.get("vary"), "Accept-Encoding", where)
                    if status == 200:
                        self.assertEqual(result.body, zipped if coding else b"static", where)
                        tags[accepted] = result.fields["etag"]
                self.assertEqual(tags["gzip"], tags["identity;q=0, *"])
                self.assertNotEqual(tags["gzip"], tags["gzip;q=0"])
                fields = (("accept-encoding", "gzip"), ("range", "bytes=1-2"))
                for tag, status, body in ((tags["gzip"], 206, zipped[1:3]), (tags["identity"], 200, zipped)):
                    result = column.ask(Request("/static/a.css", fields=(*fields, ("if-range", tag))))
                    self.assertEqual((result.status, result.body), (status, body), name)
                result = column.ask(Request("/static/a.css", "POST", parts=(b"x",)))
                self.assertEqual((result.status, result.fields.get("allow")), (405, "GET, HEAD"), name)


class RootPathTests(FilesTestCase):
    """A site below a root path, and how its static and media files are found."""

    def addresses(self, server: Server, path: str) -> list[str]:
        """Return the paths that a page has for browsers, of a static and of a media file."""
        return server.get(path).text.split()

    def check(self, options: tuple[str, ...], static: str, media: str) -> None:
        """Assert what addresses pages have, and that the files are there, with and without the root path."""
        server = self.start("--media", "--local-socket", "", *options)
        for page in ("/sub/page", "/page"):  # direct, or a proxy keeps the prefix; a proxy strips it
            self.assertEqual(self.addresses(server, page), [static, media])
        for path, text in ((static, "static"), (media, "media")):
            for form in {path, path.removeprefix("/sub")}:
                answer = server.get(form)
                self.assertEqual((answer.status_code, answer.text), (200, text), form)
        server.stop()

    def test_all_arrangements(self) -> None:
        """Relative addresses begin at the root path; absolute ones may have it or not."""
        for static, media, expected in (
            ("static/", "media/", ("/sub/static/a.css", "/sub/media/a.txt")),
            ("/sub/static/", "/sub/media/", ("/sub/static/a.css", "/sub/media/a.txt")),
            ("/static/", "/media/", ("/static/a.css", "/media/a.txt")),
        ):
            with open(self.folder / "settings.py", "a") as stream:
                stream.write(f"STATIC_URL, MEDIA_URL = {static!r}, {media!r}\n")
            self.check(("--root-path", "/sub"), *expected)

    def test_all_ways_to_say_it(self) -> None:
        """The option, the setting of the server and that of Django; and under DEBUG, from the apps' folders."""
        (self.folder / "assets").mkdir()
        (self.folder / "assets" / "a.css").write_text("static")
        expected = ("/sub/static/a.css", "/sub/media/a.txt")
        for line, options in (
            ("STATIC_URL, MEDIA_URL = 'static/', 'media/'", ("--root-path", "sub/")),
            ("DEBUG, STATIC_ROOT, STATICFILES_DIRS = True, None, [BASE_DIR / 'assets']", ("--root-path", "/sub")),
            ("CHANNELSERVER = {'root_path': '/sub/'}", ()),
            ("CHANNELSERVER, FORCE_SCRIPT_NAME = {}, '/sub'", ()),
            ("DEBUG, STATIC_ROOT = False, BASE_DIR / 'static'", ()),
        ):
            with open(self.folder / "settings.py", "a") as stream:
                stream.write(line + "\n")
            self.check(options, *expected)

    def test_more_processes(self) -> None:
        """A sibling knows it, too."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("STATIC_URL, MEDIA_URL = 'static/', 'media/'\n")
        server = self.start("--media", "--root-path", "/sub", "--processes", "2")
        server.wait_for("process 2 serves")
        for _ in range(20):
            self.assertEqual(self.addresses(server, "/page"), ["/sub/static/a.css", "/sub/media/a.txt"])


class WhiteNoiseTests(FilesTestCase):
    """WhiteNoise's middleware and its settings."""

    extra_settings = (
        FOLDERS
        + """
    MIDDLEWARE = ["whitenoise.middleware.WhiteNoiseMiddleware"]
    """
    )

    def answer(self, line: str, path: str = "/static/a.css") -> tuple[requests.Response, bool]:
        """Add a line to the settings; return the answer to a request, and whether the reactor gave it."""
        settings = self.folder / "settings.py"
        before = settings.read_text()
        settings.write_text(f"{before}\n{line}\n")
        server = self.start()
        left = "WhiteNoise's middleware serves STATIC_URL" in server.output
        answer = server.get(path)
        server.stop()
        settings.write_text(before)
        return answer, not left

    def test_settings_that_the_reactor_honors(self) -> None:
        """What the middleware would have answered, the reactor answers."""
        for line, field, value in (
            ("", "Cache-Control", "max-age=60, public"),
            ("WHITENOISE_MAX_AGE = 7", "Cache-Control", "max-age=7, public"),
            ("WHITENOISE_MAX_AGE = None", "Cache-Control", None),
            ("WHITENOISE_CHARSET = 'latin-1'", "Content-Type", 'text/css; charset="latin-1"'),
            ("WHITENOISE_MIMETYPES = {'.css': 'text/x-mine'}", "Content-Type", 'text/x-mine; charset="utf-8"'),
            ("WHITENOISE_ALLOW_ALL_ORIGINS = False", "Access-Control-Allow-Origin", None),
            ("WHITENOISE_IMMUTABLE_FILE_TEST = 'a.css$'", "Cache-Control", "max-age=315360000, public, immutable"),
            ("WHITENOISE_IMMUTABLE_FILE_TEST = None", "Cache-Control", "max-age=60, public"),
            ("WHITENOISE_KEEP_ONLY_HASHED_FILES = True", "Cache-Control", "max-age=60, public"),
        ):
            answer, by_reactor = self.answer(line)
            self.assertEqual((answer.text, by_reactor), ("static", True), line)
            self.assertEqual(answer.headers.get(field), value, line)

    def test_settings_that_need_the_middleware(self) -> None:
        """It serves the files itself, and a line says so and why."""
        (self.static / "index.html").write_text("index")
        (self.folder / "root" / "static").mkdir(parents=True)
        (self.folder / "root" / "static" / "a.css").write_text("root's")
        for line, path, text in (
            ("WHITENOISE_INDEX_FILE = True", "/static/index.html", "index"),
            ("WHITENOISE_AUTOREFRESH = True", "/static/a.css", "static"),
            ("WHITENOISE_USE_FINDERS = True", "/static/a.css", "static"),
            ("WHITENOISE_IMMUTABLE_FILE_TEST = lambda path, url: True", "/static/a.css", "static"),
            ("def WHITENOISE_ADD_HEADERS_FUNCTION(headers, path, url): pass", "/static/a.css", "static"),
            ("WHITENOISE_ROOT = BASE_DIR / 'root'", "/static/a.css", "root's"),
        ):
            answer, by_reactor = self.answer(line, path)
            self.assertEqual((answer.text, by_reactor), (text, False), line)


class UnixSocketTests(FilesTestCase):
    """Sockets in the file system, which outlast a server that is killed."""

    def unix(self, *options: str, listener: str = "--unix-socket") -> Server:
        """Start a server on a Unix socket; its port is not known."""
        self.path = self.folder / "site.sock"
        value = str(self.path) if listener == "--unix-socket" else f"unix:{self.path}"
        return self.run_process(
            self.twistd(
                "--settings", "settings", "--log-format", "text", "--local-socket", "", listener, value, *options
            )
        )

    def answers(self) -> bool:
        """Whether a server answers on the socket."""
        with Raw(str(self.path)) as raw:
            return raw.request("/static/a.css").body == b"static"

    def test_start_after_a_kill(self) -> None:
        """A socket nobody listens on is replaced, whoever has the process id of the one that made it."""
        for listener, options in (("--unix-socket", ()), ("--endpoint", ()), ("--unix-socket", ("--processes", "2"))):
            server = self.unix(*options, listener=listener)
            server.wait_for("listening on unix:")
            self.assertTrue(self.answers())
            server.kill()
            self.assertTrue(self.path.is_socket())
            lock = self.folder / "site.sock.lock"  # Twisted's, and the process lives: in a container it is the new one
            lock.unlink(missing_ok=True)
            lock.symlink_to(str(os.getpid()))
            server = self.unix(*options, listener=listener)
            server.wait_for("listening on unix:")
            self.assertTrue(self.answers())
            self.assertEqual(server.stop(), 0)
            self.assertFalse(self.path.exists())

    def test_running_server(self) -> None:
        """A second server does not take the socket of one that runs; nor does a crowd of them."""
        self.unix().wait_for("listening on unix:")
        others = [self.unix() for _ in range(3)]
        for other in others:
            self.assertEqual(other.wait(), 1)
            self.assertIn("another server listens on it; choose another address", other.output)
        self.assertTrue(self.answers())

    def test_start_of_many(self) -> None:
        """If several start at once where one was killed, one of them serves, and the others say so."""
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(self.folder / "site.sock"))
        servers = [self.unix() for _ in range(4)]
        wait_until(lambda: sum(server.process.poll() is None for server in servers) == 1, "one is left")
        left = next(server for server in servers if server.process.poll() is None)
        left.wait_for("listening on unix:")
        self.assertTrue(self.answers())

    def test_other_files(self) -> None:
        """What is no socket stays as it is: one sentence, for the listener and for the local socket."""
        for text, make in (("precious", None), ("", lambda path: os.mkfifo(path)), ("", lambda path: path.mkdir())):
            for option in ("--local-socket", "--unix-socket"):
                path = self.folder / "data"
                path.write_text(text) if make is None else make(path)
                before = path.stat()
                options = () if option == "--local-socket" else ("--local-socket", "")
                command = self.twistd("--settings", "settings", "--port", "0", *options, option, str(path))
                server = self.run_process(command)
                self.assertEqual(server.wait(), 1, server.output)
                self.assertIn("is not a socket", server.output)
                self.assertNotIn("Traceback", server.output)
                after = path.stat()
                self.assertEqual((after.st_ino, after.st_size), (before.st_ino, before.st_size), option)
                path.rmdir() if path.is_dir() else path.unlink()

    def test_links(self) -> None:
        """A link is no socket either, wherever it leads."""
        link = self.folder / "link"
        link.symlink_to(self.folder / "nowhere")
        server = self.run_process(self.twistd("--settings", "settings", "--port", "0", "--local-socket", str(link)))
        self.assertEqual(server.wait(), 1, server.output)
        self.assertIn("is not a socket", server.output)
        self.assertTrue(link.is_symlink())


class HostTests(FilesTestCase):
    """Hosts that Django refuses, on whatever reads a Host field."""

    extra_settings = (
        FOLDERS
        + """
    ALLOWED_HOSTS = [".example.com", "127.0.0.1"]
    MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
    """
    )
    REFUSED = ("a;b.example.com", "evil.com%2f.example.com", "a_b.example.com", "a.example.com:", "example.org")

    def test_hosts(self) -> None:
        """The handshake, the redirect and Django agree; and no ``Location`` repeats such a host."""
        certificate, key = write_pair(self.folder)
        options = ("--local-socket", "", "--trust-proxy", "127.0.0.1")
        secure = self.start(
            "--tls-cert", certificate, "--tls-key", key, "--redirect-http", "--redirect-port", "0", *options
        )
        redirect = int(secure.wait_for(r"http://127.0.0.1:(\d+)/ \(redirects")[1])
        plain = self.start(*options)
        handshake = (
            "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )  # fmt: skip
        for host, allowed in [("a.example.com:80", True), *((host, False) for host in self.REFUSED)]:
            for fields in ((f"Host: {host}",), ("Host: a.example.com", f"X-Forwarded-Host: {host}")):
                for port, lines, status in ((plain.port, handshake, 101), (plain.port, (), 404), (redirect, (), 301)):
                    with Raw(port) as raw:
                        raw.send("\r\n".join(["GET /page/x HTTP/1.1", *fields, *lines, "", ""]).encode())
                        answer = raw.answer()
                    where = f"{fields}, {status}: {answer}"
                    self.assertEqual(answer.status, status if allowed else 400, where)
                    if not allowed:
                        self.assertIsNone(answer.get("location"), where)
