"""Several servers on one Redis: what one does reaches the others."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from twisted.python import log

from tests import preloaded
from tests.lab import RawClient
from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until
from tests.redis_server import RedisServer

#: From each sender in the large test of groups.
SENDS = 50


class RedisServerTestCase(ServerTestCase):
    """Servers of one project, which share a Redis."""

    files = project("redis_hosts")
    #: Further parameters of the layer.
    config = ""
    migrate = True
    redis_options: tuple[str, ...] = ()

    def setUp(self) -> None:
        """Start Redis."""
        hosts = self.start_redis()
        self.extra_settings = f"""
import os
DATA_UPLOAD_MAX_MEMORY_SIZE = 10_000_000
CHANNEL_LAYERS["default"] = {{
    "BACKEND": "asgi_redis.RedisChannelLayer", "ROUTING": "routing.channel_routing",
    "CONFIG": {{"hosts": [os.environ.get("TEST_REDIS", {hosts!r})], {self.config}}},
}}
"""
        super().setUp()

    def start_redis(self) -> Any:
        """Start Redis; return what the settings say of it."""
        self.redis = RedisServer(*self.redis_options)
        self.addCleanup(self.redis.remove)
        return self.redis.url

    @property
    def environment(self) -> dict[str, str]:
        """See :class:`ServerTestCase`; servers may have another way to Redis."""
        return {**super().environment, **({"TEST_REDIS": self.way} if self.way else {})}

    #: The URL of Redis for what is started next; empty: the real one.
    way = ""

    def shell(self, code: str) -> str:
        """Run code in another process, which has no reactor."""
        command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
        done = preloaded.run(command, self.folder, self.environment, TIMEOUT)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def worker(self, threads: int, *arguments: str) -> Server:
        """Start a worker process: it has no port."""
        worker = self.run_process([sys.executable, "manage.py", "runworker", "--threads", str(threads), *arguments])
        worker.wait_for("worker process")
        return worker

    def wait_until_connected(self, front: Server) -> None:
        """Wait until a server without threads is connected to Redis: before, it answers 503. Others must have begun."""
        wait_until(lambda: front.get("/body/").status_code == 200, "the front's connections to Redis")

    def notes(self, name: str) -> list[str]:
        """Return what the consumers of all processes have noted, each process in its order."""
        lines: list[str] = []
        for path in sorted(self.folder.glob(f"{name}.*")):
            lines += path.read_text().split("\n")[:-1]
        return lines

    @contextmanager
    def sockets(self, server: Server, number: int, path: str = "/") -> Iterator[list[RawClient]]:
        """Open WebSockets."""
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(server)) for _ in range(number)]
            for client in clients:
                client.handshake(path)
            for client in clients:
                self.assertEqual(client.head().status, 101)
            yield clients


def say(client: RawClient, text: str) -> None:
    """Send a text frame."""
    client.send_frame(1, text.encode())


class GroupTests(RedisServerTestCase):
    """Groups over two servers."""

    def test_everybody_gets_everything(self) -> None:
        """Sends from either server and from a shell, all at the same time, reach all sockets, in order per sender.

        What Redis has to do for a send does not depend on how many members there are.
        """
        first, second = (self.start("--ping-interval", "0") for _ in range(2))
        with ExitStack() as stack:
            here = stack.enter_context(self.sockets(first, 1))
            there = stack.enter_context(self.sockets(second, 1))
            few, time_of_few = self.work_of(here[0], here + there, "few")
            here += stack.enter_context(self.sockets(first, 199))
            there += stack.enter_context(self.sockets(second, 199))
            many, time_of_many = self.work_of(here[0], here + there, "many")
            # One script for each send, which publishes once for the other host; now and then one that looks for work.
            for work, seconds in ((few, time_of_few), (many, time_of_many)):
                self.assertEqual(work["publish"], SENDS)
                self.assertIn(work["eval"] + work["evalsha"], range(SENDS, SENDS + 10 + int(4 * seconds)))
            # 398 members more make no difference; but signs of life go on, at most four a second from two servers.
            self.assertLess(abs(few.total() - many.total()), 2 * SENDS + 4 * (time_of_few + time_of_many))
            self.send_from_everywhere(here, there)
        self.assertEqual(self.lost(first) + self.lost(second), [])

    def work_of(self, sender: RawClient, clients: list[RawClient], name: str) -> tuple[Counter[str], float]:
        """Send to the group; return what Redis has had to do until all had it, and how long that took."""
        known = b":%d\r\n" % len(clients)
        wait_until(lambda: self.redis.command("ZCARD", "channelserver:group:all") == known, "all members in Redis")
        began, before = time.monotonic(), self.redis.calls()
        for number in range(SENDS):
            say(sender, f"all {name} {number}")
        for client in clients:
            self.assertEqual([client.data() for _ in range(SENDS)], [f"{name} {number}" for number in range(SENDS)])
        return self.redis.calls() - before, time.monotonic() - began

    def send_from_everywhere(self, here: list[RawClient], there: list[RawClient]) -> None:
        """Send from the first socket of either server and from a shell; check what all sockets get."""
        go = self.folder / "go"
        code = f"""
            import pathlib, time
            from channelserver import Group
            Group("nobody").send({{"text": "a connection, before it matters"}})
            print("at the gate", flush=True)
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.001)
            for number in range({SENDS}):
                Group("all").send({{"text": f"shell {{number}}"}})
        """
        command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", textwrap.dedent(code)]
        shell = self.run_process(command)
        shell.wait_for("at the gate")
        go.touch()
        for number in range(SENDS):
            say(here[0], f"all here {number}")
            say(there[0], f"all there {number}")
        for client in here + there:
            texts = [str(client.data()) for _ in range(3 * SENDS)]
            for sender in ("here", "there", "shell"):
                own = [text for text in texts if text.startswith(f"{sender} ")]
                self.assertEqual(own, [f"{sender} {number}" for number in range(SENDS)])
        self.assertEqual(shell.wait(), 0, shell.output)

    @staticmethod
    def lost(server: Server) -> list[str]:
        """Return what the server's log tells of losses."""
        return [line for line in server.lines if " lost: " in line]

    def test_members(self) -> None:
        """The members of both servers are listed; who leaves, closes or dies is a member no more."""
        first, second = self.start(), self.start()
        with self.sockets(first, 2) as here, self.sockets(second, 3):

            def members() -> int:
                say(here[0], "members")
                return int(here[0].data())

            wait_until(lambda: members() == 5, "the members of both hosts")
            say(here[1], "leave")
            self.assertEqual(here[1].data(), "left")
            self.assertEqual(members(), 4)
            second.kill()
            wait_until(lambda: members() == 1, "the end of the dead host's members")

    def test_hello(self) -> None:
        """A socket that joins and then sends to its group gets that itself, wherever its consumer runs."""
        front = self.start("--threads", "0")
        self.start("--threads", "2")
        self.wait_until_connected(front)
        for _ in range(5):
            with self.sockets(front, 1, "/hello/") as (client,):
                self.assertEqual(client.data(), "joined")


