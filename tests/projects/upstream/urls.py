"""Views that ask another service, here the same server, with clients and locks of the module."""

import asyncio

import httpx
from asgiref.sync import SyncToAsync, async_to_sync
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

client = httpx.AsyncClient(timeout=60)
lock = asyncio.Lock()
tasks = set()
#: How often something was handed to a thread.
hops = 0
_original = SyncToAsync.__call__


async def _counting(self, *args, **kwargs):
    global hops
    hops += 1
    return await _original(self, *args, **kwargs)


SyncToAsync.__call__ = _counting


def source(request):
    """The other service."""
    return HttpResponse(f"source {request.GET['n']}")


async def source_in_parts(request):
    async def produce():
        for number in range(5):
            await asyncio.sleep(0.01)
            yield f"{number} "

    return StreamingHttpResponse(produce())


async def ask(request):
    """Ask twice; the second time alone, by a lock."""
    url = f"http://127.0.0.1:{request.get_port()}/source/?n={request.GET['n']}"
    first = await client.get(url)
    async with lock:
        second = await client.get(url)
    return HttpResponse(f"{first.text}, {second.text}")


def ask_in_thread(request):
    return async_to_sync(ask)(request)


async def pass_on(request):
    """An upstream opened in the view, and read in the generator."""
    url = f"http://127.0.0.1:{request.get_port()}/source-in-parts/"
    upstream = await client.send(client.build_request("GET", url), stream=True)

    async def produce():
        try:
            async for part in upstream.aiter_text():
                yield part
        finally:
            await upstream.aclose()

    return StreamingHttpResponse(produce())


async def fed(request):
    """A stream that a task feeds."""
    queue = asyncio.Queue(1)

    async def feed():
        for number in range(5):
            await queue.put(f"{number} ")
        await queue.put(None)

    task = asyncio.create_task(feed())
    tasks.add(task)
    task.add_done_callback(tasks.discard)

    async def produce():
        while (part := await queue.get()) is not None:
            yield part

    return StreamingHttpResponse(produce())


async def count_hops(request):
    """Return how often anything was handed to a thread since the last call."""
    global hops
    found, hops = hops, 0
    return HttpResponse(str(found))


async def late(request):
    """Answer, and go on: the result is there when a later request asks."""

    async def work():
        response = await client.get(f"http://127.0.0.1:{port}/source/?n=late")
        results.append(response.text)

    port = request.get_port()
    task = asyncio.create_task(work())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return HttpResponse("begun")


results = []


async def result(request):
    return HttpResponse(" ".join(results))


urlpatterns = [
    path("source/", source),
    path("source-in-parts/", source_in_parts),
    path("ask/", ask),
    path("ask-in-thread/", ask_in_thread),
    path("pass-on/", pass_on),
    path("fed/", fed),
    path("count-hops/", count_hops),
    path("late/", late),
    path("result/", result),
]
