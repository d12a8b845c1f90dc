import hashlib
import os
import signal

import lab
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from channelserver import Channel


def where(request):
    return HttpResponse(str(os.getpid()))


def kill(request):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(request):
    raise SystemExit("on purpose")


def stream(request):
    return StreamingHttpResponse(bytes([number % 256]) * 100_000 for number in range(40))


def upload(request):
    return HttpResponse(hashlib.sha256(request.read()).hexdigest() + f" {os.getpid()}")


def send(request):
    Channel("work").send({"number": int(request.GET["number"])})
    return HttpResponse("sent")


def held(request):
    lab.wait_for_gate(request.GET["gate"])
    return HttpResponse(str(os.getpid()))


urlpatterns = [
    path("where/", where),
    path("kill/", kill),
    path("fail/", fail),
    path("stream/", stream),
    path("upload/", upload),
    path("send/", send),
    path("held/", held),
]
