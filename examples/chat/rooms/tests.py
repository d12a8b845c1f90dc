"""Tests of the real-time side: consumers run here in the test's own thread and transaction, without a server."""

import uuid

from django.contrib.auth import get_user_model

from channelserver import Channel
from channelserver.exceptions import DenyConnection
from channelserver.test import ChannelTestCase, WSClient

from .models import ChatMessage, Room


class RoomTests(ChannelTestCase):
    def setUp(self):
        super().setUp()
        self.room = Room.objects.create(name="Kitchen", slug="kitchen")
        self.path = "/ws/room/kitchen/"

    def enter(self, name):
        """Return a client in the room, which has received what everybody gets at first."""
        client = WSClient(ordered=True)
        client.force_login(get_user_model().objects.create_user(name))
        client.send_and_consume("websocket.connect", path=self.path)
        return client

    def received(self, client, kind):
        """Return what a client has received of a kind."""
        frames = iter(client.receive, None)
        return [frame for frame in frames if frame["type"] == kind]

    def test_strangers_are_not_let_in(self):
        client = WSClient()
        with self.assertRaises(DenyConnection):
            client.send_and_consume("websocket.connect", path=self.path)

    def test_a_line_is_stored_and_shown_to_the_room(self):
        anna, bert = self.enter("anna"), self.enter("bert")
        line = {"type": "line", "text": "Is the kettle on?", "key": str(uuid.uuid4())}
        anna.send_and_consume("websocket.receive", text=line, path=self.path)
        anna.consume("chat-messages")
        for client in (anna, bert):
            self.assertEqual([shown["text"] for shown in self.received(client, "line")], ["Is the kettle on?"])
        self.assertEqual(
            ChatMessage.objects.values_list("author__username", "text").get(), ("anna", "Is the kettle on?")
        )

    def test_a_line_that_was_sent_twice_is_stored_once(self):
        anna = self.enter("anna")
        line = {"type": "line", "text": "Hello?", "key": str(uuid.uuid4())}
        for _ in range(2):
            anna.send_and_consume("websocket.receive", text=line, path=self.path)
            anna.consume("chat-messages")
        self.assertEqual(ChatMessage.objects.count(), 1)
        self.assertEqual(len(self.received(anna, "line")), 2)

    def test_an_empty_line_is_refused(self):
        anna = self.enter("anna")
        anna.send_and_consume("websocket.receive", text={"type": "line", "text": " "}, path=self.path)
        self.assertEqual(len(self.received(anna, "error")), 1)
        self.assertNotSent("chat-messages")

    def test_history(self):
        for text in ("one", "two"):
            Channel("chat-messages").send({"room": self.room.pk, "author": None, "text": text}, immediately=True)
            WSClient().consume("chat-messages")
        (welcome,) = self.received(self.enter("anna"), "welcome")
        self.assertEqual([line["text"] for line in welcome["lines"]], ["one", "two"])

    def test_who_is_there(self):
        anna, bert = self.enter("anna"), self.enter("bert")
        self.assertEqual([frame["count"] for frame in self.received(anna, "came")], [1, 2])
        bert.send_and_consume("websocket.disconnect", {"code": 1000}, path=self.path)
        (left,) = self.received(anna, "went")
        self.assertEqual((left["person"]["name"], left["count"]), ("bert", 1))
