import asyncio

import lab
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

from channelserver import EventStream

BIG = b"x" * 4_000_000


def hold(request, gate):
    lab.note("began", gate=gate)
    lab.wait_for_gate(gate)
    return HttpResponse(gate)


async def wait(request, name):
    lab.note("began", gate=name)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        lab.note("cancelled", name=name)
        raise


def stream(request, gate):
    def parts():
        for number in range(40):
            yield BIG[:100_000]
            if not number:
                lab.wait_for_gate(gate)

    lab.wait_for_gate(gate)
    return StreamingHttpResponse(parts())


urlpatterns = [
    path("hold/<gate>", hold),
    path("wait/<name>", wait),
    path("big", lambda request: HttpResponse(BIG)),
    path("big/<int:size>", lambda request, size: HttpResponse(BIG[:size])),
    path("file", lambda request: FileResponse(open(__file__, "rb"))),
    path("stream/<gate>", stream),
    path("events", lambda request: EventStream(groups=["events"], first=["first"])),
    path("", lambda request: HttpResponse("here")),
]
