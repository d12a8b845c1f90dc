"""What Django does before and after each request, at a fraction of the cost; installs all of our changes to Django.

* Django's receivers of ``request_started`` and ``request_finished`` look up the thread's database connections three
  times for each request, and its caches once; each look-up asks asyncio for a running loop, and the answer is an
  exception. Here each thread remembers its connections when it makes them.
* As long as only Django's own receivers are connected to these two signals, they are run without looking them up.
* Django keeps the URLconf and the script prefix of a request in an ``asgiref.local.Local``, which copies a dictionary
  under a lock at each change. Here they are in context variables, which is what such a ``Local`` is made of.

Saves 115 000 instructions of a small request for the connections, and 63 000 for the rest; with :mod:`.django_fast`,
54 % of the instructions of a request without middleware, 42 % with the default middleware. See "What we change in
Django" in the documentation.

Any thread; owns, for each thread, the list of its connections, its URLconf and its script prefix.
"""

from __future__ import annotations

import asyncio
import logging
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
from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import connections
from django.dispatch import Signal
from django.urls import base as urls
from django.utils.module_loading import import_string

from channelserver.workers import django_fast, fingerprints

logger = logging.getLogger("channelserver.workers")


class _Thread(threading.local):
    #: Weak references; None until the thread asks for the first time. A project may delete a connection.
    connections: list[ref[Any]] | None = None
    #: Coroutines whose synchronous parts run in this thread. One of them may be in the middle of a query's results.
    guests = 0


_thread = _Thread()
#: The shortcuts that are off; None before :func:`install`.
_off: set[str] | None = None


def install() -> list[str]:
    """Replace functions of Django by those of this module and of :mod:`.django_fast`, for this process.

    Works in any process that serves a site, with any server; call it after ``django.setup()``. Not for processes that
    run tests: Django's test client disconnects the original receivers during its requests. A receiver that the project
    has disconnected stays so. Further calls change nothing.

    :return: the names of the shortcuts that are left out, because their part of Django is not the known one (see
        :mod:`.fingerprints`).
    """
    global _off
    if _off is None:
        _off = fingerprints.unknown()
        django_fast.install(_off)
        _install(_off)
    return sorted(_off)


def _install(off: set[str]) -> None:
    # With this flag (Python 3.14) a thread starts with the context of its creator, so with values that are not its own.
    if "URLconf and script prefix" not in off and not getattr(sys.flags, "thread_inherit_context", False):
        for name in ("_urlconfs", "_prefixes"):
            if isinstance(getattr(urls, name, None), Local):
                setattr(urls, name, _Value(getattr(urls, name)))
    if "caches" not in off and not _caches_need_closing():
        signals.request_finished.disconnect(close_caches)
    if "database connections" in off:
        off.add("signals")
        return
    _remember_connections()
    _take_over(
        signals.request_started,
        {django.db.reset_queries: _reset_queries, django.db.close_old_connections: close_old_connections},
        _request_started if "signals" not in off else None,
    )
    _take_over(
        signals.request_finished,
        {django.db.close_old_connections: close_old_connections, reset_urlconf: reset_urlconf},
        _request_finished if "signals" not in off else None,
    )


def _remember_connections() -> None:
    make = connections.create_connection

    def create_connection(alias: str) -> Any:
        connection = make(alias)
        if _thread.connections is not None and not _has_loop():
            _thread.connections = [known for known in (*_thread.connections, ref(connection)) if known() is not None]
        return connection

    connections.create_connection = create_connection  # type: ignore[method-assign]


def _take_over(
    signal: Signal,
    replacements: dict[Callable[..., object], Callable[..., object]],
    together: Callable[[], object] | None,
) -> None:
    """Connect our functions instead of Django's; if they are the only receivers, make sending the signal cheap.

    :param replacements: ours for each of Django's.
    :param together: does what all of ours do; None: leave sending as it is.
    """
    ours = []
    for original, replacement in replacements.items():
        if signal.disconnect(original):
            signal.connect(replacement)
            ours.append(signal.receivers.pop())
    # Django's come first: the project's receivers can rely on what they do.
    signal.receivers[:0] = ours
    if together is not None and len(signal.receivers) == len(ours) == len(replacements) and type(signal) is Signal:
        signal.__class__ = _Signal
        signal.alone = ours  # type: ignore[attr-defined]
        signal.together = together  # type: ignore[attr-defined]
        signal.results = [(function, None) for function in replacements.values()]  # type: ignore[attr-defined]


