"""``--processes``: several processes that are one server (part 7)."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.certificates import write_pair
from tests.lab import TEXT, RawClient
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until
from tests.test_deploy import ACTIVATED


class ProcessesTestCase(ServerTestCase):
    """A server of two processes."""

    files = project("processes")
    # On a busy machine a process may need more than some milliseconds to take what is left to it.
    extra_settings = """
        from channelserver.server.common import listening
        listening.COURTESY = 0.05
        MIDDLEWARE = []
        SESSION_ENGINE = 'django.contrib.sessions.backends.file'
    """

    def start(self, *arguments: str, port: int = 0) -> Server:
        """Start it; wait until both are there."""
        server = super().start("--processes", "2", *arguments, port=port)
        server.wait_for("process 2 serves, too")
        return server

    def pids(self, server: Server) -> tuple[int, int]:
        """Return the process ids of the first process and of the other one."""
        first = server.process.pid
        return first, self.until(server, lambda pid: pid != first)

    def until(self, server: Server, wanted: Callable[[int], bool]) -> int:
        """Ask, on new connections, until a process answers that is wanted; return its id."""
        found: list[int] = []

        def ask() -> bool:
            # Kept, so that the other process is the one with fewer.
            session = requests.Session()
            self.addCleanup(session.close)
            found.append(int(session.get(server.url("/where/"), timeout=TIMEOUT).text))
            return wanted(found[-1])

        wait_until(ask, "an answer of the wanted process")
        return found[-1]

    def sockets(self, server: Server, stack: ExitStack, number: int) -> dict[int, list[tuple[ClientConnection, str]]]:
        """Open so many WebSockets; return them, with their reply channels, by process."""
        found: dict[int, list[tuple[ClientConnection, str]]] = {}
        for _ in range(number):
            websocket = stack.enter_context(server.connect("/"))
            pid, channel = str(websocket.recv(TIMEOUT)).split()
            found.setdefault(int(pid), []).append((websocket, channel))
        return found

    def notes(self) -> list[str]:
        """Return what the consumers have noted."""
        path = self.folder / "notes.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []  # the last line may be half written


class OneServerTests(ProcessesTestCase):
    """Two processes look like one."""

    def test_groups(self) -> None:
        """Members of both processes get every group send of either, and of a shell, in order for each sender."""
        server = self.start("--ping-interval", "0")
        with ExitStack() as stack:
            found: dict[str, list[RawClient]] = {}
            for _ in range(400):
                client = stack.enter_context(RawClient(server)).open("/")
                found.setdefault(str(client.data()).split()[0], []).append(client)
            self.assertEqual(len(found), 2)
            self.assertGreaterEqual(min(map(len, found.values())), 150)
            senders = [clients[0] for clients in found.values()]
            senders[0].send_frame(TEXT, b"send one")
            senders[1].send_frame(TEXT, b"send two")
            self.manage(
                "shell", "-v", "0", "-c",
                "from channelserver import Group\n"
                "for number in range(50): Group('all').send({'text': f'shell {number}'})",
            )  # fmt: skip
            expected = [f"{sender} {number}" for sender in ("one", "two", "shell") for number in range(50)]
            for clients in found.values():
                for client in clients:
                    texts = [str(client.data()) for _ in range(150)]
                    # Sorting is stable: for each sender, the order in which they arrived.
                    texts.sort(key=lambda text: ("one", "two", "shell").index(text.split()[0]))
                    self.assertEqual(texts, expected)
            senders[0].send_frame(TEXT, b"members")
            self.assertEqual(senders[0].data(), "400 0")
        self.assertEqual(server.stop(), 0)

    def test_sockets_of_both(self) -> None:
        """Reply channels and groups know no borders; each socket's messages are consumed in order, with its session."""
        server = self.start()
        with ExitStack() as stack:
            found = self.sockets(server, stack, 6)
            (one, one_name), (two, two_name) = (sockets[0] for sockets in found.values())
            for websocket, other, name in ((one, two, two_name), (two, one, one_name)):
                websocket.send(f"to {name}")
                self.assertEqual(other.recv(TIMEOUT), "personal")
                websocket.send(f"add {name}")
                self.assertEqual(other.recv(TIMEOUT), "few")
            self.assertEqual(two.recv(TIMEOUT), "few")  # it was a member when the second send came
            for websocket in (one, two):
                websocket.send("members")
                self.assertEqual(websocket.recv(TIMEOUT), "6 2")
                websocket.send("statistics")
                self.assertEqual(websocket.recv(TIMEOUT), "6 8 channel_full_count")
            for pid, sockets in found.items():
                websocket = sockets[-1][0]
                for number in range(50):
                    websocket.send(f"n{number}")
                for number in range(50):
                    self.assertEqual(websocket.recv(TIMEOUT), f"n{number} {number + 1} {pid}")
            script = (
                "from channelserver import channel_layers\n"
                "layer = channel_layers['default']\n"
                "figures = layer.channel_statistics('websocket.connect'), layer.global_statistics()\n"
                "print(figures[0]['messages_count'], figures[1]['groups'])"
            )
            self.assertEqual(self.manage("shell", "-v", "0", "-c", script).split(), ["6", "2"])
            one.send("flush")
            self.assertEqual(one.recv(TIMEOUT), "flushed")
            two.send("flush")
            self.assertEqual(two.recv(TIMEOUT), "flushed")
        wait_until(lambda: len(self.notes()) == 6)
        with server.connect("/") as last:
            last.recv(TIMEOUT)
            last.send("members")
            self.assertEqual(last.recv(TIMEOUT), "1 0")

    def test_http(self) -> None:
        """Each process answers its own requests; connections are shared out; uploads and health work in both."""
        server = self.start()
        first, other = self.pids(server)
        data = os.urandom(300_000)
        answers, connections = set(), []
        for _ in range(20):
            session = requests.Session()
            self.addCleanup(session.close)
            connections.append(int(session.get(server.url("/where/"), timeout=TIMEOUT).text))
            answers.add(session.post(server.url("/upload/"), data=data, timeout=TIMEOUT).text)
            report = session.get(server.url("/-/health"), timeout=TIMEOUT).json()
            self.assertEqual((report["status"], report["threads"]), ("ready", 2 * int(self.threads)))
        self.assertEqual(answers, {hashlib.sha256(data).hexdigest()})
        self.assertEqual(set(connections), {first, other})
        self.assertGreaterEqual(min(connections.count(first), connections.count(other)), 8)
        self.assertGreaterEqual(report["connections"], 20)

    threads = "3"

    def setUp(self) -> None:
        """Three threads in each process."""
        super().setUp()
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(f"CHANNELSERVER = {{'threads': {self.threads}}}\n")

    def test_queues(self) -> None:
        """A custom channel has one queue, from which the threads of both processes take."""
        server = self.start()
        server.wait_for("2 processes x 3 threads, so at most 6 connections to each database")
        for pid in self.pids(server):
            self.until(server, lambda found, pid=pid: found == pid)
        requests.get(server.url("/job/?number=300"), timeout=TIMEOUT)
        wait_until(lambda: len(self.notes()) >= 300)
        numbers = [int(line.split()[1]) for line in self.notes()]
        self.assertEqual(sorted(numbers), list(range(300)))
        self.assertEqual(len({line.split()[2] for line in self.notes()}), 2)

    def test_max_connections(self) -> None:
        """The limit counts the connections of all processes."""
        server = self.start("--max-connections", "6")
        with ExitStack() as stack:
            self.assertEqual(len(self.sockets(server, stack, 6)), 2)
            self.assertEqual(server.get("/where/").status_code, 503)


