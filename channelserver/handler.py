"""Runs Django's views: from an ``http.request`` message to the response (Channels 1: ``channels.handler``).

Runs in worker threads. They share one handler, which is built once, with its middleware.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.core import signals
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import FileResponse
from django.urls import set_script_prefix

from channelserver.exceptions import ResponseLater
from channelserver.layers.base import FAILED
from channelserver.message import Message
from channelserver.workers import outbox
from channelserver.workers.async_views import AsyncViews, has_asynchronous_views, middleware_can_be_asynchronous
from channelserver.workers.django_fast import is_coroutine_function
from channelserver.workers.loop import event_loop
from channelserver.workers.pool import current_pool, stream, wait_for
from channelserver.workers.request import AsgiRequest, read_request
from channelserver.workers.responses import (
    encode_head,
    hand_over,
    inner_response,
    iterate,
    refuse_stream,
    start_async_stream,
    stream_parts,
)
from channelserver.workers.wrapped import MESSAGE, NoResponse, call_wrapped, is_wrapped, resolve_once

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer"]

logger = logging.getLogger("channelserver.handler")

#: Something is logged once.
_once = iter([True])
#: Django's own function, which is there as a rule.
_django_call = None if is_wrapped(WSGIHandler) else WSGIHandler.__call__


class AsgiHandler(WSGIHandler):
    """Run a request through middleware and view, in the calling thread.

    Calling a handler with a message gives its response as messages, as in Channels 1. :class:`ViewConsumer` uses the
    parts. It is a ``WSGIHandler``: where a monitoring library has replaced that class's ``__call__``, requests
    go through it.
    """

    #: Bytes in one message of a response (Channels 1).
    chunk_size = 512 * 1024

    #: Whether views of the project are coroutine functions; where they are not, no request asks.
    has_async_views = False

    def __call__(self, message: Message) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Answer a request; yield the response's messages."""
        response = self.respond(message)
        if response is None:
            return
        try:
            yield from self.encode_response(response)
        finally:
            response.close()

    def respond(self, message: Message) -> Any:
        """Return the view's response, or None if there is none to send. The caller closes it."""
        environ = read_request(message, AsgiRequest.body_receive_timeout)
        if not isinstance(environ, dict):
            return environ
        if WSGIHandler.__call__ is not _django_call and is_wrapped(WSGIHandler):
            return call_wrapped(self, message, environ)
        set_script_prefix(environ["SCRIPT_NAME"] + "/")
        signals.request_started.send(sender=type(self), environ=environ, message=message)
        # Closing the response closes what the request holds: upload handlers, files.
        response: Any = self.get_response(AsgiRequest(message, environ))
        response._handler_class = type(self)
        if isinstance(response, NoResponse):
            response.close()
            return None
        return response

    @staticmethod
    def request_class(environ: dict[str, Any]) -> AsgiRequest:  # type: ignore[override]
        """Return the request for an environ that came through a wrapper (``WSGIHandler.request_class``)."""
        return AsgiRequest(environ[MESSAGE], environ)

    # Django turns an exception of a view into a response; ResponseLater becomes one that is not sent.

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a view for ``ATOMIC_REQUESTS``: ``ResponseLater`` must not roll back. Threads of coroutines wait."""
        if self.has_async_views and is_coroutine_function(view):
            return partial(_wait_for_view, super().make_view_atomic(view))
        for settings in connections.settings.values():
            if settings["ATOMIC_REQUESTS"]:
                break
        else:
            return view
        if is_coroutine_function(view):
            return super().make_view_atomic(view)

        def catching(*args: Any, **kwargs: Any) -> Any:
            try:
                return view(*args, **kwargs)
            except ResponseLater:
                return NoResponse()

        atomic = super().make_view_atomic(catching)
        return view if atomic is catching else atomic

    def process_exception_by_middleware(self, exception: Exception, request: Any) -> Any:
        if isinstance(exception, ResponseLater):
            return NoResponse()
        return super().process_exception_by_middleware(exception, request)

    # -- responses as messages -----------------------------------------------------------------------------------------

    @classmethod
    def encode_response(cls, response: Any) -> Iterator[dict[str, Any]]:
        """Yield a response as messages: the first with ``status`` and ``headers``, all with ``content`` and
        ``more_content``.

        :param response: any Django response; of an asynchronous stream the parts are collected first.
        """
        first = encode_head(response)
        first["headers"] = [(name, value) for name, value in first["headers"]]  # as Channels 1 has them
        for part, more in cls._parts(response):
            yield {**first, "content": part, "more_content": more}
            first = {}

    @classmethod
    def _parts(cls, response: Any) -> Iterator[tuple[bytes, bool]]:
        if response.streaming:
            if isinstance(response, FileResponse):
                response.block_size = cls.chunk_size
            for part in iterate(response):
                for chunk, _ in cls.chunk_bytes(part):
                    yield chunk, True
            yield b"", False
        else:
            for chunk, last in cls.chunk_bytes(response.content):
                yield chunk, not last

    @classmethod
    def chunk_bytes(cls, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield `data` in pieces of ``chunk_size``, each with whether it is the last; empty data as one piece."""
        position = 0
        while position + cls.chunk_size < len(data):
            yield data[position : position + cls.chunk_size], False
            position += cls.chunk_size
        yield data[position:], True


