"""Consumers, with HttpClient."""

from channels import Channel, Group, route
from channels.test import ChannelTestCase, HttpClient, apply_routes
from django.contrib.auth.models import User

from board.consumers import Board, Streams, save_note
from board.models import Note


class BoardTests(ChannelTestCase):
    """The class-based consumer, by the project's routing."""

    def test_a_board(self):
        User.objects.create_user("ada", "ada@example.com", "secret")
        Note.objects.create(board="lobby", text="old")
        client = HttpClient(ordered=True)
        self.assertTrue(client.login(username="ada", password="secret"))

        client.send_and_consume("websocket.connect", path="/board/lobby/")
        self.assertEqual(client.receive(), {"notes": ["old"], "you": "ada"})
        self.assertIsNone(client.receive())

        for text in ("first", "second"):
            client.send_and_consume("websocket.receive", text={"text": text}, path="/board/lobby/")
            client.consume("board.save")
        self.assertEqual(client.receive(), {"note": "first", "author": "ada", "number": 1})
        self.assertEqual(client.receive(), {"note": "second", "author": "ada", "number": 2})
        self.assertEqual(Note.objects.filter(author="ada").count(), 2)

        other = HttpClient()
        other.join_group("board-lobby")
        client.send_and_consume("websocket.disconnect", {"code": 1000}, path="/board/lobby/")
        self.assertEqual(other.receive(), {"left": "ada"})
        self.assertIsNone(client.receive())

    def test_other_boards_hear_nothing(self):
        client = HttpClient(ordered=True)
        client.send_and_consume("websocket.connect", path="/board/attic/")
        self.assertEqual(client.receive(), {"notes": [], "you": ""})
        Group("board-lobby").send({"text": "{}"})
        self.assertIsNone(client.receive())

    def test_the_path_is_filtered(self):
        client = HttpClient(ordered=True)
        with self.assertRaises(AssertionError):
            client.send_and_consume("websocket.connect", path="/board/UPPER/")

    def test_saving_by_hand(self):
        Channel("board.save").send({"board": "lobby", "text": "t", "author": "a", "number": 1})
        save_note(self.get_next_message("board.save", require=True))
        self.assertEqual(Note.objects.get().text, "t")

    def test_a_view_sends(self):
        self.assertEqual(self.client.post("/notes/", {"text": "by a form"}).status_code, 202)
        HttpClient().consume("board.save")
        self.assertEqual(self.client.get("/notes/").content, b"by a form")


class StreamsTests(ChannelTestCase):
    """The demultiplexer."""

    def test_streams(self):
        client = HttpClient()
        client.send_and_consume("websocket.connect", path="/streams/")
        self.assertEqual(client.receive(), {"stream": "count", "payload": {"count": 0}})
        self.assertIsNone(client.receive())
        Note.objects.create(board="lobby", text="one")
        for board, count in (("lobby", 1), ("attic", 0)):
            frame = {"stream": "count", "payload": {"board": board}}
            client.send_and_consume("websocket.receive", text=frame, path="/streams/")
            self.assertEqual(client.receive(), {"stream": "count", "payload": {"count": count}})
        frame = {"stream": "shout", "payload": {"text": "hey"}}
        client.send_and_consume("websocket.receive", text=frame, path="/streams/")
        self.assertEqual(client.receive(), {"stream": "shout", "payload": {"text": "HEY"}})

    def test_an_unknown_stream(self):
        client = HttpClient()
        with apply_routes([Streams.as_route(path="^/other$"), route("board.save", save_note)]):
            client.send_and_consume("websocket.connect", path="/other")
            with self.assertRaises(ValueError):
                client.send_and_consume("websocket.receive", text={"stream": "x", "payload": {}}, path="/other")

    def test_another_route(self):
        with apply_routes([Board.as_route(path=r"^/(?P<board>x+)$", attrs={"strict_ordering": False})]):
            client = HttpClient()
            client.send_and_consume("websocket.connect", path="/xx")
            self.assertEqual(client.receive()["notes"], [])


class WhisperTests(ChannelTestCase):
    """The consumers that are functions, with all decorators."""

    def test_whisper(self):
        client = HttpClient(ordered=True)
        client.set_header("origin", b"http://localhost:8000")
        client.send_and_consume("websocket.connect", path="/board/whisper/ada/")
        for text in ("HELLO", "World"):
            client.send_and_consume("websocket.receive", text=text, path="/board/whisper/ada/")
        self.assertEqual(client.receive(json=False), "ada: hello")
        self.assertEqual(client.receive(json=False), "ada: world")

    def test_http_without_a_view(self):
        client = HttpClient()
        client.send_and_consume("http.request", {"method": "GET"}, path="/ping/")
        answer = client.receive()
        self.assertEqual((answer["status"], answer["content"]), (200, b"pong"))
