"""Messages that a test makes by hand: without a channel, with bytes or text where the server has the other."""

from __future__ import annotations

from channels import Channel, Group, route
from channels.auth import (
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
)
from channels.exceptions import DenyConnection
from channels.generic import BaseConsumer
from channels.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from channels.handler import AsgiHandler, AsgiRequest
from channels.message import Message
from channels.security.websockets import BaseOriginValidator, allowed_hosts_only
from channels.sessions import channel_and_http_session, channel_session, enforce_ordering, http_session
from channels.test import Client, WSClient, apply_routes
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpResponse
from django.test import override_settings

from tests.compat import ChannelCase, by_own_names_too


class FixedHandler(AsgiHandler):
    """Answers each request with its path and query."""

    def get_response(self, request):
        return HttpResponse(f"{request.path} {request.GET.urlencode()}", content_type="text/plain")


class WithoutChannelTests(ChannelCase):
    """``Message({...}, None, None)``."""

    def message(self, **content):
        return Message({"reply_channel": "test-reply", **content}, None, None)

    def test_message(self) -> None:
        message = self.message(text="hello")
        self.assertIsNone(message.channel.name)
        self.assertEqual((message.reply_channel.name, message["text"]), ("test-reply", "hello"))
        self.assertIsNone(message.copy().channel.name)
        message.reply_channel.send({"text": "reply"})
        self.assertEqual(self.get_next_message("test-reply", require=True).content, {"text": "reply"})

    def test_channel_sessions(self) -> None:
        for decorator in (channel_session, channel_session_user, enforce_ordering, enforce_ordering(slight=True)):

            @decorator
            @decorator
            def consumer(message, number):
                message.channel_session["number"] = message.channel_session.get("number", 0) + number

            consumer(self.message(order=0), 1)
            consumer(self.message(order=1), number=2)
            read = channel_session(lambda message: message.channel_session["number"])
            self.assertEqual(read(self.message()) % 3, 0)

    def test_http_sessions(self) -> None:
        session = SessionStore()
        session["fruit"] = "apple"
        session.save()
        cookie = f"sessionid={session.session_key}"
        decorators = http_session, http_session_user, channel_and_http_session
        decorators += channel_session_user_from_http, channel_and_http_session_user_from_http
        for decorator in decorators:
            for path in ("/", b"/"):
                for headers in ({"cookie": cookie}, {b"cookie": cookie.encode()}, [[b"cookie", cookie.encode()]]):
                    consumer = decorator(decorator(lambda message: message.http_session["fruit"]))
                    self.assertEqual(consumer(self.message(path=path, headers=headers)), "apple")

    def test_http_session_in_the_url(self) -> None:
        user = User.objects.create_user("jane")
        client = WSClient()
        client.force_login(user)
        for query_string in (
            f"session_key={client.session.session_key}",
            b"session_key=%s" % client.session.session_key.encode(),
        ):
            for headers in ({}, []):
                consumer = http_session_user(lambda message: message.user.username)
                self.assertEqual(consumer(self.message(path="/", query_string=query_string, headers=headers)), "jane")

    def test_no_http_session(self) -> None:
        for content in ({}, {"headers": {}}, {"headers": [], "query_string": ""}):
            consumer = http_session(lambda message: message.http_session)
            self.assertIsNone(consumer(self.message(path=b"/", **content)))

    @override_settings(ALLOWED_HOSTS=["good.example"])
    def test_origins(self) -> None:
        consumer = allowed_hosts_only(lambda message: "consumed")
        good = b"https://good.example"
        for headers in ([[b"origin", good]], {b"origin": good}, {"origin": good.decode()}, [[], [b"origin", good]]):
            self.assertEqual(consumer(self.message(headers=headers)), "consumed")
        bad = [[]], [[b"origin"]], [[b"origin", b""]], [[b"origin", b"\xc3\xa4"]], {}, [], {b"origin": b"https://bad"}
        for headers in bad:
            with self.assertRaises(DenyConnection):
                consumer(self.message(headers=headers))

        class Validator(BaseOriginValidator):
            def validate_origin(self, message, origin):
                return self.get_header(message, b"cookie") == [b"a=1"]

        self.assertEqual(
            Validator(lambda message: "consumed")(self.message(headers=[[b"cookie", b"a=1"], [b"origin", good]])),
            "consumed",
        )

    def test_class_based(self) -> None:
        class Consumer(WebsocketConsumer):
            method_mapping = {**WebsocketConsumer.method_mapping, "own": "raw_receive"}
            channel_session = True

            def receive(self, text=None, bytes=None, **kwargs):
                self.send(text=f"{self.path} {text}")

        Consumer(Message({"reply_channel": "test-reply", "text": "hello", "path": "/a"}, "own", None))
        self.assertEqual(self.get_next_message("test-reply", require=True)["text"], "/a hello")
        with self.assertRaises(ValueError):
            Consumer(self.message(text="hello"))


