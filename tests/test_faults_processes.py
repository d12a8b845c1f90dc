"""``--processes``: one of them is late, dies, is stopped or hangs (part 7)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import requests
from twisted.trial.unittest import SynchronousTestCase
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from websockets.exceptions import ConnectionClosed

from channelserver.processes.shares import Shares
from channelserver.start.log_stream import LogStream
from tests import preloaded
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until
from tests.redis_server import RedisServer

#: A sibling waits for a file before it has imported the settings.
LATE = """
import sys, time
while "channelserver.start.sibling" in sys.modules and not (BASE_DIR / "go").exists():
    time.sleep(0.005)
"""

REDIS = """
CHANNEL_LAYERS["default"]["BACKEND"] = "channelserver.layers.redis.RedisChannelLayer"
CHANNEL_LAYERS["default"]["CONFIG"] = {{"hosts": ["{url}"]}}
"""


class FaultsTestCase(ServerTestCase):
    """A server of two processes."""

    files = project("faults_processes")
    extra_settings = """
        from channelserver.server.common import listening
        listening.COURTESY = 0.05
        MIDDLEWARE = []
    """

    def append(self, text: str) -> None:
        """Add to the settings."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(text)

    def use_redis(self) -> None:
        """Use a layer over Redis."""
        redis = RedisServer()
        self.addCleanup(redis.remove)
        self.append(REDIS.format(url=redis.url))

    def start_two(self, *arguments: str, port: int = 0) -> Server:
        """Start the server; wait until both serve."""
        server = self.start("--processes", "2", "--threads", "2", *arguments, port=port)
        server.wait_for("process 2 serves, too")
        return server

    def ask_until(self, server: Server, path: str, wanted: Callable[[str], bool]) -> requests.Session:
        """Ask on new connections, which stay open, until an answer is wanted; return that connection."""
        found: list[requests.Session] = []

        def ask() -> bool:
            session = requests.Session()
            self.addCleanup(session.close)
            found.append(session)
            return wanted(session.get(server.url(path), timeout=TIMEOUT).text)

        wait_until(ask, f"an answer of {path} that is wanted")
        return found[-1]

    def ask(self, session: requests.Session, server: Server, path: str) -> str:
        """Ask on a connection that is open."""
        return session.get(server.url(path), timeout=TIMEOUT).text

    def notes(self) -> list[str]:
        """Return what the consumers have noted."""
        return (self.folder / "notes.txt").read_text().splitlines()

    def both(self, server: Server) -> tuple[requests.Session, requests.Session, int]:
        """Return a connection to the first process, one to the other, and the other's process ID."""
        first = self.ask_until(server, "/where/", lambda text: text == str(server.process.pid))
        other = self.ask_until(server, "/where/", lambda text: text != str(server.process.pid))
        return first, other, int(other.get(server.url("/where/"), timeout=TIMEOUT).text)


class StartTests(FaultsTestCase):
    """Nobody listens until all serve."""

    def test_clients_that_come_back_at_once(self) -> None:
        """Clients that hammer a server which starts are shared out, and all are served."""
        self.append(LATE)
        port = free_port()
        server = self.run_process(
            self.twistd("--settings", "settings", "--port", str(port), "--processes", "2", "--threads", "2")
        )
        sessions = [requests.Session() for _ in range(60)]
        answers: list[str] = []

        def ask(session: requests.Session) -> None:
            while True:
                try:
                    answers.append(session.get(f"http://127.0.0.1:{port}/where/", timeout=TIMEOUT).text)
                    return
                except requests.ConnectionError:
                    pass  # nobody listens yet

        clients = [Thread(target=ask, args=(session,), daemon=True) for session in sessions]
        for client in clients:
            client.start()
        wait_until(lambda: _queued(port) == len(sessions), "that all clients wait")
        self.assertEqual(answers, [])
        self.assertNotIn("listening on", server.output)
        (self.folder / "go").touch()
        for client in clients:
            client.join(TIMEOUT)
        server.wait_for("listening on")
        for session in sessions:
            session.close()
        self.assertEqual(len(answers), 60)
        first = answers.count(str(server.process.pid))
        self.assertGreaterEqual(min(first, 60 - first), 20, answers)

    def test_a_process_that_does_not_start(self) -> None:
        """It is not waited for for ever; and it serves when it is there."""
        self.append(LATE + "from channelserver.processes import siblings\nsiblings.START_SECONDS = 0.3\n")
        server = self.start("--processes", "2", "--threads", "2")
        server.wait_for(r"accepting connections without process 2, which does not serve after \d+ s")
        self.assertEqual(server.get("/where/").text, str(server.process.pid))
        (self.folder / "go").touch()
        server.wait_for("process 2 serves, too")
        self.both(server)
        self.assertEqual(server.stop(), 0)


