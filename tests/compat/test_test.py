"""What tests of consumers use: ``channels.test``."""

from __future__ import annotations

import unittest

from channels import Channel, Group, channel_layers, route
from channels.asgi import ChannelLayerWrapper
from channels.channel import DEFAULT_CHANNEL_LAYER
from channels.exceptions import ConsumeLater, DenyConnection, WebsocketCloseException
from channels.message import Message
from channels.sessions import channel_session, http_session
from channels.signals import consumer_finished, consumer_started
from channels.test import (
    ChannelTestCase,
    Client,
    HttpClient,
    TransactionChannelTestCase,
    WSClient,
    apply_routes,
)
from channels.test import base as base_module
from channels.test.http import HttpClient as HttpClientFromItsModule
from channels.test.websocket import WSClient as WSClientFromItsModule
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from tests.compat import ChannelCase, by_own_names_too

ROUTED = [route("routed", lambda message: Channel("answer").send({"from": "settings"}))]


def square(message):
    """Send the square of a number on."""
    Channel("result").send({"value": message["value"] ** 2})


class PathTests(unittest.TestCase):
    """The names' places."""

    def test_paths(self) -> None:
        self.assertIs(HttpClient, WSClient)
        self.assertIs(HttpClientFromItsModule, WSClient)
        self.assertIs(WSClientFromItsModule, WSClient)
        for kind in (ChannelTestCase, TransactionChannelTestCase, Client, apply_routes):
            self.assertIs(getattr(base_module, kind.__name__), kind)
        self.assertTrue(issubclass(ChannelTestCase, TestCase))
        self.assertTrue(issubclass(TransactionChannelTestCase, TransactionTestCase))


class TestCaseTests(ChannelCase):
    """``ChannelTestCase``."""

    def setUp(self) -> None:
        Channel("from-set-up").send({"value": 1})

    def test_messages_do_not_leave_the_test(self) -> None:
        self.assertEqual(self.get_next_message("from-set-up").content, {"value": 1})
        self.assertIsNone(self.get_next_message("from-set-up"))
        Channel("left").send({"value": 1})

    def test_messages_do_not_leave_the_test_either(self) -> None:
        self.assertIsNone(self.get_next_message("left"))

    def test_a_consumer_can_be_called_with_a_message(self) -> None:
        Channel("input").send({"value": 33})
        message = self.get_next_message("input", require=True)
        self.assertIsInstance(message, Message)
        self.assertEqual((message.channel.name, message.reply_channel), ("input", None))
        square(message)
        self.assertEqual(self.get_next_message("result", require=True)["value"], 1089)

    def test_a_message_that_is_required(self) -> None:
        with self.assertRaisesRegex(AssertionError, "Expected a message on channel nothing, got none"):
            self.get_next_message("nothing", require=True)

    def test_groups(self) -> None:
        Group("test-group").add("test-channel")
        Group("test-group").send({"value": 42})
        self.assertEqual(self.get_next_message("test-channel", require=True)["value"], 42)

    def test_the_layer_is_put_back(self) -> None:
        inside = channel_layers[DEFAULT_CHANNEL_LAYER]
        seen = []

        class Inner(type(self)):
            def runTest(self) -> None:
                seen.append(channel_layers[DEFAULT_CHANNEL_LAYER])

        Inner("runTest").debug()
        self.assertIsNot(seen[0], inside)
        self.assertIs(channel_layers[DEFAULT_CHANNEL_LAYER], inside)


@override_settings(
    CHANNEL_LAYERS={
        "default": {"BACKEND": "no.such.Layer", "ROUTING": __name__ + ".ROUTED"},
        "second": {"BACKEND": "no.such.Layer", "ROUTING": []},
        "third": {"BACKEND": "channelserver.layers.InMemoryChannelLayer", "ROUTING": []},
    }
)
class AliasTests(ChannelCase):
    """``test_channel_aliases``."""

    test_channel_aliases = ["default", "second"]

    def test_each_alias_has_its_layer_and_its_routing(self) -> None:
        client = Client()
        client.send_and_consume("routed")
        self.assertEqual(self.get_next_message("answer")["from"], "settings")
        Channel("a", alias="second").send({"value": 2})
        self.assertIsNone(self.get_next_message("a"))
        self.assertEqual(self.get_next_message("a", alias="second")["value"], 2)
        second = Client(alias="second")
        Group("g", alias="second").add(second.reply_channel)
        Group("g", alias="second").send({"value": 3})
        self.assertEqual(second.receive(), {"value": 3})
        self.assertTrue(second.reply_channel.startswith("second"))
        self.assertSent("a", {"value": 2}, alias="second")

    def test_what_is_not_named_is_not_replaced(self) -> None:
        self.assertNotEqual(type(channel_layers["third"].channel_layer), type(channel_layers["second"].channel_layer))
        with self.assertRaisesRegex(AssertionError, "'third'.*test_channel_aliases"):
            self.assertNothingSent(alias="third")

    def test_an_alias_that_is_not_there(self) -> None:
        class Inner(type(self)):
            test_channel_aliases = ["fourth"]

            def runTest(self) -> None: ...

        with self.assertRaisesRegex(ValueError, "'fourth'.*'default', 'second', 'third'"):
            Inner("runTest").debug()
        result = unittest.TestResult()
        test = Inner("runTest")
        test._prepared = True
        test.run(result)
        self.assertEqual((len(result.errors), result.testsRun), (1, 1))
        self.assertIn("'fourth'", result.errors[0][1])


