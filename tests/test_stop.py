"""How a server stops: nothing under way is lost, everybody is told, and it does not take longer than it may.

The views and consumers here do not sleep; they say that they have begun, and go on when they are told, through files in
the project's folder. So each test knows what the server is doing when the signal arrives.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until

#: Makes the server wait for ever where it waits for a client that has been sent away to leave.
PATIENT = """
from channelserver.server.http import base
assert base.LINGER > 0
base.LINGER = 600.0
"""

#: So long that a test fails if the server waits for its end.
FOR_EVER = "600"


class StopTestCase(ServerTestCase):
    """A server that is told to stop."""

    files = project("stop")

    def setUp(self) -> None:
        """Have threads at hand for clients that wait."""
        super().setUp()
        self.threads = ThreadPoolExecutor()
        self.addCleanup(self.threads.shutdown)
        self.addCleanup(self.go)

    def background(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a client that waits."""
        return self.threads.submit(function, *arguments)

    def lines(self, file: str) -> list[str]:
        """Return what the project has written into a file."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_lines(self, number: int, file: str) -> list[str]:
        """Wait until the project has written so many lines into a file; return them."""
        wait_until(lambda: len(self.lines(file)) >= number, f"{number} lines in {file!r}")
        return self.lines(file)

    def go(self) -> None:
        """Let everything that waits go on."""
        (self.folder / "go").touch()

    def refused(self, server: Server) -> bool:
        """Whether the server takes no more connections."""
        try:
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT).close()
        except (ConnectionRefusedError, ConnectionResetError):  # the latter: it stops while the kernel connects us
            return True
        return False

    def close_code(self, client: Any) -> int | None:
        """Wait for the close frame; return its code."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv(TIMEOUT)
        return caught.exception.rcvd.code if caught.exception.rcvd else None


