"""Runs Django's views: from an ``http.request`` message to the response (Channels 1: ``channels.handler``).

Runs in worker threads. They share one handler, which is built once, with its middleware.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.core import signals
from django.core.handlers import base
from django.db import connections
from django.http import FileResponse, HttpResponse, HttpResponseBase
from django.http.response import ResponseHeaders
from django.urls import set_script_prefix

from channelserver.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channelserver.layers.base import FAILED
from channelserver.message import Message
from channelserver.workers import outbox
from channelserver.workers.request import AsgiRequest

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer"]

logger = logging.getLogger("channelserver.handler")


class _NoResponse(HttpResponse):
    """Stands for a response that other code sends later, or that nobody waits for."""


class AsgiHandler(base.BaseHandler):
    """Run a request through middleware and view.

    Calling a handler with a message gives its response as messages, as in Channels 1. :class:`ViewConsumer` uses the
    parts.
    """

    #: Bytes in one message of a response (Channels 1).
    chunk_size = 512 * 1024

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    def __call__(self, message: Message) -> Iterator[dict[str, Any]]:
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
        set_script_prefix((message.content.get("root_path") or "").rstrip("/") + "/")
        signals.request_started.send(sender=type(self), message=message)
        try:
            request = AsgiRequest(message)
        except UnicodeDecodeError:
            logger.warning("a header's name is not ASCII", exc_info=True)
            return HttpResponse("Bad request\n", status=400, content_type="text/plain")
        except RequestTimeout:
            return HttpResponse("The request's body did not come in time\n", status=408, content_type="text/plain")
        except RequestAborted:
            return None
        # Closing the response closes what the request holds: upload handlers, files.
        response: Any = self.get_response(request)
        if isinstance(response, _NoResponse):
            response.close()
            return None
        return response

    # Django turns an exception of a view into a response; ResponseLater becomes one that is not sent.

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a view for ``ATOMIC_REQUESTS``: ``ResponseLater`` must not roll back."""
        if not any(settings["ATOMIC_REQUESTS"] for settings in connections.settings.values()):
            return view
        if iscoroutinefunction(view):
            return super().make_view_atomic(view)

        def catching(*args: Any, **kwargs: Any) -> Any:
            try:
                return view(*args, **kwargs)
            except ResponseLater:
                return _NoResponse()

        atomic = super().make_view_atomic(catching)
        return view if atomic is catching else atomic

    def process_exception_by_middleware(self, exception: Exception, request: Any) -> Any:
        if isinstance(exception, ResponseLater):
            return _NoResponse()
        return super().process_exception_by_middleware(exception, request)

    # -- responses as messages -----------------------------------------------------------------------------------------

    @classmethod
    def encode_response(cls, response: Any) -> Iterator[dict[str, Any]]:
        """Yield a response as messages: the first with ``status`` and ``headers``, all with ``content`` and
        ``more_content``.

        :param response: any Django response; of an asynchronous stream the parts are collected first.
        """
        first = encode_head(response)
        for part, more in cls._parts(response):
            yield {**first, "content": part, "more_content": more}
            first = {}

    @classmethod
    def _parts(cls, response: Any) -> Iterator[tuple[bytes, bool]]:
        if response.streaming:
            if isinstance(response, FileResponse):
                response.block_size = cls.chunk_size
            for part in _iterate(response):
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

    def __call__(self, message: Message) -> None:
        """Answer one request."""
        response = self.handler.respond(message)
        # The view has returned: send what it held back now, since the body may take long.
        held_back = outbox.current()
        if held_back is not None:
            held_back.flush()
        if response is None:
            return
        try:
            self._send(message, response)
        finally:
            response.close()

    def _send(self, message: Message, response: Any) -> None:
        layer, reply = message.channel_layer, message["reply_channel"]
        head = encode_head(response)
        if not response.streaming:
            head["content"] = response.content
            layer.dispatch(reply, head)
            return
        head["more_content"] = True
        layer.dispatch(reply, head)
        if isinstance(response, FileResponse):
            response.block_size = self.block_size

        def send(part: bytes) -> bool:
            return not part or layer.dispatch_waiting(reply, {"content": part, "more_content": True}, self.timeout)

        try:
            whole = _send_parts(response, send)
            # The client does not read, or has gone; then this has no effect.
            layer.dispatch(reply, {"content": b"", "more_content": False} if whole else {FAILED: 500})
        except Exception:
            logger.exception("the body of %r broke off", message.get("path"))
            layer.dispatch(reply, {FAILED: 500})


def encode_head(response: HttpResponseBase) -> dict[str, Any]:
    """Return the ``status`` and the ``headers`` of a Django response, cookies included."""
    fields: Iterable[tuple[str, str]]
    if type(response).items is HttpResponseBase.items and type(response.headers) is ResponseHeaders:
        # The same as items() at 1/3 of the cost, which looks up each header again through three generators.
        fields = response.headers._store.values()
    else:
        fields = response.items()
    headers = [[name.encode("ascii"), value.encode("latin-1")] for name, value in fields]
    if response.cookies:
        headers += [[b"Set-Cookie", cookie.OutputString().encode("ascii")] for cookie in response.cookies.values()]
    return {"status": response.status_code, "headers": headers}


def _send_parts(response: Any, send: Callable[[bytes], bool]) -> bool:
    """Send the parts of a streaming response as they come; return False if the client has gone or does not read."""
    if response.is_async:
        return bool(async_to_sync(_send_async_parts)(response, send))
    return all(send(part) for part in response)


async def _send_async_parts(response: Any, send: Callable[[bytes], bool]) -> bool:
    # The iterator runs in an event loop of its own; sending, which may wait, in the worker's thread.
    send_in_thread = sync_to_async(send, thread_sensitive=True)
    iterator = aiter(response)
    try:
        async for part in iterator:
            if not await send_in_thread(part):
                return False
        return True
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()


def _iterate(response: Any) -> Any:
    if not response.is_async:
        return response

    async def collect() -> list[bytes]:
        return [part async for part in response]

    return async_to_sync(collect)()


def _drop_held_back(**_: Any) -> None:
    """A view raised, and Django turned that into a response: drop what the view sent."""
    held_back = outbox.current()
    if held_back is not None:
        held_back.drop()


signals.got_request_exception.connect(_drop_held_back, dispatch_uid="channelserver.drop_held_back")