class EndTests(FaultsTestCase):
    """Who has ended is known, whatever its children keep."""

    def first_dies(self, *options: str, arrangement: tuple[str, ...] = ("--processes", "2", "--threads", "2")) -> None:
        """Kill the first process, whose children live on; start the server again on the same port."""
        port = free_port()
        for _ in range(2):
            server = self.start(*arrangement, *options, port=port)
            if "--processes" in arrangement:
                server.wait_for("process 2 serves, too")
                _, _, other = self.both(server)
                for pid in (server.process.pid, other):
                    self.ask_until(server, "/fork/", lambda text, pid=pid: text == str(pid))
                server.process.kill()
                wait_until(lambda other=other: not _alive(other), "the end of the other process")
            else:
                server.get("/fork/")
                server.process.kill()
            server.process.wait(TIMEOUT)
        self.assertNotIn("address already in use", server.output)

    def test_first_dies_in_memory(self) -> None:
        """In memory."""
        self.first_dies()

    def test_first_dies_over_redis(self) -> None:
        """Over Redis, where nothing else ends the others."""
        self.use_redis()
        self.first_dies()

    def test_only_process_dies(self) -> None:
        """A server of one process, with a local socket and a Unix socket."""
        self.first_dies("--unix-socket", str(self.folder / "site.sock"), arrangement=())

    def test_first_dies_while_the_other_is_stopped(self) -> None:
        """Even a stopped process sets the port free."""
        port = free_port()
        server = self.start_two(port=port)
        _, _, other = self.both(server)
        os.kill(other, signal.SIGSTOP)
        server.process.kill()
        wait_until(lambda: not _alive(other), "the end of the other process")
        self.start_two(port=port)

    def test_a_process_with_children_dies(self) -> None:
        """It is started again at once; its sockets are no members any more, and what is sent to them is counted."""
        server = self.start_two()
        first, _, other = self.both(server)
        self.ask_until(server, "/fork/", lambda text: text == str(other))
        sockets: dict[int, list[str]] = {server.process.pid: [], other: []}
        while not all(sockets.values()):
            websocket = self.enterContext(server.connect("/"))
            pid, channel = str(websocket.recv(TIMEOUT)).split()
            sockets[int(pid)].append(channel)
        mine = len(sockets[server.process.pid])
        os.kill(other, signal.SIGKILL)
        server.wait_for("process 2 has ended: by signal SIGKILL")
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2, "its successor")
        self.assertEqual(first.get(server.url("/group/"), timeout=TIMEOUT).text, str(mine))
        for _ in range(3):
            first.get(server.url(f"/send/?channel={sockets[other][0]}"), timeout=TIMEOUT)
        figures = first.get(server.url("/statistics/"), timeout=TIMEOUT).json()
        self.assertEqual(figures["lost"], {"process gone": 3})
        server.wait_for(r"1 message\(s\) to 'websocket.send.*' lost: process gone")
        report = first.get(server.url("/-/health"), timeout=TIMEOUT).json()
        self.assertEqual(report["threads"], 4)

    def test_a_worker_process_with_children_dies(self) -> None:
        """Its server notices at once, and counts the message it was on."""
        server = self.start("--threads", "2")
        command = [sys.executable, "manage.py", "runworker", "--only-channels", "work", "--threads", "1"]
        worker = self.run_process(command)
        server.wait_for("worker process .* takes 1 messages at a time")
        self.assertEqual(server.get("/send/?name=fork").text, "sent")
        wait_until((self.folder / "forked").exists, "that it has a child")
        worker.process.kill()
        server.wait_for(r"1 message\(s\) to 'work' lost: its worker process ended")
        self.assertEqual(server.get("/send/?name=later").text, "sent")
        wait_until(
            lambda: (self.folder / "notes.txt").exists() and self.notes() == ["later"], "the server's own threads"
        )