class StopTests(StopTestCase):
    """``twistd channelserver``, in the foreground."""

    def test_sigint(self) -> None:
        """Control-C ends an idle server with exit code 0."""
        server = self.start()
        self.assertEqual(server.get("/").status_code, 200)
        self.assertEqual(server.stop(signal.SIGINT), 0)
        self.assertNotIn("Traceback", server.output)

    def test_sigterm(self) -> None:
        """So does SIGTERM."""
        server = self.start()
        self.assertEqual(server.get("/").status_code, 200)
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", server.output)

    def test_signal_at_the_start(self) -> None:
        """A server that has said that it listens stops as it should, even before it has served anything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.start()
            self.assertEqual(server.stop(number), 0)
            self.assertNotIn("Traceback", server.output)

    def test_requests_under_way_are_finished(self) -> None:
        """A view that runs, a response that streams and a request body that is still being sent: all get to their end.
        Meanwhile new connections are refused.
        """
        server = self.start("--drain-timeout", FOR_EVER)
        slow = self.background(server.get, "/slow/")
        parts = server.get("/parts/", stream=True)
        self.addCleanup(parts.close)
        content = parts.iter_content(None)
        self.assertEqual(next(content), b"one ")
        self.wait_for_lines(1, "begun")
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as upload:
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            self.assertEqual(upload.recv(1000), b"HTTP/1.1 100 Continue\r\n\r\n")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.refused(server), "the end of listening")
            upload.sendall(b"body")
            answer = b"".join(iter(lambda: upload.recv(1000), b""))
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
            self.assertTrue(answer.endswith(b"\r\n\r\nquick body"), answer)
            self.assertIn(b"\r\nConnection: close\r\n", answer)
        self.assertFalse(slow.done())
        self.assertTrue(self.refused(server))
        self.assertIsNone(server.process.poll())
        self.go()
        self.assertEqual(b"".join(content), b"two")
        answered = slow.result(TIMEOUT)
        self.assertEqual((answered.status_code, answered.text), (200, "slow but sure"))
        self.assertEqual(answered.headers["Connection"], "close")
        self.assertEqual(server.wait(), 0)
        self.assertNotIn("cut off", server.output)
        self.assertNotIn("Traceback", server.output)

    def test_sockets_are_told_and_their_disconnect_consumers_run(self) -> None:
        """Every socket gets a close frame with 1012 (service restart), and its disconnect consumer has run before the
        process ends. There are more of them than are closed in one go.
        """
        number = 120
        server = self.start("--drain-timeout", FOR_EVER)
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect(f"/{place}/")) for place in range(number)]
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual({self.close_code(client) for client in clients}, {1012})
            self.assertEqual(server.wait(), 0)
        self.assertEqual(sorted(self.lines("disconnected")), sorted(f"/{place}/ 1012" for place in range(number)))
        self.assertNotIn("Traceback", server.output)

    def test_consumer_under_way_is_finished(self) -> None:
        """A consumer that runs when the signal comes gets to its end, what it has held back is sent, and that is
        consumed as well. A message that waited behind it is consumed, too.
        """
        server = self.start("--drain-timeout", FOR_EVER)
        with server.connect("/chat/") as client:
            client.send("first")
            client.send("second")
            self.wait_for_lines(1, "begun")
            client.ping().wait(TIMEOUT)  # answered: what was sent before it has been read
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(self.close_code(client), 1012)
            self.assertEqual((self.lines("ended"), self.lines("notes")), ([], []))
            self.go()
            self.assertEqual(server.wait(), 0)
        self.assertEqual(self.lines("ended"), ["receive", "receive"])
        self.assertEqual(self.lines("notes"), ["held back", "held back"])
        self.assertEqual(self.lines("disconnected"), ["/chat/ 1012"])
        self.assertNotIn("Traceback", server.output)

    def test_handshake_under_way_is_refused(self) -> None:
        """A client whose connect consumer has not ended is sent away with 503, and may try again elsewhere."""
        server = self.start("--drain-timeout", FOR_EVER, "--connect-timeout", FOR_EVER)

        def status() -> int:
            with self.assertRaises(InvalidStatus) as caught, server.connect("/slow/"):
                pass
            return caught.exception.response.status_code

        waiting = self.background(status)
        self.wait_for_lines(1, "begun")
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(waiting.result(TIMEOUT), 503)
        self.go()
        self.assertEqual(server.wait(), 0)
        self.assertEqual(self.lines("disconnected"), [])

    def test_idle_connections_do_not_delay_the_end(self) -> None:
        """Connections without a request are closed at once: one kept alive, and one on which nothing has come yet.
        Their clients take no notice, and nobody waits for them.
        """
        self.write({"settings.py": (self.folder / "settings.py").read_text() + PATIENT})
        server = self.start("--drain-timeout", FOR_EVER, "--keep-alive", FOR_EVER, "--header-timeout", FOR_EVER)
        with requests.Session() as session, socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as silent:
            answer = session.get(server.url(), timeout=TIMEOUT)
            self.assertEqual(answer.status_code, 200)
            self.assertNotIn("Connection", answer.headers)  # kept
            self.assertEqual(server.stop(), 0)
            self.assertEqual(silent.recv(1000), b"")
        self.assertNotIn("cut off", server.output)

    def test_drain_timeout(self) -> None:
        """What takes longer than ``drain_timeout`` is cut off: the client notices, and the log names it."""
        server = self.start("--drain-timeout", "0.5")
        slow = self.background(server.get, "/slow/")
        self.wait_for_lines(1, "begun")
        self.assertEqual(server.stop(), 0)
        self.assertIsInstance(slow.exception(TIMEOUT), requests.ConnectionError)
        server.wait_for(r"1 connections? cut off after 0\.5 s")
        server.wait_for(r"cut off .*'http\.request'")

    def test_drain_timeout_for_a_consumer(self) -> None:
        """The same holds for a consumer that takes too long, of a socket that has been told already."""
        server = self.start("--drain-timeout", "0.5")
        with server.connect("/chat/") as client:
            client.send("for ever")
            self.wait_for_lines(1, "begun")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(self.close_code(client), 1012)
            self.assertEqual(server.wait(), 0)
        server.wait_for(r"cut off .*'websocket\.receive'")
        self.assertEqual(self.lines("ended"), [])

    def test_second_signal(self) -> None:
        """The impatient send the signal twice: the process ends at once, by that signal."""
        for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
            (self.folder / "begun").unlink(missing_ok=True)
            server = self.start("--drain-timeout", FOR_EVER)
            slow = self.background(server.get, "/slow/")
            self.wait_for_lines(1, "begun")
            server.process.send_signal(first)
            wait_until(lambda server=server: self.refused(server), "the end of listening")
            self.assertIsNone(server.process.poll())
            self.assertEqual(server.stop(second), -second)
            self.assertIsInstance(slow.exception(TIMEOUT), requests.ConnectionError)

    def test_pid_file(self) -> None:
        """twistd's pid file names the process while it runs, and is gone afterwards."""
        pid_file = self.folder / "site.pid"
        server = self.run_twistd("--nodaemon", f"--pidfile={pid_file}").wait_until_up()
        self.assertEqual(int(pid_file.read_text()), server.process.pid)
        self.assertEqual(server.get("/").status_code, 200)
        self.assertEqual(server.stop(), 0)
        self.assertFalse(pid_file.exists())

    def run_twistd(self, *options: str, port: int = 0) -> Server:
        """Run ``twistd`` with options of its own."""
        arguments = ("--settings", "settings", "--port", str(port), "--log-format", "text")
        return self.run_process(self.twistd(*arguments, options=options))

    def test_daemon(self) -> None:
        """Without ``--nodaemon`` the command returns when the server is up; the server then stops like any other."""
        pid_file, log = self.folder / "site.pid", self.folder / "site.log"

        def kill() -> None:
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGKILL)

        self.addCleanup(kill)
        server = self.run_twistd(f"--pidfile={pid_file}", f"--logfile={log}", port=free_port())
        self.assertEqual(server.wait(), 0, server.output)
        self.assertTrue(server.has_ended, "the daemon keeps the pipe of its output open")
        server.port = int(server.process.args[server.process.args.index("--port") + 1])
        wait_until(pid_file.exists, "the pid file")
        self.assertEqual(server.get("/").text, "quick ")
        slow = self.background(server.get, "/slow/")
        with server.connect("/chat/") as client:
            client.send("to a worker thread of the daemon")
            self.wait_for_lines(2, "begun")
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            self.assertEqual(self.close_code(client), 1012)
            self.go()
        self.assertEqual(slow.result(TIMEOUT).text, "slow but sure")
        wait_until(lambda: not pid_file.exists(), "the end of the daemon")
        self.assertEqual(self.lines("disconnected"), ["/chat/ 1012"])
        self.assertEqual(self.lines("notes"), ["held back"])
        self.assertIn("listening on http://", log.read_text())
        self.assertRegex(log.read_text(), r"GET /slow/.* 200 ")
        self.assertNotIn("Traceback", log.read_text())


