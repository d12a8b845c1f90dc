import gc

from django.http import HttpResponse, JsonResponse
from django.urls import path
from routing import released
from twisted.internet.tcp import Server

from channelserver import EventStream, Group
from channelserver.server.http.base import Connection
from channelserver.server.websocket import frames


def page(request, size):
    return HttpResponse(bytes(size))


def release(request):
    released.set()
    return HttpResponse("released")


def small(request):
    return HttpResponse("ok")


def events(request):
    return EventStream(groups=["news"])


def feed(request, size):
    Group("news").send({"text": "x" * size})
    return HttpResponse("sent")


def kept(request):
    kinds = [type(each) for each in gc.get_objects()]
    return JsonResponse({kind.__name__: sum(issubclass(each, kind) for each in kinds) for kind in (Connection, Server)})


def masker(request):
    """Whether what unmasks large frames has been imported."""
    return HttpResponse(str(frames._make_masker is not None))


urlpatterns = [
    path("", small),
    path("page/<int:size>", page),
    path("release", release),
    path("events", events),
    path("feed/<int:size>", feed),
    path("kept", kept),
    path("masker", masker),
]
