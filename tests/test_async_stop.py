"""The end of a server beside all that waits: event streams, views, threads, consumers."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack

from tests.certificates import write_pair
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until
from tests.readers import HTTP1Reader, HTTP2Reader, Reader, shut
from tests.test_async_views import notes

FILES = project("asynchronous")


class StopTestCase(ServerTestCase):
    """A server with something of everything that waits."""

    files = FILES
    #: How many consumers wait.
    sockets = 3

    def open(self, server: Server, path: str) -> Reader:
        """Ask for a page."""
        reader = HTTP1Reader(server, path)
        self.addCleanup(shut, reader)
        return reader

    def wait_note(self, server: Server, line: str) -> None:
        """Wait until the project has noted something."""
        wait_until(lambda: line in notes(server), line)

    def occupy(self, server: Server) -> list[Reader]:
        """Have 20 event streams, a hanging view, an endless stream, a thread that sleeps for a minute, and waiting
        consumers; return the event streams.
        """
        self.open_sockets(server)
        streams = [self.open(server, "/events/") for _ in range(20)]
        for path in ("/hang/", "/parts/", "/to-thread/"):
            self.open(server, path)
        for stream in streams:
            stream.read_until(b"data: first\n\n")
        for line in ("hang begins", "part 1", "thread begins"):
            self.wait_note(server, line)
        return streams

    def open_sockets(self, server: Server) -> None:
        """Have consumers that wait."""
        sockets = ExitStack()
        self.addCleanup(sockets.close)
        for _ in range(self.sockets):
            socket = sockets.enter_context(server.connect("/x/", close_timeout=0.1))
            socket.send("sleep 0 begun")
            self.assertTrue(socket.recv(TIMEOUT))
            socket.send("sleep 1000 waits")


class StopTests(StopTestCase):
    """``twistd channelserver``, SIGTERM; HTTP/1.1."""

    def serve(self, *arguments: str) -> Server:
        """Start the server."""
        return self.start("--threads", "2", *arguments)

    def test_everything_waits(self) -> None:
        """It ends with status 0 soon after the drain timeout; streams end at once and properly, views are cancelled."""
        self.make_tables()
        server = self.serve("--drain-timeout", "2")
        streams = self.occupy(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            self.assertEqual(stream.rest(), b"data: first\n\n")
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - began, 2 + 1 + 20)  # the thread would sleep for a minute
        self.assertIn("hang cancelled", notes(server))
        self.assertIn("parts closed", notes(server))
        self.assertEqual(notes(server).count("consumer cancelled"), self.sockets)
        self.assertNotIn("thread ended", notes(server))
        self.assertNotIn("Traceback", server.output)

    def test_late_stream(self) -> None:
        """An event stream whose view returns while the server drains ends at once, after its first events."""
        server = self.serve("--drain-timeout", "1000")
        stream = self.open(server, "/late-events/")
        self.wait_note(server, "events asked for")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping: 1 connections are open")
        (self.folder / "go-on").touch()
        self.assertEqual(stream.rest(), b"retry: 2500\n\ndata: first\n\nretry: 2500\n\n")
        self.assertEqual(server.wait(), 0)


class SiblingStopTests(StopTests):
    """The same with two processes."""

    def serve(self, *arguments: str) -> Server:
        server = super().serve("--processes", "2", *arguments)
        server.wait_for("process 2 serves")
        return server


class HTTP2StopTests(StopTests):
    """The same over HTTP/2: all streams on one connection. WebSockets are not HTTP/2."""

    sockets = 0

    def serve(self, *arguments: str) -> Server:
        self.certificate, key = write_pair(self.folder)
        self.first: HTTP2Reader | None = None
        return super().serve("--tls-cert", self.certificate, "--tls-key", key, *arguments)

    def open(self, server: Server, path: str) -> Reader:
        client = None if self.first is None else self.first.client
        reader = HTTP2Reader(server, path, self.certificate, client=client)
        if self.first is None:
            self.first = reader
            self.addCleanup(shut, reader)
        return reader


class RunserverTests(StopTestCase):
    """``manage.py runserver``, its reloader included."""

    extra_settings = "DEBUG = True\n"

    def setUp(self) -> None:
        super().setUp()
        self.make_tables()

    def serve(self) -> Server:
        """Start it with its reloader."""
        port = free_port()
        server = self.run_process([sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}"])
        return server.wait_until_up()

    def interrupt(self, server: Server) -> None:
        """Press Ctrl-C."""
        os.killpg(server.process.pid, signal.SIGINT)  # a terminal sends it to both processes
        self.assertEqual(server.wait(), 0)

    def test_reload(self) -> None:
        """A changed file replaces the process beside all that waits."""
        server = self.serve()
        streams = self.occupy(server)
        (self.folder / "urls.py").write_text(FILES["urls.py"] + '\nurlpatterns.append(path("new/", plain))\n')
        os.utime(self.folder / "urls.py", (time.time() + 10, time.time() + 10))
        for stream in streams:
            self.assertEqual(stream.rest(), b"data: first\n\n")

        def reloaded() -> bool:
            try:
                return server.get("/new/").status_code == 200
            except OSError:  # it listens again in a moment
                return False

        wait_until(reloaded, "the new page")
        self.assertIn("hang cancelled", notes(server))
        self.assertNotIn("thread ended", notes(server))
        self.interrupt(server)

    def test_interrupt(self) -> None:
        """Ctrl-C ends it beside all that waits."""
        server = self.serve()
        self.occupy(server)
        self.interrupt(server)
        self.assertIn("hang cancelled", notes(server))
        self.assertNotIn("thread ended", notes(server))
