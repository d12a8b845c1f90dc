import json
from unittest import mock

from django.db import transaction
from django.http import HttpResponse
from django.urls import path
from django.utils import timezone

from channelserver import Channel


def send(request):
    """Send what the request says, to the channel that it names."""
    order = json.loads(request.body)
    Channel(order["channel"]).send(order["content"], delay=order.get("delay"))
    return HttpResponse("sent")


def send_together(request):
    """Send messages with the delays that the request says, at the same moment; answer with that."""
    began = timezone.now()
    with transaction.atomic(), mock.patch("django.utils.timezone.now", return_value=began):
        for delay in json.loads(request.body):
            Channel("task").send({"delay": delay}, delay=delay, immediately=True)
    return HttpResponse(repr(began.timestamp()))


urlpatterns = [path("send", send), path("send-together", send_together)]