class HangTests(FaultsTestCase):
    """Who does not move is noticed."""

    def test_stopped(self) -> None:
        """A stopped process is killed, counted and replaced."""
        server = self.start_two("--hang-timeout", "2")
        _, _, other = self.both(server)
        os.kill(other, signal.SIGSTOP)
        server.wait_for("process 2 has not moved for 2 s; killing it")
        server.wait_for("process 2 has ended: by signal SIGKILL")
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2, "its successor")
        self.assertFalse(_alive(other))
        first, _, _ = self.both(server)
        report = first.get(server.url("/-/health"), timeout=TIMEOUT).json()
        self.assertEqual(report["replaced"], {"hung": 1})

    def test_all_threads_hang(self) -> None:
        """The server is not ready while no worker thread moves, whether or not requests wait."""
        server = self.start("--threads", "2", "--hang-timeout", "0.5", "--http-timeout", "1")
        clients = [Thread(target=server.get, args=("/held/",)) for _ in range(2)]
        for client in clients:
            client.start()
        wait_until(lambda: server.get("/-/health").json()["status"] == "overloaded", "that health tells")
        for client in clients:
            client.join(TIMEOUT)  # 503, but the consumers go on
        self.assertEqual(server.get("/-/health").json()["queues"]["http.request"], 0)
        self.assertEqual(server.get("/-/health").json()["status"], "overloaded")
        (self.folder / "gate").touch()
        wait_until(lambda: server.get("/-/health").json()["status"] == "ready", "that they are free again")

    def test_the_first_is_stopped(self) -> None:
        """The other one serves on: it answers all questions in time, waits for no held-back message, and says whether a
        message may have arrived.
        """
        self.append(
            "from channelserver.processes import local_client, remote\n"
            "local_client.ANSWER_SECONDS = remote.ANSWER_SECONDS = remote.FIGURES_SECONDS = 1.0\n"
        )
        server = self.start_two()
        _, other, _ = self.both(server)
        self.assertEqual(self.ask(other, server, "/send/?name=before"), "sent")
        server.process.send_signal(signal.SIGSTOP)
        try:
            self.assertRegex(self.ask(other, server, "/send/?name=unknown"), "^DeliveryUnknown: .* within 1 s; it may")
            self.assertRegex(self.ask(other, server, "/send/?name=not+asked"), "^NoServerError: the server does not an")
            for number in range(5):  # more than there are threads
                self.assertEqual(self.ask(other, server, f"/send/?later&name=held-{number}"), "sent")
            command = [sys.executable, "manage.py", "send", "work", '{"name": "shell"}']
            done = preloaded.run(command, self.folder, self.environment, TIMEOUT)
            self.assertEqual(done.returncode, 4, done.stderr)
            self.assertIn("perhaps not sent: the server on", done.stderr)
            self.assertIn('"unanswered": 1', self.ask(other, server, "/statistics/"))
            report = other.get(server.url("/-/health"), timeout=TIMEOUT).json()
            self.assertEqual((report["status"], report["unanswered"]), ("ready", 1))
            wait_until(lambda: other.get(server.url("/-/health"), timeout=TIMEOUT).json()["processes"]["1"] == "silent")
        finally:
            server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: self.ask(other, server, "/send/?name=after") == "sent", "that the first answers again")
        expected = ["after", "before", *(f"held-{number}" for number in range(5)), "shell", "unknown"]
        wait_until(lambda: sorted(set(self.notes())) == expected)
        wait_until(lambda: "unanswered" not in other.get(server.url("/-/health"), timeout=TIMEOUT).json())
        self.assertEqual(self.notes().count("unknown"), 1)
        self.assertNotIn("second status", server.output)
        self.assertEqual(server.stop(), 0)

    def test_stop_with_a_stopped_process(self) -> None:
        """SIGTERM does not wait for a process that does not move."""
        server = self.start_two("--hang-timeout", "0", "--drain-timeout", "600")
        first, _, other = self.both(server)
        os.kill(other, signal.SIGSTOP)
        health = server.url("/-/health")
        wait_until(lambda: first.get(health, timeout=TIMEOUT).json()["processes"]["2"] == "silent", "that it is silent")
        self.assertEqual(server.stop(), 0)
        self.assertIn("process 2 does not move; killing it", server.output)

    def test_the_other_is_stopped(self) -> None:
        """The first one keeps little for it, counts the rest, and answers for both."""
        server = self.start_two("--hang-timeout", "0")
        first, other, pid = self.both(server)
        member = False
        while not member:
            websocket = self.enterContext(server.connect("/"))
            member = str(websocket.recv(TIMEOUT)).split()[0] == str(pid)
        for session in (first, other):
            self.ask(session, server, "/where/")
        before = json.loads(self.ask(first, server, "/statistics/"))
        os.kill(pid, signal.SIGSTOP)

        def report() -> Any:
            return first.get(server.url("/-/health"), timeout=TIMEOUT).json()

        wait_until(lambda: report()["processes"] == {"1": "serving", "2": "silent"})
        self.assertEqual((report()["status"], report()["unanswered"]), ("ready", 1))
        for _ in range(8):
            self.ask(first, server, f"/group/?times=10&size={1024 * 1024}")
        figures = json.loads(self.ask(first, server, "/statistics/"))
        self.assertEqual(figures["unanswered"], 1)
        self.assertGreaterEqual(figures["messages_count"], before["messages_count"])
        self.assertGreaterEqual(figures["lost"]["process does not read"], 40)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2, "its successor")
        figures = json.loads(self.ask(first, server, "/statistics/"))
        self.assertNotIn("unanswered", figures)
        self.assertGreaterEqual(figures["messages_count"], before["messages_count"])
        self.assertEqual(figures["lost"]["process does not read"] + figures["lost"]["process gone"], 80)
        self.assertEqual(report()["replaced"], {"ended": 1})


