"""The measured coroutine views, event streams and long answers: each as a project writes it for its server."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from django.contrib.contenttypes.models import ContentType
from django.core.handlers.asgi import ASGIRequest
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from benchmarks.apps.files import LARGE_FILE
from benchmarks.apps.sizes import GENERATED, PART

_FILE = Path(os.environ["BENCHMARK_FOLDER"]) / LARGE_FILE
_OURS = os.environ["BENCHMARK_FRAMEWORK"] == "channelserver"

#: What each event stream waits for, in peers.
_queues: set[asyncio.Queue[str]] = set()


async def plain(request: HttpRequest) -> HttpResponse:
    """The smallest view."""
    return HttpResponse("Hello, world!")


async def session(request: HttpRequest) -> HttpResponse:
    """Read the session of a visitor without one, which needs no database."""
    return HttpResponse("Hello, " + await request.session.aget("name", "world") + "!")


async def query(request: HttpRequest) -> HttpResponse:
    """Read one row."""
    return HttpResponse((await ContentType.objects.aget(pk=1)).model)


async def events(request: HttpRequest) -> HttpResponseBase:
    """An event stream, which begins with an event."""
    if _OURS:
        from channelserver import EventStream  # not at the top: peers should not load it

        return EventStream(groups=["ticks"], first=["hello"])
    return StreamingHttpResponse(_listen(), content_type="text/event-stream")


async def _listen() -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    _queues.add(queue)
    try:
        yield "data: hello\n\n"
        while True:
            yield f"data: {await queue.get()}\n\n"
    finally:
        _queues.discard(queue)


async def tick(request: HttpRequest) -> HttpResponse:
    """Send an event to all event streams."""
    if _OURS:
        from channelserver import Group  # not at the top: peers should not load it

        Group("ticks").send({"text": "tick"})
    for queue in _queues:
        queue.put_nowait("tick")
    return HttpResponse("sent")


def file(request: HttpRequest) -> HttpResponseBase:
    """A large file."""
    return FileResponse(_FILE.open("rb"))


def generated(request: HttpRequest) -> HttpResponseBase:
    """A long answer, made part by part; under ASGI by an asynchronous generator, or Django would collect it first."""
    parts = _parts_async() if isinstance(request, ASGIRequest) else _parts()
    return StreamingHttpResponse(parts, content_type="application/octet-stream")


def _parts() -> Iterator[bytes]:
    for _ in range(GENERATED // PART):
        yield bytes(PART)


async def _parts_async() -> AsyncIterator[bytes]:
    for part in _parts():
        yield part