class _Signal(Signal):
    """A signal that is nearly always sent to the same receivers."""

    #: What ``receivers`` is as long as nobody else is connected; what these do together, and their results.
    alone: list[Any]
    together: Callable[[], object]
    results: list[tuple[Any, Any]]

    def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if self.receivers == self.alone:
            self.together()
            return self.results.copy()
        return super().send(sender, **named)


_NOTHING: Any = object()


class _Value:
    """An ``asgiref.local.Local`` with a single attribute, ``value``, in a context variable.

    :param replaced: has the value of the calling thread.
    """

    __slots__ = ("_variable",)

    def __init__(self, replaced: Local) -> None:
        self._variable: ContextVar[Any] = ContextVar("channelserver.workers.django_cleanup")
        if hasattr(replaced, "value"):
            self.value = replaced.value

    @property
    def value(self) -> Any:
        """The value of this thread, or of this task of an event loop and of the threads it calls.

        :raises AttributeError: it is not set, or was deleted.
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
        """Delete the value, if it is set."""
        self._variable.set(_NOTHING)


def installed() -> bool:
    """Whether :meth:`install` was called in this process."""
    return _off is not None


def only_django_listens() -> bool:
    """Whether only Django's receivers, as replaced by :func:`install`, listen to the signals around a request."""
    started, finished = signals.request_started, signals.request_finished
    return (
        type(started) is type(finished) is _Signal
        and started.receivers == started.alone
        and finished.receivers == finished.alone
    )


def _request_started() -> None:
    if _thread.guests:
        close_old_connections()
        return
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


class _CachesOfThread(threading.local):
    """Where ``django.core.cache.caches`` keeps the caches of a thread: longer than for one message, whose context ends.

    In a task of an event loop they are the task's, as with Django.
    """

    def __init__(self, of_task: Local) -> None:
        self.__dict__["of_task"] = of_task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of_task, name)  # raises AttributeError where there is none

    def __setattr__(self, name: str, value: Any) -> None:
        if _has_loop():
            setattr(self.of_task, name, value)
        else:
            self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            del self.__dict__[name]
        else:
            delattr(self.of_task, name)


def keep_caches() -> None:
    """Have the caches of a worker thread outlive a message, although each message has a context of its own."""
    handler: Any = caches
    if isinstance(handler._connections, Local):
        handler._connections = _CachesOfThread(handler._connections)


def close_old_connections(**_: Any) -> None:
    """Close the thread's database connections that are broken or too old (Django's function of this name).

    While coroutines have their synchronous parts in this thread, only the broken ones.
    """
    if _thread.guests:
        for made in connections.all(initialized_only=True):
            _close_if_broken(made)
        return
    if _off is None or "database connections" in _off:
        django.db.close_old_connections()
        return
    mine = _thread.connections  # without a call, as this is called twice for each message
    for known in _connections() if mine is None else mine:
        connection = known()
        if connection is not None:
            connection.close_if_unusable_or_obsolete()


def _close_if_broken(connection: Any) -> None:
    if connection.connection is not None and not connection.in_atomic_block and connection.errors_occurred:
        if connection.is_usable():
            connection.errors_occurred = False
        else:
            connection.close()


def guest_enters() -> None:
    """A coroutine's synchronous parts are going to run in the calling thread."""
    if _off is None or "database connections" in _off:  # else done
        for signal in (signals.request_started, signals.request_finished):
            if signal.disconnect(django.db.close_old_connections):
                signal.connect(close_old_connections)
    if not _thread.guests:
        _try_to_close_old_connections()
    _thread.guests += 1


def guest_leaves() -> None:
    """The coroutine has ended."""
    _thread.guests -= 1
    if not _thread.guests:
        _try_to_close_old_connections()


def _try_to_close_old_connections() -> None:
    try:
        close_old_connections()
    except Exception:
        logger.exception("cannot close old database connections")


def _reset_queries(**_: Any) -> None:
    """Clear the queries that Django logs under ``DEBUG`` (Django: ``django.db.reset_queries``)."""
    for known in _connections():
        connection = known()
        if connection is not None:
            connection.queries_log.clear()


def _connections() -> list[ref[Any]]:
    """Return the database connections of this thread."""
    known = _thread.connections
    if known is None:
        known = [ref(connection) for connection in connections.all(initialized_only=True)]
        if not _has_loop():
            _thread.connections = known
    return known


def _has_loop() -> bool:
    """Whether an event loop runs in this thread: there, connections belong to a task, not to the thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _caches_need_closing() -> bool:
    """Whether one of the configured caches has anything to close. Most of Django's own backends have not."""
    try:
        backends = [import_string(configured["BACKEND"]) for configured in settings.CACHES.values()]
        return any(backend.close is not BaseCache.close for backend in backends)
    except Exception:  # whoever uses that cache gets the error
        return True