class OutputTests(FaultsTestCase):
    """Nobody reads what the server prints."""

    def test_pipe_that_nobody_reads(self) -> None:
        """Neither process waits for a reader, whichever of them fills the pipe; and SIGTERM is obeyed."""
        port = free_port()
        command = self.twistd(
            "--settings", "settings", "--port", str(port), "--processes", "2", "--threads", "2", "--log-format", "text"
        )
        process = preloaded.start(command, self.folder, self.environment)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, TIMEOUT)
        self.addCleanup(process.kill)  # the other ends with it
        found: dict[str, requests.Session] = {}

        def ask() -> bool:
            session = requests.Session()
            self.addCleanup(session.close)
            try:
                found[session.get(f"http://127.0.0.1:{port}/where/", timeout=TIMEOUT).text] = session
            except requests.ConnectionError:
                pass  # it does not listen yet
            return len(found) == 2

        wait_until(ask, "answers of both")
        for number in range(60):
            for session in found.values():  # each makes two lines or more
                answer = session.get(f"http://127.0.0.1:{port}/{number}-{'x' * 2000}", timeout=TIMEOUT)
                self.assertEqual(answer.status_code, 404)
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_room_that_another_process_takes(self) -> None:
        """The pipe had room a moment ago."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        text = self.enterContext(os.fdopen(writing, "w"))
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        stream = LogStream(text)
        stream._poll = type("Ready", (), {"poll": lambda self, seconds: [1]})()  # type: ignore[assignment]
        writer = Thread(target=stream.write, args=("line\n",), daemon=True)
        writer.start()
        writer.join(TIMEOUT / 10)
        waits = writer.is_alive()
        os.read(reading, 65536)
        self.assertFalse(waits)


class ReplaceTests(FaultsTestCase):
    """Processes are replaced while they serve."""

    def setUp(self) -> None:
        """Views say which version of the code they are."""
        super().setUp()
        self.set_version("1")

    def set_version(self, version: str) -> None:
        """Change the code."""
        urls = (self.folder / "urls.py").read_text().partition("\nVERSION")[0]
        (self.folder / "urls.py").write_text(f"{urls}\nVERSION = {version!r}\n")

    def under_load(self, server: Server, act: Callable[[], object]) -> set[str]:
        """Ask on old and new connections all the time while something happens; return the answers."""
        done = Event()
        answers: set[str] = set()
        problems: list[object] = []

        def ask(keep: bool) -> None:
            # This takes a third of the time of requests. It pauses, for the new processes have to start beside it.
            pool = None
            while not done.wait(0.005):
                pool = pool or HTTPConnectionPool("127.0.0.1", server.port, timeout=TIMEOUT, retries=False)
                try:
                    answer = pool.request("GET", "/version/")
                    answers.add(answer.data.decode())
                    if answer.status != 200:
                        problems.append(answer.status)
                except HTTPError as problem:
                    problems.append(problem)
                if not keep:
                    pool.close()
                    pool = None
            if pool is not None:
                pool.close()

        clients = [Thread(target=ask, args=(number % 2 == 0,), daemon=True) for number in range(4)]
        for client in clients:
            client.start()
        try:
            act()
        finally:
            done.set()
            for client in clients:
                client.join(TIMEOUT)
        self.assertEqual(problems, [])
        return answers

    def test_new_code(self) -> None:
        """SIGHUP: new processes with new code one after the other, none refused, sockets closed by 1012; twice."""
        self.replace_code()

    def test_new_code_over_redis(self) -> None:
        """The same over Redis."""
        self.use_redis()
        self.replace_code()

    def replace_code(self) -> None:
        """Replace the processes twice."""
        server = self.start_two()
        _, _, other = self.both(server)
        sockets = [self.enterContext(server.connect("/")) for _ in range(20)]
        old = {server.process.pid, other}
        for times, version in ((1, "2"), (2, "3")):
            self.set_version(version)

            def replace(times: int = times) -> None:
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda: server.output.count("all processes have been replaced") == times, "new processes")

            self.assertIn(version, self.under_load(server, replace))
            for _ in range(20):
                self.assertEqual(server.get("/version/").text, version)
        for websocket in sockets:
            with self.assertRaises(ConnectionClosed):
                while True:
                    websocket.recv(TIMEOUT)
            self.assertEqual(websocket.close_code, 1012)
        session = requests.Session()
        self.addCleanup(session.close)
        self.assertNotIn(int(self.ask(session, server, "/where/")), old)
        self.assertEqual(self.ask(session, server, "/send/?name=after"), "sent")
        wait_until(lambda: (self.folder / "notes.txt").exists() and self.notes() == ["after"])
        report = session.get(server.url("/-/health"), timeout=TIMEOUT).json()
        self.assertEqual(report["processes"], {"1": "serving", "2": "serving", "3": "serving"})
        self.assertEqual(report["replaced"], {"restart": 4})
        self.assertEqual(server.stop(), 0)

    def test_code_that_does_not_start(self) -> None:
        """The old processes go on."""
        server = self.start_two()
        self.both(server)
        with open(self.folder / "routing.py", "a") as stream:
            stream.write("\nraise ValueError('broken')\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the new process for process 1 does not serve")
        self.both(server)
        self.assertEqual(server.stop(), 0)

    def test_max_requests(self) -> None:
        """A process that has had its number of requests is replaced, and no request is refused."""
        server = self.start_two("--max-requests", "40")
        pids = set()

        def watch() -> None:
            def ask() -> bool:
                pids.add(server.get("/where/").text)
                return len(pids) >= 4

            wait_until(ask, "that both have been replaced")

        self.under_load(server, watch)
        self.assertEqual(server.stop(), 0)

    def test_threads_that_hang(self) -> None:
        """A process whose worker threads all hang is drained and replaced."""
        server = self.start_two("--hang-timeout", "1", "--http-timeout", "1", "--drain-timeout", "1")
        _, other, pid = self.both(server)
        websocket = None
        while websocket is None:
            candidate = self.enterContext(server.connect("/"))
            if str(candidate.recv(TIMEOUT)).split()[0] == str(pid):
                websocket = candidate
        second = self.ask_until(server, "/where/", lambda text: text == str(pid))
        clients = [Thread(target=self.ask, args=(each, server, "/held/"), daemon=True) for each in (other, second)]
        for client in clients:
            client.start()
        server.wait_for("process 2 is replaced: worker threads hung")
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2, "its successor")
        self.assertFalse(_alive(pid))
        with self.assertRaises(ConnectionClosed):
            websocket.recv(TIMEOUT)
        self.assertEqual(websocket.close_code, 1012)
        self.assertEqual(server.get("/where/").status_code, 200)


class SharesTests(SynchronousTestCase):
    """The numbers in shared memory."""

    def test_ahead(self) -> None:
        """A process leaves connections to one that has fewer, but not to one that is silent or absent."""
        now = [1.0]
        first = Shares.make(4, lambda: now[0])
        second = Shares(os.dup(first.descriptor), 4, 2, lambda: now[0])
        first.beat()
        first.count(10)
        self.assertFalse(first.ahead())
        self.assertEqual(first.states(), {"1": "serving", "2": "absent", "3": "absent"})
        second.count(1)
        second.beat()
        self.assertTrue(first.ahead())
        self.assertFalse(second.ahead())
        self.assertEqual(first.total(), 11)
        now[0] += 4
        first.beat()
        self.assertFalse(first.ahead())
        self.assertEqual(first.states(), {"1": "serving", "2": "silent", "3": "absent"})
        second.beat()
        self.assertTrue(first.ahead())
        first.count(1)
        self.assertFalse(first.ahead())
        first.wish("worker threads hung")
        self.assertTrue(first.ahead())
        self.assertEqual(second.wish_of(1), "worker threads hung")
        first.wish("")
        first.count(10)
        first.gone(2)
        self.assertFalse(first.ahead())
        self.assertEqual(first.total(), 10)

    def test_unsent(self) -> None:
        """Messages that are lost with a process are counted when it has ended, once."""
        first = Shares.make(2)
        second = Shares(os.dup(first.descriptor), 2, 2)
        for number in (7, 3):
            second.note_unsent(number)
        self.assertEqual(first.lost(), {})
        self.assertEqual([first.gone(2), first.gone(2)], [3, 0])
        self.assertEqual(first.lost(), {"unsent": 3})


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _queued(port: int) -> int:
    """Return how many connections to a listening socket wait to be accepted."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "0A" and int(local.rpartition(":")[2], 16) == port:
            return int(queues.rpartition(":")[2], 16)
    return 0
