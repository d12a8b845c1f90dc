"""What happens before and after a request is what Django does, with our functions or without them."""

from __future__ import annotations

import json
import sys
import threading
from contextvars import Context
from typing import Any
from unittest import mock

import django.urls
from asgiref.local import Local
from django.core.cache import caches
from twisted.trial.unittest import SynchronousTestCase

from channelserver.workers import django_cleanup
from tests.process import TIMEOUT, Server, ServerTestCase, SharedServerTestCase, project, wait_until

SETTINGS = """
DATABASES["kept"] = {**DATABASES["default"], "NAME": BASE_DIR / "kept.sqlite3", "CONN_MAX_AGE": 600}
"""

CACHES = """
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "closing": {"BACKEND": "closing.Cache"},
}
"""


class CleanupTests(SharedServerTestCase):
    """One thread, so each request finds what the one before has left."""

    files = project("django_cleanup")
    extra_settings = SETTINGS
    arguments = ("--threads", "1")

    def text(self, path: str) -> str:
        """Return the answer to a request."""
        response = self.server.get(path)
        self.assertEqual(response.status_code, 200)
        return response.text

    def test_age(self) -> None:
        """A connection is closed after the request, or kept for as long as ``CONN_MAX_AGE`` says."""
        for _ in range(2):
            self.text("/use/")
            self.assertEqual(self.text("/look/"), "default=False kept=True")

    def test_asynchronous_view(self) -> None:
        """The same with a connection that an asynchronous view has opened through ``sync_to_async``."""
        self.text("/use_async/")
        self.assertIn("default=False", self.text("/look/"))

    def test_broken_connection(self) -> None:
        """A connection that no longer works is closed, and the next request gets one that does."""
        self.text("/spoil/")
        self.assertIn("kept=False", self.text("/look/"))
        self.text("/use/")
        self.assertIn("kept=True", self.text("/look/"))

    def test_broken_between(self) -> None:
        """Both signals close it."""
        self.assertEqual(self.text("/spoil_between/"), "[False, False]")

    def test_connection_half_made(self) -> None:
        """The same with one that broke while it was being made."""
        self.assertEqual(self.text("/half/"), "True")
        self.assertIn("kept=False", self.text("/look/"))
        self.text("/use/")

    def test_left_in_a_transaction(self) -> None:
        """A connection which a view leaves without autocommit is closed."""
        self.text("/use/")
        self.text("/uncommitted/")
        self.assertIn("kept=False", self.text("/look/"))

    def test_deleted_connection(self) -> None:
        """A project may delete a connection: it is kept by nobody, and the one that comes after it is looked after."""
        self.assertEqual(self.text("/forgotten/"), "True")
        self.assertIn("default=False", self.text("/look/"))

    def test_queries(self) -> None:
        """The queries of earlier requests are forgotten."""
        self.assertEqual([self.text("/queries/") for _ in range(3)], ["1", "1", "1"])

    def test_other_threads(self) -> None:
        """The signals do in threads of the project what they do in ours."""
        self.assertEqual(self.text("/elsewhere/"), "[False]")

    def test_tasks(self) -> None:
        """The connections of tasks in a thread of the project are not the thread's."""
        self.assertEqual(self.text("/tasks/"), "[True, True]")

    def test_receivers(self) -> None:
        """A receiver of ``request_started`` connected late is called, and finds what Django has done already."""
        self.text("/listen/")
        self.text("/look/")
        self.assertEqual(self.text("/hear/"), "['/look/: False', '/hear/: False']")

    def test_consumers(self) -> None:
        """Before and after a consumer, connections are looked after like around a view."""
        with self.server.connect("/") as socket:
            socket.send("open?")
            self.assertEqual(socket.recv(TIMEOUT), "False")


class ClosingCacheTests(CleanupTests):
    """The same with a cache that has something to close, so that Django is not alone with ours."""

    extra_settings = SETTINGS + CACHES

    def test_cache(self) -> None:
        """It is closed after each request."""
        first = int(self.text("/cache/"))
        self.assertEqual([int(self.text("/cache/")) for _ in range(2)], [first + 1, first + 2])


