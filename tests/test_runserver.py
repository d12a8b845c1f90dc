"""``manage.py runserver``: the development server."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import django
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.lab import RawClient
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until

#: What the admin needs.
SETTINGS = """
    DEBUG = True
    INSTALLED_APPS += ["django.contrib.admin", "django.contrib.messages", "app"]
    MIDDLEWARE += [
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    TEMPLATES = [{
        "BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
        "OPTIONS": {"context_processors": [
            "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]},
    }]
"""

FILES = {**project("lab", "runserver"), "app/static/app/own.txt": "a file of the app's own"}

ADMIN_CSS = Path(django.__file__).parent / "contrib/admin/static/admin/css/base.css"


class RunserverTestCase(ServerTestCase):
    files = FILES
    extra_settings = SETTINGS

    def echo(self, server: Server, path: str = "/") -> str:
        """Return what a socket's consumer answers."""
        with server.connect(path) as socket:
            socket.send("hello")
            return str(socket.recv(TIMEOUT))

    def assertStatic(self, server: Server) -> None:
        """Assert that the static files of the apps are served, and no others."""
        response = server.get("/static/admin/css/base.css")
        self.assertEqual((response.status_code, response.headers["Content-Type"]), (200, "text/css"))
        self.assertEqual(response.content, ADMIN_CSS.read_bytes())
        self.assertEqual(server.get("/static/app/own.txt").text, "a file of the app's own")
        self.assertEqual(server.get("/static/app/none.txt").status_code, 404)
        self.assertEqual(server.get("/static/../settings.py").status_code, 404)


class RunserverTests(RunserverTestCase):
    def test_pages_sockets_and_static_files(self) -> None:
        """It serves pages, sockets and, without collectstatic, static files; it prints a line for each, and stops
        with exit code 0.
        """
        server = self.runserver()
        server.wait_for("System check identified no issues")
        server.wait_for("Starting channelserver's development server at http://127.0.0.1:")
        server.wait_for("4 worker threads")
        self.assertEqual(server.get("/").text, "the first version")
        self.assertEqual(self.echo(server), "hello from one of 4 threads")
        self.assertStatic(server)
        self.assertEqual(server.get("/admin/login/").status_code, 200)
        date = r"^\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "
        client = r"\[127\.0\.0\.1:\d+\]$"
        server.wait_for(date + r"HTTP GET / 200 \[\d+\.\d\d, 127\.0\.0\.1:\d+\]$")
        server.wait_for(date + r"HTTP GET /static/app/own\.txt 200 \[")
        server.wait_for(date + r"HTTP GET /static/app/none\.txt 404 \[")
        for event in ("HANDSHAKING", "CONNECT", "DISCONNECT"):
            server.wait_for(date + rf"WebSocket {event} / {client}")
        with self.assertRaises(InvalidStatus) as refused, server.connect("/denied/"):
            pass
        self.assertEqual(refused.exception.response.status_code, 403)
        server.wait_for(date + rf"WebSocket REJECT /denied/ {client}")
        # With DEBUG an error is a page with its traceback, and a traceback on the console.
        response = server.get("/fail")
        self.assertEqual(response.status_code, 500)
        self.assertIn("the view failed", response.text)
        server.wait_for("ValueError: the view failed")
        # No colours where nobody sees them.
        self.assertNotIn("\x1b[", server.output)
        self.assertEqual(server.stop(signal.SIGINT), 0)

    def test_colours(self) -> None:
        """With ``--force-color`` the lines have the colours of Django's own server."""
        server = self.runserver("--force-color")
        for path in ("/", "/none", "/redirect", "/fail"):
            server.get(path, allow_redirects=False)
        self.echo(server)
        colours = {}
        for what in ("GET / 200", "GET /none 404", "GET /redirect 302", "GET /fail 500", "DISCONNECT /"):
            colours[what] = server.wait_for(rf"\x1b\[([\d;]*)m\[.* {what}.*\x1b\[0m$")[1]
        # Django's "dark" palette.
        self.assertEqual(list(colours.values()), ["", "33", "32", "35;1", "1"])

    def test_stopped_while_busy(self) -> None:
        """Open sockets are told that the server ends, and do not keep it."""
        server = self.runserver()
        with server.connect("/") as socket:
            server.process.send_signal(signal.SIGTERM)
            with self.assertRaises(ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
        assert closed.exception.rcvd is not None
        self.assertEqual(closed.exception.rcvd.code, 1012)
        self.assertEqual(server.wait(), 0)

    def test_port_in_use(self) -> None:
        """A port that is taken is one sentence and an exit code."""
        first = self.runserver()
        command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{first.port}"]
        second = self.run_process(command)
        self.assertNotEqual(second.wait(), 0)
        self.assertIn(str(first.port), second.output)
        self.assertIn("in use", second.output)
        self.assertNotIn("Traceback", second.output)


class OptionTests(RunserverTestCase):
    """The options of Channels 1 and of Django."""

    def test_noworker(self) -> None:
        """With ``--noworker`` nobody consumes: WebSockets are answered 403 after the handshake timeout, requests 503
        after the HTTP timeout.
        """
        server = self.runserver("--noworker", "--http_timeout", "1", "--websocket_handshake_timeout", "1")
        server.wait_for("no workers")
        began = time.monotonic()
        with RawClient(server) as socket, RawClient(server) as client:
            socket.handshake("/")
            client.request("/")
            self.assertEqual((socket.head().status, client.head().status), (403, 503))
        self.assertGreaterEqual(time.monotonic() - began, 1.0)
        server.wait_for("WebSocket HANDSHAKING /")
        server.wait_for("WebSocket REJECT /")
        server.wait_for("HTTP GET / 503")

    def test_nothreading(self) -> None:
        """With ``--nothreading`` there is one worker thread."""
        server = self.runserver("--nothreading")
        server.wait_for("1 worker thread")
        self.assertEqual(self.echo(server), "hello from one of 1 threads")
        self.assertEqual(server.get("/").text, "the first version")

    def test_threads_of_the_settings(self) -> None:
        """An option that names the number of threads counts here, too."""
        with (self.folder / "settings.py").open("a") as stream:
            stream.write('CHANNELSERVER = {"threads": 3}\n')
        server = self.runserver()
        server.wait_for("3 worker threads")
        self.assertEqual(self.echo(server), "hello from one of 3 threads")
        self.assertEqual(server.stop(), 0)
        command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}"]
        self.run_process(command, CHANNELSERVER_THREADS="2").wait_for("2 worker threads")

    def test_noasgi(self) -> None:
        """With ``--noasgi`` it is Django's own server: pages and static files, but no sockets."""
        server = self.runserver("--noasgi")
        server.wait_for("Starting (WSGI )?development server at")  # with the word since Django 6.1
        self.assertEqual(server.get("/").text, "the first version")
        self.assertIn("WSGIServer", server.get("/").headers["Server"])
        self.assertStatic(server)
        with self.assertRaises(InvalidStatus), server.connect("/"):
            pass

    def test_nostatic(self) -> None:
        """With ``--nostatic`` static files are left to the project's URLs."""
        server = self.runserver("--nostatic")
        self.assertEqual(server.get("/static/app/own.txt").status_code, 404)
        self.assertEqual(server.get("/").text, "the first version")
        self.assertEqual(self.echo(server), "hello from one of 4 threads")


class InsecureTests(RunserverTestCase):
    """Without ``DEBUG``."""

    extra_settings = SETTINGS + "\n    DEBUG = False\n"

    def test_insecure(self) -> None:
        """``--insecure`` serves static files although ``DEBUG`` is off."""
        self.assertStatic(self.runserver("--insecure"))

    def test_secure(self) -> None:
        """Else they are not served, and errors are not told."""
        server = self.runserver()
        self.assertEqual(server.get("/static/app/own.txt").status_code, 404)
        response = server.get("/fail")
        self.assertEqual(response.status_code, 500)
        self.assertNotIn("the view failed", response.text)


class ReloadTests(RunserverTestCase):
    """Django's autoreloader."""

    def change(self, server: Server, name: str, text: str, seen: str) -> None:
        """Write a file anew until its change has been noticed, which is when a line like `seen` is printed."""
        noticed = 0
        before = len(server.lines)

        def in_output() -> bool:
            return any(seen in line for line in server.lines[before:])

        while not noticed or not in_output():
            noticed += 1
            self.assertLess(noticed, 30, f"{name} was changed, but nobody noticed")
            self.assertIsNone(server.process.poll(), "the server has ended")
            self.write({name: text})
            stamp = time.time() + noticed  # the reloader may look for the first time only now
            os.utime(self.folder / name, (stamp, stamp))
            ends = time.monotonic() + 2
            while not in_output() and time.monotonic() < ends:
                time.sleep(0.02)

    def wait_for_page(self, server: Server, text: str) -> None:
        """Wait until the front page says this; the server may be down meanwhile."""

        def says() -> bool:
            try:
                return text in server.get("/").text
            except requests.ConnectionError:
                return False

        wait_until(says, f"a page with {text!r}")

    def test_autoreload(self) -> None:
        """A changed file: open sockets are closed with 1012, the server starts anew at the same port and runs the new
        code, of views and consumers alike. A mistake in the code is shown, and waits for its cure.
        """
        command = [sys.executable, "manage.py", "runserver", f"127.0.0.1:{free_port()}"]
        server = self.run_process(command).wait_until_up()
        self.assertEqual(server.get("/").text, "the first version")
        with server.connect("/") as socket:
            self.write({"routing.py": FILES["routing.py"].replace('f"{', 'f"new code got {')})
            self.change(server, "urls.py", FILES["urls.py"].replace("first", "second"), "changed, reloading")
            with self.assertRaises(ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
            assert closed.exception.rcvd is not None
            self.assertEqual(closed.exception.rcvd.code, 1012)
        self.wait_for_page(server, "the second version")
        self.assertIn("new code got hello", self.echo(server))
        self.change(server, "urls.py", FILES["urls.py"].replace("the first", 'the " first'), "SyntaxError")
        third = FILES["urls.py"].replace("first", "third")
        try:
            self.change(server, "urls.py", third, "changed, reloading")
        except AssertionError:
            # Django's reloader dies if it looks at a module in the moment in which its import fails.
            self.assertIn("KeyError: 'urls'", server.output)
            self.write({"urls.py": third})
            server = self.run_process(command).wait_until_up()
        self.wait_for_page(server, "the third version")


class PlainProjectTests(ServerTestCase):
    """A Django project that knows nothing of channels."""

    files = {
        "urls.py": """
            from django.http import HttpResponse
            from django.urls import path
            urlpatterns = [path("", lambda request: HttpResponse("a plain site"))]
        """
    }
    extra_settings = """
        del CHANNEL_LAYERS
        STATIC_ROOT = BASE_DIR / "collected"
    """

    def assertServes(self, server: Server) -> None:
        """Assert that pages are served, and that a socket is accepted and ignored."""
        self.assertEqual(server.get("/").text, "a plain site")
        self.assertEqual(server.get("/none").status_code, 404)
        with server.connect("/") as socket:
            socket.send("anybody?")
            socket.ping().wait(TIMEOUT)
        self.assertNotIn("Traceback", server.output)

    def test_runserver(self) -> None:
        """With "channelserver" among its applications, wherever it stands, runserver is ours."""
        for extra in ("", "INSTALLED_APPS.append(INSTALLED_APPS.pop(0))\n"):
            with open(self.folder / "settings.py", "a") as stream:
                stream.write(extra)
            server = self.runserver()
            server.wait_for("Starting channelserver's development server")
            self.assertServes(server)
            self.assertEqual(server.stop(), 0)

    def test_not_installed(self) -> None:
        """Without "channelserver" among its applications runserver is Django's, and ``twistd channelserver`` serves the
        project all the same, with static files that were collected.
        """
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("INSTALLED_APPS.remove('channelserver')\n")
        self.write({"collected/file.txt": "a collected file"})
        server = self.start()
        self.assertServes(server)
        self.assertEqual(server.get("/static/file.txt").text.strip(), "a collected file")
        self.assertEqual(server.stop(), 0)
        django_s = self.runserver()
        django_s.wait_for("Starting (WSGI )?development server at")
        self.assertEqual(django_s.get("/").text, "a plain site")
