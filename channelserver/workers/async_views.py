"""Asynchronous views on the event loop: which requests go there, and Django's handler for them.

:meth:`AsyncViews.find` runs in worker threads or the event loop's, the rest in the event loop's. Owns the handler with
its asynchronous middleware, which is made when the first such request comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.core import asgi as django_asgi
from django.core import signals
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponseBase
from django.urls import URLPattern, URLResolver, get_resolver, set_script_prefix
from django.urls.resolvers import RegexPattern, RoutePattern
from django.utils import translation
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from channelserver.exceptions import ResponseLater
from channelserver.message import Message
from channelserver.workers import async_middleware, django_cleanup, outbox
from channelserver.workers.django_cleanup import only_django_listens
from channelserver.workers.django_fast import is_coroutine_function
from channelserver.workers.request import read_request
from channelserver.workers.responses import BODY, Answer, body_for_reactor, encode_head, hand_over
from channelserver.workers.wrapped import ANY_LANGUAGE, MESSAGE, NoResponse, is_wrapped, resolve_once

logger = logging.getLogger("channelserver.handler")

#: Key of a scope: the environ of the same request.
ENVIRON = "channelserver.environ"


def asynchronous_views(patterns: Iterable[URLPattern | URLResolver]) -> Iterator[URLPattern]:
    """Yield the patterns of a URLconf whose views are coroutine functions."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from asynchronous_views(pattern.url_patterns)
        elif iscoroutinefunction(pattern.callback):
            yield pattern


def is_translated() -> bool:
    """Whether the view of a path depends on the language, or may depend on it."""
    try:
        return _translated(get_resolver().url_patterns)
    except Exception:  # part of a URLconf that cannot be read: requests for it say so
        return True


def _translated(patterns: Iterable[URLPattern | URLResolver]) -> bool:
    for pattern in patterns:
        text = getattr(pattern.pattern, "_route", None) or getattr(pattern.pattern, "_regex", "")
        if type(pattern.pattern) not in (RoutePattern, RegexPattern) or type(text) is not str:
            return True
        if isinstance(pattern, URLResolver) and _translated(pattern.url_patterns):
            return True
    return False


def has_asynchronous_views() -> bool:
    """Whether a view of the project is a coroutine function."""
    try:
        return any(asynchronous_views(get_resolver().url_patterns))
    except Exception:  # a URLconf that cannot be imported: each request says so
        logger.debug("cannot look for asynchronous views", exc_info=True)
        return False


def middleware_can_be_asynchronous() -> bool:
    """Whether no middleware is synchronous only: such a one has views run in a thread, whatever they are."""
    return all(getattr(import_string(path), "async_capable", False) for path in settings.MIDDLEWARE)


class AsyncRequest(ASGIRequest):
    """A request that runs on the event loop: Django's own (``django.core.handlers.asgi.ASGIRequest``).

    ``META`` has what a request in a thread has there.
    """

    ResponseLater = ResponseLater

    _set_content_type_params: Callable[[dict[str, Any]], None]

    resolver_match: Any = None
    _read_started = _post_parse_error = False

    def __init__(self, message: Message, environ: dict[str, Any], scope: dict[str, Any] | None = None) -> None:
        self.message = message
        if scope is not None:
            self.scope = scope
        self.META = environ
        self.script_name, self.path_info = environ["SCRIPT_NAME"], environ["PATH_INFO"]
        self.path = self.script_name + self.path_info
        self.method = environ["REQUEST_METHOD"]
        self._set_content_type_params(environ)
        self._stream = environ["wsgi.input"]

    @cached_property
    def scope(self) -> dict[str, Any]:  # type: ignore[override]
        """The ASGI scope. Few look."""
        return make_scope(self.message, self.META)

    def _get_scheme(self) -> str:
        scheme: str = self.META["wsgi.url_scheme"]
        return scheme

    @property
    def reply_channel(self) -> Any:
        """Where the answer goes."""
        return self.message.reply_channel


