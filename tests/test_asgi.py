"""The project's channel layers."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from twisted.trial.unittest import SynchronousTestCase

import channelserver
from channelserver import asgi
from channelserver.asgi import (
    ChannelLayerManager,
    ChannelLayerWrapper,
    InvalidChannelLayerError,
    channel_layers,
    get_channel_layer,
)
from channelserver.layers import BaseChannelLayer, InMemoryChannelLayer, RedisChannelLayer
from channelserver.routing import Router

IN_MEMORY = "channelserver.layers.InMemoryChannelLayer"

routing: list[Any] = []


class OwnLayer(InMemoryChannelLayer):
    """A layer of an application's own."""


def layers(**entry: Any) -> Any:
    """Have ``CHANNEL_LAYERS`` hold one entry, ``default``, with these keys; None takes a key away."""
    entry = {"BACKEND": IN_MEMORY, "ROUTING": [], **entry}
    return override_settings(CHANNEL_LAYERS={"default": {key: entry[key] for key in entry if entry[key] is not None}})


class ManagerTests(SynchronousTestCase):
    """``ChannelLayerManager``."""

    def test_names(self) -> None:
        """There is one manager, which can be imported from the package, too."""
        self.assertIsInstance(channel_layers, ChannelLayerManager)
        self.assertIs(channelserver.channel_layers, channel_layers)
        self.assertTrue(issubclass(InvalidChannelLayerError, ValueError))

    def test_no_setting(self) -> None:
        """Without the setting there is an in-memory layer with no routes, so a plain Django site just works."""
        for setting in ({}, None):
            with override_settings(CHANNEL_LAYERS=setting):
                manager = ChannelLayerManager()
                self.assertTrue("default" in manager)
                self.assertFalse("other" in manager)
                self.assertIsInstance(manager["default"].channel_layer, InMemoryChannelLayer)
                self.assertEqual(manager["default"].router.channels, set())

    def test_built_once(self) -> None:
        """A layer is built when it is first asked for, and kept."""
        with layers(CONFIG={"capacity": 7}):
            manager = ChannelLayerManager()
            first = manager["default"]
        self.assertIs(manager["default"], first)
        self.assertEqual(first.channel_layer.capacity, 7)

    def test_built_once_by_many_threads(self) -> None:
        """Many threads that ask for it at the same time get one layer."""
        count, barrier = 8, threading.Barrier(8)
        manager, found = ChannelLayerManager(), []

        def ask() -> None:
            barrier.wait(60)
            found.append(manager["default"])

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(found), len(set(map(id, found)))), (count, 1))

    def test_several(self) -> None:
        """Each alias has a layer of its own."""
        entry = {"BACKEND": IN_MEMORY, "ROUTING": []}
        with override_settings(CHANNEL_LAYERS={"one": entry, "two": entry}):
            manager = ChannelLayerManager()
            self.assertEqual(set(manager.configs), {"one", "two"})
            self.assertIsNot(manager["one"].channel_layer, manager["two"].channel_layer)
            self.assertTrue("one" in manager)
            self.assertFalse("default" in manager)

    def test_make_backend(self) -> None:
        """``make_backend`` builds a new layer each time with ``CONFIG``, ``make_test_backend`` with ``TEST_CONFIG``."""
        with layers(CONFIG={"capacity": 7}, TEST_CONFIG={"capacity": 8}):
            manager = ChannelLayerManager()
            self.assertEqual(manager.make_backend("default").channel_layer.capacity, 7)
            self.assertIsNot(manager.make_backend("default"), manager.make_backend("default"))
            self.assertEqual(manager.make_test_backend("default").channel_layer.capacity, 8)
        with layers(TEST_CONFIG={}):
            self.assertEqual(ChannelLayerManager().make_test_backend("default").channel_layer.capacity, 1000)

    def test_set(self) -> None:
        """``set`` puts another layer in its place and returns the old one, if there was one."""
        manager = ChannelLayerManager()
        first = ChannelLayerWrapper(InMemoryChannelLayer(), "default", [])
        self.assertIs(manager.set("default", first), None)
        self.assertIs(manager["default"], first)
        second = ChannelLayerWrapper(InMemoryChannelLayer(), "default", [])
        self.assertIs(manager.set("default", second), first)
        self.assertIs(manager["default"], second)
        self.assertIs(manager.set("default", None), second)
        self.assertIsNot(manager["default"], second)

    def test_backends(self) -> None:
        """A backend is named by a dotted string, of this package, of Channels 1, or of the application; or given."""
        for backend, kind in (
            (IN_MEMORY, InMemoryChannelLayer),
            ("asgiref.inmemory.ChannelLayer", InMemoryChannelLayer),
            ("asgi_ipc.IPCChannelLayer", InMemoryChannelLayer),
            (f"{__name__}.OwnLayer", OwnLayer),
            (OwnLayer, OwnLayer),
        ):
            with layers(BACKEND=backend):
                self.assertIs(type(ChannelLayerManager()["default"].channel_layer), kind)

    def test_parameters_of_channels_1(self) -> None:
        """Parameters which the old backends had, and which mean nothing here, do no harm."""
        config = {"prefix": "x", "message_memory": 1, "group_memory": 1, "capacity": 9}
        with layers(BACKEND="asgi_ipc.IPCChannelLayer", CONFIG=config):
            self.assertEqual(ChannelLayerManager()["default"].channel_layer.capacity, 9)

    def test_redis_backends(self) -> None:
        """The names of the Redis layers, and the settings that went with them, are understood."""
        config = {
            "hosts": [("localhost", 6379), "redis://:secret@localhost:6379/1"], "prefix": "x:", "expiry": 9,
            "group_expiry": 99, "capacity": 5, "channel_capacity": {"http.*": 7}, "stats_prefix": "y:",
            "symmetric_encryption_keys": ["key"], "connection_kwargs": {"socket_timeout": 10},
        }  # fmt: skip
        for backend in ("asgi_redis.RedisChannelLayer", "asgi_redis.RedisLocalChannelLayer"):
            with layers(BACKEND=backend, CONFIG=config):
                layer: Any = ChannelLayerManager()["default"].channel_layer
                self.assertIsInstance(layer, RedisChannelLayer)
                self.assertEqual([str(address) for address in layer.addresses], [
                    "redis://localhost:6379/0", "redis://localhost:6379/1",
                ])  # fmt: skip

    def test_redis_sentinels(self) -> None:
        """The layer on Sentinels, by its old name: one address for each service; without services an error."""
        backend = "asgi_redis.RedisSentinelChannelLayer"
        config = {"hosts": [("one", 26379), ("two", 26379)], "services": ["a", "b"], "sentinel_refresh_interval": 5}
        with layers(BACKEND=backend, CONFIG=config):
            layer: Any = ChannelLayerManager()["default"].channel_layer
            self.assertIsInstance(layer, RedisChannelLayer)
            self.assertEqual([address.service for address in layer.addresses], ["a", "b"])
            self.assertEqual([str(sentinel) for sentinel in layer.addresses[0].sentinels], [
                "redis://one:26379/0", "redis://two:26379/0",
            ])  # fmt: skip
        with layers(BACKEND=backend, CONFIG={"hosts": [("one", 26379)]}):
            with self.assertRaisesRegex(InvalidChannelLayerError, "services is missing.*'mymaster'"):
                ChannelLayerManager()["default"]

    def test_wrong_redis(self) -> None:
        """What is wrong in the settings of the Redis layer is named, with the cure, but without passwords."""
        cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
            ({"hosts": "localhost"}, ("hosts must be a list", "redis://localhost")),
            ({"hosts": [7]}, ("hosts has 7",)),
            ({"hosts": [("localhost", "x")]}, ("port 'x'",)),
            ({"hosts": ["http://localhost"]}, ("begins with redis://",)),
            ({"hosts": ["localhost:6379"]}, ("begins with redis://",)),
            ({"hosts": ["redis://localhost/x"]}, ("must be a number",)),
            ({"hosts": ["redis://localhost:99999"]}, ("cannot be understood",)),
            ({"hosts": [{"sentinels": [("localhost", 1)]}]}, ("service_name",)),
            ({"hosts": [{}]}, ("needs 'url'",)),
            ({"symmetric_encryption_keys": "key"}, ("must be a list of keys",)),
            ({"symmetric_encryption_keys": [7]}, ("list of text",)),
            ({"connection_kwargs": {"retries": 7}}, ("connection_kwargs has 'retries'", "password")),
            ({"hosts": ["rediss://localhost?ssl_ca_certs=/nowhere.pem"]}, ("'/nowhere.pem' cannot be read",)),
            ({"prefix": ""}, ("prefix must be text",)),
            ({"host": []}, ("'hosts'",)),
        ]
        for config, words in cases:
            with self.subTest(config=config):
                self.assertWrong(*words, BACKEND="channelserver.layers.RedisChannelLayer", CONFIG=config)
        config = {"hosts": ["ftp://user:very-secret@localhost"]}
        with layers(BACKEND="channelserver.layers.RedisChannelLayer", CONFIG=config):
            error = self.assertRaises(asgi.InvalidChannelLayerError, ChannelLayerManager().make_backend, "default")
        self.assertNotIn("very-secret", str(error))

    def assertWrong(self, *words: str, **entry: Any) -> None:
        """Assert that an entry is refused, with a text of one line in which these words are."""
        with layers(**entry):
            for make in (ChannelLayerManager().make_backend, ChannelLayerManager().__getitem__):
                error = self.assertRaises(InvalidChannelLayerError, make, "default")
                self.assertNotIn("\n", str(error))
                for word in ("CHANNEL_LAYERS['default']", *words):
                    self.assertIn(word, str(error))

    def test_wrong_entries(self) -> None:
        """Each error names the entry, the key, and what is wrong."""
        self.assertWrong("no BACKEND", BACKEND=None)
        self.assertWrong("no ROUTING", ROUTING=None)
        self.assertWrong("no.such.Layer", "cannot be imported", BACKEND="no.such.Layer")
        self.assertWrong("NoLayer", "cannot be imported", BACKEND="channelserver.layers.NoLayer")
        self.assertWrong("'nodots'", BACKEND="nodots")
        self.assertWrong("no subclass", BACKEND="channelserver.routing.Router")
        self.assertWrong("no subclass", BACKEND="django.urls.path")
        self.assertWrong("no subclass", BACKEND=Router)
        self.assertWrong("5", BACKEND=5)
        self.assertWrong("['CONFIG']", "colour", CONFIG={"colour": "red"})
        self.assertWrong("['CONFIG']", "capacity", CONFIG={"capacity": -1})
        self.assertWrong("['CONFIG']", "capacity", CONFIG={"capacity": "many"})
        self.assertWrong("['CONFIG']", CONFIG=["capacity"])
        self.assertWrong("['CONFIG']", CONFIG={1: 2})

    def test_wrong_test_entries(self) -> None:
        """A test backend needs a ``TEST_CONFIG``, and a right one."""
        with layers():
            error = self.assertRaises(InvalidChannelLayerError, ChannelLayerManager().make_test_backend, "default")
            self.assertIn("no TEST_CONFIG", str(error))
        with layers(TEST_CONFIG={"colour": "red"}):
            error = self.assertRaises(InvalidChannelLayerError, ChannelLayerManager().make_test_backend, "default")
            self.assertIn("['TEST_CONFIG']", str(error))

    def test_unknown_alias(self) -> None:
        """The error tells which aliases there are."""
        with layers():
            error = self.assertRaises(InvalidChannelLayerError, ChannelLayerManager().__getitem__, "other")
            self.assertIn("CHANNEL_LAYERS['other']", str(error))
            self.assertIn("'default'", str(error))

    def test_setting_of_wrong_type(self) -> None:
        """The setting must be a dict of dicts."""
        for setting in ("text", [{"BACKEND": IN_MEMORY}], 5):
            with override_settings(CHANNEL_LAYERS=setting):
                error = self.assertRaises(InvalidChannelLayerError, ChannelLayerManager().make_backend, "default")
                self.assertIn("CHANNEL_LAYERS must be a dict", str(error))
        with override_settings(CHANNEL_LAYERS={"default": IN_MEMORY}):
            error = self.assertRaises(InvalidChannelLayerError, ChannelLayerManager().make_backend, "default")
            self.assertIn("CHANNEL_LAYERS['default'] must be a dict", str(error))

    def test_error_is_not_kept(self) -> None:
        """After the cure the layer is built."""
        manager = ChannelLayerManager()
        with layers(BACKEND="no.such.Layer"):
            self.assertRaises(InvalidChannelLayerError, manager.__getitem__, "default")
        with layers():
            self.assertIsInstance(manager["default"], ChannelLayerWrapper)


