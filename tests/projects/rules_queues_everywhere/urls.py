import threading

from asgiref.sync import sync_to_async
from django.contrib.contenttypes.models import ContentType
from django.http import HttpResponse
from django.urls import path
from early import models

from channelserver import Channel


def view(request):
    Channel("any-name").send({"from": "a view"})
    thread = threading.Thread(target=Channel("any-name").send, args=[{"from": "a thread"}])
    thread.start()
    thread.join()
    return HttpResponse("sent")


async def async_view(request):
    Channel("any-name").send({"from": "an asynchronous view"})
    await sync_to_async(Channel("any-name").send)({"from": "sync_to_async"})
    return HttpResponse("sent")


def save(request):
    ContentType.objects.create(app_label="app", model="model")
    return HttpResponse("saved")


def early(request):
    models.channel.send({"from": "an early channel"})
    models.group.add("any-name")
    models.group_of_default_layer.send({"from": "an early group"})
    return HttpResponse("sent")


urlpatterns = [path("view", view), path("async", async_view), path("save", save), path("early", early)]
