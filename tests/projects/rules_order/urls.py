import json

import lab
from django.db import transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from channelserver import Channel, Group


def held(request):
    Group("view").send({"text": "from a view"})
    lab.wait_for_gate("view")
    return HttpResponse("done")


def streaming(request):
    Group("streaming").send({"text": "before the body"})

    def body():
        yield b"begin"
        lab.wait_for_gate("body")
        yield b"end"

    return StreamingHttpResponse(body())


def failing(request):
    Group("failing-view").send({"text": "dropped"})
    Group("failing-view").send({"text": "dropped with the transaction"}, on_commit=True)
    Group("failing-view").send({"text": "too early to be dropped"}, immediately=True)
    raise ValueError("the view failed")


async def failing_async(request):
    Group("failing-view").send({"text": "dropped"})
    raise ValueError("the asynchronous view failed")


def committing(request):
    from routing import add_row

    add_row("view")
    Channel("rows").send({"text": "view"}, on_commit=True, immediately=True)
    lab.wait_for_gate("committing")
    return HttpResponse("done")


def rolling_back(request):
    Group("rolling-back").send({"text": "lost"}, on_commit=True)
    Group("rolling-back").send({"text": "sent all the same"})
    transaction.set_rollback(True)
    return HttpResponse("done")


def later(request):
    for order in json.loads(request.body):
        Channel("later").send(order)
    return HttpResponse("sent")


VIEWS = [held, streaming, failing, failing_async, committing, rolling_back, later]
urlpatterns = [path(view.__name__, view) for view in VIEWS]
