"""Asynchronous views and streams on the real server."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from tests.process import TIMEOUT, Server, ServerTestCase, SharedServerTestCase, project, wait_until

FILES = project("asynchronous")


def notes(server: Server) -> list[str]:
    """Return what the project has noted."""
    path = server.folder / "notes.txt"
    return path.read_text().splitlines() if path.exists() else []


def leave(server: Server, path: str, read: bytes = b"") -> None:
    """Ask for a page, wait until `read` has come, and leave."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        seen = b""
        while read not in seen:
            seen += client.recv(65536)


class ViewTests(SharedServerTestCase):
    """What runs where."""

    files = FILES
    arguments = ("--threads", "2")

    def setUp(self) -> None:
        super().setUp()
        self.make_tables()

    def test_where(self) -> None:
        """Coroutines run on the event loop, functions in worker threads."""
        self.assertEqual(self.server.get("/where/").text, "event-loop")
        self.assertTrue(self.server.get("/plain/").text.startswith("worker-"))

    def test_kinds(self) -> None:
        """A request is Django's own, of the kind that fits where it runs; META is the same."""
        plain, coroutine = self.server.get("/kinds-in-thread/?a=1").json(), self.server.get("/kinds/?a=1").json()
        self.assertEqual([plain[key] for key in ("wsgi", "asgi", "environ", "scope")], [True, False, True, False])
        self.assertEqual([coroutine[key] for key in ("wsgi", "asgi", "environ", "scope")], [False, True, False, True])
        meta = plain["meta"]
        self.assertEqual(
            (meta["wsgi.url_scheme"], meta["QUERY_STRING"], meta["REMOTE_ADDR"]), ("http", "a=1", "127.0.0.1")
        )
        for one in (meta, coroutine["meta"]):
            one.pop("REMOTE_PORT")
            one.pop("PATH_INFO")
            one.pop("RAW_URI")
        self.assertEqual(meta, coroutine["meta"])

    def test_lock_of_a_module(self) -> None:
        """A lock made at import works for all requests, those of plain views that call coroutines too."""
        with ThreadPoolExecutor(20) as pool:
            paths = ["/locked/", "/locked-in-thread/"] * 50
            found = list(pool.map(lambda path: self.server.get(path).text, paths))
        self.assertEqual(set(found), {"True"})

    def test_synchronous_parts(self) -> None:
        """They run in one worker thread for each request."""
        found = self.server.get("/query/").json()
        self.assertEqual(len(found["threads"]), 1)
        self.assertTrue(found["threads"][0].startswith("worker-"))

    def test_iterator_beside_others(self) -> None:
        """Rows are read to the end although the thread's connection is closed after each plain request."""
        self.manage(
            "shell", "-c",
            "from django.contrib.auth.models import User\n"
            "[User.objects.get_or_create(username=f'user{n}') for n in range(20)]",
        )  # fmt: skip
        paths = ["/iterate/", "/query-in-thread/", "/open-connections/"] * 25
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(self.server.get, paths))
        self.assertEqual({answer.status_code for answer in answers}, {200})
        texts = [answer.text for answer in answers]
        self.assertEqual({*texts[::3], *texts[1::3]}, {"20"})
        # No more connections than threads.
        self.assertLessEqual(max(len(set(text.split())) for text in texts[2::3]), 2)
        found = ""

        def closed() -> bool:
            nonlocal found
            found = self.server.get("/open-connections/").text
            return found == "none"

        try:
            wait_until(closed)
        except AssertionError:
            self.fail(f"connections left open: {found}")

    def test_contexts(self) -> None:
        """What one request sets does not reach the next, on the loop and in a thread."""
        for path in ("/context/", "/context-in-thread/"):
            self.assertEqual({self.server.get(path).text for _ in range(6)}, {"en-us UTC"})

    def test_errors(self) -> None:
        """An exception is a 500."""
        self.assertEqual(self.server.get("/fails/").status_code, 500)
        self.server.wait_for("ValueError: of the view")

    def test_background_task(self) -> None:
        """A task goes on after the answer, the database included."""
        self.assertEqual(self.server.get("/background/").text, "begun")
        wait_until(lambda: any(line.startswith("later ") for line in notes(self.server)), "the background task")

    def test_client_leaves(self) -> None:
        """View and generator are cancelled."""
        thread = threading.Thread(target=leave, args=(self.server, "/parts/?s=0.01", b"0\n"))
        thread.start()
        thread.join(TIMEOUT)
        wait_until(lambda: "parts closed" in notes(self.server), "the generator's end")
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT) as client:
            client.sendall(b"GET /hang/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: "hang begins" in notes(self.server), "the view")
        wait_until(lambda: "hang cancelled" in notes(self.server), "the cancellation")

    def test_reader_stops(self) -> None:
        """Of a stream nobody reads, little is produced."""
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /parts/?s=0&n=5000 HTTP/1.1\r\nHost: localhost\r\n\r\n")

            def produced() -> int:
                return sum(line.startswith("part ") for line in notes(self.server))

            wait_until(lambda: produced() > 20, "the stream's begin")
            before = -1
            while produced() != before:  # until it stands still
                before = produced()
                self.server.get("/where/")
                time.sleep(0.2)
        self.assertLess(before, 1000)

    def test_stream_of_a_plain_view(self) -> None:
        """An asynchronous iterator runs on the loop, whoever has made it."""
        self.assertEqual(
            self.server.get("/parts-of-a-plain-view/").text, "".join(f"{n} event-loop\n" for n in range(3))
        )


class WaitingTests(ServerTestCase):
    """Clients that wait hold no threads."""

    files = FILES

    def ask(self, server: Server, *paths: str) -> ThreadPoolExecutor:
        """Ask for pages, each in a thread."""
        pool = ThreadPoolExecutor(len(paths))
        self.addCleanup(pool.shutdown)
        for path in paths:
            pool.submit(server.get, path)
        return pool

    def test_all_threads_asleep(self) -> None:
        """A coroutine is answered although every thread sleeps."""
        server = self.start("--threads", "2")
        self.ask(server, *["/sleep/"] * 6)
        self.addCleanup((server.folder / "go-on").touch)
        busy = f"http://127.0.0.1:{server.port}/-/health"
        wait_until(lambda: self._health(busy)["busy"] == 2, "busy threads")
        self.assertEqual(server.get("/where/").text, "event-loop")
        self.assertNotIn("slept", notes(server))

    def test_loop_blocked(self) -> None:
        """A plain view is answered although the loop is blocked, and was asked for all messages lately."""
        server = self.start("--threads", "2")
        with requests.Session() as session:
            for _ in range(40):
                self.assertEqual(session.get(server.url("/where/"), timeout=TIMEOUT).text, "event-loop")
            self.ask(server, "/block/")
            wait_until(lambda: "blocked" in notes(server), "the blocking view")
            self.assertTrue(session.get(server.url("/plain/"), timeout=TIMEOUT).text.startswith("worker-"))
        (server.folder / "go-on").touch()

    @staticmethod
    def _health(url: str) -> Any:
        return requests.get(url, timeout=TIMEOUT).json()

    def test_streams_hold_no_thread(self) -> None:
        """Plain streams leave the pool: two threads, ten streams, and plain views are answered."""
        server = self.start("--threads", "2")
        self.ask(server, *["/parts-in-thread/?count=10&s=0.5"] * 10)
        wait_until(lambda: self._health(server.url("/-/health"))["streams"] == 10, "the streams")
        self.assertTrue(server.get("/plain/").text.startswith("worker-"))
        self.assertNotIn("plain parts closed", notes(server))
        wait_until(lambda: notes(server).count("plain parts closed") == 10, "the end of all")

    def test_too_many_streams(self) -> None:
        """Beyond the cap, streams wait before they begin; beyond that, 503 tells the client to come again."""
        server = self.start("--threads", "2", "--max-streams", "2")
        self.ask(server, *["/parts-in-thread/?count=30&s=0.5"] * 4)
        wait_until(lambda: self._health(server.url("/-/health"))["streams"] == 4, "the streams")
        answer = server.get("/parts-in-thread/")
        self.assertEqual((answer.status_code, answer.headers["Retry-After"]), (503, "5"))
        self.assertTrue(server.get("/plain/").text.startswith("worker-"))
        server.kill()

    def test_connections_of_streams(self) -> None:
        """Streams of rows hold one database connection each, so the cap bounds these, too; none stays open."""
        self.make_tables()
        self.manage(
            "shell", "-c",
            "from django.contrib.auth.models import User\n[User.objects.create(username=f'user{n}') for n in range(3)]",
        )  # fmt: skip
        server = self.start("--threads", "2", "--max-streams", "3")
        with ThreadPoolExecutor(6) as pool:
            try:
                asked = [pool.submit(server.get, "/rows-in-thread/") for _ in range(6)]
                wait_until(lambda: self._health(server.url("/-/health"))["streams"] == 6, "the streams")
                wait_until(lambda: len(server.get("/open-connections/").text.split()) >= 3, "the connections")
                self.assertLessEqual(len(server.get("/open-connections/").text.split()), 2 + 3)
            finally:
                (self.folder / "go-on").touch()
            self.assertEqual({one.result(TIMEOUT).text for one in asked}, {"user0 user1 user2 "})
        wait_until(lambda: server.get("/open-connections/").text == "none", "the end of the connections")

    def test_stop(self) -> None:
        """SIGTERM ends the server in time beside a hanging view, an endless stream and a thread that sleeps."""
        server = self.start("--drain-timeout", "1")
        self.ask(server, "/hang/", "/parts/", "/to-thread/")
        wait_until(lambda: {"hang begins", "part 1", "thread begins"} <= set(notes(server)), "the requests")
        self.assertEqual(server.stop(), 0)
        self.assertIn("hang cancelled", notes(server))
        self.assertNotIn("thread ended", notes(server))


class AtomicRequestsTests(SharedServerTestCase):
    """``ATOMIC_REQUESTS`` and asynchronous views."""

    files = {
        "urls.py": """
            from django.db import transaction
            from django.http import HttpResponse
            from django.urls import include, path
            from django.views import View

            async def coroutine(request):
                return HttpResponse("never")

            class Page(View):
                async def get(self, request):
                    return HttpResponse("never")

            @transaction.non_atomic_requests
            async def excepted(request):
                return HttpResponse("excepted")

            def plain(request):
                return HttpResponse("plain")

            inner = [path("page/", Page.as_view()), path("excepted/", excepted)]
            urlpatterns = [path("coroutine/", coroutine), path("plain/", plain), path("inner/", include(inner))]
        """,
    }
    extra_settings = """
        DATABASES["default"]["ATOMIC_REQUESTS"] = True
    """

    def test_check(self) -> None:
        """The system check names each view that Django refuses to run."""
        found = self.manage("check", stderr=True)
        for name in ("urls.coroutine", "urls.Page"):
            self.assertIn(f"(channelserver.W002) {name} always answers 500: Django does not run asynchronous", found)
        self.assertEqual(found.count("W002"), 2, found)
        self.write({"no_transactions.py": "from settings import *\nDATABASES['default']['ATOMIC_REQUESTS'] = False\n"})
        self.assertNotIn("W002", self.manage("check", "--settings", "no_transactions", stderr=True))

    def test_views(self) -> None:
        """What the check says is so."""
        statuses = [self.server.get(path).status_code for path in ("/coroutine/", "/inner/page/")]
        self.assertEqual(statuses, [500, 500])
        self.assertEqual(
            [self.server.get(path).text for path in ("/inner/excepted/", "/plain/")], ["excepted", "plain"]
        )


class SynchronousMiddlewareTests(SharedServerTestCase):
    """Asynchronous views behind middleware that is synchronous only."""

    files = {
        "urls.py": """
            import asyncio
            import threading

            from django.core.handlers.wsgi import WSGIRequest
            from django.http import HttpResponse
            from django.urls import path

            barrier = asyncio.Barrier(10)

            def old_middleware(get_response):
                return lambda request: get_response(request)

            async def meet(request):
                await barrier.wait()
                return HttpResponse(f"{threading.current_thread().name} {isinstance(request, WSGIRequest)}")

            def plain(request):
                return HttpResponse(threading.current_thread().name)

            def note(text):
                with open("notes.txt", "a") as notes:
                    notes.write(f"{text}\\n")

            async def hang(request):
                note("begun")
                try:
                    await asyncio.sleep(100)
                finally:
                    note("cancelled")

            urlpatterns = [path("meet/", meet), path("plain/", plain), path("hang/", hang)]
        """,
    }
    extra_settings = 'MIDDLEWARE = ["urls.old_middleware"]\n'
    arguments = ("--threads", "1", "--max-streams", "20")

    def test_waiting_threads(self) -> None:
        """Threads that wait for such views keep no place in the pool: ten wait for one another, with one thread."""
        with ThreadPoolExecutor(10) as pool:
            waiting = [pool.submit(self.server.get, "/meet/") for _ in range(9)]
            self.assertTrue(self.server.get("/plain/").text.startswith("worker-"))
            waiting.append(pool.submit(self.server.get, "/meet/"))
            self.assertEqual({answer.result().text for answer in waiting}, {"event-loop True"})
        self.server.get("/plain/")
        # Those that are too many have ended.
        wait_until(lambda: self.server.get("/-/health").json()["streams"] == 0, "the end of the waiting")
        names = {self.server.get("/plain/").text for _ in range(5)}
        self.assertEqual(len(names), 1, names)

    def test_client_leaves(self) -> None:
        """The view is cancelled, which is no error."""
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT) as client:
            client.sendall(b"GET /hang/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: notes(self.server) == ["begun"], "the view's beginning")
            self.assertTrue(self.server.get("/plain/").text)  # the one thread was free for the first
        wait_until(lambda: notes(self.server) == ["begun", "cancelled"], "the cancellation")
        wait_until(lambda: self.server.get("/-/health").json()["streams"] == 0, "the end of the waiting")
        self.assertNotIn("error", self.server.output)


class WrappedTests(SharedServerTestCase):
    """Asynchronous views where monitoring has wrapped ``ASGIHandler.__call__``."""

    files = {
        "urls.py": """
            from django.core.handlers.asgi import ASGIHandler
            from django.http import FileResponse, HttpResponse
            from django.urls import path

            from channelserver import EventStream

            original = ASGIHandler.__call__
            seen = []

            async def call(self, scope, receive, send):
                async def watched(event):
                    if event["type"] == "http.response.start":
                        seen.append([scope["path"], event["status"]])
                        event = {**event, "headers": [*event["headers"], (b"x-traced", b"yes")]}
                    await send(event)

                await original(self, scope, receive, watched)

            ASGIHandler.__call__ = call

            async def file(request):
                return FileResponse(open(__file__, "rb"), status=203)

            async def events(request):
                return EventStream(first=["hello"])

            async def told(request):
                return HttpResponse(repr(seen))

            urlpatterns = [path("file/", file), path("events/", events), path("told/", told)]
        """,
    }

    def test_heads(self) -> None:
        """The wrapper sees and changes the heads of files and event streams, which the reactor sends."""
        answer = self.server.get("/file/")
        self.assertEqual((answer.status_code, answer.headers["X-Traced"]), (203, "yes"))
        self.assertEqual(answer.content, (self.folder / "urls.py").read_bytes())
        with self.server.get("/events/", stream=True) as stream:
            self.assertEqual(next(stream.iter_lines()), b"data: hello")
            self.assertEqual(stream.headers["X-Traced"], "yes")
            self.assertNotIn("Content-Encoding", stream.headers)
        self.assertEqual(self.server.get("/told/").text, "[['/file/', 203], ['/events/', 200]]")