class LifeTests(ProcessesTestCase):
    """Starting, dying, stopping."""

    def test_stop(self) -> None:
        """SIGTERM: running requests are finished, sockets closed with 1012, consumers run, exit code 0."""
        server = self.start()
        first, other = self.pids(server)
        with ExitStack() as stack:
            found = self.sockets(server, stack, 4)
            self.assertEqual(set(found), {first, other})
            answers: list[str] = []
            client = threading.Thread(target=lambda: answers.append(server.get("/held/").text))
            client.start()
            wait_until((self.folder / "at-gate").exists)
            server.process.send_signal(signal.SIGTERM)
            for sockets in found.values():
                for websocket, _ in sockets:
                    with self.assertRaises(ConnectionClosed):
                        websocket.recv(TIMEOUT)
                    self.assertEqual(websocket.close_code, 1012)
            (self.folder / "gate").touch()
            client.join(TIMEOUT)
        self.assertEqual(server.wait(), 0)
        self.assertIn(answers[0], (str(first), str(other)))
        self.assertEqual([line.split()[0] for line in self.notes()], ["disconnect"] * 4)
        self.assertFalse(_alive(other))

    def test_control_c(self) -> None:
        """CONTROL-C reaches all processes at once: an orderly stop all the same."""
        server = self.start()
        _, other = self.pids(server)
        os.killpg(server.process.pid, signal.SIGINT)
        self.assertEqual(server.wait(), 0)
        self.assertFalse(_alive(other))
        self.assertNotIn("Traceback", server.output)

    def test_a_process_that_dies(self) -> None:
        """It is started again; its sockets are no members any more; the other process's notice nothing."""
        server = self.start()
        first, other = self.pids(server)
        with ExitStack() as stack:
            found = self.sockets(server, stack, 6)
            os.kill(other, signal.SIGKILL)
            server.wait_for(r"process 2 has ended: by signal SIGKILL; a new one starts in 0\.5 s")
            websocket, _ = found[first][0]
            websocket.send("members")
            self.assertEqual(websocket.recv(TIMEOUT), f"{len(found[first])} 0")
            wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2, "its successor")
            new = self.until(server, lambda pid: pid not in (first, other))
            later: list[int] = []
            while not {first, new} <= set(later):  # the new one is given those that the other one had more, at first
                self.assertLess(len(later), 100)
                later += self.sockets(server, stack, 1)
            self.assertEqual(set(later), {first, new})
            websocket.send("members")
            self.assertEqual(websocket.recv(TIMEOUT), f"{len(found[first]) + len(later)} 0")
        self.assertEqual(server.stop(), 0)

    def test_first_process_dies(self) -> None:
        """The others end, too, and set the port free."""
        server = self.start(port=free_port())
        first, other = self.pids(server)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not _alive(other), "the end of the other process")
        again = self.start(port=server.port)
        self.assertEqual(again.get("/where/").status_code, 200)

    def test_daemon(self) -> None:
        """As a daemon: with a pid file, the log of all processes in one file, an orderly stop."""
        command = self.twistd(
            "--settings", "settings", "--port", "0", "--processes", "2",
            options=("--pidfile=twistd.pid", "--logfile=twistd.log"),
        )  # fmt: skip
        self.assertEqual(self.run_process(command).wait(), 0)
        log = self.folder / "twistd.log"
        wait_until(lambda: log.exists() and "process 2 serves, too" in log.read_text())
        pid = int((self.folder / "twistd.pid").read_text())
        try:
            port = re.search(r"listening on http://127.0.0.1:(\d+)/", log.read_text())
            assert port is not None
            answer = requests.get(f"http://127.0.0.1:{port[1]}/where/", timeout=TIMEOUT)
            self.assertEqual(answer.status_code, 200)
        finally:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _alive(pid))
        self.assertIn("/where/", log.read_text())
        self.assertIn('"process":2', log.read_text())
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_other_listeners(self) -> None:
        """All kinds of listeners are shared: Unix sockets (whose file stays when a sibling ends), --fd, endpoints."""
        path = self.folder / "site.sock"
        with socket.socket() as inherited:
            inherited.bind(("127.0.0.1", 0))
            inherited.listen()
            port = inherited.getsockname()[1]
            server = self.run_process(
                self.twistd(
                    "--settings", "settings", "--processes", "2", "--unix-socket", str(path),
                    "--fd", str(inherited.fileno()), "--endpoint", "tcp:0:interface=127.0.0.1",
                ),
                pass_fds=(inherited.fileno(),),
            )  # fmt: skip
            server.wait_for("process 2 serves, too")
        server.wait_until_up()
        first, other = self.pids(server)
        sibling = Server.__new__(Server)
        sibling.scheme, sibling.port = "http", port
        self.assertEqual(self.until(sibling, lambda pid: pid == other), other)
        self.assertEqual({_get_unix(path, self) for _ in range(30)}, {first, other})
        mode = path.stat().st_mode
        os.kill(other, signal.SIGKILL)
        server.wait_for("process 2 has ended")
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2)
        self.assertEqual(path.stat().st_mode, mode)
        self.assertEqual(server.stop(), 0)
        self.assertFalse(path.exists())

    def test_systemd(self) -> None:
        """A socket that systemd hands over is shared, too."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            options = ["serve", "--settings", "settings", "--processes", "2", "--log-format", "text"]
            command = [sys.executable, "-c", ACTIVATED, str(listener.fileno()), *options]
            server = self.run_process([*command, "-e", "systemd:domain=INET:index=0"], pass_fds=(listener.fileno(),))
            server.wait_until_up()
            server.wait_for("process 2 serves, too")
        self.pids(server)
        self.assertEqual(server.stop(), 0)

    def test_tls(self) -> None:
        """HTTPS is spoken by all of them, and SIGHUP has all of them read the certificate again."""
        certificate, key = write_pair(self.folder)
        server = self.start("--tls-cert", certificate, "--tls-key", key)
        found = set()

        def ask() -> bool:
            session = requests.Session()
            self.addCleanup(session.close)
            found.add(session.get(server.url("/where/"), verify=certificate, timeout=TIMEOUT).text)
            return len(found) == 2

        wait_until(ask)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(r"INFO .*: certificate read again")
        server.wait_for(r"INFO .*\[2\]: certificate read again")

    def test_wrong_options(self) -> None:
        """What makes no sense is refused in one sentence."""
        for arguments, words in (
            (("--processes", "0"), "--processes must be a whole number from 1 to 64"),
            (("--max-requests", "9"), "so it needs --processes 2 or more"),
            (("--processes", "2", "--threads", "0"), "--processes needs worker threads in each process"),
        ):
            server = self.run_process(self.twistd("--settings", "settings", *arguments))
            self.assertEqual(server.wait(), 1)
            self.assertIn(words, server.output)
            self.assertNotIn("Traceback", server.output)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _get_unix(path: Any, case: ServerTestCase) -> int:
    """Ask on a Unix socket which process answers."""
    connection = socket.socket(socket.AF_UNIX)
    case.addCleanup(connection.close)
    connection.settimeout(TIMEOUT)
    connection.connect(os.fspath(path))
    connection.sendall(b"GET /where/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    data = b""
    while not re.search(rb"\r\n\r\n\d+$", data):
        data += connection.recv(4096)
    return int(data.rpartition(b"\r\n")[2])
