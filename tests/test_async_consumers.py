"""Coroutine consumers on the real server, alone, with siblings, in a worker process and over Redis."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until
from tests.redis_server import RedisServer


class ConsumerTests(ServerTestCase):
    """One server process."""

    files = project("asynchronous")
    extra_settings = ""

    def setUp(self) -> None:
        super().setUp()
        self.make_tables()

    def serve(self) -> Server:
        """Start the server."""
        return self.start("--threads", "2")

    def test_order(self) -> None:
        """The messages of a socket are consumed one after the other, however long each takes."""
        with self.serve().connect("/x/") as socket:
            for number in range(50):
                socket.send(f"sleep {0.01 if number % 10 == 0 else 0} {number}")
            found = [str(socket.recv(TIMEOUT)).split() for _ in range(50)]
        self.assertEqual([(words[3], words[4]) for words in found], [(str(n), str(n + 1)) for n in range(50)])

    def test_held_back(self) -> None:
        """Sends are held back until the end, but for immediate ones; what a consumer that raises sent is dropped."""
        with self.serve().connect("/x/") as socket:
            socket.send("now")
            self.assertEqual([socket.recv(TIMEOUT), socket.recv(TIMEOUT)], ["at once", "held now 1"])
            socket.send("raise")
            socket.send("after")
            self.assertEqual(socket.recv(TIMEOUT), "held after 3")  # the session was saved, the reply dropped

    def test_groups_and_own_channels(self) -> None:
        """A group's message reaches all; a channel of the application's own has a coroutine, too."""
        server = self.serve()
        with server.connect("/x/") as one, server.connect("/x/") as other:
            one.send("group")
            self.assertEqual({one.recv(TIMEOUT), one.recv(TIMEOUT)}, {"held group 1", "to all"})
            self.assertEqual(other.recv(TIMEOUT), "to all")
            other.send("work")
            self.assertEqual({other.recv(TIMEOUT), other.recv(TIMEOUT)}, {"held work 1", "worked"})

    def test_denied(self) -> None:
        """``DenyConnection`` is a 403."""
        from websockets.exceptions import InvalidStatus

        server = self.serve()
        with self.assertRaises(InvalidStatus) as caught, server.connect("/denied/"):
            pass
        self.assertEqual(caught.exception.response.status_code, 403)

    def test_users(self) -> None:
        """``message.user`` is there, without a query in the coroutine."""
        with self.serve().connect("/user/") as socket:
            self.assertEqual(socket.recv(TIMEOUT), "connected nobody")
            socket.send("x")
            self.assertEqual(socket.recv(TIMEOUT), "received nobody")

    def test_contexts(self) -> None:
        """What one message's consumer sets does not reach the next, in threads and on the loop."""
        server = self.serve()
        for path in ("/context/", "/async-context/"):
            with server.connect(path) as socket:
                for _ in range(6):
                    socket.send("x")
                self.assertEqual({socket.recv(TIMEOUT) for _ in range(6)}, {"en-us UTC"})

    def test_class(self) -> None:
        """A class with coroutine methods, and a plain one among them."""
        server = self.serve()
        with server.connect("/x/") as watching:
            with server.connect("/json/kitchen/") as socket:
                socket.send('{"a": 1}')
                self.assertEqual(socket.recv(TIMEOUT), '{"room": "kitchen", "got": {"a": 1}}')
            self.assertEqual(watching.recv(TIMEOUT), "left kitchen")


class SiblingTests(ConsumerTests):
    """Two processes."""

    def serve(self) -> Server:
        server = self.start("--threads", "2", "--processes", "2")
        server.wait_for("process 2 serves")
        return server


class WorkerProcessTests(ConsumerTests):
    """A server without threads, and a worker process."""

    def serve(self) -> Server:
        server = self.start("--threads", "0")
        self.run_process([sys.executable, "manage.py", "runworker", "--threads", "2"])
        return server


