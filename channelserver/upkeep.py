"""What Django does for connections and caches before and after each request, at a fraction of the cost.

Django's own receivers of ``request_started`` and ``request_finished`` look up the database connections of the thread
three times for each request, and its caches once. To find the connections, asyncio is asked again and again for a
running loop, and the answer is an exception. All together was a third of what a small request costs. Here a thread
remembers its connections when it makes them.

Any thread; owns, for each thread, the list of its connections.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from weakref import ref

import django.db
from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.cache.backends.base import BaseCache
from django.db import connections
from django.utils.module_loading import import_string


class _Thread(threading.local):
    #: Weak references; None until the thread has been asked for the first time. A project may delete a connection.
    connections: list[ref[Any]] | None = None


_thread = _Thread()
_installed = False
#: What ``request_started.receivers`` is as long as nobody else is connected.
_alone: list[Any] | None = None


def install() -> None:
    """Put the functions of this module in the place of Django's, for this process; the second time, do nothing.

    For processes that serve a site. One that runs tests must not: Django's test client takes the originals away for the
    time of its requests.

    A receiver that the project has disconnected stays so.
    """
    global _alone, _installed
    if _installed:
        return
    _installed = True
    make = connections.create_connection

    def create_connection(alias: str) -> Any:
        connection = make(alias)
        if _thread.connections is not None and not _has_loop():
            _thread.connections = [known for known in (*_thread.connections, ref(connection)) if known() is not None]
        return connection

    connections.create_connection = create_connection  # type: ignore[method-assign]
    started = signals.request_started
    both = [
        _replace(started, django.db.close_old_connections, close_old_connections),
        _replace(started, django.db.reset_queries, _reset_queries),
    ]
    if all(both) and len(started.receivers) == len(both):
        _alone = list(started.receivers)
    _replace(signals.request_finished, django.db.close_old_connections, close_old_connections)
    if not _caches_need_closing():
        signals.request_finished.disconnect(close_caches)


def _replace(signal: Any, original: Any, ours: Any) -> bool:
    """Connect `ours` instead of `original`; return whether that was connected."""
    if not signal.disconnect(original):
        return False
    signal.connect(ours)
    # Django's come first: the project's receivers can rely on what they do.
    signal.receivers.insert(0, signal.receivers.pop())
    return True


def request_started(sender: type, message: Any) -> None:
    """Send Django's signal of this name; or, if nobody else is connected to it, do what it is for.

    :param sender: the class of the handler.
    :param message: the :class:`~channelserver.message.Message` with the request.
    """
    if signals.request_started.receivers == _alone:
        _reset_queries()
        close_old_connections()
    else:
        signals.request_started.send(sender=sender, message=message)


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
