import asyncio
import threading

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signals
from django.http import JsonResponse
from django.test import override_settings
from django.urls import get_script_prefix, get_urlconf, path, reverse


def place():
    return [get_urlconf(), get_script_prefix()]


def inside(request):
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(place()))
    thread.start()
    thread.join()
    return JsonResponse([place(), *elsewhere, reverse("inside")], safe=False)


async def task():
    return place()


async def inside_async(request):
    found = [place(), await asyncio.create_task(task()), await sync_to_async(place)(), reverse("inside")]
    return JsonResponse(found, safe=False)


def results(request):
    signals.request_started.send(sender=None).clear()  # it belongs to who asked
    sent = [signal.send(sender=None) for signal in (signals.request_started, signals.request_finished)]
    return JsonResponse([[receiver.__name__, result] for pairs in sent for receiver, result in pairs], safe=False)


def look_at_settings(request):
    with override_settings(KNOWN=2, NEW=3):
        inside = settings.KNOWN, settings.NEW
    after = settings.KNOWN, hasattr(settings, "NEW"), getattr(settings, "NEW", 4)
    listed = "KNOWN" in dir(settings), settings.is_overridden("KNOWN"), settings.is_overridden("NEW")
    return JsonResponse([*inside, *after, *listed], safe=False)


urlpatterns = [
    path("inside/", inside, name="inside"),
    path("async/", inside_async),
    path("results/", results),
    path("settings/", look_at_settings),
]


def middleware(get_response):
    def choose(request):
        request.urlconf = "places"
        return get_response(request)

    return choose