class WorkTests(RedisServerTestCase):
    """Queues over several servers."""

    def test_each_message_once(self) -> None:
        """Of 1000 messages each is consumed once, but for those in the hands of a process that is killed."""
        (self.folder / "hold").touch()
        workers = [self.worker(3) for _ in range(3)]
        sending = subprocess.Popen(
            [sys.executable, "manage.py", "shell", "-v", "0", "-c",
             "from channelserver import Channel\nfor number in range(1000): Channel('work').send({'number': number})"],
            cwd=self.folder, env=self.environment,
        )  # fmt: skip
        self.addCleanup(sending.kill)
        # All threads hold a message, so whoever is killed holds three.
        wait_until(lambda: len(self.notes("work")) == 300 + 9, "some work done")
        workers[0].kill()
        (self.folder / "hold").unlink()
        self.assertEqual(sending.wait(TIMEOUT), 0)
        wait_until(lambda: len(set(self.notes("work"))) >= 997 and not self.waiting("work"), "the rest")
        notes = self.notes("work")
        self.assertEqual(len(notes), len(set(notes)))
        self.assertGreaterEqual(len(notes), 997)

    def test_script_that_forks(self) -> None:
        """A script and its forked child both send; nothing is lost when they end at once."""
        self.start("--threads", "1")
        self.shell(
            "import os\n"
            "from channelserver import Channel\n"
            "Channel('work').send({'number': 1})\n"
            "child = os.fork()\n"
            "Channel('work').send({'number': 2 if child else 3})\n"
            "child or os._exit(0)\n"
            "os.waitpid(child, 0)\n"
        )
        wait_until(lambda: sorted(self.notes("work")) == ["1", "2", "3"], "the three messages")

    def waiting(self, channel: str) -> int:
        """Return how many messages wait in Redis."""
        return int(self.redis.command("LLEN", f"channelserver:q:{channel}")[1:])

    def start_searching(self) -> Server:
        """Start a server that looks for lost work every two seconds, and wait until it is on the list of the idle."""
        path = self.folder / "settings.py"
        path.write_text(f"{path.read_text()}\nfrom channelserver.layers.redis import host\nhost.SEARCH_EVERY = 2\n")
        server = self.start("--threads", "2")
        self.wait_until_idle()
        return server

    def wait_until_idle(self) -> None:
        """Wait until there is a process which is to be told of work."""
        wait_until(lambda: self.redis.command("SCARD", "channelserver:idle:work") == b":1\r\n")

    def test_nobody_woken(self) -> None:
        """A message for which nobody was woken is found all the same."""
        self.start_searching()
        self.redis.command("DEL", "channelserver:idle:work")
        self.shell("from channelserver import Channel; Channel('work').send({'number': 7})")
        wait_until(lambda: self.notes("work") == ["7"])
        self.wait_until_idle()

    def test_search_is_cheap(self) -> None:
        """To look for such messages takes one command, not some for each channel."""
        self.start_searching()
        wait_until(lambda: self.redis.calls()["exists"])
        before = self.redis.calls()
        wait_until(lambda: self.redis.calls()["exists"] >= before["exists"] + 2)
        more = self.redis.calls() - before
        self.assertEqual([more[name] for name in ("lpop", "sadd")], [0, 0])
        self.assertEqual(more["evalsha"], more["zadd"] + more["set"])  # signs of life, and a look for expired messages


