"""Nothing is lost in silence: what faults of processes and disks do to messages (docs/losses.rst)."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any
from unittest import mock

import requests
from django.conf import settings
from twisted.trial.unittest import SynchronousTestCase

from channelserver.checks import check_sqlite
from channelserver.layers.losses import Reason
from tests.process import ROOT, TIMEOUT, project, wait_until
from tests.test_runworker import WorkerProcessTestCase


class ReasonTests(SynchronousTestCase):
    """The list of reasons."""

    def test_documented(self) -> None:
        """docs/losses.rst has each reason, with its explanation."""
        text = " ".join((ROOT / "docs" / "losses.rst").read_text().split())
        for reason in Reason:
            self.assertIn(f"``{reason.value}`` {reason.text}", text)


class LossesTestCase(WorkerProcessTestCase):
    """A project whose consumers end their processes."""

    files = project("lab", "faults_losses")

    def lost(self) -> dict[str, int]:
        """Return the counters of lost messages."""
        assert self.server is not None
        lost: dict[str, int] = requests.get(self.server.url("/-/health"), timeout=TIMEOUT).json()["lost"]
        return lost


class RequeueTests(LossesTestCase):
    """``route(..., requeue=True)``, ``--requeue``."""

    def workers(self, number: int) -> list[Any]:
        return [self.worker("--threads", "1") for _ in range(number)]

    def test_given_to_others(self) -> None:
        """A message whose process dies goes to another worker, also a coroutine's; without requeue it is lost."""
        server = self.start("--threads", "0")
        workers = self.workers(5)
        self.send("again", {"number": 1, "deaths": 2})
        self.send("again.async", {"number": 2, "deaths": 1})
        self.wait_for_notes("work", 2)
        server.wait_for(r"1 message\(s\) of process \d+, which has ended, go to other workers: again")
        self.assertEqual(self.lost(), {})
        self.send("once", {"number": 3, "deaths": 1})
        server.wait_for(r"1 message\(s\) to 'once' lost: its worker process ended")
        self.assertEqual(self.lost(), {"its worker process ended": 1})
        self.assertEqual(sum(worker.process.poll() is None for worker in workers), 1)
        self.assertEqual(sorted(note["number"] for note in self.notes("work")), [1, 2])

    def test_at_most_three_times(self) -> None:
        """A message that ends each process is lost with the fourth, and counted under a reason of its own."""
        server = self.start("--threads", "0")
        self.workers(5)
        self.send("again", {"number": 1, "deaths": 9})
        server.wait_for(r"1 message\(s\) to 'again' lost: its worker processes ended")
        self.assertEqual(self.lost(), {"its worker processes ended": 1})
        self.assertEqual(len(self.notes("death-1")), 4)
        self.send("again", {"number": 2, "deaths": 0})
        self.wait_for_notes("work")

    def test_socket(self) -> None:
        """A socket's message that comes again comes in its place."""
        server = self.start("--threads", "1")
        self.workers(1)
        with server.connect("/") as websocket:
            for text in ("one", "die", "two"):
                websocket.send(text)
            self.assertEqual([websocket.recv(TIMEOUT) for _ in range(3)], ["one", "die", "two"])
        self.assertEqual(self.lost(), {})

    def test_option(self) -> None:
        """--requeue, of the server or of a worker process, is the default of all routes."""
        self.start("--threads", "0", "--requeue")
        self.workers(2)
        self.send("once", {"number": 1, "deaths": 1})
        self.wait_for_notes("work")

    def test_option_of_worker(self) -> None:
        """A worker process can have it alone."""
        self.start("--threads", "0")
        for _ in range(2):
            self.worker("--threads", "1", "--requeue")
        self.send("once", {"number": 1, "deaths": 1})
        self.wait_for_notes("work")

    def test_siblings(self) -> None:
        """What a sibling had in its hands goes to the other processes, too."""
        server = self.start("--processes", "2", "--threads", "1")
        server.wait_for("process 2 serves, too")
        for number in range(20):
            self.send("sibling", {"number": number, "first": server.process.pid})
        wait_until(lambda: len({note["number"] for note in self.notes("work")}) == 20)
        server.wait_for("process 2 has ended")
        self.assertEqual(self.lost(), {})


class CountTests(LossesTestCase):
    """Counters of processes that die."""

    def test_ended(self) -> None:
        """A message whose consumer has returned does not count as lost, although its process could not say so; what it
        had sent arrives, or counts as lost.
        """
        self.start("--threads", "0")
        worker = self.worker("--threads", "1")
        self.send("ends", {"number": 1})
        worker.wait()
        self.worker("--threads", "1")
        self.send("once", {"number": 2, "deaths": 0})
        self.assertEqual([note["number"] for note in self.wait_for_notes("work", 2)], [1, 2])
        lost = self.lost()
        self.assertIn(list(lost), [[], ["unsent"]])
        wait_until(lambda: len(self.notes("other")) + lost.get("unsent", 0) == 20)

    def test_worker_process(self) -> None:
        """The server counts what a worker process has lost, and keeps the count when that has gone."""
        server = self.start("--threads", "0")
        worker = self.worker("--threads", "1")
        self.send("raises", {}, {})
        worker.wait_for("ValueError: on purpose")
        wait_until(lambda: self.lost() == {"consumer raised": 2})
        worker.kill()
        server.wait_for(f"worker process {worker.process.pid} has left")
        self.worker("--threads", "1")
        self.assertEqual(self.lost(), {"consumer raised": 2})
        self.send("raises", {})
        wait_until(lambda: self.lost() == {"consumer raised": 3})

    def test_sibling(self) -> None:
        """A sibling's counts are those of the server, also when it has been killed, and replaced."""
        server = self.start("--processes", "2", "--threads", "1")
        server.wait_for("process 2 serves, too")
        self.send("raises", {"not": server.process.pid})
        pid = self.wait_for_notes("raising")[0]["pid"]
        wait_until(lambda: self.lost() == {"consumer raised": 1})
        os.kill(pid, signal.SIGKILL)
        server.wait_for("process 2 has ended")
        self.assertEqual(self.lost(), {"consumer raised": 1})
        wait_until(lambda: sum("process 2 serves, too" in line for line in server.lines) == 2)
        self.send("raises", {"not": server.process.pid})
        self.wait_for_notes("raising", 2)
        wait_until(lambda: self.lost() == {"consumer raised": 2})