class ReceiversTests(SharedServerTestCase):
    """A project with receivers of its own, connected before the server is put together."""

    files = project("django_cleanup")
    extra_settings = (
        SETTINGS
        + """
from django.core import signals
from django.db import connection
heard = []

def started(message, **kwargs):
    heard.append(f"{message['path']} begins: {connection.connection is not None}")

def finished(**kwargs):
    heard.append(f"ends: {connection.connection is not None}")
    connection.ensure_connection()

signals.request_started.connect(started)
signals.request_finished.connect(finished)
"""
    )
    arguments = ("--threads", "1")

    def test_order(self) -> None:
        """They are called when Django has closed the connection of the request, and what they themselves have opened
        meanwhile.
        """
        self.server.get("/use/")
        self.server.get("/look/")
        wanted = ["/use/ begins: False", "ends: False", "/look/ begins: False", "ends: False", "/told/ begins: False"]
        self.assertEqual(self.server.get("/told/").json(), wanted)


class ChoiceTests(SharedServerTestCase):
    """A project that does not want Django to close its connections."""

    files = project("django_cleanup")
    extra_settings = (
        SETTINGS
        + """
from django.core import signals
from django import db
signals.request_started.disconnect(db.close_old_connections)
signals.request_finished.disconnect(db.close_old_connections)
"""
    )
    arguments = ("--threads", "1")

    def test_disconnected_receivers(self) -> None:
        """What the project has disconnected is not done."""
        self.server.get("/use/")
        self.assertEqual(self.server.get("/look/").text, "default=True kept=True")


class ForeignSettingsTests(SharedServerTestCase):
    """A project with a package that resolves settings when they are asked for."""

    files = {"urls.py": """
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    urlpatterns = [path("", lambda request: HttpResponse(settings.SECRET))]
    """}  # fmt: skip
    extra_settings = """
from django.conf import LazySettings

def resolve(self, name, original=LazySettings.__getattribute__):
    if name != "SECRET":
        return original(self, name)
    return self._wrapped.SECRET()

LazySettings.__getattribute__ = resolve
SECRET = lambda: "resolved"
"""

    def test_resolved(self) -> None:
        """They still are."""
        self.assertEqual(self.server.get("/").text, "resolved")


class CachesTests(SynchronousTestCase):
    """The caches of a worker thread, whose messages have a context each."""

    def test_kept(self) -> None:
        """A thread keeps its caches from message to message; another thread has its own."""
        before = caches._connections  # type: ignore[attr-defined]
        self.addCleanup(setattr, caches, "_connections", before)
        django_cleanup.keep_caches()
        self.assertIsNot(caches._connections, before)  # type: ignore[attr-defined]
        first = Context().run(lambda: caches["default"])
        self.assertIs(Context().run(lambda: caches["default"]), first)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(caches["default"]))
        thread.start()
        thread.join()
        self.assertIsNot(found[0], first)
        self.assertEqual(caches.all(initialized_only=True), [first])


class OtherURLconfTests(SynchronousTestCase):
    """A Django, or a Python, with which the URLconf stays where Django keeps it."""

    def test_forgotten(self) -> None:
        """It is forgotten at the end of a request all the same."""
        place = Local()
        place.value = "urls"
        with mock.patch.object(django.urls.base, "_urlconfs", place):
            django_cleanup._request_finished()
        self.assertFalse(hasattr(place, "value"))


