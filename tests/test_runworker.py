"""``manage.py runworker``: worker processes beside a running server (part 7)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
from typing import Any

import requests
from websockets.exceptions import InvalidStatus

from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until


class WorkerProcessTestCase(ServerTestCase):
    """A project whose code notes which process it runs in."""

    files = project("lab", "runworker")
    extra_settings = "MIDDLEWARE = []\nSESSION_ENGINE = 'django.contrib.sessions.backends.file'\n"

    server: Server | None = None

    def start(self, *arguments: str, port: int = 0) -> Server:
        """See :class:`ServerTestCase`."""
        self.server = super().start(*arguments, port=port)
        return self.server

    def worker(self, *arguments: str, joined: bool = True) -> Server:
        """Start a worker process, and wait until it has joined the server, and the server gives it work."""
        worker = self.run_process([sys.executable, "manage.py", "runworker", *arguments])
        if joined:
            worker.wait_for("joined the server")
            if self.server is not None:
                self.server.wait_for(f"worker process {worker.process.pid} takes ")
        return worker

    def notes(self, what: str) -> list[dict[str, Any]]:
        """Return what the project's code has noted."""
        diary = self.folder / "diary"
        lines = diary.read_text().split("\n")[:-1] if diary.exists() else []  # the last line may be half written
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]

    def wait_for_notes(self, what: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait until there are so many notes of a kind; return them."""
        wait_until(lambda: len(self.notes(what)) >= number, f"{number} notes {what!r}")
        return self.notes(what)

    def open_gate(self, name: str) -> None:
        """Let the project's code go on."""
        (self.folder / f"gate-{name}").touch()

    def send(self, channel: str, *contents: dict[str, Any]) -> None:
        """Send messages from a shell."""
        self.manage(
            "shell", "-v", "0", "-c",
            f"from channelserver import Channel\nfor content in {list(contents)!r}: Channel({channel!r}).send(content)",
        )  # fmt: skip


class WorkTests(WorkerProcessTestCase):
    """What worker processes do while all is well."""

    def test_http(self) -> None:
        """Requests are answered by the worker process: views, streams, uploads, errors; the last one gone, by us."""
        server = self.start()
        self.assertEqual(server.get("/where/").text, str(server.process.pid))
        worker = self.worker("--threads", "2")
        pid = str(worker.process.pid)
        server.wait_for(f"worker process {pid} takes 2 messages at a time from asgi.delay, http.disconnect, ")
        self.assertEqual(server.get("/where/").text, pid)
        self.assertEqual(server.get("/fail/").status_code, 500)
        body = server.get("/stream/").content
        self.assertEqual(body, b"".join(bytes([number]) * 100_000 for number in range(40)))
        data = os.urandom(3_000_000)
        self.assertEqual(
            server.post("/upload/", data=data).text, f"{hashlib.sha256(data).hexdigest()} {worker.process.pid}"
        )
        self.assertEqual(server.get("/send/?number=7").text, "sent")
        self.assertEqual(self.wait_for_notes("work")[0]["number"], 7)
        self.assertEqual(worker.stop(), 0)
        self.assertEqual(server.get("/where/").text, str(server.process.pid))
        names = [(entry["pid"], entry["name"]) for entry in self.notes("signal")]
        self.assertEqual(
            names, [(server.process.pid, "worker"), (worker.process.pid, "worker"), (worker.process.pid, "process")]
        )

    def test_websockets(self) -> None:
        """Sockets live in the server, their consumers in worker processes: in order, with sessions and groups."""
        server = self.start("--threads", "0")
        workers = [self.worker("--threads", "2") for _ in range(2)]
        pids = {str(worker.process.pid) for worker in workers}
        with server.connect("/") as one, server.connect("/") as two:
            for number in range(100):
                one.send(f"n{number}")
            for number in range(100):
                text, count, pid = str(one.recv(TIMEOUT)).split()
                self.assertEqual((text, count), (f"n{number}", str(number + 1)))
                self.assertIn(pid, pids)
            two.send("all")
            self.assertEqual(one.recv(TIMEOUT), "to all")
            self.assertEqual(two.recv(TIMEOUT), "to all")
            self.assertTrue(str(two.recv(TIMEOUT)).startswith("all 1 "))
        last = self.wait_for_notes("disconnect", 2)[-1]
        self.assertEqual(last["members"], 0)
        self.assertIn(str(last["pid"]), pids)
        with self.assertRaises(InvalidStatus) as caught, server.connect("/raise/"):
            pass
        self.assertEqual(caught.exception.response.status_code, 500)

    def test_only_and_exclude(self) -> None:
        """Each process serves the channels it was told to; the server's threads serve the rest."""
        server = self.start()
        one = self.worker("--only-channels", "w*rk", "--only-channels", "other", "--exclude-channels", "o*", "-v", "2")
        self.send("work", {"number": 1})
        self.send("other", {})
        self.assertEqual(self.wait_for_notes("work")[0]["pid"], one.process.pid)
        self.assertEqual(self.wait_for_notes("other")[0]["pid"], server.process.pid)
        one.wait_for("message from 'work'")
        self.assertNotIn("message from 'other'", one.output)
        self.assertEqual(server.get("/where/").text, str(server.process.pid))

    def test_consume_later(self) -> None:
        """A message that is put back comes again, with its tries counted; meanwhile the thread works."""
        self.start("--threads", "0")
        worker = self.worker("--threads", "1")
        self.send("later", {})
        self.send("work", {"number": 1})
        note = self.wait_for_notes("later")[0]
        self.assertEqual((note["pid"], note["tries"]), (worker.process.pid, 4))
        self.wait_for_notes("work")

    def test_stop_finishes_what_is_in_hand(self) -> None:
        """SIGTERM: the message in hand is finished and answered, those behind it are left to others; exit code 0."""
        server = self.start("--threads", "1")
        worker = self.worker("--threads", "1")
        answers: list[str] = []
        client = threading.Thread(target=lambda: answers.append(server.get("/held/?gate=one").text))
        client.start()
        self.wait_for_notes("at gate")
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for("stopping when the messages in hand are finished")
        self.assertEqual(server.get("/where/").text, str(server.process.pid))
        self.open_gate("one")
        client.join(TIMEOUT)
        self.assertEqual(answers, [str(worker.process.pid)])
        self.assertEqual(worker.wait(), 0)

    def test_server_is_started_again(self) -> None:
        """A worker process waits for its server, and comes back to one that was restarted."""
        worker = self.worker("--threads", "1", joined=False)
        worker.wait_for("no server of this project answers on .*; waiting for one")
        for _ in range(2):
            server = self.start()
            server.wait_for("worker process .* takes 1 messages")
            self.assertEqual(server.get("/where/").text, str(worker.process.pid))
            self.assertEqual(server.stop(), 0)
        self.assertEqual(worker.stop(signal.SIGINT), 0)
        self.assertNotIn("Traceback", worker.output)

    def test_runserver_without_workers(self) -> None:
        """runserver --noworker leaves everything to a worker process, as in the tutorial."""
        server = self.runserver("--noworker")
        worker = self.worker("--layer", "default")
        self.assertEqual(server.get("/where/").text, str(worker.process.pid))

    def test_server_options_hold(self) -> None:
        """The server's command line decides how sockets are accepted, wherever the consumers run."""
        server = self.start("--threads", "0", "--reject-unrouted", "--no-auto-accept", "--connect-timeout", "0.5")
        self.worker()
        with self.assertRaises(InvalidStatus) as caught, server.connect("/"):
            pass
        self.assertEqual(caught.exception.response.status_code, 403)

    def test_wrong_options(self) -> None:
        """What makes no sense is refused in one sentence."""
        for arguments, words in (
            (("--threads", "0"), "--threads must be 1 or more"),
            (("--only-channels", "nothing"), "leave no channel to serve; the routing has asgi.delay, http.request"),
            (("--layer", "other"), "CHANNEL_LAYERS['other'] is not set"),
        ):
            worker = self.worker(*arguments, joined=False)
            self.assertEqual(worker.wait(), 1, worker.output)
            self.assertIn(words, worker.output)
            self.assertNotIn("Traceback", worker.output)


class DeathTests(WorkerProcessTestCase):
    """Worker processes that die."""

    def test_http(self) -> None:
        """The client of the request in hand gets 502 at once, the log names the channel, the rest is done by us."""
        server = self.start("--http-timeout", "100")
        worker = self.worker("--threads", "1")
        self.assertEqual(server.get("/kill/").status_code, 502)
        server.wait_for("'http.request' lost: its worker process ended; it was process " + str(worker.process.pid))
        self.assertEqual(server.get("/where/").text, str(server.process.pid))
        self.assertEqual(worker.wait(), -signal.SIGKILL)

    def test_handshake(self) -> None:
        """A handshake that was in hand is refused with 502."""
        server = self.start()
        self.worker("--threads", "1")
        with self.assertRaises(InvalidStatus) as caught, server.connect("/kill/"):
            pass
        self.assertEqual(caught.exception.response.status_code, 502)

    def test_lane_goes_on(self) -> None:
        """One message of a socket is lost with the process; the next ones are consumed, in order."""
        server = self.start("--threads", "2")
        self.worker("--threads", "2")
        with server.connect("/") as websocket:
            for text in ("one", "die", "two", "three"):
                websocket.send(text)
            texts = [str(websocket.recv(TIMEOUT)).split()[0] for _ in range(3)]
        self.assertEqual(texts, ["one", "two", "three"])
        server.wait_for("1 message\\(s\\) to 'websocket.receive' lost: its worker process ended")

    def test_what_was_not_begun_is_put_back(self) -> None:
        """A stopped process has messages that no consumer has seen: when it dies, they are consumed in order."""
        server = self.start("--threads", "1")
        worker = self.worker("--threads", "3")
        self.assertEqual(server.get("/where/").text, str(worker.process.pid))
        worker.process.send_signal(signal.SIGSTOP)
        self.send("work", *({"number": number} for number in range(6)))
        self.assertEqual(self.notes("work"), [])
        worker.kill()
        notes = self.wait_for_notes("work", 6)
        self.assertEqual([note["number"] for note in notes], list(range(6)))
        # The request before may count as lost: it was answered, but the process may not have said that it was done.
        self.assertNotIn("'work' lost", server.output)

    def test_a_thousand_messages(self) -> None:
        """1 000 messages, three processes, one killed half-way: all but those in its hands are processed once."""
        server = self.start("--threads", "0")
        workers = [self.worker("--threads", "2") for _ in range(3)]
        self.send("work", *({"number": number} for number in range(1000)))
        self.wait_for_notes("work", 300)
        victim = workers[1]
        victim.kill()
        server.wait_for(f"worker process {victim.process.pid} has left")

        def lost() -> int:
            """Return how many are lost, as far as the log has told."""
            return sum(
                int(line.split("message(s) to 'work' lost")[0].split()[-1])
                for line in server.lines
                if "message(s) to 'work' lost" in line
            )

        wait_until(lambda: len({note["number"] for note in self.notes("work")}) >= 1000 - lost(), "the rest")
        self.assertLessEqual(lost(), 2)
        self.assertEqual(requests.get(server.url("/-/health"), timeout=TIMEOUT).json()["queues"]["http.request"], 0)
        numbers = [note["number"] for note in self.notes("work")]
        self.assertEqual(len(numbers), len(set(numbers)))
        self.assertGreaterEqual(len(numbers), 1000 - lost())
        self.assertEqual({note["pid"] for note in self.notes("work")}, {worker.process.pid for worker in workers})
