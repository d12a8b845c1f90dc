"""Routing: ``channels.routing``."""

from __future__ import annotations

import unittest

from channels.handler import ViewConsumer
from channels.message import Message
from channels.routing import Include, Route, RouteClass, Router, connect_consumer, include, null_consumer, route
from channels.routing import route_class as lower_case_route_class
from django.core.exceptions import ImproperlyConfigured

from tests.compat import by_own_names_too


def first(message, **kwargs):
    """A consumer."""


def second(message, **kwargs):
    """Another one."""


class ByClass:
    """A consumer as a class."""

    @classmethod
    def channel_names(cls):
        return ["class.one", "class.two"]


ROUTES = [route("inner", first, path="^/(?P<a>x)", tail="(?P<a>.)")]
TABLE = {"some": first}


class RoutingTests(unittest.TestCase):
    """Which consumer gets which message, and with which arguments."""

    def match(self, routing, channel="some", **content):
        return Router(routing).match(Message(content, channel, None))

    def test_names(self) -> None:
        self.assertEqual((route, include, lower_case_route_class), (Route, Include, RouteClass))

    def test_forms_of_a_routing(self) -> None:
        for routing in ({"some": first}, [route("some", first)], __name__ + ".TABLE", {"some": __name__ + ".first"}):
            with self.subTest(routing):
                consumer, kwargs = self.match(routing)
                self.assertEqual((consumer.__name__, kwargs), ("first", {}))
        self.assertIsNone(self.match({"other": first}))

    def test_what_cannot_be_imported(self) -> None:
        for routing in ("no.such.routing", __name__ + ".NOTHING", {"some": "no.such.consumer"}, 7):
            with self.subTest(routing), self.assertRaises(ImproperlyConfigured):
                Router(routing)

    def test_several_channels(self) -> None:
        routing = [route(["one", "two"], first), route(b"three", second)]
        self.assertEqual(Router(routing).channels, {"one", "two", "three"})
        self.assertEqual(self.match(routing, "two")[0], first)
        self.assertEqual(self.match(routing, "three")[0], second)

    def test_filters(self) -> None:
        routing = [
            route("some", first, path=r"^/a/(?P<name>\w+)", method=b"^GET$"),
            route("some", second, path="^/a"),
        ]
        self.assertEqual(self.match(routing, path="/a/b/c", method=b"GET"), (first, {"name": "b"}))
        self.assertEqual(self.match(routing, path="/a/b", method="POST"), (second, {}))
        self.assertEqual(self.match(routing, path="/a/b"), (second, {}))
        self.assertIsNone(self.match(routing, path="/b/a"))
        with self.assertRaises(ValueError):
            route("some", first, path="^/(positional)")

    def test_classes(self) -> None:
        routing = [RouteClass(ByClass, path="^/(?P<a>.)")]
        self.assertEqual(self.match(routing, "class.two", path="/x"), (ByClass, {"a": "x"}))
        with self.assertRaises(ValueError):
            RouteClass(first)

    def test_includes(self) -> None:
        routing = [
            include(ROUTES, path="^/pre(?P<a>fix)(?P<b>.)"),
            include(__name__ + ".TABLE"),
            include([include({"deep": second}, path="^/b")], path="^/a"),
        ]
        message = Message({"path": "/prefix1/x/", "tail": "z"}, "inner", None)
        self.assertEqual(Router(routing).match(message), (first, {"a": "z", "b": "1"}))
        self.assertEqual(message["path"], "/prefix1/x/")
        self.assertIsNone(self.match(routing, "inner", path="/x", tail="z"))
        self.assertEqual(self.match(routing), (first, {}))
        self.assertEqual(self.match(routing, "deep", path="/a/b")[0], second)
        self.assertIsNone(self.match(routing, "deep", path="/b/a"))
        self.assertEqual(Router(routing).channels, {"inner", "some", "deep"})
        self.assertEqual(Include(ROUTES).channel_names(), {"inner"})

    def test_objects_of_one_s_own(self) -> None:
        class Odd:
            def channel_names(self):
                return {"some"}

            def match(self, message):
                return (first, {"n": message["n"]}) if message["n"] % 2 else None

        routing = [Odd(), route("some", second)]
        self.assertEqual(self.match(routing, n=1), (first, {"n": 1}))
        self.assertEqual(self.match(routing, n=2), (second, {}))

    def test_add_route(self) -> None:
        router = Router([route("some", first)])
        router.add_route(route(["some", "more"], second))
        self.assertEqual(router.match(Message({}, "some", None))[0], first)
        self.assertEqual(router.match(Message({}, "more", None))[0], second)

    def test_defaults(self) -> None:
        router = Router([route("websocket.connect", first, path="^/mine")])
        router.check_default(http_consumer=second)

        def match(channel, **content):
            return router.match(Message(content, channel, None))[0]

        self.assertEqual(match("websocket.connect", path="/mine"), first)
        self.assertEqual(match("websocket.connect", path="/other"), connect_consumer)
        self.assertEqual(match("websocket.receive"), null_consumer)
        self.assertEqual(match("websocket.disconnect"), null_consumer)
        self.assertEqual(match("http.request"), second)
        router = Router([])
        router.check_default()
        self.assertIsInstance(router.match(Message({}, "http.request", None))[0], ViewConsumer)


by_own_names_too(globals())
