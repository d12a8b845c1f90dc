import asyncio
import gc
import os
import threading
import weakref

import closing
import settings
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.cache import caches
from django.db import OperationalError, connection, connections
from django.http import HttpResponse, JsonResponse
from django.urls import path


def is_open(alias):
    return connections[alias].connection is not None


def use(request):
    for alias in connections:
        connections[alias].cursor().execute("SELECT 1")
    return HttpResponse("used")


async def use_async(request):
    await sync_to_async(connections["default"].ensure_connection)()
    return HttpResponse("used")


def look(request):
    return HttpResponse(" ".join(f"{alias}={is_open(alias)}" for alias in connections))


def break_down(connection):
    connection.is_usable = lambda: False  # SQLite's is always usable
    connection.errors_occurred = True


def spoil(request):
    """The database goes away in the middle of a request."""
    kept = connections["kept"]
    kept.ensure_connection()
    break_down(kept)
    return HttpResponse("spoilt")


def spoil_between(request):
    """It goes away before a request, or, which is the same here, before something ends that is one."""
    found = []
    for signal in (signals.request_started, signals.request_finished):
        kept = connections["kept"]
        kept.ensure_connection()
        break_down(kept)
        signal.send(sender=None, message={"path": "between"})
        found.append(is_open("kept"))
    return HttpResponse(str(found))


def half(request):
    """A connection breaks before Django has set it up, and so before it says that there is one."""
    kept = connections["kept"]
    kept.close()

    def fail():
        break_down(kept)
        raise OperationalError("gone again")

    kept.init_connection_state = fail
    try:
        kept.ensure_connection()
    except OperationalError:
        del kept.init_connection_state
        return HttpResponse(str(is_open("kept")))


def forgotten(request):
    """A connection that is deleted, and made anew."""
    before = connections["default"]
    before.ensure_connection()
    before.close()
    del connections["default"]
    connections["default"].ensure_connection()
    gone = weakref.ref(before)
    del before
    gc.collect()
    return HttpResponse(str(gone() is None))


def uncommitted(request):
    connections["kept"].set_autocommit(False)
    return HttpResponse("left as it is")


def queries(request):
    kept = connections["kept"]
    kept.force_debug_cursor = True
    kept.cursor().execute("SELECT 1")
    return HttpResponse(str(len(kept.queries)))


def cache(request):
    before = len(closing.closed)
    caches["closing"].get("anything")
    return HttpResponse(str(before))


def elsewhere(request):
    """A thread of the project sends the signals, as some do that run jobs."""
    found = []

    def work():
        connection.ensure_connection()
        signals.request_finished.send(sender=None)
        found.append(is_open("default"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return HttpResponse(str(found))


def tasks(request):
    """In an event loop each task has its own connections; the signals, sent by another task, leave them alone."""
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    found = []

    async def one(opened, signalled):
        connections["kept"].ensure_connection()
        signals.request_finished.send(sender=None)
        connections["kept"].set_autocommit(False)  # whoever looks at it now will close it
        opened.set()
        await signalled.wait()
        found.append(is_open("kept"))
        connections["kept"].close()

    async def other(opened, signalled):
        await opened.wait()
        signals.request_finished.send(sender=None)
        signalled.set()

    async def both():
        events = asyncio.Event(), asyncio.Event()
        await asyncio.gather(one(*events), other(*events))

    def work():
        asyncio.run(both())  # the thread's first look is a task's
        signals.request_finished.send(sender=None)
        asyncio.run(both())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return HttpResponse(str(found))


heard = []


def listener(sender, message, **kwargs):
    heard.append(f"{message['path']}: {is_open('default')}")


def listen(request):
    signals.request_started.connect(listener)
    connection.ensure_connection()
    return HttpResponse("listening")


def hear(request):
    signals.request_started.disconnect(listener)
    return HttpResponse(str(heard))


def told(request):
    return JsonResponse(settings.heard, safe=False)


urlpatterns = [
    path(view.__name__ + "/", view)
    for view in (
        use,
        use_async,
        look,
        spoil,
        spoil_between,
        half,
        forgotten,
        uncommitted,
        queries,
        cache,
        elsewhere,
        tasks,
        listen,
        hear,
        told,
    )
]
