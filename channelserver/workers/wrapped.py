"""Requests that pass through a monitoring library's wrapper of Django's handlers.

Sentry, New Relic, Datadog, Elastic and others replace ``WSGIHandler.__call__`` (or ``ASGIHandler.__call__``) to see
each request. The server calls Django's parts directly, which is quicker; where that function was replaced, requests
go through it, as under any WSGI server (PEP 3333).

Runs in worker threads; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

from django.core.handlers import asgi, wsgi
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, HttpResponseBase
from django.utils.translation import get_language

from channelserver.message import Message

#: Keys of an environ, or a scope, that goes through a wrapper.
MESSAGE, RESPONSE = "channelserver.message", "channelserver.response"

#: In place of the language for which a view was found: paths are the same in all.
ANY_LANGUAGE = "*"

_HOMES = {wsgi.WSGIHandler: vars(wsgi), asgi.ASGIHandler: vars(asgi)}


class NoResponse(HttpResponse):
    """Placeholder for a response that other code sends later, or that no client waits for."""


def is_wrapped(handler: type) -> bool:
    """Whether ``__call__`` of Django's ``WSGIHandler`` or ``ASGIHandler`` was replaced."""
    function = handler.__dict__["__call__"]
    # functools.wraps copies names, wrapt passes every attribute on; the type and the globals tell.
    return type(function) is not FunctionType or function.__globals__ is not _HOMES[handler]


def resolve_once(resolve: Callable[[Any], Any], request: Any) -> Any:
    """Find the view, unless it was found before (``Message.resolver_match``).

    :param resolve: ``BaseHandler.resolve_request``.
    """
    found = request.message.resolver_match
    # Middleware may have changed what was found by. Monitoring names a request by the view that it sees found.
    if (
        found is None
        or found[0] != request.path_info
        or (found[1] != ANY_LANGUAGE and found[1] != get_language())
        or hasattr(request, "urlconf")
        or any(map(is_wrapped, _HOMES))
    ):
        return resolve(request)
    request.resolver_match = found[2]
    return found[2]


def call_wrapped(handler: Any, message: Message, environ: dict[str, Any]) -> Any:
    """Call ``WSGIHandler.__call__``, or what replaced it.

    :param handler: an :class:`~channelserver.handler.AsgiHandler`.
    :returns: the response, as :meth:`AsgiHandler.respond` does.
    """
    environ[MESSAGE] = message
    handler.__dict__.setdefault("get_response", partial(_keep_response, handler))
    path = environ["PATH_INFO"]
    if not path.isascii():  # PEP 3333: bytes as text
        environ["PATH_INFO"] = path.encode("utf-8", "surrogateescape").decode("latin-1")
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started[:] = [status, headers]
        return lambda data: None

    result = WSGIHandler.__call__(handler, environ, start_response)
    response = environ.pop(RESPONSE, result if isinstance(result, HttpResponseBase) else None)
    if isinstance(response, NoResponse):
        _close(result, response)
        return None
    return WrappedResponse(result, response, started)


def _keep_response(handler: Any, request: Any) -> Any:
    response = request.environ[RESPONSE] = type(handler).get_response(handler, request)
    return response


class WrappedResponse:
    """A response as the wrapper returns it.

    :param result: the iterable of PEP 3333.
    :param response: Django's response that it is made from; None: the wrapper made its own.
    :param started: status line and headers, as soon as they are known.
    """

    #: The parts come from the calling thread.
    is_async = False

    def __init__(self, result: Any, response: Any, started: list[Any]) -> None:
        self._result = result
        self._started = started
        self._parts: Iterator[bytes] | None = None
        self._first = b""
        #: Django's response.
        self.response = response
        self.streaming = bool(getattr(response, "streaming", False))

    def begin(self) -> None:
        """Get the first part. Some wrappers call ``start_response`` only then."""
        if self._parts is None:
            self._parts = iter(self._result)
            self._first = next(self._parts, b"")

    @property
    def content(self) -> bytes:
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        self.begin()
        assert self._parts is not None
        yield self._first
        yield from self._parts

    def head(self) -> dict[str, Any]:
        self.begin()
        status, headers = self._started
        fields = [[name.encode("ascii"), value.strip().encode("latin-1")] for name, value in headers]
        return {"status": int(status.partition(" ")[0]), "headers": fields}

    def close(self) -> None:
        """Close the wrapper's iterable and Django's response."""
        _close(self._result, self.response)


def _close(result: Any, response: Any) -> None:
    try:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    finally:
        if response is not None and not response.closed:
            response.close()