class ViewConsumer:
    """The default consumer of ``http.request``: Django's views.

    :param handler: runs the request; default: a new handler of ``handler_class``.
    :param timeout: seconds that a client may take to make room for the next part of a response.
    """

    handler_class = AsgiHandler

    #: Django's signals around a request close old database connections.
    tidies_connections = True

    #: Bytes read at a time from the file of a ``FileResponse``.
    block_size = 128 * 1024

    def __init__(self, handler: AsgiHandler | None = None, timeout: float = 120.0) -> None:
        self.handler = handler if handler is not None else self.handler_class()
        self.timeout = timeout
        found = self.handler.has_async_views = has_asynchronous_views()
        self._async_views = AsyncViews(timeout) if found and middleware_can_be_asynchronous() else None
        if self._async_views is not None:
            self.handler.resolve_request = partial(resolve_once, self.handler.resolve_request)  # type: ignore[method-assign]

    def has_coroutines(self) -> bool:
        """Whether the project has views that run on the event loop."""
        return self._async_views is not None

    def coroutine_for(self, message: Message) -> Any:
        """Return the coroutine function that answers a request, or None: it is to be answered in a thread."""
        return self._async_views and self._async_views.find(message)

    def __call__(self, message: Message) -> None:
        """Answer one request."""
        response = self.handler.respond(message)
        # The view has returned: send what it held back now, since the body may take long.
        held_back = outbox.current()
        if held_back is not None:
            held_back.flush()
        if response is None:
            return
        if response.streaming:
            self._stream(message, response)
            return
        try:
            head = encode_head(response)
            head["content"] = response.content
            message.channel_layer.dispatch(message.content["reply_channel"], head)
        finally:
            response.close()

    def _stream(self, message: Message, response: Any) -> None:
        """Send a response part by part; no thread of the pool waits for the client."""
        try:
            handed_over = hand_over(message, response)
        except BaseException:
            response.close()
            raise
        if handed_over:
            response.close()
            return
        if isinstance(response, FileResponse):
            response.block_size = self.block_size
        if response.is_async and current_pool() is not None:
            start_async_stream(message, response, self.timeout)
        else:
            if inner_response(response).get("Content-Type", "").startswith("text/event-stream") and next(_once, False):
                logger.warning(
                    "the event stream of %r holds a thread as long as its client stays, because its iterator is plain; "
                    "return channelserver.EventStream, or an asynchronous iterator (logged once)",
                    message.get("path"),
                )
            run = partial(stream_parts, message, response, self.timeout)
            stream(run, partial(refuse_stream, message, response))


def _wait_for_view(view: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an asynchronous view behind synchronous middleware, and cancel it if the client leaves."""
    message = getattr(request, "message", None)
    if message is None or current_pool() is None:
        return async_to_sync(view)(request, *args, **kwargs)

    async def run() -> Any:
        with event_loop.cancelled_with(message):
            return await view(request, *args, **kwargs)

    try:
        return wait_for(async_to_sync(run))
    except asyncio.CancelledError:
        logger.debug("the view of %r was cancelled", request.path)
        message.channel_layer.dispatch(
            message.content["reply_channel"], {FAILED: 503}
        )  # nothing if the client has left
        return NoResponse()


def _drop_held_back(**_: Any) -> None:
    """A view raised, and Django turned that into a response: drop what the view sent."""
    held_back = outbox.current()
    if held_back is not None:
        held_back.drop()


signals.got_request_exception.connect(_drop_held_back, dispatch_uid="channelserver.drop_held_back")
