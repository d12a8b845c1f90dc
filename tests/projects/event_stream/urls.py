"""Event streams, and a page that feeds them."""

import os
import time

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from channelserver import EventStream, Group
from channelserver.server import replies

#: How often a group's message was encoded, as what.
encoded = {"frame": 0, "event": 0}


def counting(what, function):
    def call(content):
        encoded[what] += 1
        return function(content)

    return call


replies.frames.encode_reply = counting("frame", replies.frames.encode_reply)
replies.encode_event = counting("event", replies.encode_event)


def news(request):
    return EventStream(groups=["news"], first=["first\nlines", {"event": "hello", "data": "x"}], retry=2500)


async def async_news(request):
    return EventStream(groups=["news"], first=["first"])


def send(request):
    Group("news").send({"text": request.GET["text"] * int(request.GET.get("times", 1)), "event": "e", "id": "7"})
    return HttpResponse("sent")


def end(request):
    Group("news").send({"close": True})
    return HttpResponse("ended")


def plain(request):
    return HttpResponse("plain")


def post(request):
    """Send the body, as text or as bytes."""
    kind = request.GET["as"]
    Group("news").send({kind: request.body.decode() if kind == "text" else request.body})
    return HttpResponse("sent")


def counts(request):
    return JsonResponse(encoded)


def process(request):
    """A stream that tells which process has it."""
    return EventStream(groups=["news"], first=[str(os.getpid())])


def in_session(request):
    """A stream whose view counts visits in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return EventStream(first=[str(request.session["visits"])])


def in_thread(request):
    """An event stream of a plain iterator, which holds a thread."""

    def produce():
        for number in range(1000):
            yield f"data: {number}\n\n"
            time.sleep(0.05)

    return StreamingHttpResponse(produce(), content_type="text/event-stream; charset=utf-8")


urlpatterns = [
    path("post/", post),
    path("counts/", counts),
    path("process/", process),
    path("in-session/", in_session),
    path("in-thread/", in_thread),
    path("news/", news),
    path("async-news/", async_news),
    path("send/", send),
    path("end/", end),
    path("plain/", plain),
]
