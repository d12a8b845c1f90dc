"""Views, plain and asynchronous, that tell where they run and what reaches them."""

import asyncio
import threading
import time
from pathlib import Path

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils import timezone, translation

from channelserver import EventStream, Group, channel_layers

HERE = Path(__file__).parent
lock = asyncio.Lock()
running = 0
#: Threads that hold an open connection to the database, by name.
opened: dict[str, object] = {}


def note(line):
    """Tell the test what happened."""
    with open(HERE / "notes.txt", "a") as stream:
        stream.write(line + "\n")


def here():
    """Return the name of the running thread."""
    return threading.current_thread().name


def plain(request):
    return HttpResponse(here())


def sleep(request):
    """Hold the thread until the test wants it to go on."""
    while not (HERE / "go-on").exists():
        time.sleep(0.01)
    note("slept")
    return HttpResponse("slept")


async def where(request):
    return HttpResponse(here())


async def block(request):
    """Block the loop until the test wants it to go on."""
    note("blocked")
    while not (HERE / "go-on").exists():
        time.sleep(0.01)
    return HttpResponse("blocked")


async def kinds(request):
    return JsonResponse(_kinds(request))


def kinds_in_thread(request):
    return JsonResponse(_kinds(request))


def _kinds(request):
    return {
        "wsgi": isinstance(request, WSGIRequest),
        "asgi": isinstance(request, ASGIRequest),
        "environ": hasattr(request, "environ"),
        "scope": hasattr(request, "scope"),
        "meta": {key: value for key, value in request.META.items() if isinstance(value, (str, int, bool))},
    }


async def locked(request):
    """One at a time, by a lock of the module."""
    global running
    async with lock:
        running += 1
        await asyncio.sleep(0.005)
        alone = running == 1
        running -= 1
    return HttpResponse(str(alone))


def thread_names(request):
    return HttpResponse(" ".join(thread.name for thread in threading.enumerate()))


def locked_in_thread(request):
    return async_to_sync(locked)(request)


async def query(request):
    names = {await sync_to_async(here)() for _ in range(3)}
    return JsonResponse({"users": await User.objects.acount(), "threads": sorted(names)})


async def iterate(request):
    """Read many rows one by one, with pauses, so that others use the thread meanwhile."""
    count = 0
    async for _ in User.objects.all().aiterator(chunk_size=2):
        await asyncio.sleep(0.002)
        count += 1
    return HttpResponse(str(count))


def query_in_thread(request):
    return HttpResponse(str(User.objects.count()))


def open_connections(request):
    """Return how many threads of the server hold an open database."""
    import gc

    from django.db.backends.base.base import BaseDatabaseWrapper

    found = [thing for thing in gc.get_objects() if isinstance(thing, BaseDatabaseWrapper)]
    open_ones = [one for one in found if one.connection is not None]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return HttpResponse(" ".join(names.get(one._thread_ident, "ended") for one in open_ones) or "none")


async def hang(request):
    try:
        note("hang begins")
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        note("hang cancelled")
        raise


async def wait(request):
    """Answer when the test wants it to."""
    note("wait begins")
    while not (HERE / f"go-on-{request.GET['n']}").exists():
        await asyncio.sleep(0.01)
    return HttpResponse("waited")


async def parts(request):
    """A stream that goes on until its client leaves."""

    async def produce():
        try:
            number = 0
            while True:
                yield b"%d\n" % number * int(request.GET.get("n", 1))
                number += 1
                note(f"part {number}")
                await asyncio.sleep(float(request.GET.get("s", 0.01)))
        finally:
            note("parts closed")

    return StreamingHttpResponse(produce())


def parts_in_thread(request):
    """A stream of a plain iterator, which may be slow and long."""

    def produce():
        try:
            for number in range(int(request.GET.get("count", 3))):
                yield b"%d\n" % number * int(request.GET.get("n", 1))
                if "n" in request.GET:
                    note(f"part {number}")
                time.sleep(float(request.GET.get("s", 0.01)))
        finally:
            note("plain parts closed")

    return StreamingHttpResponse(produce())


def rows_in_thread(request):
    """A stream of rows by a plain iterator, which reads on when the test wants it to."""

    def produce():
        for user in User.objects.iterator(chunk_size=1):
            yield user.username + " "
            while not (HERE / "go-on").exists():
                time.sleep(0.01)

    return StreamingHttpResponse(produce())


def parts_of_a_plain_view(request):
    """A plain view whose iterator is asynchronous."""

    async def produce():
        for number in range(3):
            await asyncio.sleep(0.01)
            yield f"{number} {here()}\n"

    return StreamingHttpResponse(produce())


async def context(request):
    """Leave traces in the context, and tell those found there."""
    found = f"{translation.get_language()} {timezone.get_current_timezone_name()}"
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    return HttpResponse(found)


def context_in_thread(request):
    return async_to_sync(context)(request)


async def background(request):
    """Answer, and go on with a task of the module."""

    async def later():
        await asyncio.sleep(0.05)
        note(f"later {await User.objects.acount()}")

    tasks.append(asyncio.create_task(later()))
    return HttpResponse("begun")


tasks: list[object] = []


def sleep_long():
    note("thread begins")
    time.sleep(60)
    note("thread ended")


async def to_thread(request):
    tasks.append(asyncio.create_task(asyncio.to_thread(sleep_long)))
    return HttpResponse("begun")


async def to_thread_briefly(request):
    await asyncio.to_thread(time.sleep, 0.01)
    return HttpResponse("done")


def groups(request):
    """Return the number of members by group."""
    return JsonResponse(channel_layers["default"].channel_layer.groups.counts())


async def fails(request):
    raise ValueError("of the view")


def file(request):
    """A large file, for whoever reads slowly."""
    return FileResponse(open(HERE / "large.bin", "rb"))


async def async_file(request):
    return FileResponse(open(HERE / "large.bin", "rb"))


def events(request):
    return EventStream(groups=["events"], first=["first"])


def late_events(request):
    """An event stream that begins when the test wants it to."""
    note("events asked for")
    while not (HERE / "go-on").exists():
        time.sleep(0.01)
    return EventStream(groups=["events"], first=["first"], retry=2500)


def send(request):
    Group("events").send({"text": request.GET["text"]})
    return HttpResponse("sent")


urlpatterns = [
    path("file/", file),
    path("async-file/", async_file),
    path("events/", events),
    path("late-events/", late_events),
    path("send/", send),
    path("plain/", plain),
    path("sleep/", sleep),
    path("where/", where),
    path("block/", block),
    path("kinds/", kinds),
    path("kinds-in-thread/", kinds_in_thread),
    path("locked/", locked),
    path("locked-in-thread/", locked_in_thread),
    path("query/", query),
    path("iterate/", iterate),
    path("query-in-thread/", query_in_thread),
    path("thread-names/", thread_names),
    path("open-connections/", open_connections),
    path("hang/", hang),
    path("wait/", wait),
    path("parts/", parts),
    path("parts-in-thread/", parts_in_thread),
    path("rows-in-thread/", rows_in_thread),
    path("parts-of-a-plain-view/", parts_of_a_plain_view),
    path("context/", context),
    path("context-in-thread/", context_in_thread),
    path("background/", background),
    path("to-thread/", to_thread),
    path("to-thread-briefly/", to_thread_briefly),
    path("groups/", groups),
    path("fails/", fails),
]
