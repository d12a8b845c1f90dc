"""Django's own middleware on the event loop, without a change of threads where nothing waits.

Django's middleware is asynchronous by adapters: each class changes to a thread and back, before the view and after it,
in case its methods use the database. The methods of these classes seldom do, and it is known when. So here they are
called directly, and in a thread only if they may wait.

Runs in the event loop's thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

Test = Callable[[Any], bool]


def _never(request: Any) -> bool:
    return False


def _saves_session(request: Any) -> bool:
    """Whether the session is going to be stored."""
    session = getattr(request, "session", None)
    if session is None or session.is_empty():
        return False
    return bool(session.modified or settings.SESSION_SAVE_EVERY_REQUEST)


def _stores_messages(request: Any) -> bool:
    """Whether messages were added or shown."""
    messages = getattr(request, "_messages", None)
    return messages is not None and bool(messages.used or messages.added_new)


def _csrf_in_session(request: Any) -> bool:
    return bool(settings.CSRF_USE_SESSIONS)


def _csrf_reads_body(request: Any) -> bool:
    return bool(settings.CSRF_USE_SESSIONS) or request.method not in SAFE_METHODS


#: For each class, when ``process_request`` and ``process_response`` may wait. By name: a project imports its own alone.
_WAITS: dict[str, tuple[Test, Test]] = {
    "django.middleware.security.SecurityMiddleware": (_never, _never),
    "django.contrib.sessions.middleware.SessionMiddleware": (_never, _saves_session),
    "django.middleware.common.CommonMiddleware": (_never, _never),
    "django.middleware.csrf.CsrfViewMiddleware": (_csrf_in_session, _csrf_in_session),
    "django.contrib.auth.middleware.AuthenticationMiddleware": (_never, _never),
    "django.contrib.messages.middleware.MessageMiddleware": (_never, _stores_messages),
    "django.middleware.clickjacking.XFrameOptionsMiddleware": (_never, _never),
    "django.middleware.locale.LocaleMiddleware": (_never, _never),
    "django.middleware.http.ConditionalGetMiddleware": (_never, _never),
}
#: The same for the classes that the project has.
_waits: dict[type, tuple[Test, Test]] = {}

_hopping: Any = MiddlewareMixin.__acall__


def install() -> None:
    """Have Django's own classes called directly, in this process. Subclasses keep Django's way."""
    for kind in map(import_string, settings.MIDDLEWARE):
        waits = _WAITS.get(_name(kind)) if isinstance(kind, type) else None
        if waits is not None and kind.__acall__ is _hopping:
            kind.__acall__ = _direct
            _waits[kind] = waits


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


async def _direct(self: Any, request: Any) -> Any:
    """What ``MiddlewareMixin.__acall__`` does."""
    waits = _waits.get(type(self))
    if waits is None:
        return await _hopping(self, request)
    response = None
    if hasattr(self, "process_request"):
        response = await _call(waits[0](request), self.process_request, request)
    response = response or await self.get_response(request)
    if hasattr(self, "process_response"):
        response = await _call(waits[1](request), self.process_response, request, response)
    return response


async def _call(waits: bool, method: Callable[..., Any], *arguments: Any) -> Any:
    if waits:
        return await sync_to_async(method, thread_sensitive=True)(*arguments)
    return method(*arguments)


def direct_process_view(method: Any) -> Callable[..., Any] | None:
    """Return the asynchronous form of a bound ``process_view`` of Django's own; None: it is none of those known."""
    if _name(type(getattr(method, "__self__", None))) != "django.middleware.csrf.CsrfViewMiddleware":
        return None

    async def process_view(request: Any, *arguments: Any) -> Any:
        return await _call(_csrf_reads_body(request), method, request, *arguments)

    return process_view