class RequestTests(ChannelCase):
    """``AsgiRequest`` and ``AsgiHandler`` on such messages."""

    def test_request(self) -> None:
        message = Message(
            {
                "reply_channel": "test",
                "http_version": "1.1",
                "method": "get",
                "path": b"/caf\xc3\xa9/",
                "query_string": "a=1",
            },
            None,
            None,
        )
        request = AsgiRequest(message)
        self.assertEqual((request.path, request.method, request.GET["a"]), ("/café/", "GET", "1"))
        self.assertEqual((request.META["PATH_INFO"], request.META["QUERY_STRING"]), ("/café/", "a=1"))
        self.assertEqual(request.reply_channel.name, "test")

    def test_least_request(self) -> None:
        for headers in ({}, [], None):
            request = AsgiRequest(Message({"method": "GET", "path": "/", "headers": headers}, None, None))
            self.assertEqual((request.path, request.body, dict(request.GET)), ("/", b"", {}))

    def test_handler(self) -> None:
        message = Message(
            {"reply_channel": "test", "method": "GET", "path": b"/a/", "query_string": b"b=1"}, None, None
        )
        (reply,) = FixedHandler()(message)
        self.assertEqual(reply["headers"], [(b"Content-Type", b"text/plain")])
        self.assertEqual((reply["status"], reply["content"]), (200, b"/a/ b=1"))
        self.assertEqual(reply["more_content"], False)

    def test_path_that_cannot_be_decoded(self) -> None:
        (reply,) = FixedHandler()(Message({"method": "GET", "path": b"/\xff/"}, None, None))
        self.assertEqual(reply["status"], 400)


class ClientTests(ChannelCase):
    """What suites do with the clients."""

    def test_text_that_is_no_text(self) -> None:
        client = WSClient()
        for text in ({"key": "value"}, ["a"], 7):
            Channel(client.reply_channel).send({"text": text})
            Channel(client.reply_channel).send({"text": text})
            self.assertEqual((client.receive(), client.receive(json=False)), (text, text))

    def test_several_messages(self) -> None:
        seen = []
        with apply_routes([route("websocket.receive", lambda message: seen.append(message["text"]))]):
            client = WSClient()
            client.send("websocket.receive", text="first")
            client.send("websocket.receive", text="second")
            client.send_and_consume("websocket.receive", text="third")
            self.assertEqual(seen, ["first"])
            client.consume("websocket.receive")
            client.consume("websocket.receive")
            self.assertIsNone(client.consume("websocket.receive", fail_on_none=False))
        self.assertEqual(seen, ["first", "second", "third"])

    def test_several_on_an_own_channel(self) -> None:
        seen = []
        with apply_routes([route("own", lambda message: seen.append(message["n"]))]):
            first, second = Client(), Client()
            for number in range(3):
                first.send("own", {"n": number})
                second.send("own", {"n": 10 + number})
            for _ in range(6):
                first.consume("own")
        self.assertEqual(seen, [0, 10, 1, 11, 2, 12])

    def test_attributes_of_a_route(self) -> None:
        class Consumer(WebsocketConsumer):
            def receive(self, text=None, bytes=None, **kwargs):
                self.message.channel_session["count"] = self.message.channel_session.get("count", 0) + 1
                self.send(text=str(self.message.channel_session["count"]))

        routes = [
            Consumer.as_route(attrs={"channel_session": True, "strict_ordering": True}, path="^/a"),
            Consumer.as_route(),
        ]
        self.assertIsNot(routes[0].consumer, Consumer)
        self.assertIs(routes[1].consumer, Consumer)
        with apply_routes(routes):
            client = WSClient(ordered=True)
            client.send_and_consume("websocket.connect", path="/a")
            for number in ("1", "2"):
                client.send_and_consume("websocket.receive", path="/a", text="hello")
                self.assertEqual(client.receive(json=False), number)

    def test_decorated_twice(self) -> None:
        class Consumer(WebsocketConsumer):
            channel_session_user = True
            http_user = True
            strict_ordering = True

            def raw_receive(self, message, **kwargs):
                enforce_ordering(channel_session_user(lambda message: self.send(text=message.user.username)))(message)

        client = WSClient(ordered=True)
        client.force_login(User.objects.create_user("jane"))
        with apply_routes([Consumer.as_route()]):
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.receive", text="hello")
        self.assertEqual(client.receive(json=False), "jane")


