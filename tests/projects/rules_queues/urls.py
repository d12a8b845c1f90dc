import json

import lab
import routing
from django.http import HttpResponse, JsonResponse
from django.urls import path

from channelserver import Channel, channel_layers


def send(request):
    order = json.loads(request.body)
    Channel(order["channel"]).send(order["content"])
    return HttpResponse("sent")


def gate(request):
    lab.wait_for_gate(request.GET["name"])
    return HttpResponse("through")


def lost(request):
    return JsonResponse(channel_layers["default"].global_statistics()["lost"])


def fill(request):
    number = 0
    while routing.attempt(request.GET["channel"], immediately=True) == "sent":
        number += 1
    return HttpResponse(str(number))


def take(request):
    _channel, content = channel_layers["default"].receive([request.GET["channel"]], block=True)
    return JsonResponse(content)


urlpatterns = [path(view.__name__, view) for view in (send, gate, lost, fill, take)]
