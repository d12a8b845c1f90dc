"""Decorators that look at the origin of sockets: ``channels.security.websockets``."""

from __future__ import annotations

from channels import route
from channels.exceptions import DenyConnection
from channels.generic.websockets import WebsocketConsumer
from channels.security.websockets import AllowedHostsOnlyOriginValidator, BaseOriginValidator, allowed_hosts_only
from channels.test import Client, WSClient, apply_routes
from django.test import override_settings

from tests.compat import ChannelCase, by_own_names_too


@allowed_hosts_only
def connect(message, **kwargs):
    """The connect consumer."""
    message.reply_channel.send({"accept": True})


def client_from(origin: str | bytes | None) -> WSClient:
    """A client whose pages come from there."""
    client = WSClient()
    if origin is not None:
        client.set_header("origin", origin)
    return client


@override_settings(ALLOWED_HOSTS=["example.com", ".sub.example.com", "[::1]"])
class AllowedHostsOnlyTests(ChannelCase):
    """``allowed_hosts_only``."""

    def assertPasses(self, routes, origin, passes: bool) -> None:
        with self.subTest(origin=origin), apply_routes(routes):
            if passes:
                client_from(origin).send_and_consume("websocket.connect")
            else:
                with self.assertRaises(DenyConnection):
                    client_from(origin).send_and_consume("websocket.connect")

    def test_the_names_mean_the_same(self) -> None:
        self.assertIs(allowed_hosts_only, AllowedHostsOnlyOriginValidator)
        self.assertTrue(issubclass(allowed_hosts_only, BaseOriginValidator))

    def test_origins(self) -> None:
        for origin, passes in (
            ("http://example.com", True), ("https://EXAMPLE.com:8443", True), ("https://a.sub.example.com", True),
            ("http://[::1]:8000", True), ("http://example.org", False), ("http://example.com.evil.org", False),
            ("null", False), ("", False), (None, False), (b"http://ex\xe4mple.com", False), ("http://[::1", False),
            ("http://user@evil.org", False),
        ):  # fmt: skip
            self.assertPasses([route("websocket.connect", connect)], origin, passes)

    def test_without_allowed_hosts_only_this_machine_and_only_under_debug(self) -> None:
        for debug in (True, False):
            with override_settings(DEBUG=debug, ALLOWED_HOSTS=[]):
                for host in ("localhost", "127.0.0.1:8000", "[::1]"):
                    self.assertPasses([route("websocket.connect", connect)], f"http://{host}", debug)
                self.assertPasses([route("websocket.connect", connect)], "http://example.com", False)

    def test_methods_and_arguments(self) -> None:
        class Consumer(WebsocketConsumer):
            @allowed_hosts_only
            def connect(self, message, room):
                message.reply_channel.send({"text": room})

        routes = [Consumer.as_route(path="^/(?P<room>[a-z]+)")]
        with apply_routes(routes):
            client = client_from("http://example.com")
            client.send_and_consume("websocket.connect", path="/lobby")
            self.assertEqual(client.receive(json=False), "lobby")
        with apply_routes(routes), self.assertRaises(DenyConnection):
            client_from("http://example.org").send_and_consume("websocket.connect", path="/lobby")

    def test_classes(self) -> None:
        @allowed_hosts_only
        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text=text)

        class Derived(Consumer):
            def connect(self, message, **kwargs):
                super(Derived, self).connect(message, **kwargs)

        self.assertIsInstance(Consumer, type)
        for kind in (Consumer, Derived):
            self.assertPasses([kind.as_route()], "http://example.com", True)
            self.assertPasses([kind.as_route()], "http://example.org", False)
        with apply_routes([Consumer.as_route()]):
            client = client_from(None)
            client.send_and_consume("websocket.receive", {"headers": []}, text="hey")
            self.assertEqual(client.receive(json=False), "hey")

    def test_a_message_without_headers(self) -> None:
        with apply_routes([route("some", connect)]), self.assertRaisesRegex(ValueError, r"websocket\.connect.*headers"):
            Client().send_and_consume("some")

    def test_rules_of_one_s_own(self) -> None:
        class OnlyFoxes(BaseOriginValidator):
            def validate_origin(self, message, origin):
                return message["path"] == "/foxes" and origin.endswith(".fox")

        fox = OnlyFoxes(lambda message: message.reply_channel.send({"accept": True}))
        with apply_routes([route("websocket.connect", fox)]):
            client_from("http://a.fox").send_and_consume("websocket.connect", path="/foxes")
            for origin, path in (("http://a.fox", "/hens"), ("http://a.hen", "/foxes")):
                with self.assertRaises(DenyConnection):
                    client_from(origin).send_and_consume("websocket.connect", path=path)

    def test_a_rule_is_needed(self) -> None:
        with apply_routes([route("websocket.connect", BaseOriginValidator(lambda message: None))]):
            with self.assertRaisesRegex(NotImplementedError, "validate_origin"):
                client_from("http://example.com").send_and_consume("websocket.connect")


by_own_names_too(globals())
