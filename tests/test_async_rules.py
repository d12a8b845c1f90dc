"""What asynchronous views may rely on beside Django's own rules: exits, changed paths, late answers, deadlines."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest import mock

from asgiref.sync import SyncToAsync
from django.test import override_settings
from twisted.trial.unittest import SynchronousTestCase

from channelserver.exceptions import RequestTimeout
from channelserver.message import Message
from channelserver.workers.async_views import AsyncViews
from channelserver.workers.loop import EventLoop, run_call
from tests.certificates import write_pair
from tests.http2_client import HTTP2Client
from tests.process import TIMEOUT, ServerTestCase, SharedServerTestCase, wait_until
from tests.test_async_views import notes

FILES = {
    "urls.py": """
        import asyncio
        import threading
        from pathlib import Path

        from asgiref.sync import sync_to_async
        from django.contrib.auth.models import User
        from django.db import connections
        from django.http import HttpResponse, StreamingHttpResponse
        from django.urls import path
        from django.utils.decorators import sync_and_async_middleware
        from django.utils.translation import gettext_lazy, get_language

        from channelserver import Channel
        from channelserver.exceptions import ResponseLater

        HERE = Path(__file__).parent

        def note(line):
            with open(HERE / "notes.txt", "a") as stream:
                stream.write(line + "\\n")

        def move(get_response):
            async def middleware(request):
                request.path_info = request.path_info.replace("/old/", "/new/")
                return await get_response(request)

            return middleware

        move.async_capable, move.sync_capable = True, False

        async def old(request):
            return HttpResponse("old")

        async def new(request):
            return HttpResponse("new")

        async def monday(request):
            return HttpResponse(get_language())

        async def exits(request):
            async def leave():
                raise SystemExit(3)

            task = asyncio.create_task(leave())
            await asyncio.sleep(0.05)
            return HttpResponse("goes on")

        async def later(request):
            name = request.reply_channel.name

            async def answer():
                await asyncio.sleep(0.05)
                Channel(name).send({"status": 200, "headers": [], "content": b"later"})

            note(str(asyncio.create_task(answer()).done()))
            raise request.ResponseLater if "attribute" in request.GET else ResponseLater

        async def hang(request):
            note("hang begins")
            try:
                await asyncio.sleep(1000)
            finally:
                note("hang cancelled")

        class Closing(HttpResponse):
            def close(self):
                super().close()
                note("closed")

        async def closing(request):
            return Closing("closing")

        async def broken(request):
            # The connection of this thread is too old, and cannot be closed once.
            def spoil():
                connection = connections["default"]

                def close():
                    del connection.close
                    raise ValueError("cannot close")

                connection.ensure_connection()
                connection.close_at = 1
                connection.close = close

            await sync_to_async(spoil)()
            return HttpResponse("spoilt")

        async def count(request):
            return HttpResponse(str(await User.objects.acount()))

        def plain(request):
            return HttpResponse(threading.current_thread().name)

        def stream(request):
            def parts():
                yield b"begins"
                while not (HERE / "go-on").exists():
                    threading.Event().wait(0.05)

            return StreamingHttpResponse(parts())

        urlpatterns = [
            path("old/", old), path("new/", new), path("exits/", exits), path("later/", later), path("hang/", hang),
            path("closing/", closing), path("plain/", plain), path("stream/", stream), path("broken/", broken),
            path("count/", count), path(gettext_lazy("Monday"), monday),
        ]
    """,
}
SETTINGS = """
    MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware", "urls.move"]
    LANGUAGE_CODE = "en"
    LANGUAGES = [("en", "English"), ("de", "German")]
"""


class RuleTests(SharedServerTestCase):
    """What differs from what the server found out before it called Django."""

    files = FILES
    extra_settings = SETTINGS
    arguments = ("--threads", "1", "--http-timeout", "3")

    def test_exit_in_a_task(self) -> None:
        """A task that raises ``SystemExit`` ends neither the event loop nor the server."""
        self.assertEqual([self.server.get(path).text for path in ("/exits/", "/new/")], ["goes on", "new"])

    def test_path_changed_by_middleware(self) -> None:
        """The view is that of the path which middleware leaves."""
        self.assertEqual([self.server.get(path).text for path in ("/new/", "/old/")], ["new", "new"])

    def test_path_in_another_language(self) -> None:
        """Paths that are translated are those of the visitor's language."""
        found = []
        for language in ("en", "de"):
            for path in ("/Monday", "/Montag"):
                answer = self.server.get(path, headers={"Accept-Language": language})
                found.append(answer.text if answer.status_code == 200 else answer.status_code)
        self.assertEqual(found, ["en", 404, 404, "de"])

    def test_response_later(self) -> None:
        """A view that raises ``ResponseLater`` leaves the answer to others."""
        for path in ("/later/", "/later/?attribute"):
            answer = self.server.get(path)
            self.assertEqual((answer.status_code, answer.text), (200, "later"))

    def test_deadline(self) -> None:
        """The view of a request that got no answer in time is cancelled."""
        self.assertEqual(self.server.get("/hang/").status_code, 503)
        wait_until(lambda: "hang cancelled" in notes(self.server), "the cancellation")

    def test_close_of_a_response(self) -> None:
        """A response with a ``close`` of its own is closed by it."""
        self.assertEqual(self.server.get("/closing/").text, "closing")
        wait_until(lambda: "closed" in notes(self.server), "the close")

    def test_connection_that_cannot_be_closed(self) -> None:
        """An error while an old connection is closed loses no query of the next coroutine."""
        self.make_tables()
        self.assertEqual(self.server.get("/broken/").text, "spoilt")
        self.assertEqual([self.server.get("/count/").text for _ in range(2)], ["0", "0"])


