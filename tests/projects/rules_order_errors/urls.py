import json
import sys

import lab
import routing
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from channelserver import Channel


def ok(request):
    return HttpResponse("ok")


def fail(request):
    routing.do(request.GET["order"])


async def fail_async(request):
    routing.do(request.GET["order"])


def arm(request):
    routing.armed.add(request.GET["name"])
    return HttpResponse("armed")


def send(request):
    order = json.loads(request.body)
    Channel(order["channel"]).send(order["content"])
    return HttpResponse("sent")


class Body:
    def __init__(self, order):
        self.order = order

    def __iter__(self):
        yield b"begin"
        lab.wait_for_gate(self.order)
        if self.order != "close":
            routing.do(self.order)

    def close(self):
        if self.order == "close":
            sys.exit("the body does not close")


def streaming(request):
    return StreamingHttpResponse(Body(request.GET["order"]))


VIEWS = [ok, fail, fail_async, arm, send, streaming]
urlpatterns = [path(view.__name__, view) for view in VIEWS]
