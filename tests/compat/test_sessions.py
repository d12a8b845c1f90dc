"""Sessions, users and order: ``channels.sessions`` and ``channels.auth``."""

from __future__ import annotations

from channels import route
from channels.auth import (
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
    transfer_user,
)
from channels.message import Message
from channels.sessions import (
    channel_and_http_session,
    channel_session,
    enforce_ordering,
    http_session,
    session_for_reply_channel,
)
from channels.test import Client, WSClient, apply_routes
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import override_settings

from tests.compat import ChannelCase, by_own_names_too


class SessionTests(ChannelCase):
    """Who sees which session, and when it is saved."""

    def test_the_key(self) -> None:
        session = session_for_reply_channel("reply")
        self.assertRegex(session.session_key, "^chn[0-9a-f]{29}$")
        session["a"] = 1
        session.save()
        self.assertEqual(session_for_reply_channel("reply")["a"], 1)
        self.assertEqual(session_for_reply_channel("other").session_key == session.session_key, False)

    @override_settings(CHANNEL_SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    def test_signed_cookies_are_refused(self) -> None:
        with self.assertRaises(ValueError):
            session_for_reply_channel("reply")

    def test_channel_session(self) -> None:
        @channel_session
        def consumer(message):
            message.channel_session["count"] = message.channel_session.get("count", 0) + 1
            if message.get("fail"):
                raise ZeroDivisionError

        client = Client()
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
            with self.assertRaises(ZeroDivisionError):
                client.send_and_consume("some", {"fail": True})
        self.assertEqual(session_for_reply_channel(client.reply_channel)["count"], 2)

    def test_a_message_is_needed_with_a_reply_channel(self) -> None:
        with self.assertRaises(ValueError):
            channel_session(lambda message: None)("no message")
        with self.assertRaises(ValueError):
            channel_session(lambda message: None)(Message({}, "some", None))

    def test_a_session_made_by_somebody_else_meanwhile(self) -> None:
        @channel_session
        def consumer(message):
            message.channel_session["a"] = 1
            session = session_for_reply_channel(message.reply_channel.name)
            session["b"] = 2
            session.save(must_create=True)

        client = Client()
        with apply_routes([route("some", consumer)]):
            client.send_and_consume("some")
        self.assertEqual(dict(session_for_reply_channel(client.reply_channel).items()), {"a": 1, "b": 2})

    def browser_session(self, **values):
        session = SessionStore()
        session.update(values)
        session.save()
        return session

    def test_http_session(self) -> None:
        seen = []

        @http_session
        def consumer(message):
            seen.append(message.http_session and message.http_session.get("fruit"))
            if message.get("fail"):
                message.http_session["fruit"] = "changed"
                raise ZeroDivisionError
            if message.http_session:
                message.http_session["saved"] = True

        session, other = self.browser_session(fruit="plum"), self.browser_session(fruit="pear")
        client = WSClient()
        client._session_cookie = False
        with apply_routes([route("websocket.connect", consumer)]):
            client.send_and_consume("websocket.connect")
            client.set_cookie("sessionid", session.session_key)
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.connect", path=f"/?session_key={other.session_key}")
            with self.assertRaises(ZeroDivisionError):
                client.send_and_consume("websocket.connect", {"fail": True})
        self.assertEqual(seen, [None, "plum", "pear", "plum"])
        self.assertEqual(dict(SessionStore(session.session_key).items()), {"fruit": "plum", "saved": True})
        with apply_routes([route("some", consumer)]), self.assertRaises(ValueError):
            Client().send_and_consume("some")

    def test_both(self) -> None:
        seen = []

        @channel_and_http_session
        def consumer(message):
            seen.append((message.http_session["fruit"], message.channel_session.get("n")))
            message.channel_session["n"] = message["order"]

        session = self.browser_session(fruit="plum")
        client = WSClient(ordered=True)
        client._session_cookie = False
        with apply_routes([route(["websocket.connect", "websocket.receive"], consumer)]):
            client.set_cookie("sessionid", session.session_key)
            client.send_and_consume("websocket.connect")
            client._cookies.clear()
            client.send_and_consume("websocket.receive", text="x")
        self.assertEqual(seen, [("plum", None), ("plum", 0)])


class OrderTests(ChannelCase):
    """``enforce_ordering``."""

    def test_all_forms(self) -> None:
        def take(message):
            message.channel_session["seen"] = [*message.channel_session.get("seen", []), message["order"]]

        for decorated in (
            enforce_ordering(take),
            enforce_ordering()(take),
            enforce_ordering(slight=True)(take),
            enforce_ordering(take, slight=True),
        ):
            client = WSClient(ordered=True)
            with apply_routes([route("websocket.receive", decorated)]):
                for _ in range(3):
                    client.send_and_consume("websocket.receive", text="x")
                self.assertEqual(session_for_reply_channel(client.reply_channel)["seen"], [0, 1, 2])
                with self.assertRaises(ValueError):
                    WSClient().send_and_consume("websocket.receive", text="x")

    def test_nothing_stalls(self) -> None:
        """An undecorated connect, and a consumer that raised, keep nobody from going on."""

        @enforce_ordering
        def receive(message):
            if message["text"] == "fail":
                raise ZeroDivisionError
            message.reply_channel.send({"text": message["text"]})

        client = WSClient(ordered=True)
        with apply_routes([route("websocket.receive", receive)]):
            client.send("websocket.connect")
            with self.assertRaises(ZeroDivisionError):
                client.send_and_consume("websocket.receive", text="fail")
            client.send_and_consume("websocket.receive", text="on")
        self.assertEqual(client.receive(json=False), "on")


class UserTests(ChannelCase):
    """``channels.auth``."""

    def setUp(self) -> None:
        self.user = User.objects.create_user("ada")

    def names(self, decorator, *channels):
        """Return the user's name as consumers of these channels see it, for a browser that is logged in."""
        seen = []

        @decorator
        def consumer(message):
            seen.append(message.user.username)

        self.client.force_login(self.user)
        cookies = {"sessionid": self.client.cookies["sessionid"].value}
        client = WSClient()
        client._session_cookie = False
        with apply_routes([route(["websocket.connect", "websocket.receive"], consumer)]):
            for channel in channels:
                client._cookies = cookies if channel == "websocket.connect" else {}
                client.send_and_consume(channel, {"text": "x"})
        return seen

    def test_whose_user_is_seen(self) -> None:
        both = ("websocket.connect", "websocket.receive")
        self.assertEqual(self.names(http_session_user, *both), ["ada", ""])
        self.assertEqual(self.names(channel_session_user, *both), ["", ""])
        self.assertEqual(self.names(channel_session_user_from_http, *both), ["ada", "ada"])
        self.assertEqual(self.names(channel_and_http_session_user_from_http, *both), ["ada", "ada"])

    def test_transfer_user(self) -> None:
        source = {"_auth_user_id": "1", "_auth_user_backend": "b", "_auth_user_hash": "h", "other": 1}
        target: dict = {}
        transfer_user(source, target)
        self.assertEqual(target, {key: value for key, value in source.items() if key != "other"})
        target = {}
        transfer_user({"_auth_user_id": "1"}, target)
        transfer_user(None, target)
        self.assertEqual(target, {})


by_own_names_too(globals())
