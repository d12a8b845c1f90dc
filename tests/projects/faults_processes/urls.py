import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from django.http import HttpResponse, JsonResponse
from django.urls import path

from channelserver import Channel, Group, channel_layers

HERE = Path(__file__).parent


def where(request):
    return HttpResponse(str(os.getpid()))


def fork(request):
    """Leave children of every kind behind."""
    if not os.fork():
        time.sleep(600)
        os._exit(0)
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    return HttpResponse(str(os.getpid()))


def send(request):
    """Send; say what became of it."""
    try:
        name = request.GET.get("channel", "work")
        Channel(name).send({"name": request.GET.get("name", "")}, immediately="later" not in request.GET)
    except Exception as error:
        return HttpResponse(f"{type(error).__name__}: {error}")
    return HttpResponse("sent")


def group(request):
    for _ in range(int(request.GET.get("times", 1))):
        Group("all").send({"text": "x" * int(request.GET.get("size", 1))}, immediately=True)
    return HttpResponse(str(len(channel_layers["default"].channel_layer.group_channels("all"))))


def statistics(request):
    figures = channel_layers["default"].channel_layer.global_statistics()
    return JsonResponse(figures)


def held(request):
    with open(HERE / "held.txt", "a") as stream:
        stream.write(f"{os.getpid()} {threading.get_ident()}\n")
    while not (HERE / "gate").exists():
        time.sleep(0.005)
    return HttpResponse(str(os.getpid()))


def version(request):
    return HttpResponse(VERSION)


urlpatterns = [
    path("version/", version),
    path("where/", where),
    path("fork/", fork),
    path("send/", send),
    path("group/", group),
    path("statistics/", statistics),
    path("held/", held),
]
VERSION = ""
