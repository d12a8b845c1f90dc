"""The top of the package: ``channels``, ``.asgi``, ``.channel``, ``.message``, ``.signals``, ``.exceptions``."""

from __future__ import annotations

import unittest

from channels import (
    DEFAULT_CHANNEL_LAYER,
    Channel,
    Group,
    __version__,
    channel_layers,
    exceptions,
    include,
    route,
    route_class,
)
from channels import Message as MessageFromTheTop
from channels.asgi import ChannelLayerManager, ChannelLayerWrapper, InvalidChannelLayerError, get_channel_layer
from channels.channel import Channel as ChannelFromItsModule
from channels.channel import Group as GroupFromItsModule
from channels.message import Message
from channels.routing import Include, Route, RouteClass
from channels.signals import consumer_finished, consumer_started, worker_process_ready, worker_ready
from channels.test import Client, apply_routes
from django.dispatch import Signal
from django.test import override_settings

from tests.compat import ChannelCase, by_own_names_too

IN_MEMORY = "asgiref.inmemory.ChannelLayer"


class NameTests(unittest.TestCase):
    """What can be imported from where."""

    def test_names(self) -> None:
        self.assertEqual(DEFAULT_CHANNEL_LAYER, "default")
        self.assertIs(Channel, ChannelFromItsModule)
        self.assertIs(Group, GroupFromItsModule)
        self.assertEqual((route, route_class, include), (Route, RouteClass, Include))
        self.assertIs(MessageFromTheTop, Message)
        self.assertIsInstance(__version__, str)
        self.assertIsInstance(channel_layers, ChannelLayerManager)

    def test_signals(self) -> None:
        for signal in (consumer_started, consumer_finished, worker_ready, worker_process_ready):
            self.assertIsInstance(signal, Signal)


class LayerTests(unittest.TestCase):
    """``channel_layers`` and what it builds."""

    def configured(self, **entry):
        return override_settings(CHANNEL_LAYERS={"other": {"ROUTING": [], "BACKEND": IN_MEMORY, **entry}})

    def tearDown(self) -> None:
        channel_layers.set("other", None)

    def test_one_layer_for_each_alias(self) -> None:
        with self.configured(CONFIG={"expiry": 7}):
            self.assertEqual(list(channel_layers.configs), ["other"])
            self.assertIn("other", channel_layers)
            self.assertNotIn("default", channel_layers)
            layer = channel_layers["other"]
            self.assertIs(channel_layers["other"], layer)
            self.assertIsInstance(layer, ChannelLayerWrapper)
            self.assertEqual((layer.alias, layer.expiry, layer.routing), ("other", 7, []))
            self.assertEqual(layer.router.channels, set())
            self.assertTrue(layer.local_only())
            self.assertRegex(str(layer), r"^other \(.*ChannelLayer\)$")
            self.assertIs(get_channel_layer("other"), layer.channel_layer)
            self.assertIsNot(channel_layers.make_backend("other"), layer)

    def test_set(self) -> None:
        with self.configured():
            made = channel_layers.make_backend("other")
            self.assertIsNone(channel_layers.set("other", made))
            self.assertIs(channel_layers["other"], made)
            self.assertIs(channel_layers.set("other", None), made)

    def test_a_layer_for_tests(self) -> None:
        with self.configured(CONFIG={"expiry": 7}, TEST_CONFIG={"expiry": 8}):
            self.assertEqual(channel_layers.make_test_backend("other").expiry, 8)

    def test_wrong_settings(self) -> None:
        self.assertTrue(issubclass(InvalidChannelLayerError, ValueError))
        for entry, word in (({}, "BACKEND"), ({"BACKEND": "no.such.Layer", "ROUTING": []}, "no.such.Layer")):
            with self.subTest(entry), override_settings(CHANNEL_LAYERS={"other": entry}):
                with self.assertRaisesRegex(InvalidChannelLayerError, word):
                    channel_layers.make_backend("other")
        with override_settings(CHANNEL_LAYERS={"other": {"BACKEND": IN_MEMORY}}):
            with self.assertRaisesRegex(InvalidChannelLayerError, "ROUTING"):
                channel_layers.make_backend("other")
        with self.configured(), self.assertRaisesRegex(InvalidChannelLayerError, "TEST_CONFIG"):
            channel_layers.make_test_backend("other")


