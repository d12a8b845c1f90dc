"""Users for consumers."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.test import Client, override_settings

from channelserver.auth import (
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
    transfer_user,
)
from channelserver.layers import InMemoryChannelLayer
from channelserver.message import Message
from channelserver.sessions import enforce_ordering, forget_channel_session, session_for_reply_channel
from tests import DatabaseTestCase

LAYER = InMemoryChannelLayer()
REPLY = "websocket.send.abc!1"
USER_KEYS = {BACKEND_SESSION_KEY, SESSION_KEY, HASH_SESSION_KEY}


def connect(session_key: str | None = None) -> Message:
    headers = [[b"host", b"testserver"]]
    if session_key is not None:
        headers.append([b"cookie", f"sessionid={session_key}".encode()])
    content = {"reply_channel": REPLY, "path": "/chat/", "query_string": b"", "headers": headers, "order": 0}
    return Message(content, "websocket.connect", LAYER)


def receive() -> Message:
    return Message({"reply_channel": REPLY, "path": "/chat/", "text": "a", "order": 1}, "websocket.receive", LAYER)


def name_of_user(message: Message, **kwargs: Any) -> str:
    """A consumer that returns the user's name; empty if there is none."""
    return str(message.user.username)


class AuthTestCase(DatabaseTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.user = get_user_model().objects.create_user("ada", password="secret")
        client = Client()
        client.force_login(self.user)
        self.key = client.session.session_key

    def http_session(self) -> SessionStore:
        """Return the browser's session as it is stored now."""
        return SessionStore(self.key)


class TransferUserTests(AuthTestCase):
    def test_copies_the_user_and_nothing_else(self) -> None:
        source = self.http_session()
        source["cart"] = 1
        target = session_for_reply_channel(REPLY)
        transfer_user(source, target)
        self.assertEqual(set(target.keys()), USER_KEYS)
        self.assertEqual({key: target[key] for key in USER_KEYS}, {key: source[key] for key in USER_KEYS})

    def test_needs_all_three_values(self) -> None:
        for missing in USER_KEYS:
            source = self.http_session()
            del source[missing]
            target = session_for_reply_channel(REPLY)
            transfer_user(source, target)
            self.assertEqual(list(target.keys()), [], missing)

    def test_does_nothing_without_source(self) -> None:
        target = session_for_reply_channel(REPLY)
        transfer_user(None, target)
        self.assertFalse(target.modified)

    def test_does_not_modify_a_session_that_has_the_user_already(self) -> None:
        target = session_for_reply_channel(REPLY)
        transfer_user(self.http_session(), target)
        target.modified = False
        transfer_user(self.http_session(), target)
        self.assertFalse(target.modified)

    def test_replaces_another_user(self) -> None:
        target = session_for_reply_channel(REPLY)
        target.update({SESSION_KEY: "99", BACKEND_SESSION_KEY: "x", HASH_SESSION_KEY: "y"})
        transfer_user(self.http_session(), target)
        self.assertEqual(target[SESSION_KEY], str(self.user.pk))


class HttpSessionUserTests(AuthTestCase):
    def test_gives_the_user_of_the_cookie(self) -> None:
        self.assertEqual(http_session_user(name_of_user)(connect(self.key)), "ada")

    def test_the_user_is_a_user(self) -> None:
        one = connect(self.key)
        http_session_user(lambda message: None)(one)
        self.assertEqual(one.user, self.user)
        self.assertIsInstance(one.user, User)
        self.assertTrue(one.user.is_authenticated)

    def test_without_cookie_the_user_is_anonymous(self) -> None:
        one = connect()
        http_session_user(name_of_user)(one)
        self.assertIsInstance(one.user, AnonymousUser)
        self.assertIsNone(one.http_session)

    def test_with_an_unknown_key_the_user_is_anonymous(self) -> None:
        one = connect("k" * 32)
        http_session_user(name_of_user)(one)
        self.assertIsInstance(one.user, AnonymousUser)

    def test_on_later_messages_the_user_is_anonymous(self) -> None:
        self.assertEqual(http_session_user(name_of_user)(receive()), "")

    def test_costs_nothing_if_not_used(self) -> None:
        one = connect(self.key)
        with self.assertNumQueries(0):
            http_session_user(lambda message: None)(one)

    def test_the_user_is_loaded_once(self) -> None:
        one = connect(self.key)
        with self.assertNumQueries(2):  # session, user
            http_session_user(lambda message: (message.user.username, message.user.email))(one)

    def test_after_a_change_of_password_elsewhere_the_user_is_anonymous(self) -> None:
        """Django's next request ends the browser's session; a look at the user on a socket does not."""
        session = self.http_session()
        session["cart"] = 1
        session.save()
        self.user.set_password("other")
        self.user.save()

        @http_session_user
        def consumer(message: Message) -> tuple[str, int]:
            return message.user.username, message.http_session["cart"]

        self.assertEqual(consumer(connect(self.key)), ("", 1))
        self.assertEqual(self.http_session()["cart"], 1)

    def test_with_a_replaced_secret_the_browser_stays_logged_in_under_its_key(self) -> None:
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["only for tests"]):
            before = self.http_session()[HASH_SESSION_KEY]
            self.assertEqual(http_session_user(name_of_user)(connect(self.key)), "ada")
            self.assertNotEqual(self.http_session()[HASH_SESSION_KEY], before)
        # All has been stored anew with the new secret, so the old one is not needed any more.
        with override_settings(SECRET_KEY="new"):
            self.assertEqual(http_session_user(name_of_user)(connect(self.key)), "ada")