class InterfaceTests(RedisServerTestCase):
    """A server without threads, and others that work for it."""

    def test_http(self) -> None:
        """Requests are answered by a worker elsewhere: small, large and streamed ones."""
        front = self.start("--threads", "0")
        back = self.start("--threads", "2")
        self.wait_until_connected(front)
        for size in (0, 1000, 100_000, 3_000_000):
            body = os.urandom(size)
            text = front.post("/body/", data=body).text
            self.assertEqual(text, f"{hashlib.sha256(body).hexdigest()} {back.process.pid}")
        streamed = front.get("/stream/").content
        self.assertEqual(streamed, b"".join(bytes([number]) * 100_000 for number in range(50)))
        self.assertEqual(front.get("/nowhere/").status_code, 404)

    def test_runserver(self) -> None:
        """``runserver --noworker`` leaves all to worker processes, as in the tutorial; SIGTERM ends them well."""
        front = self.runserver("--noworker")
        worker = self.worker(2)
        self.assertEqual(front.post("/body/", data=b"").text.split()[1], str(worker.process.pid))
        with self.sockets(front, 2) as (one, other):
            say(one, "all hello")
            self.assertEqual([one.data(), other.data()], ["hello", "hello"])
        self.assertEqual(worker.stop(), 0)
        self.assertNotIn("Traceback", worker.output)

    def test_death_of_a_worker(self) -> None:
        """A client whose request was in the hands of a worker that died gets 502; the others are answered."""
        front = self.start("--threads", "0")
        first = self.worker(2)
        self.wait_until_connected(front)
        began = time.monotonic()
        self.assertEqual(front.get("/die/").status_code, 502)
        log.msg(f"{self.id()}: 502 came after {time.monotonic() - began:.2f} s")
        first.wait()
        self.worker(2)
        self.assertEqual(front.post("/body/", data=b"").status_code, 200)

    def test_order(self) -> None:
        """500 messages of one socket are consumed and answered in order by three processes.

        A consumer that raises and a process that is killed do not hold the socket up, and no update of the session is
        lost.
        """
        (self.folder / "kill-250").touch()
        front = self.start("--threads", "0")
        for _ in range(3):
            self.worker(2)
        self.wait_until_connected(front)
        with self.sockets(front, 1) as (client,):
            for number in range(500):
                say(client, f"count {number}")
            wanted = [number for number in range(500) if number % 100 != 7 and number != 250]
            answers = [str(client.data()).split() for _ in wanted]
        self.assertEqual([int(number) for number, _ in answers], wanted)
        counts = [int(count) for _, count in answers]
        self.assertEqual(counts, sorted(counts))
        self.assertGreaterEqual(counts[-1], 498)
        self.assertGreater(len(list(self.folder.glob("order.*"))), 1)
        wait_until(lambda: self.notes("disconnect"), "the disconnect message")
