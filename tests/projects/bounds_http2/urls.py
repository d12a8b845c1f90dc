import hashlib
import time
from pathlib import Path

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

HERE = Path(__file__).parent


def called():
    with open(HERE / "called", "a") as stream:
        stream.write("x")


def hello(request):
    return HttpResponse("hello")


def large(request):
    called()
    return HttpResponse(b"%08d" % int(request.GET["number"]) * 250_000)


def file(request):
    called()
    return FileResponse(open(HERE / "large.bin", "rb"))


def parts(request):
    called()
    return StreamingHttpResponse(b"%08d" % number * 12_500 for number in range(15))


def digest(request):
    size, check = 0, hashlib.sha256()
    while block := request.read(65536):
        size += len(block)
        check.update(block)
    return JsonResponse({"size": size, "sha256": check.hexdigest()})


def held(request):
    called()
    ends = time.monotonic() + 60
    while not (HERE / "go-on").exists() and time.monotonic() < ends:
        time.sleep(0.01)
    return HttpResponse("finished")


urlpatterns = [path(view.__name__, view) for view in (hello, large, file, parts, digest, held)]
