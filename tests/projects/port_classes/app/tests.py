"""The project's own suite, as it was written for Channels 1.1."""

from channels import Group, route
from channels.asgi import channel_layers
from channels.message import Message
from channels.sessions import channel_session, session_for_reply_channel
from channels.test import ChannelTestCase, TransactionChannelTestCase, WSClient, apply_routes
from django.contrib.auth.models import User

from app.consumers import CountConsumer, Guarded, VoteBinding
from app.models import Vote


class DemultiplexerTests(ChannelTestCase):
    def setUp(self):
        self.user = User.objects.create_user("jane", password="secret")
        self.client = WSClient(ordered=True)
        self.client.login(username="jane", password="secret")
        self.client.send_and_consume("websocket.connect", path="/stream/")
        self.assertEqual(self.client.receive(), {"stream": "count", "payload": {"status": "connected"}})

    def say(self, stream, **payload):
        self.client.send_and_consume("websocket.receive", text={"stream": stream, "payload": payload}, path="/stream/")

    def test_count(self):
        self.say("count", add=2)
        self.say("count", add=3)
        self.assertEqual([self.client.receive()["payload"]["count"] for _ in range(2)], [2, 5])
        self.client.send_and_consume("websocket.disconnect", path="/stream/")
        self.assertEqual(Vote.objects.get().number, 5)

    def test_inbound(self):
        self.say("votes", action="create", data={"title": "tea"})
        self.assertEqual(self.client.receive()["payload"]["data"], {"title": "tea", "number": 0})
        vote = Vote.objects.get()
        self.say("votes", action="update", pk=vote.pk, data={"number": 4})
        payload = self.client.receive()["payload"]
        self.assertEqual((payload["action"], payload["pk"], payload["model"]), ("update", vote.pk, "app.vote"))
        self.say("votes", action="delete", pk=vote.pk)
        self.assertIsNone(self.client.receive())
        self.assertEqual(Vote.objects.get().number, 4)

    def test_unknown_stream(self):
        with self.assertRaisesMessage(ValueError, "Invalid multiplexed frame received (stream not mapped)"):
            self.say("nothing")


class OutboundTests(ChannelTestCase):
    def test_one_message_for_each_change(self):
        vote = Vote.objects.create(title="tea")
        client = WSClient()
        client.join_group("votes-updates")
        vote.number = 1
        vote.save()
        self.assertEqual(client.receive()["payload"]["action"], "update")
        self.assertIsNone(client.receive())
        vote.delete()
        self.assertEqual(client.receive()["payload"]["action"], "delete")
        self.assertIsNone(client.receive())


class CommittedTests(TransactionChannelTestCase):
    test_one_message_for_each_change = OutboundTests.test_one_message_for_each_change


class GuardedTests(ChannelTestCase):
    def test_origin(self):
        client = WSClient()
        client.force_login(User.objects.create_user("jane"))
        client.set_header("origin", b"http://localhost:8000")
        client.send_and_consume("websocket.connect", path="/guarded/")
        client.send_and_consume("websocket.receive", path="/guarded/", text="hello")
        self.assertEqual(client.receive(json=False), "jane: hello")

    def test_by_hand(self):
        layer = channel_layers["default"]
        message = Message({"reply_channel": "own-reply", "headers": [[b"origin", b""]], "path": b"/"}, None, layer)

        @channel_session
        def consumer(message):
            message.channel_session["seen"] = True

        consumer(message)
        self.assertTrue(session_for_reply_channel("own-reply")["seen"])
        with apply_routes([route("own", consumer), Guarded.as_route(attrs={"groups": ["guests"]})]):
            client = WSClient()
            client.set_header("origin", b"http://localhost")
            client.send_and_consume("own", {"a": 1})
            client.send_and_consume("websocket.connect", path="/")
            Group("guests").send({"text": "welcome"}, immediately=True)
            self.assertEqual(client.receive(json=False), "welcome")

    def test_classes(self):
        self.assertEqual(
            CountConsumer.channel_names(), {"websocket.connect", "websocket.receive", "websocket.disconnect"}
        )
        self.assertEqual(VoteBinding.model_label, "app.vote")
