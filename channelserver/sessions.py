"""Sessions for consumers: one for each socket, and the browser's (Channels 1: ``channels.sessions``).

The decorators run in worker threads, inside the consumer; the module owns nothing. Each save of a channel session tells
the process that has the connection (``BaseChannelLayer.session_stored``). When the connection has closed, or if it had
closed before, that process has a worker delete the session; while it is open, a worker renews it once a day.

A session is read when it is first used and written when the consumer has ended, if something was assigned to it. As in
Django, altering a list *inside* a session goes unnoticed: assign it again, or set ``session.modified``.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.backends.file import SessionStore as FileStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookieStore
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.layers.throttled_log import ThrottledLog
from channelserver.message import Message
from channelserver.registry import InvalidChannelLayerError, channel_layers
from channelserver.session_merge import MergingStore
from channelserver.workers.request import AsgiRequest

logger = logging.getLogger("channelserver.sessions")

P = ParamSpec("P")
R = TypeVar("R")

S = TypeVar("S", bound="_PinnedStore")

#: Seconds for which a channel session is kept after it was saved or renewed, if ``SESSION_COOKIE_AGE`` is not more.
#: The server renews those of its open connections once a day; those of a server that was killed end with it.
LEASE = 7 * 86400

#: Sessions that could not be deleted: one line a minute at most.
_not_deleted = ThrottledLog(time.monotonic, logger.error)


# -- decorators --------------------------------------------------------------------------------------------------------

#: What a decorator does around a consumer, with its message.
Around = Callable[[Any], AbstractContextManager[None]]


def decorate(func: Callable[P, R], *arounds: Around) -> Callable[P, R]:
    """Return a consumer inside context managers: of a function a function, of a coroutine function one.

    Around a coroutine they run in its thread for synchronous parts (``sync_to_async``), all in one go, and what they
    give the message is loaded there, too: a coroutine must not wait for the database.

    :param func: function, or method whose first argument after ``self`` is the message.
    :param arounds: each called with the message; the outermost first.
    """
    if iscoroutinefunction(func):

        @functools.wraps(func)
        async def coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with _InThread(message_in(args), arounds):
                return await cast(Any, func)(*args, **kwargs)

        cast(Any, coroutine).uses_sessions = True
        return coroutine  # type: ignore[return-value]

    for around in reversed(arounds):
        func = _decorate_function(func, around)
    cast(Any, func).uses_sessions = True  # for the check at the start
    return func


def _decorate_function(func: Callable[P, R], around: Around) -> Callable[P, R]:
    @functools.wraps(func)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with around(message_in(args)):
            return func(*args, **kwargs)

    return inner


class _InThread:
    """Enters and leaves context managers in a thread, for a coroutine."""

    def __init__(self, message: Any, arounds: tuple[Around, ...]) -> None:
        self._message = message
        self._arounds = arounds
        self._stack = ExitStack()

    async def __aenter__(self) -> None:
        await sync_to_async(self._enter)()

    def _enter(self) -> None:
        message = self._message
        try:
            for around in self._arounds:
                self._stack.enter_context(around(message))
            for name in ("channel_session", "http_session"):
                session = getattr(message, name, None)
                if session is not None:
                    session.keys()  # loads it
            bool(getattr(message, "user", None))  # the same
        except BaseException:
            self._stack.close()
            raise

    async def __aexit__(self, *error: Any) -> Any:
        sessions = [getattr(self._message, name, None) for name in ("channel_session", "http_session")]
        if any(session is not None and session.modified for session in sessions):
            return await sync_to_async(self._stack.__exit__)(*error)
        return self._stack.__exit__(*error)  # there is nothing to save


def channel_session(func: Callable[P, R]) -> Callable[P, R]:
    """Give the consumer ``message.channel_session``, a session of the socket (or other reply channel).

    The session is saved when the consumer has ended, also when it raised, if it was modified. It ends with the socket,
    whatever ``SESSION_COOKIE_AGE`` says.
    A save writes the keys that this consumer has changed, so that consumers which run at the same time on other
    channels lose nothing. May be nested.

    :param func: a consumer: function or coroutine function, or method whose first argument after ``self`` is the
        message.
    :raises ValueError: (the consumer) there is no message among its first two arguments, or it has no reply channel,
        or sessions are kept in signed cookies, which a consumer cannot set.
    """
    return decorate(func, around_channel_session)


@contextmanager
def around_channel_session(message: Any) -> Iterator[None]:
    """What :func:`channel_session` does around a consumer."""
    if getattr(message, "channel_session", None) is None:
        if message.reply_channel is None:
            raise ValueError(
                "No reply_channel sent to consumer; @channel_session can only be used on messages containing it."
            )
        message.channel_session = session_for_reply_channel(message.reply_channel.name)
        message.channel_session.channel_layer = message.channel_layer
    session = message.channel_session
    try:
        yield
    except BaseException:
        try:
            _save(session)
        except Exception:
            # What the consumer raised matters more.
            logger.exception("cannot save the session of a consumer that raised")
        raise
    _save(session)


def http_session(func: Callable[P, R]) -> Callable[P, R]:
    """Give the consumer ``message.http_session``: the browser's session, or None if it has none.

    Its key is taken from ``?session_key=`` in the URL, else from the session cookie. (Mind that URLs end up in logs.)
    Only messages with HTTP information have it: ``http.request`` and ``websocket.connect``; on a socket's later
    messages it is None. It is saved if the consumer has ended normally and has modified it; it is never created. May be
    nested.

    :param func: a consumer, as for :func:`channel_session`.
    :raises ValueError: (the consumer) there is no message among its first two arguments, or it is not from HTTP.
    :raises SessionInterrupted: (the consumer) the session was deleted while the consumer ran; its changes are lost.
    """
    return decorate(func, around_http_session)


@contextmanager
def around_http_session(message: Any) -> Iterator[None]:
    """What :func:`http_session` does around a consumer."""
    if not hasattr(message, "http_session"):
        message.http_session = _http_session_of(message)
    yield
    # Read again: the consumer or a decorator below may have set another one.
    if message.http_session is not None:
        _save(message.http_session)


def channel_and_http_session(func: Callable[P, R]) -> Callable[P, R]:
    """Give the consumer both sessions, ``message.http_session`` on a socket's later messages as well.

    For that the connect consumer must be decorated too: the key is kept in the channel session, under
    ``SESSION_COOKIE_NAME``.

    :param func: a consumer, as for :func:`channel_session`.
    :raises ValueError: (the consumer) as for :func:`channel_session` and :func:`http_session`.
    """
    return decorate(func, *AROUND_BOTH_SESSIONS)


@contextmanager
def _around_both(message: Any) -> Iterator[None]:
    name = settings.SESSION_COOKIE_NAME
    if message.http_session is None:
        message.http_session = _http_session(message.channel_session.get(name))
    elif name not in message.channel_session:
        message.channel_session[name] = message.http_session.session_key
    yield


#: What :func:`channel_and_http_session` does around a consumer.
AROUND_BOTH_SESSIONS = around_channel_session, around_http_session, _around_both


@overload
def enforce_ordering(func: Callable[P, R], slight: bool = False) -> Callable[P, R]: ...
@overload
def enforce_ordering(func: None = None, slight: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def enforce_ordering(func: Callable[..., Any] | None = None, slight: bool = False) -> Callable[..., Any]:
    """Have the messages of a socket consumed in order: ``@enforce_ordering`` or ``@enforce_ordering(slight=True)``.

    The layers hand out a socket's messages one at a time and in order anyway, whether its consumers are decorated or
    not, also over Redis to workers on several hosts. So the decorator only checks that the message has an ``order``,
    and gives the consumer its channel session, as in Channels 1. Nothing waits, so nothing stalls: a connect consumer
    without the decorator counts as order 0, and one that raised passes the turn on.

    :param func: a consumer, as for :func:`channel_session`.
    :param slight: the connect message first, the others in any order. Nothing is gained by it here.
    :raises ValueError: (the consumer) the message has no ``order``, so it is not a socket's; or as for
        :func:`channel_session`.
    """

    def decorator(func: Callable[P, R]) -> Callable[P, R]:
        return decorate(func, _around_order, around_channel_session)

    return decorator if func is None else decorator(func)


@contextmanager
def _around_order(message: Any) -> Iterator[None]:
    order = message.get("order")
    if not isinstance(order, int) or isinstance(order, bool):
        raise ValueError(
            "No `order` value in message; @enforce_ordering can only be used on messages containing it. "
            f"The one on {message.channel_name!r} has order={order!r}"
        )
    yield


def message_in(args: tuple[object, ...]) -> Any:
    """Return the message among the first two positional arguments of a consumer: of a function, or of a method.

    :returns: a :class:`Message`; for type checkers Any, because the decorators add attributes to it.
    :raises ValueError: there is none.
    """
    for argument in args[:2]:
        if isinstance(argument, Message):
            return argument
    raise ValueError(
        "channel_session called without Message instance: a decorated consumer takes the message as its first argument "
        "(after self)"
    )


# -- stores ------------------------------------------------------------------------------------------------------------


def session_for_reply_channel(reply_channel: str) -> SessionBase:
    """Return the session of a reply channel.

    :param reply_channel: the channel's name.
    :returns: a store of the engine in ``CHANNEL_SESSION_ENGINE``, else ``SESSION_ENGINE``. Its key is derived from the
        name and never changes.
    :raises ValueError: that engine keeps sessions in signed cookies.
    :raises ImproperlyConfigured: that engine cannot be imported.
    """
    setting = "CHANNEL_SESSION_ENGINE" if getattr(settings, "CHANNEL_SESSION_ENGINE", None) else "SESSION_ENGINE"
    store_class = _store_class(_ChannelStore, setting, getattr(settings, setting))
    if issubclass(store_class, SignedCookieStore):
        raise ValueError(
            "You cannot use channels session functionality with signed cookie sessions! A consumer cannot set cookies, "
            f"so {setting} does not fit: set CHANNEL_SESSION_ENGINE to another engine, such as "
            "'django.contrib.sessions.backends.db'"
        )
    digest = hashlib.sha1(reply_channel.encode(), usedforsecurity=False).hexdigest()
    store = store_class("chn" + digest[:29])
    store.reply_channel_name = reply_channel
    return store


def is_channel_session(session: object) -> bool:
    """Whether a session is one of :func:`session_for_reply_channel`."""
    return isinstance(session, _ChannelStore)


def forget_channel_session(reply_channel_name: str) -> None:
    """Delete the session of a connection that has closed.

    For the worker. Never raises; what could not be deleted is logged, and left to ``clearsessions``.

    :param reply_channel_name: the connection's reply channel.
    """
    try:
        session_for_reply_channel(reply_channel_name).delete()
    except DatabaseError as error:
        cure = "run manage.py migrate if its table is missing; else clearsessions deletes it later"
        _not_deleted.count("cannot delete the session of a closed socket", f"{' '.join(str(error).split())}; {cure}")
    except Exception:
        logger.exception("cannot delete the session of %s", reply_channel_name)


def renew_channel_session(reply_channel_name: str) -> None:
    """Begin a new lease of the session of an open connection; for the worker.

    One that the application has given an expiry (``set_expiry``) ends then.

    :param reply_channel_name: the connection's reply channel.
    """
    session = session_for_reply_channel(reply_channel_name)
    if session.keys() and "_session_expiry" not in session:
        session.save()


class _PinnedStore(SessionBase):
    """Mixed in before an engine's store: the key never changes.

    Engines drop or replace a key (on loading an unknown one, in ``flush``, ``create``, ``cycle_key``) and leave it to
    the response to set a cookie. Consumers cannot set cookies. So here a dropped key only means that
    nothing is stored under it: `_absent`.
    """

    def __init__(self, session_key: str) -> None:
        self._pinned_key = session_key
        self._absent = False
        super().__init__(session_key)

    def _get_pinned_key(self) -> str:
        return self._pinned_key

    def _set_pinned_key(self, value: str | None) -> None:
        if not value:
            self._absent = True

    session_key = property(_get_pinned_key)
    _session_key = property(_get_pinned_key, _set_pinned_key)

    def load(self) -> dict[str, Any]:
        self._absent = False
        return super().load()

    def is_empty(self) -> bool:
        return self._absent and not getattr(self, "_session_cache", None)

    def delete(self, session_key: str | None = None) -> None:
        super().delete(session_key)
        if session_key is None or session_key == self._pinned_key:
            self._absent = True

    def create(self) -> None:
        """Begin anew, under the same key. (An engine's own would look for a free key, for ever.)"""
        self.flush()

    def cycle_key(self) -> None:
        """Keep the key: a consumer cannot send the browser a new one."""
        self.modified = True

    # The engines' asynchronous twins know nothing of the above.
    acreate = SessionBase.acreate
    adelete = SessionBase.adelete
    aload = SessionBase.aload
    asave = SessionBase.asave

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()


class _ChannelStore(MergingStore, _PinnedStore):
    """The session of a reply channel."""

    reply_channel_name: str
    #: That of the connection; None: the one that this process serves.
    channel_layer: Any = None

    def get_session_cookie_age(self) -> int:
        """Return for how many seconds what is saved is kept."""
        return max(super().get_session_cookie_age(), LEASE)

    def save(self, must_create: bool = False) -> None:
        """Store what was changed since the session was read, whether something was stored before or not.

        :raises CreateError: `must_create`, and something is stored already.
        """
        if must_create:
            super().save(must_create=True)
            self._absent = False
        else:
            self.save_merged()
        if isinstance(self, FileStore):
            # Django's clearsessions goes by the time of the file, and by SESSION_COOKIE_AGE.
            ends = time.time() + self.get_session_cookie_age() - super().get_session_cookie_age()
            os.utime(self._key_to_file(), (ends, ends))  # type: ignore[attr-defined]
        self.when_committed(self._stored)

    def _stored(self) -> None:
        """Tell the process that has the connection."""
        try:
            layer = self.channel_layer or _served_layer()
            if layer is not None:
                layer.session_stored(self.reply_channel_name)
        except Exception as error:  # there is no server, so there is no connection
            logger.debug("nobody knows that the session of %s was stored: %s", self.reply_channel_name, error)


class _HttpStore(_PinnedStore):
    """The browser's session: deleted by a flush, but never created."""

    def save(self, must_create: bool = False) -> None:
        """Store the session.

        :raises SessionInterrupted: it was deleted after it had been loaded: its user has logged out.
        """
        self.keys()  # loads, so that `_absent` is known
        if self._absent:
            return
        if isinstance(self, SignedCookieStore):
            logger.warning("a consumer's changes to a session in signed cookies are lost: it cannot set cookies")
            return
        try:
            super().save()
        except UpdateError:
            raise SessionInterrupted("the HTTP session was deleted before the consumer ended") from None


def _served_layer() -> Any:
    """Return the layer that this process serves; None: there is none."""
    alias = channel_layers.served or channel_layers.remote_alias or DEFAULT_CHANNEL_LAYER
    try:
        return channel_layers[alias].channel_layer
    except InvalidChannelLayerError:
        return None


@functools.cache
def _store_class(kind: type[S], setting: str, engine: str) -> type[S]:
    try:
        store = import_module(engine).SessionStore
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"{setting} = {engine!r} does not name a module with a SessionStore ({error}); "
            "set it to one, such as 'django.contrib.sessions.backends.db'"
        ) from error
    # The qualified name is the salt of the signature on what is stored: Django's own classes must be able to read it.
    return type(store.__name__, (kind, store), {"__qualname__": store.__qualname__})


def _http_session(key: str | None) -> SessionBase | None:
    # Django takes no key this short for one. Control characters come from hostile requests; some databases refuse
    # them with an error.
    if not key or len(key) < 8 or not key.isprintable():
        return None
    return _store_class(_HttpStore, "SESSION_ENGINE", settings.SESSION_ENGINE)(key)


_NOT_HTTP = "Cannot parse HTTP message - are you sure this is a HTTP consumer?"


def _http_session_of(message: Message) -> SessionBase | None:
    content = message.content
    if "path" not in content:
        raise ValueError(f"{_NOT_HTTP} The one on {message.channel_name!r} has no path")
    if not content.get("headers") and not content.get("query_string"):
        return None
    head = {key: value for key, value in content.items() if key not in ("body", "body_channel")}
    head.setdefault("method", "FAKE")
    try:
        request = AsgiRequest(Message(head, message.channel_name, message.channel_layer))
        key = request.GET.get("session_key") or request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    except Exception as error:
        raise ValueError(f"{_NOT_HTTP} The one on {message.channel_name!r}: {error}") from error
    return _http_session(key)


def _save(session: SessionBase) -> None:
    if session.modified and not session.is_empty():
        session.save()
        # An outer decorator need not save it again.
        session.modified = False
