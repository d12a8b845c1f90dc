import hashlib
import os
import time
from pathlib import Path

from django.http import HttpResponse
from django.urls import path

from channelserver import Channel

HERE = Path(__file__).parent


def where(request):
    return HttpResponse(str(os.getpid()))


def held(request):
    (HERE / "at-gate").touch()
    while not (HERE / "gate").exists():
        time.sleep(0.002)
    return HttpResponse(str(os.getpid()))


def upload(request):
    return HttpResponse(hashlib.sha256(request.read()).hexdigest())


def work(request):
    for number in range(int(request.GET["number"])):
        Channel("work").send({"number": number}, immediately=True)
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("where/", where), path("held/", held), path("upload/", upload), path("job/", work)]
