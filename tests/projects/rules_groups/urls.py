import lab
from django.http import JsonResponse
from django.urls import path

from channelserver import Group, channel_layers


def send(request):
    group = Group(request.GET["group"])
    size = int(request.GET.get("size", 0))
    for number in range(int(request.GET.get("times", 1))):
        group.send({"text": request.GET["text"].format(number).ljust(size, ".")})
    return JsonResponse({})


def join(request):
    Group(request.GET["group"]).add(request.GET["channel"])
    return JsonResponse({})


def members(request):
    return JsonResponse({"members": channel_layers["default"].group_channels(request.GET["group"])})


def lost(request):
    return JsonResponse(channel_layers["default"].global_statistics()["lost"])


def wait(request):
    Group(request.GET["group"]).add(request.reply_channel)
    lab.note("waiting", group=request.GET["group"])
    raise request.ResponseLater


def answer(request):
    Group(request.GET["group"]).send({"status": 204})
    return JsonResponse({})


urlpatterns = [path(view.__name__, view) for view in (send, join, members, lost, wait, answer)]
