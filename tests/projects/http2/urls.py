import hashlib
import threading
import time
from pathlib import Path

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

HERE = Path(__file__).parent
together = threading.Barrier(16)


def hello(request):
    return HttpResponse(f"hello {request.META['SERVER_PROTOCOL']} {request.scheme}")


def meet(request):
    together.wait(60)
    return HttpResponse("met")


def digest(request):
    size, check = 0, hashlib.sha256()
    while block := request.read(65536):
        size += len(block)
        check.update(block)
    return JsonResponse({"size": size, "sha256": check.hexdigest()})


def form(request):
    return JsonResponse({"post": request.POST.dict(), "length": request.META["CONTENT_LENGTH"]})


def wait_for(name):
    ends = time.monotonic() + 60
    while not (HERE / name).exists() and time.monotonic() < ends:
        time.sleep(0.01)


def parts(request):
    def make():
        yield b"one"
        wait_for("go-on")
        yield b"two"

    return StreamingHttpResponse(make())


def held(request):
    (HERE / "running").touch()
    wait_for("go-on")
    return HttpResponse("finished")


def endless(request):
    def make():
        try:
            while True:
                yield b"x" * 65536
        finally:
            (HERE / "closed").touch()

    return StreamingHttpResponse(make())


def big(request):
    size = int(request.GET["size"])
    return StreamingHttpResponse(b"%08d" % number * 8192 for number in range(size // 65536))


def blob(request):
    return HttpResponse(b"b" * int(request.GET["size"]))


def empty(request):
    return HttpResponse(status=204)


def never(request):
    wait_for("never")
    return HttpResponse("late")


urlpatterns = [
    path(view.__name__, view) for view in (hello, meet, digest, form, parts, held, endless, big, blob, empty, never)
]
