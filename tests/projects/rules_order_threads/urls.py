import lab
import routing
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.urls import path


def sync_view(request):
    routing.query()
    lab.wait_for_gate("sync")
    return HttpResponse("done")


async def async_view(request):
    await sync_to_async(routing.query)()
    return HttpResponse("done")


urlpatterns = [path("sync", sync_view), path("async", async_view)]
