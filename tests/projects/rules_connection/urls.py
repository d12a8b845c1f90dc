import json

from django.http import HttpResponse
from django.urls import path

from channelserver import Channel, Group


def send(request):
    order = json.loads(request.body)
    kind = Group if "group" in order else Channel
    kind(order.get("group") or order["channel"]).send(order["content"])
    return HttpResponse("sent")


urlpatterns = [path("send", send)]