class ChannelSessionUserTests(AuthTestCase):
    def setUp(self) -> None:
        super().setUp()
        session = session_for_reply_channel(REPLY)
        transfer_user(self.http_session(), session)
        session["room"] = "a"
        session.save()

    def test_gives_the_user_of_the_channel_session(self) -> None:
        self.assertEqual(channel_session_user(name_of_user)(receive()), "ada")

    def test_gives_the_channel_session(self) -> None:
        self.assertEqual(channel_session_user(lambda message: message.channel_session["room"])(receive()), "a")

    def test_without_user_in_it_the_user_is_anonymous(self) -> None:
        other = Message({"reply_channel": "websocket.send.abc!2"}, "websocket.receive", LAYER)
        channel_session_user(name_of_user)(other)
        self.assertEqual(other.user, AnonymousUser())

    def test_costs_nothing_if_not_used(self) -> None:
        with self.assertNumQueries(0):
            channel_session_user(lambda message: None)(receive())

    def test_a_deleted_user_is_anonymous(self) -> None:
        self.user.delete()
        self.assertEqual(channel_session_user(name_of_user)(receive()), "")

    def test_after_a_change_of_password_the_login_is_gone_and_all_else_stays(self) -> None:
        """What the application keeps for the socket is there before and after a look at the user, and stored."""
        self.user.set_password("other")
        self.user.save()

        @channel_session_user
        def consumer(message: Message) -> tuple[str, dict[str, str]]:
            message.channel_session["before"] = "1"
            name = message.user.username
            message.channel_session["after"] = "2"
            return name, dict(message.channel_session.items())

        kept = {"room": "a", "before": "1", "after": "2"}
        self.assertEqual(consumer(receive()), ("", kept))
        self.assertEqual(dict(session_for_reply_channel(REPLY).items()), kept)
        with self.assertNumQueries(1):  # nobody is logged in, so no user is looked for
            self.assertEqual(channel_session_user(name_of_user)(receive()), "")

    def test_with_a_replaced_secret_the_user_stays_and_so_does_the_session(self) -> None:
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["only for tests"]):
            self.assertEqual(channel_session_user(name_of_user)(receive()), "ada")
        with override_settings(SECRET_KEY="new"):
            self.assertEqual(channel_session_user(name_of_user)(receive()), "ada")
            self.assertEqual(session_for_reply_channel(REPLY)["room"], "a")

    def test_works_on_methods_and_keeps_the_name(self) -> None:
        class Consumer:
            @channel_session_user
            def receive(self, message: Message) -> str:
                return message.user.username

        self.assertEqual(Consumer().receive(receive()), "ada")
        self.assertEqual(Consumer.receive.__name__, "receive")


