"""Consumers as classes: ``channels.generic``."""

from __future__ import annotations

import datetime
import json

from channels import Channel, Group, route, route_class
from channels.auth import channel_session_user
from channels.exceptions import ConsumeLater, SendNotAvailableOnDemultiplexer
from channels.generic import BaseConsumer
from channels.generic.base import BaseConsumer as BaseFromItsModule
from channels.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from channels.message import Message
from channels.sessions import channel_session, enforce_ordering
from channels.test import Client, WSClient, apply_routes
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils.decorators import method_decorator

from tests.compat import ChannelCase, by_own_names_too


def wrong_answer(message):
    message.reply_channel.send({"accept": True, "headers": [[b"Connection", b"close"]]})


class BaseConsumerTests(ChannelCase):
    """``BaseConsumer``: an instance for each message, a method for each channel."""

    def test_both_paths_lead_to_the_class(self) -> None:
        self.assertIs(BaseConsumer, BaseFromItsModule)

    def test_each_channel_has_its_method(self) -> None:
        calls = []

        class Consumer(BaseConsumer):
            method_mapping = {"first": "one", "second": "two"}

            def one(self, message, **kwargs):
                calls.append(("one", message is self.message, kwargs == self.kwargs, kwargs))

            def two(self, message, **kwargs):
                calls.append(("two", message is self.message, kwargs == self.kwargs, kwargs))

        self.assertEqual(Consumer.channel_names(), {"first", "second"})
        with apply_routes([route_class(Consumer, kind=r"^(?P<kind>\w+)")]):
            client = Client()
            client.send_and_consume("second", {"kind": "b"})
            client.send_and_consume("first", {"kind": "a"})
        self.assertEqual(calls, [("two", True, True, {"kind": "b"}), ("one", True, True, {"kind": "a"})])

    def test_a_new_instance_for_each_message(self) -> None:
        seen = []

        class Consumer(BaseConsumer):
            method_mapping = {"some": "take"}

            def take(self, message):
                seen.append(hasattr(self, "mark"))
                self.mark = True

        with apply_routes(Consumer.as_route()):
            client = Client()
            client.send_and_consume("some")
            client.send_and_consume("some")
        self.assertEqual(seen, [False, False])

    def test_a_channel_without_a_method_is_named(self) -> None:
        class Consumer(BaseConsumer):
            method_mapping = {"some": "take"}

        with self.assertRaisesRegex(ValueError, "Consumer.*'other'.*method_mapping"):
            Consumer(Message({}, "other", None))

    def test_channel_session(self) -> None:
        class Consumer(BaseConsumer):
            method_mapping = {"some": "take"}
            channel_session = True

            def take(self, message):
                assert message.channel_session is self.message.channel_session
                message.channel_session["count"] = message.channel_session.get("count", 0) + 1
                message.reply_channel.send({"count": message.channel_session["count"]})

        with apply_routes([Consumer.as_route()]):
            client = Client()
            client.send_and_consume("some")
            client.send_and_consume("some")
        self.assertEqual([client.receive(), client.receive()], [{"count": 1}, {"count": 2}])

    def test_channel_session_user(self) -> None:
        class Consumer(BaseConsumer):
            method_mapping = {"some": "take"}
            channel_session_user = True

            def take(self, message):
                message.reply_channel.send({"user": message.user.username})

        client = WSClient()
        client.force_login(User.objects.create_user("ada"))
        with apply_routes([Consumer.as_route()]):
            client.send_and_consume("some")
        self.assertEqual(client.receive(), {"user": "ada"})

    def test_decorators_by_get_handler(self) -> None:
        def loud(handler):
            def inner(message, **kwargs):
                message.content["word"] = message["word"].upper()
                return handler(message, **kwargs)

            return inner

        class Consumer(BaseConsumer):
            method_mapping = {"some": "take"}

            def get_handler(self, *args, **kwargs):
                return loud(super().get_handler(*args, **kwargs))

            def take(self, message):
                message.reply_channel.send({"word": message["word"]})

        with apply_routes([Consumer.as_route()]):
            client = Client()
            client.send_and_consume("some", {"word": "hello"})
        self.assertEqual(client.receive(), {"word": "HELLO"})

    def test_decorated_methods(self) -> None:
        class Consumer(BaseConsumer):
            method_mapping = {"one": "bare", "two": "by_django"}

            @channel_session
            def bare(self, message):
                message.channel_session["who"] = "ada"

            @method_decorator(channel_session)
            def by_django(self, message):
                message.reply_channel.send({"who": message.channel_session["who"]})

        with apply_routes([Consumer.as_route()]):
            client = Client()
            client.send_and_consume("one")
            client.send_and_consume("two")
        self.assertEqual(client.receive(), {"who": "ada"})

    def test_a_decorated_class_can_be_routed_to(self) -> None:
        @enforce_ordering
        @channel_session_user
        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text=f"{self.message.user.is_anonymous} {sorted(kwargs)}")

        with apply_routes([route_class(Consumer, path=r"^/(?P<room>\w+)$")]):
            client = WSClient(ordered=True)
            client.send_and_consume("websocket.connect", path="/a")
            client.send_and_consume("websocket.receive", text="x", path="/a")
        self.assertEqual(client.receive(json=False), "True ['room']")

    def test_as_route_with_attributes(self) -> None:
        class Consumer(WebsocketConsumer):
            prefix = "none"

            def connection_groups(self, **kwargs):
                return [f"{self.prefix}-{kwargs['name']}"]

        routing = [
            Consumer.as_route(attrs={"prefix": "one"}, path=r"^/1/(?P<name>\w+)"),
            Consumer.as_route({"prefix": "two"}, path=r"^/2/(?P<name>\w+)"),
        ]
        with apply_routes(routing):
            first, second = WSClient(), WSClient()
            first.send_and_consume("websocket.connect", path="/1/a")
            second.send_and_consume("websocket.connect", path="/2/b")
        Group("one-a").send({"text": "first"})
        Group("two-b").send({"text": "second"})
        self.assertEqual((first.receive(json=False), second.receive(json=False)), ("first", "second"))
        self.assertEqual(Consumer.prefix, "none")
        self.assertEqual(routing[0].consumer.__name__, "Consumer")

    def test_as_route_refuses_attributes_that_are_no_dict(self) -> None:
        with self.assertRaisesRegex(AssertionError, "attrs must be a dict"):
            BaseConsumer.as_route(attrs=["groups"])