class RunserverStopTests(StopTestCase):
    """``manage.py runserver``."""

    def check(self, server: Server, number: int) -> None:
        with server.connect("/chat/") as client:
            server.process.send_signal(number)
            self.assertEqual(self.close_code(client), 1012)
            self.assertEqual(server.wait(), 0)
        self.assertEqual(self.lines("disconnected"), ["/chat/ 1012"])
        self.assertNotIn("Traceback", server.output)

    def test_sigint(self) -> None:
        """Control-C: sockets are told, their disconnect consumers run, the exit code is 0."""
        self.check(self.runserver(), signal.SIGINT)

    def test_sigterm(self) -> None:
        """SIGTERM does the same."""
        self.check(self.runserver(), signal.SIGTERM)

    def test_sigint_with_the_autoreloader(self) -> None:
        """Control-C in a terminal reaches both processes of Django's autoreloader; the outer one lets the inner one
        finish.
        """
        server = self.run_process([sys.executable, "manage.py", "runserver", str(free_port())]).wait_until_up()
        with server.connect("/chat/") as client:
            os.killpg(server.process.pid, signal.SIGINT)
            self.assertEqual(self.close_code(client), 1012)
            self.assertEqual(server.wait(), 0)
        self.assertEqual(self.lines("disconnected"), ["/chat/ 1012"])
        self.assertNotIn("Traceback", server.output)
