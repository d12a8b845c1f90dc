"""The message a consumer is called with."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

import channelserver
from channelserver.channel import Channel
from channelserver.layers import InMemoryChannelLayer
from channelserver.message import Message
from channelserver.routing import Router

LAYER = InMemoryChannelLayer()


class MessageTests(SynchronousTestCase):
    def test_names(self) -> None:
        """It can be imported from the package, too."""
        self.assertIs(channelserver.Message, Message)

    def test_public_names_of_the_package(self) -> None:
        """``dir()`` lists them before they are first used, and each can be had."""
        self.assertEqual(dir(channelserver), sorted(channelserver.__all__))
        for name in dir(channelserver):
            self.assertIsNotNone(getattr(channelserver, name))

    def test_attributes(self) -> None:
        """Content, channel, layer and reply channel."""
        content = {"reply_channel": "websocket.send.x!1", "text": "hello"}
        message = Message(content, "websocket.receive", LAYER)
        self.assertIs(message.content, content)
        self.assertIs(message.channel_layer, LAYER)
        self.assertEqual((message.channel.name, str(message.channel)), ("websocket.receive", "websocket.receive"))
        self.assertIs(message.channel.channel_layer, LAYER)
        self.assertEqual(message.reply_channel, Channel("websocket.send.x!1", channel_layer=LAYER))

    def test_no_reply_channel(self) -> None:
        """Most messages have none."""
        for content in ({}, {"reply_channel": None}, {"reply_channel": ""}):
            self.assertIs(Message(content, "task", LAYER).reply_channel, None)

    def test_reply_channel_sends_to_its_layer(self) -> None:
        """Replies go to the layer that the message is from."""
        layer = InMemoryChannelLayer()
        message = Message({"reply_channel": "answers"}, "task", layer)
        assert message.reply_channel is not None
        message.reply_channel.send({"text": "answer"})
        self.assertEqual(layer.receive(["answers"]), ("answers", {"text": "answer"}))

    def test_like_a_dict(self) -> None:
        """The content's keys can be had from the message."""
        message = Message({"path": "/", "order": 0}, "websocket.connect", LAYER)
        self.assertEqual((message["path"], message["order"]), ("/", 0))
        self.assertRaises(KeyError, lambda: message["text"])
        self.assertEqual((message.get("path"), message.get("text"), message.get("text", "no")), ("/", None, "no"))
        self.assertTrue("path" in message)
        self.assertFalse("text" in message)
        self.assertEqual(sorted(message.keys()), ["order", "path"])
        self.assertEqual(sorted(map(str, message.values())), ["/", "0"])
        self.assertEqual(sorted(message.items()), [("order", 0), ("path", "/")])
        message["text"] = "new"
        self.assertEqual(message.content, {"path": "/", "order": 0, "text": "new"})

    def test_always_true(self) -> None:
        """A message without content is a message."""
        self.assertTrue(Message({}, "task", LAYER))

    def test_copy(self) -> None:
        """A copy has a content of its own, all the way down, and none of the attributes that decorators have set."""
        message = Message({"list": [1, {"deep": [2]}], "reply_channel": "answers"}, "task", LAYER)
        message.channel_session = object()  # type: ignore[attr-defined]
        copy = message.copy()
        self.assertEqual(copy.content, message.content)
        self.assertEqual((copy.channel, copy.reply_channel), (message.channel, message.reply_channel))
        self.assertIs(copy.channel_layer, LAYER)
        self.assertFalse(hasattr(copy, "channel_session"))
        copy.content["list"][1]["deep"].append(3)
        self.assertEqual(message.content["list"], [1, {"deep": [2]}])

    def test_copy_of_subclass(self) -> None:
        """A subclass stays one."""

        class Own(Message):
            pass

        self.assertIs(type(Own({}, "task", LAYER).copy()), Own)

    def test_bad_names(self) -> None:
        """Neither channel may have a name that is none."""
        self.assertRaises(TypeError, Message, {}, "no name", LAYER)
        self.assertRaises(TypeError, Message, {"reply_channel": "no name"}, "task", LAYER)
        self.assertRaises(TypeError, Message, {"reply_channel": 5}, "task", LAYER)

    def test_another_channel(self) -> None:
        """Tests give a message another channel."""
        message = Message({}, "task", LAYER)
        message.channel = Channel("other", channel_layer=LAYER)
        self.assertEqual((message.channel_name, message.copy().channel.name), ("other", "other"))
        self.assertEqual(Router({"other": len}).match(message), (len, {}))

    def test_repr(self) -> None:
        """It tells where it is from and what it holds, but not the values, which may be secret."""
        shown = repr(Message({"text": "secret", "path": "/"}, "websocket.receive", LAYER))
        self.assertIn("websocket.receive", shown)
        self.assertIn("'path', 'text'", shown)
        self.assertNotIn("secret", shown)

    def test_body_file(self) -> None:
        """No file beside it, unless the server says so."""
        self.assertIs(Message({}, "http.request", LAYER).body_file, None)