class TextTests(ChannelCase):
    """The words of errors, which suites compare (``assertRaisesMessage``)."""

    def message(self, channel=None, **content):
        return Message({"reply_channel": "test-reply", **content}, channel, None)

    def test_sessions(self) -> None:
        consumer = channel_session(lambda *args: None)
        words = "channel_session called without Message instance"
        with self.assertRaisesMessage(ValueError, words):
            consumer("a", "b", self.message())
        with self.assertRaisesMessage(
            ValueError,
            "No reply_channel sent to consumer; @channel_session can only be used on messages containing it.",
        ):
            consumer(Message({}, "some", None))
        with self.assertRaisesMessage(
            ValueError, "No `order` value in message; @enforce_ordering can only be used on messages containing it."
        ):
            enforce_ordering(lambda message: None)(self.message())
        with self.assertRaisesMessage(ValueError, "Cannot parse HTTP message - are you sure this is a HTTP consumer?"):
            http_session(lambda message: None)(self.message())
        with (
            override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"),
            self.assertRaisesMessage(
                ValueError, "You cannot use channels session functionality with signed cookie sessions!"
            ),
        ):
            consumer(self.message())

    def test_sends(self) -> None:
        with self.assertRaisesMessage(TypeError, "You can only send dicts as content on channels"):
            Channel("some").send("text")
        with self.assertRaisesMessage(ValueError, "You can only send dicts as content on channels"):
            Group("some").send("text")

    def test_routing(self) -> None:
        with self.assertRaisesMessage(ValueError, "contains positional groups; only named groups are allowed."):
            route("some", lambda message: None, path="^/(a)/")
        with self.assertRaisesMessage(AssertionError, "attrs must be a dict"):
            BaseConsumer.as_route(attrs=["groups"])

    def test_classes(self) -> None:
        consumer = WebsocketConsumer(self.message("websocket.receive", text="a"))
        for call in (consumer.send, lambda: WebsocketConsumer.group_send("some")):
            with self.assertRaisesMessage(ValueError, "You must pass text or bytes"):
                call()
        with self.assertRaisesMessage(ValueError, "No text section for incoming WebSocket frame!"):
            JsonWebsocketConsumer(self.message("websocket.receive", bytes=b"a"))
        for text, words in (
            ('{"stream": "a", "payload": 1}', "Multiplexed frame payload is not a dict"),
            ('{"stream": "a", "payload": {}}', "Invalid multiplexed frame received (stream not mapped)"),
            ("{}", "Invalid multiplexed **frame received (no channel/payload key)"),
        ):
            with self.assertRaisesMessage(ValueError, words):
                WebsocketDemultiplexer(self.message("websocket.receive", text=text))

    def test_clients(self) -> None:
        client = WSClient(ordered=True)
        with self.assertRaisesMessage(ValueError, "Use set_cookie method for cookie header"):
            client.set_header("cookie", "a=1")
        with self.assertRaisesMessage(ValueError, 'Do not use "order" manually with "ordered=True"'):
            client.send("websocket.receive", {"order": 1})
        with self.assertRaisesMessage(AssertionError, "No message for channel some"):
            client.consume("some")
        with apply_routes([route("other", lambda message: None)]):
            with self.assertRaisesMessage(AssertionError, "Can't find consumer for message"):
                client.send_and_consume("some")
        with self.assertRaisesMessage(AssertionError, "Expected a message on channel nothing, got none"):
            self.get_next_message("nothing", require=True)

        def refuse(message):
            message.reply_channel.send({"accept": False})

        with apply_routes([route("websocket.connect", refuse)]):
            with self.assertRaisesMessage(AssertionError, "Connection rejected: {'accept': False} != '{accept: True}'"):
                client.send_and_consume("websocket.connect")


by_own_names_too(globals())