class SendTests(LossesTestCase):
    """Sends that do not arrive."""

    def test_server_is_gone(self) -> None:
        """Held-back sends of a worker process whose server has gone are counted, in a line and a sum, no traceback."""
        server = self.start("--threads", "0")
        worker = self.worker("--threads", "1")
        self.send("held", {})
        self.wait_for_notes("at gate")
        server.kill()
        worker.wait_for("waiting for one")
        self.open_gate("held")
        worker.wait_for(r"1 message\(s\) to 'other' lost: no server")
        self.assertEqual(worker.stop(), 0)
        self.assertIn("1 message(s) to 'group' lost", worker.output)
        self.assertNotIn("Traceback", worker.output)

    def test_counted(self) -> None:
        """A consumer that raises, a channel without a route, and what waits at the end: each has its counter."""
        server = self.start("--threads", "1")
        self.send("raises", {})
        self.send("asgi.delay", {})
        server.wait_for("ValueError: on purpose")
        wait_until(lambda: self.lost() == {"consumer raised": 1, "no route": 1})
        self.send("nobody", {}, {})
        self.assertEqual(server.stop(), 0)
        self.assertIn("2 message(s) to 'nobody' lost: server stopped", server.output)
        self.assertEqual(self.notes("other"), [])


class FullDiskTests(LossesTestCase):
    """An access log on a disk that fills up, and is emptied again."""

    def test_access_log(self) -> None:
        """Requests are answered, one line tells; when there is room again the log goes on with a whole line."""
        server = self.start("--threads", "1", "--access-log", str(self.folder / "access.log"), "--log-format", "json")
        everything = resource.getrlimit(resource.RLIMIT_FSIZE)

        def ask(path: str) -> None:
            for _ in range(20):
                self.assertEqual(server.get(path).status_code, 404)

        ask("/before/")
        log = self.folder / "access.log"
        wait_until(lambda: log.read_text().count("\n") == 20)
        limit = log.stat().st_size + 100
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, everything[1]))
        ask("/full/")
        server.wait_for("access log: a line cannot be written")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, everything)
        ask("/after/")
        self.assertEqual(server.stop(), 0)
        lines = log.read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        counts = [sum(path in line for line in whole) for path in ("/before/", "/full/", "/after/")]
        # A line is written when its client has the answer: that of the last one may come when there is room again.
        self.assertIn(counts, ([20, 0, 20], [20, 1, 20]))
        self.assertEqual(len(lines) - len(whole), 1)
        self.assertEqual(sum("cannot be written" in line for line in server.lines), 1)
        self.assertNotIn("Traceback", server.output)


class SqliteTests(LossesTestCase):
    """Several processes that write to one SQLite database."""

    def test_sessions(self) -> None:
        """With the documented settings, concurrent saves of the same sessions in two processes all succeed."""
        self.make_tables()
        code = (
            "import threading\n"
            "from channelserver.sessions import session_for_reply_channel\n"
            "from django.db import connections\n"
            "def save(thread):\n"
            "    for number in range(40):\n"
            "        session = session_for_reply_channel(f'websocket.send.x!{{number % 5}}')\n"
            "        session[f'{name}.{{thread}}.{{number}}'] = number\n"
            "        session.save()\n"
            "    connections.close_all()\n"
            "threads = [threading.Thread(target=save, args=(number,)) for number in range(2)]\n"
            "[thread.start() for thread in threads]\n"
            "[thread.join() for thread in threads]\n"
        )
        command = [sys.executable, "manage.py", "shell", "-v", "0", "-c"]
        savers = [self.run_process([*command, code.format(name=name)]) for name in ("one", "two")]
        for saver in savers:
            self.assertEqual((saver.wait(), saver.output), (0, ""))
        count = (
            "from channelserver.sessions import session_for_reply_channel as session\n"
            "print(sum(len(session(f'websocket.send.x!{number}').keys()) for number in range(5)))"
        )
        self.assertEqual(self.manage("shell", "-v", "0", "-c", count).strip(), "160")

    def test_warning(self) -> None:
        """Other settings are warned of, if there are several processes."""
        engine = "django.db.backends.sqlite3"
        for options, processes, warned in (
            ({}, 2, True), ({}, 1, False), ({"transaction_mode": "immediate"}, 2, False)
        ):  # fmt: skip
            databases = {"default": {"ENGINE": engine, "NAME": "x", "OPTIONS": options}}
            self.patch(settings, "DATABASES", databases)
            with mock.patch.object(settings, "CHANNELSERVER", {"processes": processes}, create=True):
                found = check_sqlite(None)
            self.assertEqual([message.id for message in found], ["channelserver.W004"] * warned)