class ClientTests(ChannelCase):
    """``Client``."""

    def test_send_consume_receive(self) -> None:
        def consumer(message, **kwargs):
            message.reply_channel.send({"got": message["value"], **kwargs})
            return "returned"

        with apply_routes([route("some", consumer, kind="^(?P<kind>.)")]):
            client = Client()
            client.send("some", {"value": 1, "kind": "a"})
            self.assertIsNone(client.receive())
            self.assertEqual(client.consume("some"), "returned")
            self.assertIs(client.get_consumer_by_channel("other"), None)
        self.assertEqual(client.receive(), {"got": 1, "kind": "a"})
        self.assertIsNone(client.receive())

    def test_clients_are_different_and_valid_channels(self) -> None:
        one, two = Client(), Client()
        self.assertNotEqual(one.reply_channel, two.reply_channel)
        Channel(one.reply_channel).send({"value": 1})
        self.assertEqual((one.receive(), two.receive()), ({"value": 1}, None))

    def test_another_reply_channel(self) -> None:
        with apply_routes([route("some", lambda message: message.reply_channel.send({}))]):
            Client().send_and_consume("some", {"reply_channel": "elsewhere"})
        self.assertEqual(self.get_next_message("elsewhere").content, {})

    def test_get_consumer_by_channel(self) -> None:
        with apply_routes([route("some", square)]):
            self.assertIs(Client().get_consumer_by_channel("some"), square)

    def test_nothing_to_consume(self) -> None:
        client = Client()
        with self.assertRaisesRegex(AssertionError, "No message for channel some"):
            client.consume("some")
        self.assertIsNone(client.consume("some", fail_on_none=False))
        with self.assertRaisesRegex(AssertionError, "Can't find consumer for message .*'value': 1.* on channel some"):
            client.send_and_consume("some", {"value": 1})
        self.assertIsNone(client.send_and_consume("some", fail_on_none=False))

    def test_sends_are_held_back_until_the_consumer_has_ended(self) -> None:
        seen = []

        def consumer(message):
            message.reply_channel.send({"value": 1})
            seen.append(client.receive())
            message.reply_channel.send({"value": 2}, immediately=True)
            seen.append(client.receive())

        client = Client()
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
        self.assertEqual(seen, [None, {"value": 2}])
        self.assertEqual(client.receive(), {"value": 1})

    def test_exceptions_come_to_the_test_and_drop_what_was_held_back(self) -> None:
        client = Client()
        for error in (ConsumeLater, DenyConnection, ZeroDivisionError):

            def consumer(message, error=error):
                message.reply_channel.send({"value": 1})
                raise error

            with self.subTest(error), apply_routes([route("some", consumer)]):
                with self.assertRaises(error):
                    client.send_and_consume("some")
                self.assertIsNone(client.receive())

    def test_exceptions_that_act_on_the_socket_do(self) -> None:
        def consumer(message):
            raise WebsocketCloseException(3005)

        client = Client()
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
        self.assertEqual(client.receive(), {"close": 3005})

    def test_signals(self) -> None:
        events = []
        consumer_started.connect(on_start := lambda **kwargs: events.append("started"))
        consumer_finished.connect(on_finish := lambda **kwargs: events.append("finished"))
        self.addCleanup(consumer_started.disconnect, on_start)
        self.addCleanup(consumer_finished.disconnect, on_finish)
        with apply_routes([route("some", lambda message: events.append("consumed"))]):
            Client().send_and_consume("some")
        self.assertEqual(events, ["started", "consumed", "finished"])

    def test_consumers_run_in_the_test_s_thread_and_transaction(self) -> None:
        User.objects.create_user("ada")

        def consumer(message):
            User.objects.create_user("bob")
            message.reply_channel.send({"users": User.objects.count(), "in": connection.in_atomic_block})

        client = Client()
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
        self.assertEqual(client.receive(), {"users": 2, "in": True})
        self.assertEqual(User.objects.count(), 2)

    def test_messages_of_a_socket_can_be_consumed_in_any_order(self) -> None:
        client = Client()
        client.send("websocket.connect", {"path": "/"})
        client.send("websocket.receive", {"path": "/", "text": "x"})
        with apply_routes([route("websocket.receive", lambda message: message["text"])]):
            self.assertEqual(client.consume("websocket.receive"), "x")

    def test_a_channel_that_is_full_fails_the_test(self) -> None:
        def consumer(message):
            for _ in range(1001):
                Channel("nobody").send({})

        with apply_routes([route("some", consumer)]):
            with self.assertRaises(channel_layers["default"].ChannelFull):
                Client().send_and_consume("some")


