"""A response as replies: its head, and the parts of a streaming one.

Runs in worker threads and in the event loop's; owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import aclosing
from contextvars import copy_context
from functools import lru_cache
from typing import Any, NoReturn

from asgiref.sync import async_to_sync, sync_to_async
from django.http import FileResponse, HttpResponseBase
from django.http.response import ResponseHeaders

from channelserver.event_stream import EventStream
from channelserver.layers.base import EVENTS, FAILED, FILE
from channelserver.layers.events import encode_event
from channelserver.message import Message
from channelserver.workers.loop import event_loop
from channelserver.workers.pool import WorkerPool, current_pool
from channelserver.workers.sticky import StickyExecutor
from channelserver.workers.wrapped import WrappedResponse

logger = logging.getLogger("channelserver.handler")

#: Values of fields up to this many characters are cached.
SHORT_VALUE = 48
#: Key of an ASGI event whose body the reactor sends: what :func:`body_for_reactor` has returned, and the response.
BODY = "channelserver.body"


def _encode(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode("ascii"), value.encode("latin-1")


#: The answers of a site repeat the same few fields.
_encode_short = lru_cache(1000)(_encode)


def encode_head(response: Any) -> dict[str, Any]:
    """Return the ``status`` and the ``headers`` of a Django response, cookies included."""
    if isinstance(response, WrappedResponse):
        return response.head()
    fields: Iterable[tuple[str, str]]
    if type(response).items is HttpResponseBase.items and type(response.headers) is ResponseHeaders:
        # The same as items() at a third of the cost: that looks up each field once more, by way of three generators.
        fields = response.headers._store.values()
    else:
        fields = response.items()
    headers = [(_encode_short if len(value) <= SHORT_VALUE else _encode)(name, value) for name, value in fields]
    if response.cookies:
        headers += [(b"Set-Cookie", cookie.OutputString().encode("ascii")) for cookie in response.cookies.values()]
    return {"status": response.status_code, "headers": headers}


def inner_response(response: Any) -> Any:
    """Return Django's own response, where monitoring has put something around it."""
    return response.response if isinstance(response, WrappedResponse) else response


def hand_over(message: Message, response: Any) -> bool:
    """Give the reactor a response that it can send by itself: an event stream or a file. The caller closes it.

    :returns: False if it is neither.
    """
    body = body_for_reactor(message, response)
    if body is not None:
        give(message.channel_layer, message.content["reply_channel"], encode_head(response), body, response)
    return body is not None


def body_for_reactor(message: Message, response: Any) -> dict[str, Any] | None:
    """Return the body of an event stream or of a file as the reactor takes it; None: the response is neither."""
    inner = inner_response(response)
    if isinstance(inner, EventStream):
        first = [{"retry": inner.retry}] * (inner.retry is not None) + inner.first
        return {"content": b"".join(map(encode_event, first)), "more_content": True, EVENTS: inner.retry}
    # A wrapper may have read from the file already, and the file of another process's connection cannot travel.
    outlet = message.channel_layer.outlet_of(message.content["reply_channel"])
    if inner is response and isinstance(inner, FileResponse) and hasattr(outlet, "deliver_async"):
        file = reopen(inner)
        return file and {FILE: file}
    return None


def give(layer: Any, reply: str, head: dict[str, Any], body: dict[str, Any], response: Any) -> None:
    """Send what :func:`body_for_reactor` has returned."""
    if EVENTS in body:  # see EventStream: this header keeps GZipMiddleware away
        head["headers"] = [pair for pair in head["headers"] if pair[0].lower() != b"content-encoding"]
        for group in inner_response(response).groups:
            layer.group_add(group, reply)  # before the client sees anything, and has something sent
    layer.dispatch(reply, {**head, **body})


def reopen(response: FileResponse) -> Any:
    """Return the file of a response opened anew, at the same position; None if it is not all of a regular file."""
    source: Any = response.file_to_stream
    try:
        descriptor, position = source.fileno(), source.tell()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or int(response["Content-Length"]) != status.st_size - position:
            return None
        # Not os.dup(), which would share the position with a file that is about to be closed.
        file = open(f"/proc/self/fd/{descriptor}", "rb", buffering=0)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None
    file.seek(position)
    return file


def stream_parts(message: Message, response: Any, timeout: float) -> None:
    """Send a streaming response, part by part as they come, and close it. Waits for the client.

    :param timeout: seconds which a client may take to make room for the next part.
    """
    layer, reply = message.channel_layer, message.content["reply_channel"]
    try:
        if isinstance(response, WrappedResponse):
            response.begin()  # the head is known with the first part
        layer.dispatch(reply, {**encode_head(response), "more_content": True})
        whole = all(
            layer.dispatch_waiting(reply, {"content": part, "more_content": True}, timeout)
            for part in iterate(response)
            if part
        )
        # A client that does not read is disconnected; if it has gone, this has no effect.
        layer.dispatch(reply, {"content": b"", "more_content": False} if whole else {FAILED: 500})
    except Exception:
        logger.exception("the body of %r broke off", message.get("path"))
        layer.dispatch(reply, {FAILED: 500})
    finally:
        response.close()


