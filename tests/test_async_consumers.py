"""Coroutine consumers on the real server, alone, with siblings, in a worker process and over Redis."""

from __future__ import annotations

import sys

from tests.process import TIMEOUT, Server, ServerTestCase, project
from tests.redis_server import RedisServer


class ConsumerTests(ServerTestCase):
    """One server process."""

    files = project("asynchronous")
    extra_settings = ""

    def setUp(self) -> None:
        super().setUp()
        self.manage("migrate", "-v0")

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


class RedisTests(ConsumerTests):
    """The layer is in Redis."""

    def setUp(self) -> None:
        self.redis = RedisServer()
        self.addCleanup(self.redis.remove)
        self.extra_settings = (
            "CHANNEL_LAYERS = {'default': {'BACKEND': 'channelserver.layers.RedisChannelLayer', "
            f"'ROUTING': 'routing.channel_routing', 'CONFIG': {{'hosts': ['{self.redis.url}']}}}}}}\n"
        )
        super().setUp()