class WSClientTests(ChannelCase):
    """``WSClient``, once ``HttpClient``."""

    def show(self, client: WSClient, *arguments, **keywords) -> dict:
        """Return the message that a send makes."""
        client.send("shown", *arguments, **keywords)
        return self.get_next_message("shown").content

    def test_what_a_message_has(self) -> None:
        client = WSClient()
        client.set_header("X-Name", "value")
        client.set_cookie("flavour", "with space;")
        message = self.show(client, text={"a": 1}, path="/room/")
        self.assertEqual((message["path"], message["text"]), ("/room/", '{"a": 1}'))
        headers = dict(map(tuple, message["headers"]))
        self.assertEqual(headers[b"x-name"], b"value")
        self.assertIn(b'flavour="with space\\073"', headers[b"cookie"])
        self.assertIn(b"sessionid=chn", headers[b"cookie"])
        self.assertEqual(message["reply_channel"], client.reply_channel)
        self.assertNotIn("order", message)

    def test_the_session_cookie_comes_with_the_first_message_alone(self) -> None:
        client = WSClient()
        client.set_cookie("a", "b")
        self.show(client)
        self.assertEqual(dict(map(tuple, self.show(client)["headers"])), {b"cookie": b"a=b"})

    def test_a_cookie_header_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "set_cookie"):
            WSClient().set_header("cookie", "a=b")

    def test_query_string(self) -> None:
        client = WSClient()
        client.send("websocket.connect", path="/room/?name=a%20b")
        message = self.get_next_message("websocket.connect")
        self.assertEqual((message["path"], message["query_string"]), ("/room/", b"name=a%20b"))

    def test_what_the_server_says_of_a_connection(self) -> None:
        """The keys of the server's own messages are there, unless the test sets them."""
        client = WSClient()
        client.send("websocket.connect", {"client": ["192.0.2.1", 1]})
        message = self.get_next_message("websocket.connect")
        self.assertEqual((message["scheme"], message["root_path"], message["client"]), ("ws", "", ["192.0.2.1", 1]))
        client.send("http.request", {"method": "GET"})
        request = self.get_next_message("http.request")
        self.assertEqual((request["scheme"], request["client"][0]), ("http", "127.0.0.1"))

    def test_texts(self) -> None:
        client = WSClient()
        self.assertEqual(self.show(client, text="plain")["text"], "plain")
        self.assertEqual(self.show(client, {"text": ["x"]})["text"], '["x"]')
        self.assertNotIn("text", self.show(client, {"bytes": b"x"}))

    def test_content_is_not_altered(self) -> None:
        content = {"text": "a", "inner": {"list": [1]}}
        client = WSClient()
        message = self.show(client, content)
        message["inner"]["list"].append(2)
        self.assertEqual(content, {"text": "a", "inner": {"list": [1]}})

    def test_receive(self) -> None:
        client = WSClient()
        for content in ({"text": '{"a": 1}'}, {"text": "plain"}, {"bytes": b"x"}, {"text": "no json"}):
            Channel(client.reply_channel).send(content)
        self.assertEqual(client.receive(), {"a": 1})
        self.assertEqual(client.receive(json=False), "plain")
        self.assertEqual(client.receive(), {"bytes": b"x"})
        with self.assertRaises(ValueError):
            client.receive()
        self.assertIsNone(client.receive())

    def test_ordered(self) -> None:
        client = WSClient(ordered=True)
        self.assertEqual([self.show(client)["order"] for _ in range(3)], [0, 1, 2])
        with self.assertRaisesRegex(ValueError, "order"):
            client.send("shown", {"order": 7})

    def test_login(self) -> None:
        User.objects.create_user("ada", password="secret")
        User.objects.create_user("bob", password="secret", is_active=False)
        client = WSClient()
        self.assertFalse(client.login(username="ada", password="wrong"))
        self.assertFalse(client.login(username="bob", password="secret"))
        self.assertTrue(client.login(username="ada", password="secret"))

    def test_sessions(self) -> None:
        @http_session
        @channel_session
        def connect(message):
            message.channel_session["room"] = message.http_session["room"]

        @channel_session
        def receive(message):
            message.reply_channel.send({"text": message.channel_session["room"]})

        client = WSClient()
        client.session["room"] = "lobby"
        client.session.save()
        with apply_routes([route("websocket.connect", connect), route("websocket.receive", receive)]):
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.receive", text="where am I?")
        self.assertEqual(client.receive(json=False), "lobby")

    def connect_with(self, *replies, **keywords) -> WSClient:
        def connect(message):
            for reply in replies:
                message.reply_channel.send(reply)

        client = WSClient()
        with apply_routes([route("websocket.connect", connect)]):
            client.send_and_consume("websocket.connect", **keywords)
        return client

    def test_acceptance(self) -> None:
        self.assertIsNone(self.connect_with({"accept": True}).receive())
        self.assertIsNone(self.connect_with().receive())
        self.assertEqual(self.connect_with({"accept": True}, {"text": "1"}).receive(), 1)
        self.assertEqual(self.connect_with({"text": "1"}, {"text": "2"}).receive(), 1)
        self.assertEqual(self.connect_with({"accept": True}, check_accept=False).receive(), {"accept": True})

    def test_refusal(self) -> None:
        for reply in ({"accept": False}, {"close": True}, {"close": 4000}):
            with self.subTest(reply), self.assertRaisesRegex(AssertionError, "Connection rejected"):
                self.connect_with(reply)
        self.assertEqual(self.connect_with({"close": True}, check_accept=False).receive(), {"close": True})

    @override_settings(CHANNELSERVER={"auto_accept": False})
    def test_acceptance_must_be_said_where_the_server_wants_that(self) -> None:
        self.connect_with({"accept": True})
        with self.assertRaisesRegex(AssertionError, "Connection rejected"):
            self.connect_with()