class Echo(WebsocketConsumer):
    """Says what it does."""

    groups = ["everybody"]

    def receive(self, text=None, bytes=None, **kwargs):
        self.send(text=None if text is None else f"{self.path} {text}", bytes=bytes)

    def disconnect(self, message, **kwargs):
        Channel("gone").send({"code": message["code"], **kwargs})


class WebsocketConsumerTests(ChannelCase):
    """``WebsocketConsumer``: groups, sending, users."""

    def test_the_channels(self) -> None:
        self.assertEqual(
            WebsocketConsumer.channel_names(), {"websocket.connect", "websocket.receive", "websocket.disconnect"}
        )

    def test_a_socket_s_life(self) -> None:
        with apply_routes([Echo.as_route(path=r"^/(?P<room>\w+)/")]):
            client = WSClient()
            client.send_and_consume("websocket.connect", path="/a/", check_accept=False)
            self.assertEqual(client.receive(), {"accept": True})
            client.send_and_consume("websocket.receive", text="hello", path="/a/")
            self.assertEqual(client.receive(json=False), "/a/ hello")
            client.send_and_consume("websocket.receive", {"bytes": b"\x00\xff"}, path="/a/")
            self.assertEqual(client.receive(), {"bytes": b"\x00\xff"})
            Group("everybody").send({"text": "all"})
            self.assertEqual(client.receive(json=False), "all")
            client.send_and_consume("websocket.disconnect", {"code": 1001}, path="/a/")
        self.assertEqual(self.get_next_message("gone").content, {"code": 1001, "room": "a"})
        Group("everybody").send({"text": "all"})
        self.assertIsNone(client.receive())

    def test_an_empty_text_is_received(self) -> None:
        got = []

        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                got.append((text, bytes))

        with apply_routes([Consumer.as_route()]):
            client = WSClient()
            client.send_and_consume("websocket.receive", {"text": "", "bytes": None})
            client.send_and_consume("websocket.receive", {"text": None, "bytes": b""})
        self.assertEqual(got, [("", None), (None, b"")])

    def test_accept_and_close_with_reason(self) -> None:
        class Consumer(WebsocketConsumer):
            def connect(self, message, **kwargs):
                self.accept(subprotocol="chat", headers=[(b"Set-Cookie", b"a=1")])

            def receive(self, text=None, bytes=None, **kwargs):
                self.close(4002, text)

        with apply_routes([Consumer.as_route()]):
            client = WSClient()
            client.send_and_consume("websocket.connect")
            headers = [[b"Set-Cookie", b"a=1"]]
            self.assertEqual(client.receive(), {"accept": True, "subprotocol": "chat", "headers": headers})
            client.send_and_consume("websocket.receive", text="bye")
            self.assertEqual(client.receive(), {"close": 4002, "reason": "bye"})
            with self.assertRaises(ValueError):
                client.send_and_consume("websocket.receive", text="x" * 124)

    def test_wrong_replies_fail_in_tests_too(self) -> None:
        with apply_routes([route("websocket.connect", wrong_answer)]):
            client = WSClient()
            with self.assertRaises(ValueError) as caught:
                client.send_and_consume("websocket.connect")
        self.assertIn("Connection", str(caught.exception))

    def test_send_and_close(self) -> None:
        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text="bye", close=True)
                self.send(bytes=b"bye", close=3001)
                self.close()
                self.close(status=4000)

        with apply_routes([Consumer.as_route()]):
            client = Client()
            client.send_and_consume("websocket.receive", {"text": "x", "path": "/"})
        self.assertEqual(
            [client.receive() for _ in range(4)],
            [{"text": "bye", "close": True}, {"bytes": b"bye", "close": 3001}, {"close": True}, {"close": 4000}],
        )

    def test_group_send(self) -> None:
        client = Client()
        client.join_group("news")
        WebsocketConsumer.group_send("news", text="text")
        WebsocketConsumer.group_send("news", bytes=b"bytes", close=True)
        self.assertEqual(client.receive(), {"text": "text"})
        self.assertEqual(client.receive(), {"bytes": b"bytes", "close": True})

    def test_neither_text_nor_bytes(self) -> None:
        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                self.send()

        with apply_routes([Consumer.as_route()]), self.assertRaisesRegex(ValueError, "text or bytes"):
            WSClient().send_and_consume("websocket.receive", text="x")
        with self.assertRaisesRegex(ValueError, "text or bytes"):
            WebsocketConsumer.group_send("news")

    def test_http_user(self) -> None:
        class Consumer(WebsocketConsumer):
            http_user = True

            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text=self.message.user.username)

        client = WSClient()
        client.force_login(User.objects.create_user("ada"))
        with apply_routes([Consumer.as_route()]):
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.receive", text="who am I?")
        self.assertEqual(client.receive(json=False), "ada")

    def test_http_user_and_session(self) -> None:
        class Consumer(WebsocketConsumer):
            http_user_and_session = True

            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text=f"{self.message.user.username} likes {self.message.http_session['fruit']}")

        User.objects.create_user("ada", password="secret")
        client = WSClient()
        self.assertTrue(client.login(username="ada", password="secret"))
        client.session["fruit"] = "plums"
        client.session.save()
        with apply_routes([Consumer.as_route()]):
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.receive", text="what do I like?")
        self.assertEqual(client.receive(json=False), "ada likes plums")

    def test_ordering(self) -> None:
        for attribute in ("strict_ordering", "slight_ordering"):

            class Consumer(WebsocketConsumer):
                def receive(self, text=None, bytes=None, **kwargs):
                    self.message.channel_session["texts"] = self.message.channel_session.get("texts", "") + text
                    self.send(text=self.message.channel_session["texts"])

            with self.subTest(attribute), apply_routes([Consumer.as_route(attrs={attribute: True})]):
                client = WSClient(ordered=True)
                client.send_and_consume("websocket.connect")
                for letter in "abc":
                    client.send_and_consume("websocket.receive", text=letter)
                self.assertEqual([client.receive(json=False) for _ in "abc"], ["a", "ab", "abc"])
                with self.assertRaisesRegex(ValueError, "order"):
                    WSClient().send_and_consume("websocket.receive", text="x")


