"""Views, each plain and asynchronous."""

import asyncio
import io
from pathlib import Path

from django.contrib.auth.models import Group
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from django.views import View
from reports import identify

HERE = Path(__file__).parent


def ok(request):
    identify(request.user.username)
    return HttpResponse("ok")


def boom(request):
    """Says nothing about who asks."""
    raise ValueError("boom " + request.GET.get("n", ""))


def named(request):
    identify(request.user.username)
    raise ValueError("named " + request.user.username)


def absent(request):
    raise Http404("absent")


def refused(request):
    return HttpResponse("no", status=403)


def form(request):
    identify(request.POST["name"])
    return HttpResponse(request.POST["name"])


def group(request):
    Group.objects.create(name=f"made by {request.user.username}")
    return HttpResponse("made")


class Page(View):
    """A view that is a class."""

    def get(self, request, number):
        return HttpResponse("page")


def file(request):
    return FileResponse(open(HERE / "urls.py", "rb"))


def memory_file(request):
    return FileResponse(io.BytesIO(b"in memory"))


def stream(request):
    identify(request.user.username)
    return StreamingHttpResponse(iter([b"one ", b"two"]))


def bad_stream(request):
    def parts():
        yield b"one"
        raise ValueError("in stream " + request.GET.get("n", ""))

    return StreamingHttpResponse(parts())


async def async_ok(request):
    identify((await request.auser()).username)
    return HttpResponse("ok")


async def async_boom(request):
    raise ValueError("boom " + request.GET.get("n", ""))


both = asyncio.Event()
visitors = set()


async def async_named(request):
    """Two visitors at a time: each waits until the other is there, too, where that is possible with one thread."""
    name = (await request.auser()).username
    identify(name)
    visitors.add(name)
    if len(visitors) == 2:
        both.set()
    try:
        await asyncio.wait_for(both.wait(), 5)
    except TimeoutError:
        pass
    raise ValueError("named " + name)


async def async_absent(request):
    raise Http404("absent")


async def async_refused(request):
    return HttpResponse("no", status=403)


async def async_form(request):
    identify(request.POST["name"])
    return HttpResponse(request.POST["name"])


async def async_group(request):
    await Group.objects.acreate(name=f"made by an async view for {(await request.auser()).username}")
    return HttpResponse("made")


class AsyncPage(View):
    """An asynchronous view that is a class."""

    async def get(self, request, number):
        return HttpResponse("page")


async def async_file(request):
    return FileResponse(open(HERE / "urls.py", "rb"))


async def async_stream(request):
    identify((await request.auser()).username)

    async def parts():
        yield b"one "
        await asyncio.sleep(0)
        yield b"two"

    return StreamingHttpResponse(parts())


async def async_bad_stream(request):
    async def parts():
        yield b"one"
        raise ValueError("in stream " + request.GET.get("n", ""))

    return StreamingHttpResponse(parts())


coroutines = [
    path("ok/", async_ok, name="async-ok"),
    path("boom/", async_boom),
    path("named/", async_named),
    path("absent/", async_absent),
    path("refused/", async_refused),
    path("form/", async_form),
    path("group/", async_group),
    path("page/<int:number>/", AsyncPage.as_view()),
    path("file/", async_file),
    path("stream/", async_stream),
    path("bad-stream/", async_bad_stream),
]
urlpatterns = [
    path("ok/", ok, name="ok"),
    path("boom/", boom),
    path("named/", named),
    path("absent/", absent),
    path("refused/", refused),
    path("form/", form),
    path("group/", group),
    path("page/<int:number>/", Page.as_view()),
    path("file/", file),
    path("memory-file/", memory_file),
    path("stream/", stream),
    path("bad-stream/", bad_stream),
    path("async/", include(coroutines)),
]
