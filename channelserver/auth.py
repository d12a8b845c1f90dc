"""Users for consumers (Channels 1: ``channels.auth``).

The decorators run in worker threads, inside the consumer; the module owns nothing. ``message.user`` is lazy, like
Django's ``request.user``: no query unless it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.apps import apps
from django.contrib import auth
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.utils.functional import SimpleLazyObject

from channelserver.sessions import (
    AROUND_BOTH_SESSIONS,
    around_channel_session,
    around_http_session,
    decorate,
    is_channel_session,
)

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

P = ParamSpec("P")
R = TypeVar("R")

_USER_KEYS = (BACKEND_SESSION_KEY, SESSION_KEY, HASH_SESSION_KEY)


def transfer_user(from_session: SessionBase | None, to_session: SessionBase) -> None:
    """Log the user of one session in to another session as well.

    :param from_session: None, or one without a user: nothing happens.
    :param to_session: usually ``message.channel_session``.
    """
    if from_session is None:
        return
    values = {key: from_session.get(key) for key in _USER_KEYS}
    if None in values.values():
        return
    for key, value in values.items():
        # An equal value is not assigned, so that a session already up to date is not saved for nothing.
        if to_session.get(key) != value:
            to_session[key] = value


def channel_session_user(func: Callable[P, R]) -> Callable[P, R]:
    """Give the consumer ``message.channel_session``, and the user logged in to it as ``message.user``.

    Somebody must have put the user there: :func:`channel_session_user_from_http` on the connect consumer, or
    :func:`transfer_user`. Without, ``message.user`` is an ``AnonymousUser``. A logout in the browser does not reach the
    channel session. After a change of the password ``message.user`` is an ``AnonymousUser``: the login is removed from
    the channel session, all else in it stays.

    :param func: a consumer, as for :func:`channelserver.sessions.channel_session`; the same errors.
    """

    return decorate(func, around_channel_session, functools.partial(_around_user, "channel_session"))


def http_session_user(func: Callable[P, R]) -> Callable[P, R]:
    """Give the consumer ``message.http_session``, and the user logged in to it as ``message.user``.

    Only ``http.request`` and ``websocket.connect`` messages have that session; with others the user is an
    ``AnonymousUser``.

    :param func: a consumer, as for :func:`channelserver.sessions.http_session`; the same errors.
    """

    return decorate(func, around_http_session, functools.partial(_around_user, "http_session"))


@contextmanager
def _around_user(session: str, message: Any) -> Iterator[None]:
    message.user = _user_of(getattr(message, session))
    yield


def channel_session_user_from_http(func: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`channel_session_user`, for connect consumers: first take the user over from the HTTP session.

    Later consumers of the socket use :func:`channel_session_user`.

    :param func: a consumer, as for :func:`channelserver.sessions.channel_session`; the same errors.
    """
    return decorate(func, around_http_session, around_channel_session, _around_user_from_http)


def channel_and_http_session_user_from_http(func: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`channel_session_user_from_http`, with ``message.http_session`` on a socket's later messages as well.

    There the user is read from the HTTP session with each message: after a logout in the browser, or a change of the
    password, ``message.user`` is an ``AnonymousUser``. Not so with sessions in signed cookies, which cannot be revoked.
    The channel session keeps the user, for consumers with :func:`channel_session_user`.

    :param func: a consumer, as for :func:`channelserver.sessions.channel_and_http_session`; the same errors.
    """
    return decorate(func, *AROUND_BOTH_SESSIONS, _around_user_from_http)


@contextmanager
def _around_user_from_http(message: Any) -> Iterator[None]:
    transfer_user(message.http_session, message.channel_session)
    # A socket's later messages carry no HTTP session, but the channel session remembers the user.
    message.user = _user_of(message.channel_session if message.http_session is None else message.http_session)
    yield


def anonymous_user() -> Any:
    """Return an ``AnonymousUser``; None if ``django.contrib.auth`` is not installed."""
    if not apps.is_installed("django.contrib.auth"):
        return None
    # Not at the top: models can be imported only once the applications are loaded.
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def _user_of(session: SessionBase | None) -> Any:
    if session is None:
        return anonymous_user()
    # All that get_user() asks of a request is its session.
    request: Any = SimpleNamespace(session=_LoginOf(session))
    return SimpleLazyObject(functools.partial(auth.get_user, request))


class _LoginOf:
    """A session as Django's ``get_user()`` sees it, which may end the login, but not the session.

    If the login is no longer valid (the password has changed), ``get_user()`` flushes the session. For a request that
    comes before anything else happens. Here it would come in the middle of a consumer, and take what the application
    keeps for the socket; and the browser's session is for Django's next request to end.
    """

    def __init__(self, session: SessionBase) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._session[key] = value

    def flush(self) -> None:
        """End the login in a channel session."""
        if is_channel_session(self._session):
            for key in _USER_KEYS:
                self._session.pop(key, None)