class ApplyRoutesTests(ChannelCase):
    """``apply_routes``."""

    def answers(self, client: Client | None = None) -> object:
        client = client or Client()
        client.send_and_consume("some", fail_on_none=False)
        content = client.receive()
        return content and content["from"]

    @staticmethod
    def answering(name: str):
        return route("some", lambda message: message.reply_channel.send({"from": name}))

    def test_context_manager(self) -> None:
        before = channel_layers["default"].routing
        with apply_routes([self.answering("outer")]):
            self.assertEqual(self.answers(), "outer")
            with apply_routes(self.answering("inner")):
                self.assertEqual(self.answers(), "inner")
            self.assertEqual(self.answers(), "outer")
        self.assertIsNone(self.answers())
        self.assertIs(channel_layers["default"].routing, before)

    def test_dict_and_dotted_name(self) -> None:
        with apply_routes({"some": lambda message: message.reply_channel.send({"from": "dict"})}):
            self.assertEqual(self.answers(), "dict")
        with apply_routes(__name__ + ".ROUTED"):
            Client().send_and_consume("routed")
        self.assertEqual(self.get_next_message("answer")["from"], "settings")

    @apply_routes([route("some", lambda message: message.reply_channel.send({"from": "decorator"}))])
    def test_decorated_test(self) -> None:
        self.assertEqual(self.answers(), "decorator")

    def test_decorated_test_case(self) -> None:
        seen = []

        @apply_routes([self.answering("class")])
        class Inner(ChannelCase):
            def setUp(case) -> None:  # noqa: N805
                seen.append(self.answers())

            def runTest(case) -> None:  # noqa: N805
                seen.append(self.answers())

            def tearDown(case) -> None:  # noqa: N805
                seen.append(self.answers())

        Inner("runTest").debug()
        self.assertEqual(seen, ["class"] * 3)

    def test_routes_are_put_back_after_an_error(self) -> None:
        with self.assertRaises(ZeroDivisionError), apply_routes([self.answering("failing")]):
            raise ZeroDivisionError
        self.assertIsNone(self.answers())
        with self.assertRaises(ImproperlyConfigured), apply_routes([7]):
            pass
        self.assertIsNone(self.answers())

    @override_settings(
        CHANNEL_LAYERS={
            name: {"BACKEND": "channelserver.layers.InMemoryChannelLayer", "ROUTING": []} for name in ("default", "b")
        }
    )
    def test_aliases(self) -> None:
        self.addCleanup(channel_layers.set, "b", None)
        self.assertIsInstance(channel_layers["b"], ChannelLayerWrapper)
        with apply_routes([self.answering("both")], aliases=["default", "b"]):
            self.assertEqual(self.answers(), "both")
            self.assertEqual(self.answers(Client(alias="b")), "both")