class JsonWebsocketConsumerTests(ChannelCase):
    """``JsonWebsocketConsumer``."""

    def test_content_is_decoded_and_encoded(self) -> None:
        class Consumer(JsonWebsocketConsumer):
            def receive(self, content, **kwargs):
                self.send({"got": content, "day": datetime.date(2016, 9, 1)}, close=True)

        with apply_routes([Consumer.as_route()]):
            client = Client()
            client.send_and_consume("websocket.receive", {"text": '{"a": [1, null]}', "path": "/"})
        reply = client.receive()
        self.assertEqual(json.loads(reply["text"]), {"got": {"a": [1, None]}, "day": "2016-09-01"})
        self.assertIs(reply["close"], True)

    def test_group_send(self) -> None:
        client = WSClient()
        client.join_group("news")
        JsonWebsocketConsumer.group_send("news", {"a": 1})
        self.assertEqual(client.receive(), {"a": 1})
        JsonWebsocketConsumer.group_send("news", [], close=True)
        self.assertEqual(self.get_next_message(client.reply_channel).content, {"text": "[]", "close": True})

    def test_other_encodings(self) -> None:
        class Consumer(JsonWebsocketConsumer):
            @classmethod
            def decode_json(cls, text):
                return text.split(",")

            @classmethod
            def encode_json(cls, content):
                return ";".join(content)

            def receive(self, content, **kwargs):
                self.send(content)

        with apply_routes([Consumer.as_route()]):
            client = WSClient()
            client.send_and_consume("websocket.receive", text="a,b")
        self.assertEqual(client.receive(json=False), "a;b")

    def test_what_is_no_json_is_an_error(self) -> None:
        with apply_routes([JsonWebsocketConsumer.as_route()]):
            for content in ({"text": "{"}, {"bytes": b"{}"}):
                with self.subTest(content), self.assertRaises(ValueError):
                    WSClient().send_and_consume("websocket.receive", content)


