"""Event streams, and a page that feeds them."""

from django.http import HttpResponse
from django.urls import path

from channelserver import EventStream, Group


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


urlpatterns = [
    path("news/", news),
    path("async-news/", async_news),
    path("send/", send),
    path("end/", end),
    path("plain/", plain),
]
