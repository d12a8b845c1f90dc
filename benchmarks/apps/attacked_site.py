"""Paths, views and consumers of the attacked site: what honest and hostile clients ask for."""

import time
from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from channelserver import EventStream, Group, Message, route

#: Seconds that a slow view or consumer takes.
SLOW = 0.5
#: The group of sockets and event streams, and what is sent to it.
NEWS, SAID = "news", "x" * 65_536


def plain(request: HttpRequest) -> HttpResponse:
    """The smallest view, for honest clients."""
    return HttpResponse("Hello, world!")


def page(request: HttpRequest, size: int) -> HttpResponse:
    """A page of so many bytes."""
    return HttpResponse(b"x" * size, content_type="text/plain")


def generated(request: HttpRequest) -> StreamingHttpResponse:
    """A long answer of a plain iterator."""

    def parts() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 50_000

    return StreamingHttpResponse(parts())


def slow(request: HttpRequest) -> HttpResponse:
    """A view that waits, as for a database."""
    time.sleep(SLOW)
    return HttpResponse("waited")


def upload(request: HttpRequest) -> HttpResponse:
    """Read a body."""
    return HttpResponse(str(len(request.body)))


def events(request: HttpRequest) -> EventStream:
    """An event stream of the news."""
    return EventStream(groups=[NEWS])


def feed(request: HttpRequest) -> HttpResponse:
    """Send news."""
    Group(NEWS).send({"text": SAID})
    return HttpResponse("sent")


urlpatterns = [
    path("", plain),
    path("page/<int:size>/", page),
    path("generated/", generated),
    path("slow/", slow),
    path("upload/", upload),
    path("events/", events),
    path("feed/", feed),
]


def wait(message: Message) -> None:
    """A consumer that waits, as for a database."""
    time.sleep(SLOW)


def echo(message: Message) -> None:
    """Send a message back."""
    message.reply_channel.send({key: message[key] for key in ("text", "bytes") if message.get(key) is not None})


def answer(message: Message) -> None:
    """Answer with far more than was sent."""
    message.reply_channel.send({"text": SAID})


def join(message: Message) -> None:
    """Subscribe to the news."""
    Group(NEWS).add(message.reply_channel)


channel_routing = [
    route("websocket.connect", wait, path=r"^/slow-connect/$"),
    route("websocket.connect", join, path=r"^/news/$"),
    route("websocket.receive", echo, path=r"^/echo/$"),
    route("websocket.receive", answer, path=r"^/answer/$"),
    route("websocket.receive", wait, path=r"^/slow/$"),
]