class ChannelSessionUserFromHttpTests(AuthTestCase):
    def test_the_user_of_the_cookie_is_there_on_all_messages(self) -> None:
        self.assertEqual(channel_session_user_from_http(name_of_user)(connect(self.key)), "ada")
        self.assertEqual(channel_session_user(name_of_user)(receive()), "ada")

    def test_only_the_user_is_taken_over(self) -> None:
        session = self.http_session()
        session["cart"] = 1
        session.save()
        channel_session_user_from_http(name_of_user)(connect(self.key))
        self.assertEqual(set(session_for_reply_channel(REPLY).keys()), USER_KEYS)

    def test_without_cookie_the_user_is_anonymous_and_nothing_is_stored(self) -> None:
        count = Session.objects.count()
        self.assertEqual(channel_session_user_from_http(name_of_user)(connect()), "")
        self.assertEqual(channel_session_user(name_of_user)(receive()), "")
        self.assertEqual(Session.objects.count(), count)

    def test_together_with_transfer_user_as_in_the_tutorial(self) -> None:
        @channel_session_user_from_http
        def ws_add(message: Message) -> str:
            transfer_user(message.http_session, message.channel_session)
            return message.user.username[0]

        with self.assertRaises(IndexError):  # for the anonymous: an error of the application's
            ws_add(connect())
        self.assertEqual(ws_add(connect(self.key)), "a")

    def test_under_enforce_ordering_as_in_the_tutorial(self) -> None:
        self.assertEqual(
            enforce_ordering(slight=True)(channel_session_user_from_http(name_of_user))(connect(self.key)), "ada"
        )
        self.assertEqual(enforce_ordering(slight=True)(channel_session_user(name_of_user))(receive()), "ada")

    def test_used_on_a_later_message_it_gives_the_socket_s_user(self) -> None:
        channel_session_user_from_http(name_of_user)(connect(self.key))
        self.assertEqual(channel_session_user_from_http(name_of_user)(receive()), "ada")

    def test_the_user_is_stored_even_if_the_consumer_raised(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            channel_session_user_from_http(lambda message: 1 / 0)(connect(self.key))
        self.assertEqual(set(session_for_reply_channel(REPLY).keys()), USER_KEYS)

    def test_after_a_logout_the_socket_keeps_its_user(self) -> None:
        channel_session_user_from_http(name_of_user)(connect(self.key))
        self.http_session().flush()
        self.assertEqual(channel_session_user(name_of_user)(receive()), "ada")

    def test_after_a_change_of_password_nobody_is_logged_in(self) -> None:
        self.user.set_password("other")
        self.user.save()
        self.assertEqual(channel_session_user_from_http(name_of_user)(connect(self.key)), "")
        self.assertEqual(channel_session_user(name_of_user)(receive()), "")

    def test_the_socket_s_end_leaves_the_browser_logged_in(self) -> None:
        channel_session_user_from_http(name_of_user)(connect(self.key))
        forget_channel_session(REPLY)
        self.assertEqual(Session.objects.count(), 1)
        self.assertEqual(http_session_user(name_of_user)(connect(self.key)), "ada")

    def test_passes_arguments_and_keeps_the_name(self) -> None:
        def consumer(message: Message, **kwargs: Any) -> Any:
            return kwargs

        decorated = channel_session_user_from_http(consumer)
        self.assertEqual(decorated(connect(self.key), room="a"), {"room": "a"})
        self.assertEqual(decorated.__name__, "consumer")


class ChannelAndHttpSessionUserFromHttpTests(AuthTestCase):
    consumer = staticmethod(channel_and_http_session_user_from_http(name_of_user))

    def test_user_and_http_session_are_there_on_all_messages(self) -> None:
        self.assertEqual(self.consumer(connect(self.key)), "ada")
        later = receive()
        self.assertEqual(self.consumer(later), "ada")
        self.assertEqual(later.http_session.session_key, self.key)
        self.assertEqual(later.channel_session[SESSION_KEY], str(self.user.pk))

    def test_after_a_logout_the_user_is_anonymous(self) -> None:
        self.consumer(connect(self.key))
        self.http_session().flush()
        self.assertEqual(self.consumer(receive()), "")

    @override_settings(
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        CHANNEL_SESSION_ENGINE="django.contrib.sessions.backends.db",
    )
    def test_signed_cookies_cannot_be_revoked(self) -> None:
        """As the documentation says: the user stays after a logout."""
        client = Client()
        client.force_login(self.user)
        key = client.cookies["sessionid"].value
        self.assertEqual(self.consumer(connect(key)), "ada")
        client.logout()
        self.assertEqual(self.consumer(receive()), "ada")

    def test_later_messages_do_not_write(self) -> None:
        self.consumer(connect(self.key))
        with self.assertNumQueries(3):  # channel session, HTTP session, user
            self.consumer(receive())

    def test_without_cookie_the_user_is_anonymous(self) -> None:
        self.assertEqual(self.consumer(connect()), "")
        self.assertEqual(self.consumer(receive()), "")