def iterate(response: Any) -> Iterable[bytes]:
    """Return the parts of a streaming response; those of an asynchronous one are collected first."""
    if not response.is_async:
        parts: Iterable[bytes] = response
        return parts

    async def collect() -> list[bytes]:
        return [part async for part in response]

    return async_to_sync(collect)()


def refuse_stream(message: Message, response: Any) -> None:
    """Answer 503, because too many responses are being streamed, and close the response."""
    head = {"status": 503, "headers": [[b"Content-Type", b"text/plain; charset=utf-8"], [b"Retry-After", b"5"]]}
    body = b"The server streams as many responses as it may; try again in a moment.\n"
    try:
        message.channel_layer.dispatch(message.content["reply_channel"], {**head, "content": body})
    finally:
        response.close()


def start_async_stream(message: Message, response: Any, timeout: float) -> None:
    """Have the event loop send a streaming response whose iterator is asynchronous. Worker thread."""
    event_loop.start(_stream_async, current_pool(), message, response, timeout, context=copy_context())


async def _stream_async(pool: WorkerPool, message: Message, response: Any, timeout: float) -> None:
    answer = Answer(message, timeout)
    with StickyExecutor(pool):
        try:
            with event_loop.cancelled_with(message):
                await answer.stream(response)
        except asyncio.CancelledError:
            answer.break_off()
        except Exception:
            logger.exception("the body of %r broke off", message.get("path"))
            answer.break_off()
        finally:
            await asyncio.shield(sync_to_async(response.close)())


class Answer:
    """Sends a response to the client: ``send`` of ASGI.

    :param timeout: seconds which a client may take to make room for the next part.
    """

    __slots__ = ("_head", "_layer", "_reply", "_timeout")

    def __init__(self, message: Message, timeout: float) -> None:
        self._layer = message.channel_layer
        self._reply = message.content["reply_channel"]
        self._timeout = timeout
        self._head: dict[str, Any] = {}

    def whole(self, head: dict[str, Any], body: bytes) -> None:
        """Send an answer in one piece."""
        head["content"] = body
        self._layer.dispatch(self._reply, head)

    async def __call__(self, event: dict[str, Any]) -> None:
        """Send what an ASGI event says; wait until the client has room for more.

        :raises asyncio.CancelledError: the client has gone, or does not read.
        """
        if event["type"] == "http.response.start":
            headers = [list(pair) for pair in event.get("headers", ())]
            self._head = {"status": event["status"], "headers": headers}
            return
        if BODY in event:
            give(self._layer, self._reply, self._head, *event[BODY])
            return
        more = bool(event.get("more_body"))
        content = {**self._head, "content": bytes(event.get("body", b"")), "more_content": more}
        self._head = {}
        if not more:
            self._layer.dispatch(self._reply, content)
        elif (content["content"] or "status" in content) and not await self._put(content):
            self._gone()

    async def _put(self, content: dict[str, Any]) -> bool:
        outlet = self._layer.outlet_of(self._reply)
        loop = asyncio.get_running_loop()
        room: asyncio.Future[bool] = loop.create_future()

        def done(fits: bool) -> None:  # any thread
            loop.call_soon_threadsafe(set_room, fits)

        def set_room(fits: bool) -> None:
            if not room.done():
                room.set_result(fits)

        if hasattr(outlet, "deliver_async"):
            fits = outlet.deliver_async(self._reply, content, done)
            if fits is not None:
                return bool(fits)
        else:  # a connection of another process
            self._layer.dispatch_then(self._reply, content, self._timeout, done)
        try:
            return await asyncio.wait_for(room, self._timeout)
        except TimeoutError:
            self._layer.dispatch(self._reply, {FAILED: 500})
            return False

    async def stream(self, response: Any) -> None:
        """Send a streaming response from its iterator.

        :raises asyncio.CancelledError: the client has gone, or does not read.
        """
        self._head = encode_head(response)
        if not await self._put({**self._head, "content": b"", "more_content": True}):
            self._gone()
        async with aclosing(aiter(response)) as parts:
            async for part in parts:
                if part and not await self._put({"content": part, "more_content": True}):
                    self._gone()
        self._layer.dispatch(self._reply, {"content": b"", "more_content": False})

    def _gone(self) -> NoReturn:
        event_loop.forget_client(self._reply)
        raise asyncio.CancelledError

    def break_off(self) -> None:
        """Abort an incomplete answer, so that the client notices."""
        self._layer.dispatch(self._reply, {FAILED: 500})
