"""Sessions for consumers."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from channelserver import sessions
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.throttled_log import ThrottledLog
from channelserver.message import Message
from channelserver.processes.local_client import NoServerError
from channelserver.sessions import (
    channel_and_http_session,
    channel_session,
    enforce_ordering,
    forget_channel_session,
    http_session,
    renew_channel_session,
    session_for_reply_channel,
)
from tests import DatabaseTestCase

LAYER = InMemoryChannelLayer()
REPLY = "websocket.send.abc!1"
COOKIE = "sessionid"
DB = "django.contrib.sessions.backends.db"


def message(channel: str = "websocket.receive", reply_channel: str | None = REPLY, **content: Any) -> Message:
    if reply_channel is not None:
        content["reply_channel"] = reply_channel
    return Message(content, channel, LAYER)


def connect(cookie: str | None = None, query_string: bytes = b"", **content: Any) -> Message:
    """Return a connect message of a browser with that session cookie."""
    headers = [[b"host", b"testserver"]]
    if cookie is not None:
        headers.append([b"cookie", f"other=1; {COOKIE}={cookie}".encode()])
    content = {"path": "/chat/", "query_string": query_string, "headers": headers, "order": 0, **content}
    return message("websocket.connect", **content)


def browser_session(engine: str = DB, **values: Any) -> Any:
    """Return a stored session, as Django makes it for a browser."""
    session = import_module(engine).SessionStore()
    session.update(values)
    session.save()
    return session


@channel_session
def write(message: Message, **values: Any) -> None:
    """A consumer that stores something in its channel session."""
    message.channel_session.update(values)


@channel_session
def read(message: Message) -> dict[str, Any]:
    """A consumer that returns all that is in its channel session."""
    return dict(message.channel_session.items())


@contextmanager
def later(seconds: float) -> Iterator[None]:
    """Be so many seconds later."""
    real, real_now = time.time, timezone.now
    with (
        mock.patch("time.time", lambda: real() + seconds),
        mock.patch("django.utils.timezone.now", lambda: real_now() + timedelta(seconds=seconds)),
    ):
        yield


class SessionTestCase(DatabaseTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(cache.clear)
        self.addCleanup(sessions._store_class.cache_clear)
        sessions._store_class.cache_clear()


class KeyTests(SessionTestCase):
    def test_the_key_is_derived_from_the_reply_channel(self) -> None:
        expected = "chn" + hashlib.sha1(REPLY.encode()).hexdigest()[:29]
        self.assertEqual(session_for_reply_channel(REPLY).session_key, expected)
        self.assertEqual(len(expected), 32)

    def test_the_key_stays_when_an_unknown_session_is_loaded(self) -> None:
        session = session_for_reply_channel(REPLY)
        key = session.session_key
        self.assertEqual(list(session.keys()), [])
        self.assertEqual(session.session_key, key)

    def test_other_reply_channels_have_other_sessions(self) -> None:
        write(message(), room="a")
        self.assertEqual(read(message(reply_channel="websocket.send.abc!2")), {})

    def test_stores_and_finds_values_without_decorator(self) -> None:
        session = session_for_reply_channel(REPLY)
        session["a"] = 1
        session.save(must_create=True)
        self.assertEqual(session_for_reply_channel(REPLY)["a"], 1)

    def test_save_makes_the_row_if_there_is_none(self) -> None:
        session = session_for_reply_channel(REPLY)
        session["a"] = 1
        session.save()
        session["a"] = 2
        session.save()
        self.assertEqual(session_for_reply_channel(REPLY)["a"], 2)


class EngineTests(SessionTestCase):
    @override_settings(SESSION_ENGINE=DB, CHANNEL_SESSION_ENGINE="django.contrib.sessions.backends.cache")
    def test_channel_session_engine_beats_session_engine(self) -> None:
        write(message(), room="a")
        self.assertEqual(Session.objects.count(), 0)
        self.assertEqual(read(message()), {"room": "a"})

    def test_session_engine_is_the_default(self) -> None:
        write(message(), room="a")
        self.assertEqual(Session.objects.count(), 1)

    @override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    def test_signed_cookies_are_refused_with_the_cure(self) -> None:
        with self.assertRaises(ValueError) as caught:
            write(message(), room="a")
        for word in ("signed cookie sessions!", "SESSION_ENGINE", "CHANNEL_SESSION_ENGINE"):
            self.assertIn(word, str(caught.exception))

    @override_settings(CHANNEL_SESSION_ENGINE="nowhere.sessions")
    def test_an_engine_that_cannot_be_imported_is_named_with_its_setting(self) -> None:
        with self.assertRaises(ImproperlyConfigured) as caught:
            session_for_reply_channel(REPLY)
        self.assertIn("CHANNEL_SESSION_ENGINE = 'nowhere.sessions'", str(caught.exception))

    @override_settings(SESSION_ENGINE="tests.test_sessions")
    def test_an_engine_without_store_is_named_with_its_setting(self) -> None:
        with self.assertRaises(ImproperlyConfigured) as caught:
            session_for_reply_channel(REPLY)
        self.assertIn("SESSION_ENGINE = 'tests.test_sessions'", str(caught.exception))


class ChannelSessionTests(SessionTestCase):
    def test_lasts_from_message_to_message(self) -> None:
        write(message("websocket.connect"), room="a", number=1)
        write(message(), number=2)
        self.assertEqual(read(message("websocket.disconnect")), {"room": "a", "number": 2})

    def test_passes_arguments_and_result(self) -> None:
        @channel_session
        def consumer(message: Message, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        self.assertEqual(consumer(message(), 1, room="a"), ((1,), {"room": "a"}))

    def test_works_on_methods(self) -> None:
        class Consumer:
            @channel_session
            def receive(self, message: Message) -> None:
                message.channel_session["room"] = "a"

        Consumer().receive(message())
        self.assertEqual(read(message()), {"room": "a"})

    def test_a_message_further_back_is_not_looked_for(self) -> None:
        @channel_session
        def consumer(a: Any, b: Any, message: Message) -> None:
            self.fail("was called")

        with self.assertRaises(ValueError) as caught:
            consumer(None, None, message())
        self.assertIn("first argument", str(caught.exception))

    def test_needs_a_reply_channel(self) -> None:
        with self.assertRaises(ValueError) as caught:
            read(message(reply_channel=None))
        self.assertIn("reply_channel", str(caught.exception))

    def test_keeps_name_and_docstring(self) -> None:
        self.assertEqual(write.__name__, "write")
        self.assertEqual(write.__module__, __name__)
        self.assertIn("stores something", write.__doc__ or "")

    def test_may_be_nested_and_is_saved_once(self) -> None:
        @channel_session
        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["room"] = "a"

        with mock.patch(f"{DB}.SessionStore.save", autospec=True) as save:
            consumer(message())
        self.assertEqual(save.call_count, 1)
        consumer(message())
        self.assertEqual(read(message()), {"room": "a"})

    def test_is_saved_again_if_modified_after_a_nested_consumer(self) -> None:
        @channel_session
        def outer(message: Message) -> None:
            write(message, inner=1)
            message.channel_session["outer"] = 2

        outer(message())
        self.assertEqual(read(message()), {"inner": 1, "outer": 2})

    def test_costs_nothing_if_not_used(self) -> None:
        with self.assertNumQueries(0):
            channel_session(lambda message: None)(message())

    def test_reading_stores_nothing(self) -> None:
        with self.assertNumQueries(1):
            self.assertEqual(read(message()), {})
        self.assertEqual(Session.objects.count(), 0)
        write(message(), room="a")
        with self.assertNumQueries(1):
            read(message())

    def test_is_saved_if_the_consumer_raised(self) -> None:
        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["room"] = "a"
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            consumer(message())
        self.assertEqual(read(message()), {"room": "a"})

    def test_what_the_consumer_raised_is_not_hidden_by_a_failing_save(self) -> None:
        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["room"] = object()  # no serializer takes that
            raise ZeroDivisionError

        with self.assertLogs("channelserver.sessions", "ERROR"), self.assertRaises(ZeroDivisionError):
            consumer(message())

    def test_a_failing_save_is_an_error_of_the_consumer(self) -> None:
        with self.assertRaises(TypeError):
            write(message(), room=object())

    def test_deleting_the_last_value_is_stored(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> None:
            del message.channel_session["room"]

        consumer(message())
        self.assertEqual(read(message()), {})

    def test_django_can_read_what_is_stored(self) -> None:
        write(message(), room="a")
        self.assertEqual(Session.objects.get().get_decoded(), {"room": "a"})

    def test_what_the_consumer_raised_counts(self) -> None:
        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["room"] = "mine"
            raise ZeroDivisionError

        with (
            mock.patch.object(sessions._ChannelStore, "save", side_effect=CreateError),
            self.assertLogs("channelserver.sessions", "ERROR"),
            self.assertRaises(ZeroDivisionError),
        ):
            consumer(message())

    def test_an_expired_session_is_replaced(self) -> None:
        write(message(), room="old", other=1)
        Session.objects.update(expire_date=timezone.now() - timedelta(days=1))
        write(message(), room="new")
        self.assertEqual(read(message()), {"room": "new"})

    def test_a_session_deleted_while_the_consumer_ran_is_not_brought_back(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["number"] = 1
            Session.objects.all().delete()

        consumer(message())
        self.assertEqual(read(message()), {"number": 1})

    def test_a_save_without_contention_is_one_statement(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["number"] = 1

        with self.assertNumQueries(4):  # the read; a savepoint, an update, and its release
            consumer(message())

    def test_a_row_with_more_columns_is_stored_whole(self) -> None:
        """The columns of an application's own session model are those of its own ``create_model_instance``."""
        write(message(), room="a")
        before = Session.objects.get().expire_date
        with override_settings(SESSION_COOKIE_AGE=100 * 86400):
            write(message(), room="b")
        self.assertGreater(Session.objects.get().expire_date, before)