class Numbers(JsonWebsocketConsumer):
    """The consumer of a stream; also of sockets of its own."""

    groups = ["numbers"]

    def connect(self, message, multiplexer=None, **kwargs):
        if multiplexer is None:
            super().connect(message, **kwargs)
        else:
            multiplexer.send({"stream": multiplexer.stream, "kwargs": sorted(kwargs)})

    def receive(self, content, multiplexer=None, **kwargs):
        answer = {"double": content["number"] * 2}
        if multiplexer is None:
            self.send(answer)
        else:
            multiplexer.send(answer)

    def disconnect(self, message, multiplexer=None, **kwargs):
        Channel("gone").send({"stream": multiplexer.stream})


class Careless(JsonWebsocketConsumer):
    """The consumer of a stream that forgets the multiplexer."""

    def receive(self, content, **kwargs):
        self.send(content)


def shout(message, multiplexer, **kwargs):
    """A function as the consumer of a stream."""
    if message.channel.name == "websocket.receive":
        multiplexer.send({"shout": json.loads(message["text"])["word"].upper()})


class Demultiplexer(WebsocketDemultiplexer):
    """Four streams."""

    consumers = {"numbers": Numbers, "more": Numbers, "careless": Careless, "words": shout}


class DemultiplexerTests(ChannelCase):
    """``WebsocketDemultiplexer`` and ``WebsocketMultiplexer``."""

    def connected(self, **kwargs) -> WSClient:
        client = WSClient(**kwargs)
        client.send_and_consume("websocket.connect", path="/a")
        return client

    @apply_routes([Demultiplexer.as_route(path=r"^/(?P<room>\w)")])
    def test_a_socket_s_life(self) -> None:
        client = self.connected()
        for stream in ("numbers", "more"):
            self.assertEqual(client.receive(), {"stream": stream, "payload": {"stream": stream, "kwargs": ["room"]}})
        # Careless is a consumer like any other, which accepts; the socket has been accepted before.
        self.assertEqual((client.receive(), client.receive()), ({"accept": True}, None))
        client.send_and_consume("websocket.receive", path="/a", text={"stream": "more", "payload": {"number": 4}})
        self.assertEqual(client.receive(), {"stream": "more", "payload": {"double": 8}})
        client.send_and_consume("websocket.receive", path="/a", text={"stream": "words", "payload": {"word": "hey"}})
        self.assertEqual(client.receive(), {"stream": "words", "payload": {"shout": "HEY"}})
        WebsocketMultiplexer.group_send("numbers", "numbers", {"n": 1})
        self.assertEqual(client.receive(), {"stream": "numbers", "payload": {"n": 1}})
        client.send_and_consume("websocket.disconnect", {"code": 1000}, path="/a")
        self.assertEqual([self.get_next_message("gone")["stream"] for _ in range(2)], ["numbers", "more"])
        self.assertEqual(self.get_next_message("gone"), None)

    @apply_routes([Demultiplexer.as_route(path="^/a"), Numbers.as_route(path="^/b"), Careless.as_route(path="^/c")])
    def test_the_classes_are_not_altered(self) -> None:
        client = self.connected()
        with self.assertRaisesRegex(SendNotAvailableOnDemultiplexer, "multiplexer"):
            client.send_and_consume("websocket.receive", path="/a", text={"stream": "careless", "payload": {"a": 1}})
        other = WSClient()
        other.send_and_consume("websocket.receive", path="/c", text={"a": 1})
        self.assertEqual(other.receive(), {"a": 1})
        other.send_and_consume("websocket.receive", path="/b", text={"number": 1})
        self.assertEqual(other.receive(), {"double": 2})
        self.assertNotIn("send", vars(Careless))

    @apply_routes([Demultiplexer.as_route()])
    def test_frames_of_another_form(self) -> None:
        client = self.connected()
        for frame, words in (
            ({"payload": {}}, "stream"),
            ({"stream": "numbers"}, "payload"),
            ([1], "stream"),
            ({"stream": "numbers", "payload": [1]}, "Multiplexed frame payload is not a dict"),
            ({"stream": "nothing", "payload": {}}, "no stream 'nothing'.*'numbers'"),
            ({"stream": ["numbers"], "payload": {}}, "no stream"),
        ):
            with self.subTest(frame), self.assertRaisesRegex(ValueError, words):
                client.send_and_consume("websocket.receive", text=frame)

    def test_a_demultiplexer_sends_nothing_itself(self) -> None:
        class Eager(WebsocketDemultiplexer):
            def receive(self, content, **kwargs):
                self.send(content)

        with apply_routes([Eager.as_route()]), self.assertRaises(SendNotAvailableOnDemultiplexer):
            WSClient().send_and_consume("websocket.receive", text={"a": 1})
        with self.assertRaises(SendNotAvailableOnDemultiplexer):
            Eager.group_send("news", "stream", {})

    def test_ordering_under_a_demultiplexer(self) -> None:
        """Each consumer of a stream sees the orders of the socket, with gaps; nothing stalls, whoever is decorated."""

        def ordered(letter):
            class Consumer(JsonWebsocketConsumer):
                strict_ordering = True

                def receive(self, content, multiplexer, **kwargs):
                    multiplexer.send({letter: self.message["order"]})

            return Consumer

        class Ordered(WebsocketDemultiplexer):
            strict_ordering = True
            consumers = {"a": ordered("a"), "b": ordered("b")}

        with apply_routes([Ordered.as_route()]):
            client = self.connected(ordered=True)
            while client.receive() is not None:
                pass
            for stream in "abba":
                client.send_and_consume("websocket.receive", text={"stream": stream, "payload": {}})
        payloads = [client.receive()["payload"] for _ in range(4)]
        self.assertEqual(payloads, [{"a": 1}, {"b": 2}, {"b": 3}, {"a": 4}])

    def test_a_message_put_back_is_the_frame_again(self) -> None:
        class Busy(JsonWebsocketConsumer):
            def receive(self, content, **kwargs):
                raise ConsumeLater

        class Switch(WebsocketDemultiplexer):
            consumers = {"busy": Busy}

        text = '{"stream": "busy", "payload": {}}'
        message = Message({"text": text, "reply_channel": "a", "path": "/"}, "websocket.receive", None)
        with self.assertRaises(ConsumeLater):
            Switch(message)
        self.assertEqual(message["text"], text)

    def test_users_and_sessions_of_the_demultiplexer(self) -> None:
        class Inner(JsonWebsocketConsumer):
            def receive(self, content, multiplexer, **kwargs):
                session = self.message.channel_session
                session["count"] = session.get("count", 0) + 1
                multiplexer.send({"user": self.message.user.username, "count": session["count"]})

        class Outer(WebsocketDemultiplexer):
            http_user = True
            consumers = {"inner": Inner}

        client = WSClient()
        client.force_login(User.objects.create_user("ada"))
        with apply_routes([Outer.as_route()]):
            client.send_and_consume("websocket.connect")
            client.receive()
            for _ in range(2):
                client.send_and_consume("websocket.receive", text={"stream": "inner", "payload": {}})
        self.assertEqual(client.receive()["payload"], {"user": "ada", "count": 1})
        self.assertEqual(client.receive()["payload"], {"user": "ada", "count": 2})

    def test_every_consumer_hears_of_the_end(self) -> None:
        told = []

        def consumer(name, fails):
            def consume(message, multiplexer, **kwargs):
                told.append(name)
                if fails:
                    raise RuntimeError(name)

            return consume

        class Failing(WebsocketDemultiplexer):
            consumers = {"a": consumer("a", True), "b": consumer("b", False), "c": consumer("c", True)}

        with apply_routes([Failing.as_route()]), self.assertRaisesRegex(RuntimeError, "a"):
            WSClient().send_and_consume("websocket.disconnect", {"code": 1000})
        self.assertEqual(told, ["a", "b", "c"])

    def test_streams_that_lead_to_channels(self) -> None:
        """So it was before Channels 1.0."""

        class Old(WebsocketDemultiplexer):
            mapping = {"intval": "binding.intval"}

        def consumer(message):
            message.reply_channel.send(Old.encode("intval", {"number": message["number"] + 1}))

        with apply_routes([Old.as_route(), route("binding.intval", consumer)]):
            client = self.connected()
            client.send_and_consume("websocket.receive", text={"stream": "intval", "payload": {"number": 1}})
            client.consume("binding.intval")
        self.assertEqual(client.receive(), {"stream": "intval", "payload": {"number": 2}})

    def test_an_own_multiplexer(self) -> None:
        class Terse(WebsocketMultiplexer):
            @classmethod
            def encode(cls, stream, payload):
                return {"text": f"{stream}:{cls.encode_json(payload)}"}

        class Mine(WebsocketDemultiplexer):
            multiplexer_class = Terse
            consumers = {"words": shout}

        with apply_routes([Mine.as_route()]):
            client = self.connected()
            client.send_and_consume("websocket.receive", text={"stream": "words", "payload": {"word": "hey"}})
        self.assertEqual(client.receive(json=False), 'words:{"shout": "HEY"}')

    def test_what_a_multiplexer_sends(self) -> None:
        day = datetime.date(2016, 9, 1)
        encoded = WebsocketMultiplexer.encode("news", {"day": day})
        self.assertEqual(json.loads(encoded["text"]), {"stream": "news", "payload": {"day": "2016-09-01"}})
        WebsocketMultiplexer("news", Channel("socket")).send({"a": 1})
        sent = self.get_next_message("socket", require=True)
        self.assertEqual(json.loads(sent["text"]), {"stream": "news", "payload": {"a": 1}})
        client = Client()
        client.join_group("readers")
        WebsocketMultiplexer.group_send("readers", "news", {}, close=True)
        self.assertIs(client.receive()["close"], True)


class RoutingOfClassesTests(ChannelCase):
    """``route_class`` and dotted names."""

    @override_settings()
    def test_route_class_by_dotted_name(self) -> None:
        with apply_routes([route_class(f"{__name__}.Echo", path="^/x"), route("websocket.receive", lambda message: 1)]):
            client = WSClient()
            client.send_and_consume("websocket.connect", path="/x")
            client.send_and_consume("websocket.receive", text="hey", path="/x")
            self.assertEqual(client.receive(json=False), "/x hey")

    def test_a_class_without_channel_names(self) -> None:
        class Nothing:
            pass

        with self.assertRaisesRegex(ValueError, "channel_names"):
            route_class(Nothing)


by_own_names_too(globals())
