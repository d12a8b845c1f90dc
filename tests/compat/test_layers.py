"""The layer's interface, as asgiref 1 has it: what code written against its layers calls."""

from __future__ import annotations

import re
import unittest

from asgiref import conformance
from asgiref.base_layer import BaseChannelLayer
from asgiref.inmemory import ChannelLayer
from channels.asgi import channel_layers
from twisted.internet.task import Clock

from tests.compat import by_own_names_too


class Timed(unittest.TestCase):
    """Tests of a layer whose time the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.layer = ChannelLayer(expiry=1, group_expiry=10, capacity=5, clock=self.clock.seconds)


class ConformanceTests(conformance.ConformanceTestCase):
    """The conformance tests, with capacity 5 and expiry of a second."""

    capacity_limit = 5
    expiry_delay = 1.1

    def setUp(self) -> None:
        self.clock = Clock()
        self.channel_layer = ChannelLayer(expiry=1, group_expiry=2, capacity=5, clock=self.clock.seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)


class InterfaceTests(Timed):
    """Names, parameters, defaults, exceptions."""

    def test_classes_and_parameters(self) -> None:
        self.assertTrue(issubclass(ChannelLayer, BaseChannelLayer))
        layer = ChannelLayer(60, 86400, 10, {"http.*": 3})
        self.assertEqual((layer.expiry, layer.group_expiry, layer.capacity), (60, 86400, 10))
        self.assertEqual((layer.get_capacity("http.request"), layer.get_capacity("other")), (3, 10))
        defaults = BaseChannelLayer()
        self.assertEqual((defaults.expiry, defaults.group_expiry), (60, 86400))

    def test_extensions(self) -> None:
        self.assertEqual(BaseChannelLayer.extensions, [])
        for extension in ("groups", "flush", "statistics", "twisted"):
            self.assertIn(extension, ChannelLayer.extensions)

    def test_what_a_layer_must_define(self) -> None:
        layer = BaseChannelLayer()
        for call in (
            lambda: layer.receive(["a"]),
            lambda: layer.receive(["a"], block=True),
            lambda: layer.send("a", {}),
            lambda: layer.new_channel("a?"),
            lambda: layer.group_add("g", "a"),
            lambda: layer.group_discard("g", "a"),
            lambda: layer.group_channels("g"),
            lambda: layer.send_group("g", {}),
            lambda: layer.flush(),
        ):
            with self.assertRaises(NotImplementedError):
                call()

    def test_exceptions_are_attributes(self) -> None:
        for _ in range(5):
            self.layer.send("full", {})
        with self.assertRaises(self.layer.ChannelFull):
            self.layer.send("full", {})
        self.assertTrue(issubclass(BaseChannelLayer.MessageTooLarge, Exception))

    def test_capacities(self) -> None:
        compiled = BaseChannelLayer.compile_capacities({"http.*": 3, re.compile("^web"): 4})
        self.assertEqual([number for match, number in compiled if match("http.request")], [3])
        self.assertEqual([number for match, number in compiled if match("websocket.receive")], [4])
        layer = ChannelLayer(channel_capacity={"*.request": 1, "http.*": 2})
        self.assertEqual((layer.get_capacity("http.request"), layer.get_capacity("http.disconnect")), (1, 2))
        layer.send("http.request", {})
        with self.assertRaises(layer.ChannelFull):
            layer.send("http.request", {})

    def test_names(self) -> None:
        layer = self.layer
        for name in ("a", "a.b-c_1", "a!b", "a!", "a?b", "x" * 99):
            self.assertTrue(layer.valid_channel_name(name))
        for name in ("", "a b", "a?", "x" * 100, "a!b!c", "\u0661", "a\n", b"a", None):
            with self.subTest(name), self.assertRaises(TypeError):
                layer.valid_channel_name(name)
        self.assertTrue(layer.valid_channel_name("a!", receive=True))
        with self.assertRaises(TypeError):
            layer.valid_channel_name("a!b", receive=True)
        self.assertTrue(layer.valid_channel_names(["a", "b"]))
        for names in ([], "a", None):
            with self.subTest(names), self.assertRaises(AssertionError):
                layer.valid_channel_names(names)
        self.assertTrue(layer.valid_group_name("a.b"))
        for name in ("a!b", "a?b", ""):
            with self.assertRaises(TypeError):
                layer.valid_group_name(name)
        self.assertEqual((layer.non_local_name("a!b"), layer.non_local_name("a")), ("a!", "a"))

    def test_the_alias_s_layer_has_it_all(self) -> None:
        """What ``channel_layers[alias]`` returns passes everything on to the layer."""
        wrapper = channel_layers.make_backend("default")
        wrapper.send("a", {"value": 1})
        self.assertEqual(wrapper.receive_many(["a"]), ("a", {"value": 1}))
        self.assertEqual(wrapper.receive(["a"], block=False), (None, None))


class BehaviourTests(Timed):
    """What goes in and what comes out."""

    def test_expiry(self) -> None:
        self.layer.send("a", {"n": 1})
        self.clock.advance(0.9)
        self.layer.send("a", {"n": 2})
        self.clock.advance(0.2)
        self.assertEqual(self.layer.receive(["a"]), ("a", {"n": 2}))

    def test_group_expiry(self) -> None:
        self.layer.group_add("g", "old")
        self.clock.advance(6)
        self.layer.group_add("g", "new")
        self.clock.advance(6)
        self.assertEqual(self.layer.group_channels("g"), ["new"])
        self.layer.group_add("g", "new")
        self.clock.advance(6)
        self.assertEqual(self.layer.group_channels("g"), ["new"])

    def test_what_expired_makes_room(self) -> None:
        for _ in range(5):
            self.layer.send("a", {})
        self.clock.advance(1.1)
        self.layer.send("a", {"n": 6})
        self.assertEqual(self.layer.receive(["a"]), ("a", {"n": 6}))

    def test_single_reader_channels(self) -> None:
        name = self.layer.new_channel("reply?")
        self.assertRegex(name, r"^reply\?[A-Za-z]{8,}$")
        self.layer.send(name, {"n": 1})
        self.assertEqual(self.layer.receive([name]), (name, {"n": 1}))
        for pattern in ("reply!", "reply"):
            with self.assertRaises(TypeError):
                self.layer.new_channel(pattern)

    def test_process_specific_channels(self) -> None:
        self.layer.send("reply!a", {"n": 1})
        self.layer.send("reply!b", {"n": 2})
        self.assertEqual(self.layer.receive(["reply!"]), ("reply!a", {"n": 1}))
        self.assertEqual(self.layer.receive(["reply!"]), ("reply!b", {"n": 2}))

    def test_a_group_send_to_a_full_member_is_silent(self) -> None:
        self.layer.group_add("g", "full")
        self.layer.group_add("g", "roomy")
        for _ in range(5):
            self.layer.send("full", {})
        self.layer.send_group("g", {"n": 1})
        self.assertEqual(self.layer.receive(["roomy"]), ("roomy", {"n": 1}))

    def test_statistics(self) -> None:
        for _ in range(5):
            self.layer.send("a", {})
        with self.assertRaises(self.layer.ChannelFull):
            self.layer.send("a", {})
        self.clock.advance(0.5)
        figures = self.layer.channel_statistics("a")
        self.assertEqual(figures["messages_count"], 5)
        self.assertEqual(figures["channel_full_count"], 1)
        self.assertEqual(figures["messages_pending"], 5)
        self.assertAlmostEqual(figures["messages_max_age"], 0.5)
        totals = self.layer.global_statistics()
        self.assertEqual((totals["messages_count"], totals["channel_full_count"]), (5, 1))

    def test_flush(self) -> None:
        self.layer.send("a", {})
        self.layer.group_add("g", "a")
        self.layer.flush()
        self.assertEqual((self.layer.receive(["a"]), self.layer.group_channels("g")), ((None, None), []))


by_own_names_too(globals())