class ChannelTests(ChannelCase):
    """``Channel`` and ``Group``."""

    def test_names(self) -> None:
        for kind in (Channel, Group):
            made = kind(b"some-name")
            self.assertEqual((made.name, str(made)), ("some-name", "some-name"))
            self.assertIs(made.channel_layer.channel_layer, channel_layers["default"].channel_layer)
            self.assertIs(kind("a", channel_layer=self).channel_layer, self)
            for bad in ("with space", "x" * 100, None):
                with self.assertRaises(TypeError):
                    kind(bad)

    def test_only_dicts_can_be_sent(self) -> None:
        for bad in ("text", ["a"], None, b"bytes"):
            with self.assertRaises(TypeError):
                Channel("a").send(bad)
            with self.assertRaises(ValueError):
                Group("a").send(bad)

    def test_outside_of_a_consumer_sends_go_at_once(self) -> None:
        Group("g").add(Channel("a"))
        Group("g").add("b")
        Group("g").send({"n": 1})
        Channel("a").send({"n": 2})
        self.assertEqual([self.get_next_message("a")["n"] for _ in range(2)], [1, 2])
        Group("g").discard("b")
        Group("g").discard(Channel("stranger"))
        Group("g").send({"n": 3})
        self.assertEqual([self.get_next_message("b")["n"], self.get_next_message("b")], [1, None])

    def test_inside_of_a_consumer_adding_is_not_held_back(self) -> None:
        """So ``add`` after ``send`` is in time, and ``discard`` after ``send`` leaves the channel out."""

        def consumer(message):
            Group("in").send({"n": 1})
            Group("out").send({"n": 2})
            Group("in").add(message.reply_channel)
            Group("out").discard(message.reply_channel)
            Channel(message.reply_channel.name).send({"n": 3})

        client = Client()
        client.join_group("out")
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
        self.assertEqual([client.receive(), client.receive(), client.receive()], [{"n": 1}, {"n": 3}, None])


class MessageTests(ChannelCase):
    """``Message``."""

    def test_a_message(self) -> None:
        layer = channel_layers["default"].channel_layer
        message = Message({"reply_channel": "reply", "list": [1]}, "some", layer)
        self.assertEqual((message.channel.name, message.reply_channel.name), ("some", "reply"))
        self.assertIs(message.channel_layer, layer)
        message["key"] = "value"
        self.assertEqual((message["key"], message.get("key"), message.content["key"]), ("value",) * 3)
        self.assertEqual((message.get("no"), message.get("no", 1)), (None, 1))
        self.assertIn("list", message)
        self.assertEqual(sorted(message.keys()), ["key", "list", "reply_channel"])
        self.assertEqual(dict(message.items()), message.content)
        self.assertEqual(len(message.values()), 3)
        with self.assertRaises(KeyError):
            message["no"]
        self.assertIsNone(Message({}, "some", layer).reply_channel)

    def test_a_copy(self) -> None:
        message = Message({"list": [1]}, "some", None)
        message.user = "ada"
        copy = message.copy()
        copy["list"].append(2)
        self.assertEqual((message["list"], hasattr(copy, "user"), copy.channel.name), ([1], False, "some"))


class ExceptionTests(ChannelCase):
    """``channels.exceptions``."""

    def test_names(self) -> None:
        for name in (
            "ConsumeLater", "ResponseLater", "RequestTimeout", "RequestAborted", "DenyConnection",
            "ChannelSocketException", "WebsocketCloseException", "SendNotAvailableOnDemultiplexer",
        ):  # fmt: skip
            self.assertTrue(issubclass(getattr(exceptions, name), Exception), name)
        self.assertFalse(hasattr(exceptions, "AcceptConnection"))

    def test_close(self) -> None:
        for code, close in ((None, True), (1000, 1000), (3000, 3000), (4999, 4999)):

            def consumer(message, code=code):
                raise exceptions.WebsocketCloseException(code)

            client = Client()
            with apply_routes([route("websocket.receive", consumer)]):
                client.send_and_consume("websocket.receive", {"text": ""})
            self.assertEqual(client.receive(), {"close": close})
        for code in (999, 1001, 2999, 5000, "1000"):
            with self.assertRaises(ValueError):
                exceptions.WebsocketCloseException(code)

    def test_one_s_own(self) -> None:
        class Answer(exceptions.ChannelSocketException):
            def run(self, message):
                message.reply_channel.send({"text": str(self)})

        def consumer(message):
            raise Answer("hey")

        client = Client()
        with apply_routes([route("websocket.receive", consumer)]):
            client.send_and_consume("websocket.receive", {"text": ""})
        self.assertEqual(client.receive(), {"text": "hey"})
        with self.assertRaises(NotImplementedError):
            exceptions.ChannelSocketException().run(None)


by_own_names_too(globals())
