"""The whole project, with a server and real clients."""

import json
from contextlib import ExitStack
from urllib.request import urlopen

from channels import Group
from channels.test import ChannelLiveServerTestCase
from websockets.sync.client import connect

from board.models import Note


class LiveTests(ChannelLiveServerTestCase):
    """Pages, files and sockets of a live server."""

    def get(self, path):
        with urlopen(self.live_server_url + path, timeout=60) as response:
            return response.read().decode()

    def test_pages_and_static_files(self):
        self.assertIn("/static/board/board.js", self.get("/"))
        self.assertIn("new WebSocket", self.get("/static/board/board.js"))
        self.assertEqual(self.get("/ping/"), "pong")

    def test_server_and_test_see_the_same_database(self):
        Note.objects.create(board="lobby", text="from the test")
        self.assertEqual(self.get("/notes/"), "from the test")
        with connect(self.live_server_ws_url + "/board/lobby/", open_timeout=60) as socket:
            self.assertEqual(json.loads(socket.recv(60)), {"notes": ["from the test"], "you": ""})
            socket.send('{"text": "from the socket"}')
            self.assertEqual(json.loads(socket.recv(60))["note"], "from the socket")
            self.assertEqual(Note.objects.count(), 2)
            Group("board-lobby").send({"text": "from the test's thread"})
            self.assertEqual(socket.recv(60), "from the test's thread")

    def test_each_test_begins_with_an_empty_database(self):
        self.assertEqual(self.get("/notes/"), "")

    def test_several_sockets_in_order(self):
        with connect(self.live_server_ws_url + "/streams/", open_timeout=60) as one:
            with connect(self.live_server_ws_url + "/streams/", open_timeout=60) as two:
                for socket in (one, two):
                    self.assertEqual(json.loads(socket.recv(60))["stream"], "count")
                for number in range(20):
                    frame = {"stream": "shout", "payload": {"text": "n%d" % number}}
                    one.send(json.dumps(frame))
                for socket in (one, two):
                    texts = [json.loads(socket.recv(60))["payload"]["text"] for _ in range(20)]
                    self.assertEqual(texts, ["N%d" % number for number in range(20)])


class SeveralWorkersTests(ChannelLiveServerTestCase):
    """The same with several worker threads, and without static files."""

    worker_threads = 4
    serve_static = False

    def test_many_notes(self):
        with ExitStack() as stack:
            address = self.live_server_ws_url + "/board/lobby/"
            sockets = [stack.enter_context(connect(address, open_timeout=60)) for _ in range(4)]
            for socket in sockets:
                self.assertEqual(json.loads(socket.recv(60))["notes"], [])
            for number in range(5):
                for socket in sockets:
                    socket.send(json.dumps({"text": "n%d" % number}))
            for socket in sockets:
                notes = [json.loads(socket.recv(60))["note"] for _ in range(20)]
                self.assertEqual(sorted(notes), sorted(["n%d" % number for number in range(5)] * 4))
        self.assertEqual(Note.objects.count(), 20)

    def test_static_files_are_somebody_else_s(self):
        with self.assertRaisesRegex(OSError, "404"):
            urlopen(self.live_server_url + "/static/board/board.js", timeout=60)
