import lab
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.urls import path


def hold(request, gate, who):
    lab.note("held", gate=gate, who=who)
    lab.wait_for_gate(gate)
    return HttpResponse("held")


def quick(request, who):
    lab.note("quick", who=who)
    return HttpResponse("quick")


async def part(request, gate, who):
    """An asynchronous view that waits in its synchronous part."""
    await sync_to_async(hold)(request, gate, who)
    return HttpResponse("part")


async def quick_part(request):
    return await sync_to_async(HttpResponse)("quick part")


urlpatterns = [
    path("hold/<gate>/<who>", hold),
    path("quick/<who>", quick),
    path("part/<gate>/<who>", part),
    path("quick-part", quick_part),
]