class WaitingTests(ServerTestCase):
    """A server without threads, and a worker process of two threads. Messages that wait occupy none of them."""

    files = project("asynchronous")
    extra_settings = ""
    joined = "joined the server"

    def serve(self) -> Server:
        """Start the server and a worker process."""
        server = self.start("--threads", "0", "--http-timeout", "100")
        self.worker = self.run_process([sys.executable, "manage.py", "runworker", "--threads", "2"])
        self.worker.wait_for(self.joined)
        return server

    def notes(self, line: str) -> int:
        """Return how often the project has noted something."""
        path = self.folder / "notes.txt"
        return path.read_text().split("\n").count(line) if path.exists() else 0

    def ask(self, server: Server, path: str) -> list[int]:
        """Send a request; return a list that gets the status of its answer."""
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(server.get(path).status_code))
        thread.start()
        self.addCleanup(thread.join, TIMEOUT)
        return found

    def waiting(self, server: Server) -> int:
        """Return how many requests wait for a worker."""
        return int(server.get("/-/health").json()["queues"]["http.request"])

    def test_coroutines(self) -> None:
        """Four views and four streams hang: another request is answered. If the process dies, views get 502."""
        self.hang("/parts/?s=1000")

    def hang(self, stream: str) -> None:
        """Have eight requests hang; ask for a page; kill the process."""
        server = self.serve()
        hanging = [self.ask(server, "/hang/") for _ in range(4)]
        with ExitStack() as stack:
            streams = [stack.enter_context(server.get(stream, stream=True)).iter_content(2) for _ in range(4)]
            self.assertEqual([next(parts) for parts in streams], [b"0\n"] * 4)
            wait_until(lambda: self.notes("hang begins") == 4, "four views")
            self.assertEqual(server.get("/plain/").status_code, 200)
            self.worker.kill()
            wait_until(lambda: all(hanging), "four answers")
        self.assertEqual(hanging, [[502]] * 4)
        self.check_losses(server)

    def check_losses(self, server: Server) -> None:
        """The log counts all that the process had begun; the page may count, for it has only just been answered."""
        server.wait_for(r"[89] message\(s\) to 'http.request' lost: its worker process ended")

    def test_consumers(self) -> None:
        """Four consumers wait; the next message of their sockets waits for them, another socket's does not."""
        self.make_tables()
        server = self.serve()
        with ExitStack() as stack:
            sockets = [stack.enter_context(server.connect("/x/")) for _ in range(4)]
            for socket in sockets:
                socket.send("sleep 1000")
                socket.send("next")
            with server.connect("/x/") as other:
                other.send("sleep 0")
                self.assertEqual(other.recv(TIMEOUT), "held sleep 0 1")
            for socket in sockets:
                with self.assertRaises(TimeoutError):
                    socket.recv(0)
            self.worker.kill()

    def test_threads_that_wait(self) -> None:
        """Plain iterators that stream, and asynchronous views behind synchronous middleware, leave the count, too."""
        with open(self.folder / "settings.py", "a") as settings:
            settings.write("MIDDLEWARE = ['middleware.synchronous']\n")
        self.write(
            {"middleware.py": "def synchronous(get_response):\n    return lambda request: get_response(request)\n"}
        )
        self.hang("/parts-in-thread/?s=1000")

    def test_bound(self) -> None:
        """A process has so many messages in hand, and no more; it gets the next when one of them ends."""
        with open(self.folder / "settings.py", "a") as settings:
            settings.write(
                "from channelserver.layers.redis import fetcher\nfrom channelserver.processes import hub\n"
                "fetcher.MAX_IN_HAND = hub.SLOTS = 3\n"
            )
        server = self.serve()
        first = [self.ask(server, f"/wait/?n={number}") for number in range(3)]
        wait_until(lambda: self.notes("wait begins") == 3, "three views")
        fourth = self.ask(server, "/wait/?n=3")
        wait_until(lambda: self.waiting(server) == 1, "a request that waits")
        self.assertEqual(self.notes("wait begins"), 3)
        (self.folder / "go-on-0").touch()
        wait_until(lambda: self.notes("wait begins") == 4, "the fourth view")
        for number in range(1, 4):
            (self.folder / f"go-on-{number}").touch()
        wait_until(lambda: fourth and all(first), "four answers")
        self.assertEqual([*first, fourth], [[200]] * 4)


class RedisMixin(ServerTestCase):
    """The layer is in Redis."""

    def setUp(self) -> None:
        self.redis = RedisServer()
        self.addCleanup(self.redis.remove)
        self.extra_settings = (
            "CHANNEL_LAYERS = {'default': {'BACKEND': 'channelserver.layers.RedisChannelLayer', "
            f"'ROUTING': 'routing.channel_routing', 'CONFIG': {{'hosts': ['{self.redis.url}']}}}}}}\n"
            "from channelserver.layers.redis import host\n"
            "host.LIFETIME = 5.0\n"
        )
        super().setUp()


class RedisTests(RedisMixin, ConsumerTests):
    """The consumers' tests over Redis."""


class RedisWaitingTests(RedisMixin, WaitingTests):
    """A server without threads, and a worker process, over Redis."""

    joined = "worker process"

    def waiting(self, server: Server) -> int:
        return int(self.redis.command("LLEN", "channelserver:q:http.request")[1:])

    def check_losses(self, server: Server) -> None:
        server.wait_for(r"[89] message\(s\) to 'http.request' lost: its worker process ended; it was host")