class AsyncHandler(ASGIHandler):
    """Run a request through middleware and view on the event loop."""

    request_class = AsyncRequest
    #: Returns the asynchronous form of a ``process_view`` that need not change threads, or None.
    direct_process_view: ClassVar[Callable[[Any], Any]] = staticmethod(lambda method: None)

    def resolve_request(self, request: Any) -> Any:
        return resolve_once(super().resolve_request, request)

    def process_exception_by_middleware(self, exception: Exception, request: Any) -> Any:
        if isinstance(exception, ResponseLater):
            return NoResponse()
        return super().process_exception_by_middleware(exception, request)

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request (``ASGIHandler.handle``). Django's own ``__call__``, and what wraps it, lead here."""
        await self.answer(scope[MESSAGE], scope[ENVIRON], send, scope)

    async def answer(
        self, message: Message, environ: dict[str, Any], send: Any, scope: dict[str, Any] | None = None
    ) -> None:
        """Answer a request.

        :param send: an :class:`Answer`, or what a wrapper made of it.
        """
        set_script_prefix(environ["SCRIPT_NAME"] + "/")
        request = AsyncRequest(message, environ, scope)
        quiet = only_django_listens()
        if not quiet:
            await signals.request_started.asend(sender=type(self), scope=request.scope, message=message)
        response: Any = None
        try:
            response = await self.run_get_response(request)
            held_back = outbox.current()
            if held_back is not None:
                held_back.flush()
            if isinstance(response, NoResponse):
                pass
            elif not isinstance(send, Answer):
                await self._send_through(send, message, response)
            elif not response.streaming:
                send.whole(encode_head(response), response.content)
            elif not hand_over(message, response):
                await send.stream(response)
        finally:
            if response is None:
                request.close()
                if not quiet:
                    await signals.request_finished.asend(sender=type(self))
            elif (
                quiet
                and response._resource_closers == [request.close]
                and type(response).close is HttpResponseBase.close
            ):
                # Nothing here can wait. What Django does with the connections is done when the executor is released.
                request.close()
                response.closed = True
            else:
                await asyncio.shield(sync_to_async(response.close)())  # even if the client leaves just now

    async def _send_through(self, send: Any, message: Message, response: Any) -> None:
        """Send a response through what wraps the application. It sees the head of each."""
        body = body_for_reactor(message, response) if response.streaming else None
        if body is None:
            await self.send_response(response, send)
            return
        head = encode_head(response)
        head["headers"] = [tuple(pair) for pair in head["headers"]]
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", BODY: (body, response)})

    def adapt_method_mode(self, is_async: bool, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a method of a middleware asynchronous (``BaseHandler.adapt_method_mode``)."""
        direct = AsyncHandler.direct_process_view(method) if is_async else None
        return direct or super().adapt_method_mode(is_async, method, *args, **kwargs)


class AsyncViews:
    """Tells which requests are for asynchronous views, and answers them.

    :param timeout: seconds which a client may take to make room for the next part of a response.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._handler: Any = None
        self._translated = is_translated()
        self._prefixes = self._translated and is_language_prefix_patterns_used(settings.ROOT_URLCONF)[0]

    def find(self, message: Message) -> Callable[[Message], Awaitable[None]] | None:
        """Return what answers a request if its view is a coroutine function, else None. The message keeps the match."""
        content = message.content
        path, root = content["path"], (content.get("root_path") or "").rstrip("/")
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        try:
            language = translation.get_language() if self._translated else ANY_LANGUAGE
            if self._prefixes:
                language = translation.get_language_from_path(path) or settings.LANGUAGE_CODE
                with translation.override(language):
                    match = get_resolver().resolve(path)
            else:
                match = get_resolver().resolve(path)
        except Exception:  # 404, or a converter's error: the handler meets it again
            return None
        message.resolver_match = path, language, match
        return self.answer if is_coroutine_function(match.func) else None

    async def answer(self, message: Message) -> None:
        answer = Answer(message, self._timeout)
        if message.content.get("body_channel"):  # waits for its parts
            environ = await asyncio.to_thread(read_request, message, AsyncRequest.body_receive_timeout)
        else:
            environ = read_request(message, AsyncRequest.body_receive_timeout)
        if not isinstance(environ, dict):
            if environ is not None:
                answer.whole(encode_head(environ), environ.content)
            return
        if self._handler is None:
            self._handler = _make_handler()
        if type(self._handler) is AsyncHandler and not is_wrapped(ASGIHandler):
            await self._handler.answer(message, environ, answer)
            return

        async def send(event: dict[str, Any]) -> None:
            await answer(event)

        await self._handler(make_scope(message, environ), _receive(message, environ), send)


def _make_handler() -> Any:
    """Return Django's asynchronous application, made as for every ASGI server: monitoring may wrap what makes it."""
    if django_cleanup.installed():
        async_middleware.install()
        AsyncHandler.direct_process_view = staticmethod(async_middleware.direct_process_view)
    module: Any = django_asgi
    originals = module.ASGIHandler, module.django
    # Django is set up; a second setup() would configure logging anew, which undoes what others have added since.
    module.ASGIHandler, module.django = AsyncHandler, SimpleNamespace(setup=lambda **_: None)
    try:
        return module.get_asgi_application()
    finally:
        module.ASGIHandler, module.django = originals


def make_scope(message: Message, environ: dict[str, Any]) -> dict[str, Any]:
    """Return the scope of an ``http.request`` message (ASGI, HTTP connection scope)."""
    content = message.content
    path, root = environ["PATH_INFO"], environ["SCRIPT_NAME"]
    client, server = content.get("client"), content.get("server")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": content.get("http_version", "1.1"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": root + path,
        "raw_path": quote(root + path).encode("ascii"),
        "query_string": content.get("query_string", b""),
        "root_path": root,
        "headers": [tuple(pair) for pair in content.get("headers", ())],
        "client": client and tuple(client),
        "server": server and tuple(server),
        MESSAGE: message,
        ENVIRON: environ,
    }


def _receive(message: Message, environ: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return ``receive`` of ASGI, for what wraps the application and looks at the body. Then the client is silent."""
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": message.content.get("body", b""), "more_body": False}

    return receive