class PlacesTests(SharedServerTestCase):
    """URLconf, script prefix and settings, of a site that has middleware which chooses the URLconf."""

    files = project("django_places")
    extra_settings = """
MIDDLEWARE = ["places.middleware"]
FORCE_SCRIPT_NAME = "/forced"
KNOWN = 1
"""
    arguments = ("--threads", "1", "--root-path", "/mount")

    def test_views(self) -> None:
        """A view has those of its request, a thread that it starts has none."""
        here, elsewhere, url = self.server.get("/mount/inside/").json()
        self.assertEqual((here, elsewhere), (["places", "/mount/"], [None, "/"]))
        self.assertEqual(url, "/mount/inside/")

    def test_asynchronous_views(self) -> None:
        """One that is a coroutine has them in its tasks, too, and in what it has done by a thread."""
        *places, url = self.server.get("/mount/async/").json()
        self.assertEqual(places, [["places", "/mount/"]] * 3)
        self.assertEqual(url, "/mount/inside/")

    def test_afterwards(self) -> None:
        """After the request its URLconf is forgotten. What the main thread had before the first request stays."""
        for path in ("/mount/inside/", "/mount/async/"):
            self.server.get(path)
            with self.server.connect("/") as socket:
                socket.send("")
                place, first = json.loads(str(socket.recv(TIMEOUT)))
            # --root-path beats FORCE_SCRIPT_NAME, also for what is imported before the first request.
            self.assertEqual((place, first), ([None, "/mount/"], [None, "/mount/"]))

    def test_results(self) -> None:
        """Who sends the signals himself gets the results of Django's receivers."""
        called = "reset_queries", "close_old_connections", "close_old_connections", "reset_urlconf"
        found = [[name.lstrip("_"), result] for name, result in self.server.get("/mount/results/").json()]
        self.assertEqual(found, [[name, None] for name in called])

    def test_settings(self) -> None:
        """Settings are found, missed and overridden as ever."""
        found = self.server.get("/mount/settings/").json()
        self.assertEqual(found, [2, 3, 1, False, 4, True, True, False])


#: Where all of that comes from in Django without the shortcuts, and with them.
UNCHANGED = [
    "asgiref.local", "collections.abc", "django.db.utils", "django.dispatch.dispatcher", "django.http.response",
    "django.utils.functional",
]  # fmt: skip
CHANGED = ["channelserver.workers.django_cleanup", "channelserver.workers.django_fast", "re", "settings"]


class NoShortcutsTests(ServerTestCase):
    """``--no-shortcuts``, or the setting, leaves Django unchanged in every kind of process; one line says what is."""

    files = project("django_where")
    off = "CHANNELSERVER = {'shortcuts': False}\n"

    def found(self, server: Server) -> list[str]:
        """Return where one process of a server has Django's functions from."""
        return list(server.get("/where/").json()[1])

    def switch_off(self) -> None:
        """Turn the shortcuts off in the settings."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(self.off)

    def test_server(self) -> None:
        """The server says that they are on, and how to turn them off."""
        server = self.start()
        server.wait_for(r"Django shortcuts: on\b")
        self.assertEqual(self.found(server), CHANGED)

    def test_processes(self) -> None:
        """The flag holds for all processes."""
        server = self.start("--no-shortcuts", "--processes", "2")
        server.wait_for("Django shortcuts: off")
        answers: dict[int, list[str]] = {}

        def both() -> bool:
            answers.update([server.get("/where/").json()])
            return len(answers) == 2

        wait_until(both, "an answer of each process")
        self.assertEqual(list(answers.values()), [UNCHANGED, UNCHANGED])
        self.assertEqual(server.output.count("Django shortcuts"), 1)

    def test_runworker(self) -> None:
        """Worker processes have them, unless the setting is off."""
        server = self.start("--threads", "0")
        for wanted, line in ((CHANGED, "Django shortcuts: on"), (UNCHANGED, "Django shortcuts: off")):
            worker = self.run_process(self.command("runworker"))
            worker.wait_for(line)
            self.assertEqual(self.found(server), wanted)
            self.assertEqual(worker.stop(), 0)
            self.switch_off()

    def test_runserver(self) -> None:
        """The same for the development server."""
        for wanted, line in ((CHANGED, "Django shortcuts: on"), (UNCHANGED, "Django shortcuts: off")):
            server = self.runserver()
            server.wait_for(line)
            self.assertEqual(self.found(server), wanted)
            server.stop()
            self.switch_off()

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """Return a management command."""
        return [sys.executable, "manage.py", *arguments]