class EngineContract:
    """What holds with every engine. The class below it names the engine."""

    def test_lasts_from_message_to_message(self) -> None:
        write(message(), room="a", number=1)
        write(message(), number=2)
        self.assertEqual(read(message()), {"room": "a", "number": 2})

    def test_a_late_second_creation_is_noticed(self) -> None:
        first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
        first["a"] = second["a"] = 1
        first.save()
        with self.assertRaises(CreateError):
            second.save(must_create=True)

    def test_two_at_once_both_create(self) -> None:
        first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
        first["a"] = second["b"] = 1
        first["both"], second["both"] = "first", "second"
        first.save()
        second.save()
        self.assertEqual(read(message()), {"a": 1, "b": 1, "both": "second"})

    def test_two_at_once_both_change(self) -> None:
        """Each save writes its own changes only: new values, changed ones, changed lists, removed keys."""
        write(message(), kept=0, first=[1], second=1, gone=1, true=1)
        first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
        first["first"].append(2)
        second["second"] = 2
        second["new"] = 3
        second["true"] = True
        del first["gone"]
        first.save()
        second.save()
        expected = {"kept": 0, "first": [1, 2], "second": 2, "new": 3, "true": True}
        self.assertEqual(read(message()), expected)
        first["more"] = 4  # it knows what it has read and written, not what the other one wrote
        second["second"] = 5
        second.save()
        first.save()
        self.assertEqual(read(message()), expected | {"more": 4, "second": 5})

    def test_a_flush_is_not_undone(self) -> None:
        write(message(), user=1, room="a")
        first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
        second["room"] = "b"
        first.flush()
        second.save()
        self.assertEqual(read(message()), {"room": "b"})

    def test_a_flush_takes_what_it_has_seen(self) -> None:
        write(message(), user=1)
        first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
        second["room"] = "b"
        first.clear()
        first["empty"] = True
        second.save()
        first.save()
        self.assertEqual(read(message()), {"room": "b", "empty": True})

    def test_flush_deletes_and_keeps_the_key(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> str:
            message.channel_session.flush()
            return message.channel_session.session_key

        self.assertEqual(consumer(message()), session_for_reply_channel(REPLY).session_key)
        self.assertFalse(session_for_reply_channel(REPLY).exists(session_for_reply_channel(REPLY).session_key))
        self.assertEqual(read(message()), {})

    def test_what_is_written_after_a_flush_is_stored(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session.flush()
            message.channel_session["room"] = "b"

        consumer(message())
        self.assertEqual(read(message()), {"room": "b"})

    def test_cycle_key_keeps_key_and_values(self) -> None:
        write(message(), room="a")

        @channel_session
        def consumer(message: Message) -> str:
            message.channel_session.cycle_key()
            message.channel_session["number"] = 1
            return message.channel_session.session_key

        self.assertEqual(consumer(message()), session_for_reply_channel(REPLY).session_key)
        self.assertEqual(read(message()), {"room": "a", "number": 1})

    def test_create_ends_and_keeps_the_key(self) -> None:
        write(message(), room="a")
        session = session_for_reply_channel(REPLY)
        key = session.session_key
        session.create()
        self.assertEqual(session.session_key, key)
        session["number"] = 1
        session.save()
        self.assertEqual(read(message()), {"number": 1})

    def test_delete_then_save_stores_again(self) -> None:
        write(message(), room="a")
        session = session_for_reply_channel(REPLY)
        self.assertEqual(session["room"], "a")
        session.delete()
        session.save()
        self.assertEqual(read(message()), {"room": "a"})

    def test_the_asynchronous_methods_keep_the_key(self) -> None:
        session = session_for_reply_channel(REPLY)
        key = session.session_key

        async def course() -> None:
            await session.aset("room", "a")
            await session.asave()
            await session.acycle_key()
            await session.asave()
            again = session_for_reply_channel(REPLY)
            self.assertEqual(await again.aget("room"), "a")
            await session.acreate()
            await session.aset("room", "b")
            await session.asave()

        async_to_sync(course)()
        self.assertEqual(session.session_key, key)
        self.assertEqual(read(message()), {"room": "b"})
        async_to_sync(session.aflush)()
        self.assertEqual(session.session_key, key)
        self.assertEqual(read(message()), {})

    def test_lives_on_whatever_session_cookie_age_says(self) -> None:
        """It can be read, and clearsessions leaves it alone; renewed, it lives for another week."""
        with override_settings(SESSION_COOKIE_AGE=-1):
            write(message(), room="a")
            write(message(), number=1)
            call_command("clearsessions")
            self.assertEqual(read(message()), {"room": "a", "number": 1})
            with mock.patch.object(sessions, "LEASE", 5):
                write(message(), number=2)
            renew_channel_session(REPLY)
            with later(sessions.LEASE - 5):
                call_command("clearsessions")
                self.assertEqual(read(message()), {"room": "a", "number": 2})

    def test_an_expiry_of_the_application_counts(self) -> None:
        @channel_session
        def consumer(message: Message) -> None:
            message.channel_session["room"] = "a"
            message.channel_session.set_expiry(100)

        consumer(message())
        self.assertEqual(read(message())["room"], "a")
        renew_channel_session(REPLY)
        if not self.engine.endswith("file"):  # Django's own keeps such files
            with later(101):
                self.assertEqual(read(message()), {})

    def test_renewing_creates_nothing(self) -> None:
        renew_channel_session(REPLY)
        store = import_module(self.engine).SessionStore
        self.assertFalse(store().exists(session_for_reply_channel(REPLY).session_key))

    def test_forgetting_deletes(self) -> None:
        write(message(), room="a")
        forget_channel_session(REPLY)
        self.assertEqual(read(message()), {})

    def test_the_browsers_session_keeps_its_key(self) -> None:
        stored = browser_session(self.engine, a=1)

        @http_session
        def consumer(message: Message) -> str:
            message.http_session.cycle_key()
            message.http_session["b"] = 2
            return message.http_session.session_key

        self.assertEqual(consumer(connect(stored.session_key)), stored.session_key)
        again = type(stored)(stored.session_key)
        self.assertEqual((again["a"], again["b"]), (1, 2))

    def test_the_browsers_session_keeps_its_key_asynchronously(self) -> None:
        stored = browser_session(self.engine, a=1)

        @http_session
        def consumer(message: Message) -> None:
            async_to_sync(message.http_session.acycle_key)()

        consumer(connect(stored.session_key))
        self.assertEqual(type(stored)(stored.session_key)["a"], 1)

    def test_the_browsers_session_is_never_created(self) -> None:
        key = "k" * 32

        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 1
            message.http_session.save()
            message.http_session.create()
            message.http_session["b"] = 2

        consumer(connect(key))
        store = import_module(self.engine).SessionStore
        self.assertFalse(store().exists(key))
        self.assertEqual(Session.objects.count(), 0)

    def test_flushing_the_browsers_session_deletes_it(self) -> None:
        stored = browser_session(self.engine, a=1)

        @http_session
        def consumer(message: Message) -> None:
            message.http_session.flush()
            message.http_session["b"] = 2

        consumer(connect(stored.session_key))
        self.assertFalse(stored.exists(stored.session_key))


class DatabaseEngineTests(EngineContract, SessionTestCase):
    engine = DB


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache")
class CacheEngineTests(EngineContract, SessionTestCase):
    engine = "django.contrib.sessions.backends.cache"


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cached_db")
class CachedDatabaseEngineTests(EngineContract, SessionTestCase):
    engine = "django.contrib.sessions.backends.cached_db"


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.file")
class FileEngineTests(EngineContract, SessionTestCase):
    engine = "django.contrib.sessions.backends.file"

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        # The engine remembers the folder in the class, so the setting would be read once only.
        patch = mock.patch(f"{self.engine}.SessionStore._storage_path", folder.name, create=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_an_expired_file_is_replaced(self) -> None:
        write(message(), room="old", other=1)
        with later(100 * 86400):
            self.assertEqual(read(message()), {})
        write(message(), room="new")
        self.assertEqual(read(message()), {"room": "new"})


class ForgettingTests(SessionTestCase):
    def test_deletes_the_row(self) -> None:
        write(message(), room="a")
        forget_channel_session(REPLY)
        self.assertEqual(Session.objects.count(), 0)

    def test_leaves_the_sessions_of_other_sockets_and_of_browsers_alone(self) -> None:
        browser_session(a=1)
        write(message(), room="a")
        write(message(reply_channel="websocket.send.abc!2"), room="b")
        forget_channel_session(REPLY)
        self.assertEqual(Session.objects.count(), 2)

    def test_a_missing_table_is_one_line_with_the_cure(self) -> None:
        for number in range(3):
            write(message(reply_channel=f"reply{number}"), room="a")
        missing = OperationalError("no such table: django_session")
        with (
            mock.patch.object(sessions, "_not_deleted", ThrottledLog(lambda: 0.0, sessions.logger.error)),
            mock.patch(f"{DB}.SessionStore.delete", side_effect=missing),
            self.assertLogs("channelserver.sessions", "ERROR") as logs,
        ):
            for number in range(3):
                forget_channel_session(f"reply{number}")
        (line,) = logs.output
        self.assertIn("no such table: django_session; run manage.py migrate", line)
        self.assertNotIn("Traceback", line)

    def test_never_raises_but_logs(self) -> None:
        write(message(), room="a")
        with (
            mock.patch(f"{DB}.SessionStore.delete", side_effect=ZeroDivisionError),
            self.assertLogs("channelserver.sessions", "ERROR") as logs,
        ):
            forget_channel_session(REPLY)
        self.assertIn(REPLY, logs.output[0])

    def test_the_process_that_has_the_connection_is_told_at_the_commit(self) -> None:
        """Of each save, also of one without decorator; of one that is rolled back not."""
        layer = InMemoryChannelLayer()
        told: list[str] = []
        with (
            mock.patch.object(InMemoryChannelLayer, "session_stored", lambda _, channel: told.append(channel)),
            mock.patch.object(sessions, "_served_layer", lambda: layer),
        ):
            read(message())
            self.assertEqual(told, [])
            with self.captureOnCommitCallbacks(execute=True):
                write(message(), room="a")
                self.assertEqual(told, [])
            session = session_for_reply_channel("websocket.send.abc!2")
            session["a"] = 1
            with self.captureOnCommitCallbacks(execute=True):
                session.save()
        self.assertEqual(told, [REPLY, "websocket.send.abc!2"])

    def test_a_process_without_a_server_saves_all_the_same(self) -> None:
        with mock.patch.object(InMemoryChannelLayer, "session_stored", side_effect=NoServerError):
            with self.captureOnCommitCallbacks(execute=True):
                write(message(), room="a")
        self.assertEqual(read(message()), {"room": "a"})


@http_session
def http_values(message: Message) -> Any:
    """A consumer that returns what is in its HTTP session, or None if there is none."""
    return None if message.http_session is None else dict(message.http_session.items())


class HttpSessionTests(SessionTestCase):
    def test_is_found_by_the_cookie(self) -> None:
        self.assertEqual(http_values(connect(browser_session(a=1).session_key)), {"a": 1})

    @override_settings(SESSION_COOKIE_NAME="other")
    def test_the_cookie_has_the_name_in_the_settings(self) -> None:
        self.assertIsNone(http_values(connect(browser_session(a=1).session_key)))

    def test_is_found_by_the_session_key_in_the_url(self) -> None:
        key = browser_session(a=1).session_key
        self.assertEqual(http_values(connect(query_string=f"x=y&session_key={key}".encode())), {"a": 1})

    def test_the_key_in_the_url_beats_the_cookie(self) -> None:
        query_string = f"session_key={browser_session(a=1).session_key}".encode()
        self.assertEqual(http_values(connect(browser_session(a=2).session_key, query_string)), {"a": 1})

    def test_an_empty_key_in_the_url_does_not(self) -> None:
        self.assertEqual(http_values(connect(browser_session(a=2).session_key, b"session_key=")), {"a": 2})

    def test_works_for_http_requests_and_leaves_their_body_alone(self) -> None:
        one = connect(browser_session(a=1).session_key, method="POST", body=b"abc", body_channel="nowhere?")
        self.assertEqual(http_values(Message(one.content, "http.request", LAYER)), {"a": 1})
        self.assertEqual(one.content["body"], b"abc")

    def test_takes_headers_as_dict(self) -> None:
        cookie = f"{COOKIE}={browser_session(a=1).session_key}".encode()
        self.assertEqual(http_values(message(path="/", method="GET", headers={"cookie": cookie})), {"a": 1})

    def test_is_none_without_cookie(self) -> None:
        self.assertIsNone(http_values(connect()))

    def test_is_none_on_later_messages_of_a_socket(self) -> None:
        self.assertIsNone(http_values(message("websocket.receive", path="/chat/", text="a", order=1)))
        self.assertIsNone(http_values(message("websocket.disconnect", path="/chat/", code=1000, order=2)))

    def test_later_messages_of_a_socket_are_not_even_parsed(self) -> None:
        with mock.patch.object(sessions, "AsgiRequest", side_effect=AssertionError):
            self.assertIsNone(http_values(message("websocket.receive", path="/chat/", text="a", order=1)))

    def test_is_none_for_keys_that_can_be_none(self) -> None:
        with self.assertNumQueries(0):
            for key in ("", "short", "a" * 7):
                self.assertIsNone(http_values(connect(key)), key)
            for key in (b"aaaaaaaa%00", b"aaaaaaaa%0d%0a"):
                self.assertIsNone(http_values(connect(query_string=b"session_key=" + key)), key)

    def test_is_empty_for_an_unknown_key(self) -> None:
        self.assertEqual(http_values(connect("k" * 32)), {})

    def test_costs_nothing_if_not_used(self) -> None:
        one = connect(browser_session(a=1).session_key)
        with self.assertNumQueries(0):
            http_session(lambda message: None)(one)

    def test_a_message_that_is_not_from_http_is_refused(self) -> None:
        with self.assertRaises(ValueError) as caught:
            http_values(message("my-channel"))
        for word in ("path", "my-channel"):
            self.assertIn(word, str(caught.exception))

    def test_a_message_that_cannot_be_read_is_refused(self) -> None:
        with self.assertRaises(ValueError) as caught:
            http_values(message("my-channel", path=7, headers=[[b"cookie", b"a=b"]]))
        self.assertIn("my-channel", str(caught.exception))

    def test_the_message_is_not_changed(self) -> None:
        one = connect(browser_session(a=1).session_key)
        before = dict(one.content)
        http_values(one)
        self.assertEqual(one.content, before)

    def test_is_saved_if_modified(self) -> None:
        stored = browser_session(a=1)

        @http_session
        def consumer(message: Message) -> str:
            message.http_session["a"] = 2
            return "result"

        self.assertEqual(consumer(connect(stored.session_key)), "result")
        self.assertEqual(type(stored)(stored.session_key)["a"], 2)

    def test_is_not_saved_if_not_modified(self) -> None:
        one = connect(browser_session(a=1).session_key)
        with self.assertNumQueries(1):
            http_values(one)

    def test_is_not_saved_if_the_consumer_raised(self) -> None:
        stored = browser_session(a=1)

        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 2
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            consumer(connect(stored.session_key))
        self.assertEqual(type(stored)(stored.session_key)["a"], 1)

    def test_may_be_nested_and_is_saved_once(self) -> None:
        stored = browser_session(a=1)

        @http_session
        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 2

        with mock.patch(f"{DB}.SessionStore.save", autospec=True) as save:
            consumer(connect(stored.session_key))
        self.assertEqual(save.call_count, 1)

    def test_works_on_methods(self) -> None:
        class Consumer:
            @http_session
            def connect(self, message: Message) -> Any:
                return message.http_session["a"]

        self.assertEqual(Consumer().connect(connect(browser_session(a=1).session_key)), 1)

    def test_a_session_deleted_meanwhile_is_not_brought_back(self) -> None:
        stored = browser_session(a=1)

        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 2
            stored.delete()

        with self.assertRaises(SessionInterrupted):
            consumer(connect(stored.session_key))
        self.assertEqual(Session.objects.count(), 0)

    def test_a_session_deleted_by_the_consumer_is_not_brought_back_either(self) -> None:
        stored = browser_session(a=1)

        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 2
            message.http_session.delete()

        consumer(connect(stored.session_key))
        self.assertEqual(Session.objects.count(), 0)

    @override_settings(CHANNEL_SESSION_ENGINE="django.contrib.sessions.backends.cache")
    def test_channel_session_engine_does_not_matter(self) -> None:
        self.assertEqual(http_values(connect(browser_session(a=1).session_key)), {"a": 1})

    def test_forgetting_the_channel_session_leaves_it_alone(self) -> None:
        stored = browser_session(a=1)
        http_values(connect(stored.session_key))
        forget_channel_session(REPLY)
        self.assertTrue(stored.exists(stored.session_key))


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
class SignedCookieTests(SessionTestCase):
    engine = "django.contrib.sessions.backends.signed_cookies"

    def test_the_browsers_session_can_be_read(self) -> None:
        with self.assertNumQueries(0):
            self.assertEqual(http_values(connect(browser_session(self.engine, a=1).session_key)), {"a": 1})

    def test_a_forged_one_is_empty(self) -> None:
        self.assertEqual(http_values(connect("a" * 40)), {})

    def test_changes_are_lost_with_a_warning(self) -> None:
        @http_session
        def consumer(message: Message) -> None:
            message.http_session["a"] = 2

        with self.assertLogs("channelserver.sessions", "WARNING"):
            consumer(connect(browser_session(self.engine, a=1).session_key))


@channel_and_http_session
def both(message: Message, *args: Any, **values: Any) -> Any:
    """A consumer that stores values in its HTTP session and returns what is in it."""
    if message.http_session is None:
        return None
    message.http_session.update(values)
    return dict(message.http_session.items())


class ChannelAndHttpSessionTests(SessionTestCase):
    def test_the_http_session_is_there_on_later_messages(self) -> None:
        stored = browser_session(a=1)
        self.assertEqual(both(connect(stored.session_key)), {"a": 1})
        later = message(path="/chat/", text="a", order=1)
        self.assertEqual(both(later), {"a": 1})
        self.assertEqual(later.http_session.session_key, stored.session_key)

    def test_the_key_is_kept_under_the_name_of_the_cookie(self) -> None:
        stored = browser_session(a=1)
        one = connect(stored.session_key)
        both(one)
        self.assertEqual(one.channel_session[COOKIE], stored.session_key)
        self.assertEqual(read(message()), {COOKIE: stored.session_key})

    def test_the_http_session_is_saved_on_later_messages(self) -> None:
        stored = browser_session(a=1)
        both(connect(stored.session_key))
        both(message(path="/chat/", text="a", order=1), b=2)
        self.assertEqual(type(stored)(stored.session_key)["b"], 2)

    def test_if_the_consumer_raised_the_channel_session_is_saved_and_the_http_session_is_not(self) -> None:
        stored = browser_session(a=1)

        @channel_and_http_session
        def consumer(message: Message) -> None:
            message.channel_session["a"] = message.http_session["a"] = 2
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            consumer(connect(stored.session_key))
        self.assertEqual(read(message())["a"], 2)
        self.assertEqual(type(stored)(stored.session_key)["a"], 1)

    def test_without_cookie_there_is_no_http_session(self) -> None:
        one = connect()
        self.assertIsNone(both(one))
        self.assertEqual(dict(one.channel_session.items()), {})
        self.assertIsNone(both(message(path="/chat/", text="a", order=1)))

    def test_may_be_nested_without_more_queries(self) -> None:
        nested = channel_and_http_session(channel_and_http_session(lambda message: dict(message.http_session.items())))
        stored = browser_session(a=1)
        self.assertEqual(nested(connect(stored.session_key)), {"a": 1})
        with self.assertNumQueries(2):  # channel session, HTTP session
            self.assertEqual(nested(message(path="/chat/", text="a", order=1)), {"a": 1})

    def test_after_a_logout_it_is_empty(self) -> None:
        stored = browser_session(a=1)
        both(connect(stored.session_key))
        stored.flush()
        self.assertEqual(both(message(path="/chat/", text="a", order=1), b=2), {"b": 2})
        self.assertEqual(Session.objects.count(), 1)  # the channel session

    def test_works_on_methods(self) -> None:
        class Consumer:
            @channel_and_http_session
            def connect(self, message: Message) -> Any:
                return message.http_session["a"]

        self.assertEqual(Consumer().connect(connect(browser_session(a=1).session_key)), 1)

    def test_keeps_the_name(self) -> None:
        self.assertEqual(both.__name__, "both")


class EnforceOrderingTests(SessionTestCase):
    def test_gives_the_channel_session_in_every_form(self) -> None:
        def consumer(message: Message, **kwargs: Any) -> Any:
            """Docstring."""
            message.channel_session["number"] = message.channel_session.get("number", 0) + 1
            return message.channel_session["number"], kwargs

        forms = (
            enforce_ordering(consumer),
            enforce_ordering()(consumer),
            enforce_ordering(slight=True)(consumer),
            enforce_ordering(slight=False)(consumer),
            enforce_ordering(consumer, slight=True),
        )
        for number, decorated in enumerate(forms, 1):
            self.assertEqual(decorated(message(order=number), room="a"), (number, {"room": "a"}))
            self.assertEqual(decorated.__name__, "consumer")
            self.assertEqual(decorated.__doc__, "Docstring.")

    def test_needs_an_order(self) -> None:
        consumer = enforce_ordering(lambda message: self.fail("was called"))
        for content in ({}, {"order": None}, {"order": "1"}, {"order": True}):
            with self.assertRaises(ValueError) as caught:
                consumer(message("my-channel", **content))
            for word in ("order", "my-channel"):
                self.assertIn(word, str(caught.exception))

    def test_needs_a_reply_channel(self) -> None:
        with self.assertRaises(ValueError) as caught:
            enforce_ordering(lambda message: None)(message(reply_channel=None, order=1))
        self.assertIn("reply_channel", str(caught.exception))

    def test_costs_nothing(self) -> None:
        with self.assertNumQueries(0):
            enforce_ordering(lambda message: None)(message(order=1))

    def test_a_connect_consumer_without_it_does_not_stall_the_others(self) -> None:
        seen = []
        consumer = enforce_ordering(lambda message: seen.append(message["order"]))
        for order in range(1, 6):
            consumer(message(order=order))
        self.assertEqual(seen, [1, 2, 3, 4, 5])

    def test_a_consumer_that_raised_does_not_stall_the_others(self) -> None:
        seen = []

        @enforce_ordering
        def consumer(message: Message) -> None:
            seen.append(message["order"])
            if message["order"] == 1:
                raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            consumer(message(order=1))
        consumer(message(order=2))
        self.assertEqual(seen, [1, 2])

    def test_works_on_methods_and_with_other_decorators(self) -> None:
        class Consumer:
            @enforce_ordering(slight=True)
            @channel_session
            def receive(self, message: Message) -> None:
                message.channel_session["room"] = "a"

        Consumer().receive(message(order=1))
        self.assertEqual(read(message()), {"room": "a"})


class CustomEngineTests(SessionTestCase):
    def test_an_engine_that_does_not_report_missing_sessions_works(self) -> None:
        class SessionStore(import_module(DB).SessionStore):
            """Loads an empty session, and says nothing."""

            def load(self) -> dict[str, Any]:
                session = Session.objects.filter(session_key=self.session_key).first()
                return {} if session is None else self.decode(session.session_data)

        with mock.patch(f"{DB}.SessionStore", SessionStore):
            write(message(), room="a")
            write(message(), number=1)
            self.assertEqual(read(message()), {"room": "a", "number": 1})
            # The class's name is part of the signature, and the engine's own class must be able to read it.
            self.assertEqual(SessionStore(session_for_reply_channel(REPLY).session_key)["room"], "a")

    def test_an_engine_that_creates_missing_sessions_when_loading_works(self) -> None:
        class SessionStore(import_module(DB).SessionStore):
            def load(self) -> dict[str, Any]:
                session = Session.objects.filter(session_key=self.session_key).first()
                if session is None:
                    self.create()
                    return {}
                return self.decode(session.session_data)

        with mock.patch(f"{DB}.SessionStore", SessionStore):
            write(message(), room="a")
            self.assertEqual(read(message()), {"room": "a"})

    def test_an_engine_of_another_kind(self) -> None:
        """One that stores by itself, and tells nothing of what is missing but when it saves."""
        rows: dict[str, str] = {}
        saves = []

        class SessionStore(SessionBase):
            def load(self) -> dict[str, Any]:
                return dict(self.decode(rows[self.session_key])) if self.session_key in rows else {}

            def save(self, must_create: bool = False) -> None:
                saves.append(must_create)
                if must_create is (self.session_key in rows):
                    raise CreateError if must_create else UpdateError
                rows[self.session_key] = self.encode(self._get_session(no_load=must_create))

        with mock.patch(f"{DB}.SessionStore", SessionStore):
            write(message(), room="a")
            self.assertEqual(saves, [False, True])
            first, second = session_for_reply_channel(REPLY), session_for_reply_channel(REPLY)
            first["a"] = second["b"] = 1
            first.save()
            second.save()
            self.assertEqual(read(message()), {"room": "a", "a": 1, "b": 1})