class HTTP2RuleTests(ServerTestCase):
    """The same over HTTP/2."""

    files = FILES
    extra_settings = SETTINGS

    def test_deadline(self) -> None:
        """A view that did not answer in time is cancelled; the other streams of its connection go on."""
        certificate, key = write_pair(self.folder)
        server = self.start("--threads", "1", "--http-timeout", "3", "--tls-cert", certificate, "--tls-key", key)
        client = HTTP2Client(server, certificate)
        self.addCleanup(client.close)
        late, new = client.send("/hang/"), client.send("/new/")
        self.assertEqual(bytes(client.finish(new).body), b"new")
        self.assertEqual(client.finish(late).status, 503)
        wait_until(lambda: "hang cancelled" in notes(server), "the cancellation")
        self.assertEqual(bytes(client.get("/new/").body), b"new")


class StreamStopTests(ServerTestCase):
    """The end of a server that has streamed."""

    files = FILES
    extra_settings = "MIDDLEWARE = []\n"

    def test_stop_when_a_stream_has_ended(self) -> None:
        """It ends with its last stream, also if the thread of that has been replaced."""
        server = self.start("--threads", "1", "--drain-timeout", "40")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.get, "/stream/")
            wait_until(lambda: server.get("/-/health").json()["streams"] == 1, "the stream")
            self.assertTrue(server.get("/plain/").text.startswith("worker-"))
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("drain|stopping|SIGTERM|shut")
            began = time.monotonic()
            (self.folder / "go-on").touch()
            self.assertEqual(asked.result(TIMEOUT).text, "begins")
            self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - began, 20)


class BodyTests(SynchronousTestCase):
    """A body that comes part by part, by ``body_channel``."""

    def answer(self, waiting: Callable[..., Any] | None = None) -> list[Any]:
        """Answer a request for whose body the layer is asked; return the replies."""
        layer = mock.Mock()
        sent: list[Any] = []
        layer.dispatch = lambda channel, content: sent.append(content)
        layer.receive.side_effect = waiting
        content = {"path": "/", "method": "POST", "reply_channel": "r!1", "body_channel": "http.request.body?x"}
        request = Message(content, "http.request", layer)

        async def beside() -> None:
            task = asyncio.create_task(AsyncViews(1.0).answer(request))
            await asyncio.sleep(0)
            self.turns.append("the loop goes on")
            await task

        self.turns: list[str] = []
        with override_settings(ROOT_URLCONF=()):
            asyncio.run(beside())
        return sent

    def test_loop_goes_on(self) -> None:
        """The wait for a part blocks a thread of its own; a client that left gets nothing."""

        def waiting(*arguments: Any, **named: Any) -> Any:
            wait_until(lambda: self.turns, "the loop's next turn")
            return "http.request.body?x", {"closed": True}

        self.assertEqual(self.answer(waiting), [])
        self.assertEqual(self.turns, ["the loop goes on"])

    def test_timeout(self) -> None:
        """A body that does not come in time: 408."""
        with mock.patch("channelserver.workers.request._collect_body", side_effect=RequestTimeout):
            (sent,) = self.answer()
        self.assertEqual(sent["status"], 408)


class LoopTests(SynchronousTestCase):
    """The event loop and the threads around it."""

    def test_ended(self) -> None:
        """Each post to a loop that has just ended returns False; callbacks for its idleness are called at once."""
        loop = EventLoop()
        asyncio_loop = loop.loop
        asyncio_loop.call_soon_threadsafe(asyncio_loop.stop)
        wait_until(asyncio_loop.is_closed, "the end of the loop")
        done: list[str] = []
        self.assertFalse(loop.post(done.append, "lost"))
        self.assertFalse(loop.post(done.append, "lost, too"))
        for _ in range(2):
            loop.when_idle(lambda: done.append("idle"))
        self.assertEqual(done, ["idle", "idle"])

    def test_task_of_an_earlier_call(self) -> None:
        """A thread keeps nothing of the coroutine whose synchronous part it ran: another one's end is not its own."""
        seen: list[Any] = []
        future: Future[None] = Future()
        future.add_done_callback(lambda _: seen.append(SyncToAsync.threadlocal.task_context))
        run_call(future, lambda: setattr(SyncToAsync.threadlocal, "task_context", ["a task"]))
        self.assertEqual(seen, [None])
