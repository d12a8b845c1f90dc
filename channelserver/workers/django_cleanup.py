"""What Django does before and after each request, at a fraction of the cost.

* Django's own receivers of ``request_started`` and ``request_finished`` look up the database connections of the thread
  three times for each request, and its caches once. To find the connections, asyncio is asked again and again for a
  running loop, and the answer is an exception. Here a thread remembers its connections when it makes them.
* As long as only Django listens to these two signals, what they are for is done without looking up who listens.
* Where Django keeps the URLconf and the script prefix of a request, in an ``asgiref.local.Local``, each change copies a
  dictionary under a lock. Here they are in context variables, which is what such a ``Local`` is made of.

All together was more than a quarter of what a small request costs.

Any thread; owns, for each thread, the list of its connections, its URLconf and its script prefix.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import ref

import django.db
from asgiref.local import Local
from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import connections
from django.dispatch import Signal
from django.urls import base as urls
from django.utils.module_loading import import_string

from channelserver.workers import django_fast


class _Thread(threading.local):
    #: Weak references; None until the thread has been asked for the first time. A project may delete a connection.
    connections: list[ref[Any]] | None = None


_thread = _Thread()
_installed = False


def install() -> None:
    """Put the functions of this module, and those of :mod:`channelserver.workers.django_fast`, in the place of
    Django's, for this process; the second time, do nothing.

    For processes that serve a site. One that runs tests must not: Django's test client takes the originals away for the
    time of its requests.

    A receiver that the project has disconnected stays so.
    """
    global _installed
    if _installed:
        return
    _installed = True
    django_fast.install()
    make = connections.create_connection

    def create_connection(alias: str) -> Any:
        connection = make(alias)
        if _thread.connections is not None and not _has_loop():
            _thread.connections = [known for known in (*_thread.connections, ref(connection)) if known() is not None]
        return connection

    connections.create_connection = create_connection  # type: ignore[method-assign]
    # With this flag (Python 3.14) threads begin with the context of who starts them, and so with a value not their own.
    if not getattr(sys.flags, "thread_inherit_context", False):
        for name in ("_urlconfs", "_prefixes"):
            if isinstance(getattr(urls, name, None), Local):
                setattr(urls, name, _Value(getattr(urls, name)))
    if not _caches_need_closing():
        signals.request_finished.disconnect(close_caches)
    _take_over(
        signals.request_started,
        {django.db.reset_queries: _reset_queries, django.db.close_old_connections: close_old_connections},
        _request_started,
    )
    _take_over(
        signals.request_finished,
        {django.db.close_old_connections: close_old_connections, reset_urlconf: reset_urlconf},
        _request_finished,
    )


def _take_over(
    signal: Signal, replacements: dict[Callable[..., object], Callable[..., object]], together: Callable[[], object]
) -> None:
    """Connect our functions instead of Django's; if those are all there are, see to it that the signal is sent without
    much ado.

    :param replacements: ours for each of Django's.
    :param together: does what all of ours do.
    """
    ours = []
    for original, replacement in replacements.items():
        if signal.disconnect(original):
            signal.connect(replacement)
            ours.append(signal.receivers.pop())
    # Django's come first: the project's receivers can rely on what they do.
    signal.receivers[:0] = ours
    if len(signal.receivers) == len(ours) == len(replacements) and type(signal) is Signal:
        signal.__class__ = _Signal
        signal.alone = ours  # type: ignore[attr-defined]
        signal.together = together  # type: ignore[attr-defined]
        signal.results = [(function, None) for function in replacements.values()]  # type: ignore[attr-defined]


class _Signal(Signal):
    """A signal that is nearly always sent to the same receivers."""

    #: What ``receivers`` is as long as nobody else is connected; what these do, and what is told of it.
    alone: list[Any]
    together: Callable[[], object]
    results: list[tuple[Any, Any]]

    def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        """See Django's ``Signal``."""
        if self.receivers == self.alone:
            self.together()
            return self.results.copy()
        return super().send(sender, **named)


_NOTHING: Any = object()


class _Value:
    """What Django uses of an ``asgiref.local.Local``: one attribute, ``value``.

    :param replaced: has the value of the calling thread.
    """

    __slots__ = ("_variable",)

    def __init__(self, replaced: Local) -> None:
        self._variable: ContextVar[Any] = ContextVar("channelserver.workers.django_cleanup")
        if hasattr(replaced, "value"):
            self.value = replaced.value

    @property
    def value(self) -> Any:
        """What was set in this thread, or in this task of an event loop and what it hands on to threads.

        :raises AttributeError: nothing was, or it was deleted.
        """
        value = self._variable.get(_NOTHING)
        if value is _NOTHING:
            raise AttributeError("value")
        return value

    @value.setter
    def value(self, value: Any) -> None:
        self._variable.set(value)

    @value.deleter
    def value(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Delete the value, if there is one."""
        self._variable.set(_NOTHING)


def _request_started() -> None:
    for known in _connections():
        connection = known()
        if connection is not None:
            connection.queries_log.clear()
            connection.close_if_unusable_or_obsolete()


def _request_finished() -> None:
    close_old_connections()
    urlconfs = getattr(urls, "_urlconfs", None)
    if type(urlconfs) is _Value:
        urlconfs.forget()
    else:
        reset_urlconf(None)


def close_old_connections(**_: Any) -> None:
    """Close the thread's database connections which are broken or too old (Django's function of this name)."""
    if not _installed:
        django.db.close_old_connections()
        return
    for known in _connections():
        connection = known()
        if connection is not None:
            connection.close_if_unusable_or_obsolete()


def _reset_queries(**_: Any) -> None:
    """Forget the queries which Django keeps under ``DEBUG`` (Django: ``django.db.reset_queries``)."""
    for known in _connections():
        connection = known()
        if connection is not None:
            connection.queries_log.clear()


def _connections() -> list[ref[Any]]:
    """Return the connections of this thread."""
    known = _thread.connections
    if known is None:
        known = [ref(connection) for connection in connections.all(initialized_only=True)]
        if not _has_loop():
            _thread.connections = known
    return known


def _has_loop() -> bool:
    """Whether an event loop runs in this thread. Connections belong to a task there, and not to the thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _caches_need_closing() -> bool:
    """Whether closing does anything to one of the configured caches. In most of Django's own backends it does not."""
    try:
        backends = [import_string(configured["BACKEND"]) for configured in settings.CACHES.values()]
        return any(backend.close is not BaseCache.close for backend in backends)
    except Exception:  # will be reported to whoever uses that cache
        return True
