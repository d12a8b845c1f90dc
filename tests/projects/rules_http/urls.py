import asyncio
import hashlib
import json
from io import BytesIO
from pathlib import Path

import lab
from django.core.files.uploadhandler import FileUploadHandler
from django.db import connection, transaction
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path

from channelserver import Channel
from channelserver.exceptions import ResponseLater

BASE = Path(__file__).resolve().parent


# -- views and what is around them --


def simple(request):
    response = HttpResponse("simple")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


async def asynchronous(request):
    await asyncio.sleep(0)
    results = await asyncio.gather(*(asyncio.to_thread(str, number) for number in range(3)))
    return JsonResponse({"results": results, "method": request.method, "query": request.GET.getlist("a")})


def echo(request):
    meta = {key: value for key, value in request.META.items() if isinstance(value, str)}
    return JsonResponse(
        {
            "method": request.method,
            "path": request.path,
            "get": dict(request.GET.lists()),
            "meta": meta,
            "post": dict(request.POST.lists()),
            "cookies": request.COOKIES,
            "scheme": request.scheme,
        }
    )


def fail(request):
    raise ValueError("the view failed")


async def fail_async(request):
    raise ValueError("the asynchronous view failed")


def missing(request):
    raise Http404("no such thing")


def count_session(request):
    request.session["number"] = request.session.get("number", 0) + 1
    return HttpResponse(str(request.session["number"]))


# -- bodies of requests --


class NotingHandler(FileUploadHandler):
    def receive_data_chunk(self, data, start):
        lab.note("chunk", size=len(data), start=start)
        return data

    def file_complete(self, size):
        lab.note("complete", size=size, name=self.file_name)
        return None


def upload(request):
    if request.GET.get("handler"):
        request.upload_handlers.insert(0, NotingHandler(request))
    files = {
        name: [type(file).__name__, file.size, hashlib.sha256(file.read()).hexdigest()]
        for name, file in request.FILES.items()
    }
    return JsonResponse({"files": files, "post": request.POST.dict()})


def body(request):
    return HttpResponse(hashlib.sha256(request.body).hexdigest())


def read(request):
    digest, size = hashlib.sha256(), 0
    while part := request.read(65536):
        digest.update(part)
        size += len(part)
    return HttpResponse(f"{size} {digest.hexdigest()}")


# -- responses --


def parts(name):
    try:
        for number in range(3):
            yield f"part {number}"
            lab.wait_for_gate(f"{name}.{number}")
    finally:
        lab.note("closed", name=name)


def streaming(request):
    return StreamingHttpResponse(parts(request.GET["name"]))


async def async_parts(name):
    try:
        for number in range(3):
            yield f"part {number}"
            await asyncio.to_thread(lab.wait_for_gate, f"{name}.{number}")
    finally:
        lab.note("closed", name=name)


def streaming_async(request):
    return StreamingHttpResponse(async_parts(request.GET["name"]))


async def async_streaming_async(request):
    return StreamingHttpResponse(async_parts(request.GET["name"]))


def endless(request):
    def body():
        try:
            for _number in range(10000):
                lab.note("part", name=request.GET["name"])
                yield b"x" * 100_000
        finally:
            lab.note("closed", name=request.GET["name"])

    return StreamingHttpResponse(body())


async def endless_async(request):
    async def body():
        try:
            for _number in range(10000):
                lab.note("part", name=request.GET["name"])
                yield b"x" * 100_000
        finally:
            lab.note("closed", name=request.GET["name"])

    return StreamingHttpResponse(body())


def measured(request):
    def body():
        for _number in range(10):
            yield b"0123456789"
        if "name" in request.GET:
            lab.wait_for_gate(request.GET["name"])
        lab.note("closed", name=request.GET.get("name"))

    return StreamingHttpResponse(body(), headers={"Content-Length": "100"})


class NotingFile(BytesIO):
    def close(self):
        if not self.closed:
            lab.note("file closed")
        super().close()


def file(request):
    size = int(request.GET["size"])
    path = BASE / f"file-{size}.bin"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    return FileResponse(open(path, "rb"), as_attachment=True)


def noting_file(request):
    return FileResponse(NotingFile(b"from memory"), filename="memory.txt")


def large(request):
    return HttpResponse(b"y" * 5_000_000)


def gate(request):
    lab.wait_for_gate(request.GET["name"])
    lab.note("answered", name=request.GET["name"])
    return HttpResponse("through the gate")


# -- an answer from somebody else --


def later(request):
    lab.note("later", reply=request.reply_channel.name)
    raise request.ResponseLater


async def later_async(request):
    lab.note("later", reply=request.reply_channel.name)
    raise ResponseLater


def answer(request):
    order = json.loads(request.body)
    for content in order["contents"]:
        if "content" in content:
            content["content"] = content["content"].encode()
        Channel(order["channel"]).send(content)
    return HttpResponse("answered")


# -- transactions --


def insert(request):
    connection.cursor().execute("INSERT INTO row VALUES (%s)", [request.GET["name"]])
    lab.note("atomic", yes=connection.in_atomic_block)
    how = request.GET["how"]
    if how == "fail":
        raise ValueError("the view failed after its insertion")
    if how == "later":
        lab.note("later", reply=request.reply_channel.name)
        raise ResponseLater
    return HttpResponse("inserted")


def count(request):
    cursor = connection.cursor()
    cursor.execute("SELECT count(*) FROM row WHERE name = %s", [request.GET["name"]])
    return HttpResponse(str(cursor.fetchone()[0]))


with connection.cursor() as cursor:
    if "row" not in connection.introspection.table_names(cursor):
        cursor.execute("CREATE TABLE row (name TEXT)")
connection.close()

VIEWS = [
    simple,
    asynchronous,
    echo,
    fail,
    fail_async,
    missing,
    count_session,
    upload,
    body,
    read,
    streaming,
    streaming_async,
    async_streaming_async,
    endless,
    endless_async,
    measured,
    file,
    noting_file,
    large,
    gate,
    later,
    later_async,
    answer,
    insert,
    count,
]
for view in VIEWS:
    if asyncio.iscoroutinefunction(view):
        transaction.non_atomic_requests(view)  # Django's condition
urlpatterns = [path(view.__name__, view) for view in VIEWS]