class SentTests(ChannelCase):
    """What was sent, and what was not."""

    def assertFails(self, words: str):
        return self.assertRaisesRegex(AssertionError, words)

    def test_to_channels(self) -> None:
        self.assertNothingSent()
        Channel("mail").send({"to": "ada", "size": 2})
        Channel("mail").send({"to": "bob"})
        self.assertEqual(self.assertSent("mail"), {"to": "ada", "size": 2})
        self.assertEqual(self.assertSent("mail", {"to": "bob"}), {"to": "bob"})
        self.assertEqual([content["to"] for content in self.sent_to("mail")], ["ada", "bob"])
        self.assertNotSent("post")
        self.assertNotSent("mail", {"to": "eve"})
        self.assertNotSentToGroup("mail")
        for call, words in (
            (lambda: self.assertSent("post"), "a message to channel 'post' was not sent.*(?s:.*)to channel 'mail'"),
            (lambda: self.assertSent("mail", {"to": "bob", "size": 2}), "was not sent"),
            (lambda: self.assertNotSent("mail", {"to": "ada"}), "should not have been sent(?s:.*)'size': 2"),
            (self.assertNothingSent, "nothing should have been sent(?s:.*)'bob'"),
        ):
            with self.assertFails(words):
                call()

    def test_to_groups(self) -> None:
        client = WSClient()
        client.join_group("room")
        Group("room").send({"text": '{"line": "hey"}'})
        self.assertSentToGroup("room", json={"line": "hey"})
        self.assertEqual(len(self.sent_to_group("room")), 1)
        self.assertNotSentToGroup("room", json={"line": "ho"})
        self.assertNotSentToGroup("lobby")
        self.assertNotSent(client.reply_channel)
        self.assertEqual(client.receive(), {"line": "hey"})
        self.assertSentToGroup("room")  # received or not
        with self.assertFails("with the JSON .*'ho'.* to group 'room' was not sent"):
            self.assertSentToGroup("room", json={"line": "ho"})

    def test_to_an_empty_group(self) -> None:
        Group("nobody").send({"text": "x"})
        self.assertSentToGroup("nobody", {"text": "x"})

    def test_forgetting(self) -> None:
        Channel("mail").send({"n": 1})
        self.forget_sent()
        self.assertNothingSent()
        self.assertEqual(self.get_next_message("mail")["n"], 1)

    def test_a_client_s_own_messages_do_not_count(self) -> None:
        client = WSClient()
        client.send("websocket.receive", text="x")
        self.assertNothingSent()

    def test_what_was_sent_is_not_altered_by_receiving_it(self) -> None:
        Channel("mail").send({"list": [1]})
        self.get_next_message("mail")["list"].append(2)
        self.assertSent("mail", {"list": [1]})

    def test_what_waits_for_a_commit(self) -> None:
        """Django's ``TestCase`` never commits; transactions of the code under test do."""
        with transaction.atomic():
            Channel("mail").send({"n": 1}, on_commit=True)
            self.assertNothingSent()
            with transaction.atomic():
                Group("room").send({"n": 2}, on_commit=True)
            self.assertIsNone(self.get_next_message("mail"))
        self.assertEqual(self.get_next_message("mail")["n"], 1)
        self.assertSentToGroup("room", {"n": 2})
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            Channel("mail").send({"n": 3}, on_commit=True)
            raise ZeroDivisionError
        self.assertIsNone(self.get_next_message("mail"))

    def test_other_hooks_of_a_commit_are_left_alone(self) -> None:
        called = []
        with self.captureOnCommitCallbacks() as callbacks, transaction.atomic():
            transaction.on_commit(lambda: called.append(1))
            Channel("mail").send({}, on_commit=True)
        self.assertSent("mail")
        self.assertEqual((called, len(callbacks)), ([], 2))
        self.assertEqual(len(connection.run_on_commit), 1)


by_own_names_too(globals())