class WrapperTests(SynchronousTestCase):
    """``ChannelLayerWrapper``."""

    def test_attributes(self) -> None:
        """Layer, alias, routing and router."""
        layer = InMemoryChannelLayer()
        wrapper = ChannelLayerWrapper(layer, "alias", f"{__name__}.routing")
        self.assertIs(wrapper.channel_layer, layer)
        self.assertEqual((wrapper.alias, wrapper.routing), ("alias", f"{__name__}.routing"))
        self.assertIsInstance(wrapper.router, Router)
        self.assertEqual(str(wrapper), "alias (channelserver.layers.memory.InMemoryChannelLayer)")

    def test_routing_is_loaded_when_needed(self) -> None:
        """Sending does not import the project's routing; asking for the router does, and tells what is wrong."""
        with layers(ROUTING="tests.no_such_routing"):
            wrapper: Any = ChannelLayerManager()["default"]
        wrapper.send("task", {"text": "hello"})
        self.assertEqual(wrapper.receive(["task"]), ("task", {"text": "hello"}))
        error = self.assertRaises(ImproperlyConfigured, lambda: wrapper.router)
        self.assertIn("tests.no_such_routing", str(error))

    def test_like_the_layer(self) -> None:
        """All else is the layer's own, its errors included."""
        layer = InMemoryChannelLayer(capacity=1)
        wrapper: Any = ChannelLayerWrapper(layer, "default", [])
        wrapper.send("task", {"text": "hello"})
        self.assertRaises(wrapper.ChannelFull, wrapper.send, "task", {})
        self.assertEqual(layer.receive(["task"]), ("task", {"text": "hello"}))
        wrapper.group_add("group", "member")
        self.assertEqual(wrapper.group_channels("group"), ["member"])
        self.assertEqual(wrapper.extensions, layer.extensions)
        self.assertRaises(AttributeError, lambda: wrapper.no_such_thing)

    def test_local_only(self) -> None:
        """Whether the layer ends with this process."""

        class Remote(BaseChannelLayer):
            dispatch = dispatch_group = mock.Mock()

        Remote.__module__ = "elsewhere"
        self.assertTrue(ChannelLayerWrapper(InMemoryChannelLayer(), "default", []).local_only())
        self.assertFalse(ChannelLayerWrapper(Remote(), "default", []).local_only())


class GetChannelLayerTests(SynchronousTestCase):
    """``get_channel_layer``, for an ``asgi.py`` as in Channels 1."""

    def test_default(self) -> None:
        """It sets Django up and returns the layer itself."""
        with mock.patch("django.setup") as setup:
            layer = get_channel_layer()
        setup.assert_called_once_with(set_prefix=False)
        self.assertIs(layer, channel_layers["default"].channel_layer)
        self.assertIsInstance(layer, BaseChannelLayer)

    def test_alias(self) -> None:
        """Of any alias."""
        other = ChannelLayerWrapper(InMemoryChannelLayer(), "other", [])
        self.addCleanup(channel_layers.set, "other", channel_layers.set("other", other))
        self.assertIs(get_channel_layer("other"), other.channel_layer)
        self.assertRaises(InvalidChannelLayerError, get_channel_layer, "nowhere")
