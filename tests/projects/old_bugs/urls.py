import sys
import threading

import flaky
from django.http import HttpResponse, JsonResponse
from django.urls import path

from channelserver import Channel, Group, channel_layers


def ok(request):
    return HttpResponse("ok")


def task(request):
    Channel("task").send({"deny": "deny" in request.GET})
    return HttpResponse("sent")


def members(request):
    return JsonResponse({"members": channel_layers["default"].group_channels(request.GET["group"])})


def break_take(request):
    flaky.failures = int(request.GET["times"])
    return HttpResponse("broken")


def stampede(request):
    """Change a group in some threads, and use it in others."""
    errors, stop = [], threading.Event()
    group, layer = Group("stampede"), channel_layers["default"]

    def guarded(function):
        def run():
            try:
                number = 0
                while not stop.is_set():
                    number += 1
                    function(number)
            except BaseException as error:
                errors.append(repr(error))

        return run

    def change(number):
        group.add(f"member.{number % 500}")
        group.discard(f"member.{number * 7 % 500}")

    rounds = []

    def use(number):
        layer.group_channels("stampede")
        if number % 100 == 0:
            group.send({}, immediately=True)
        rounds.append(number)
        if len(rounds) > 3000:
            stop.set()

    threads = [threading.Thread(target=guarded(function)) for function in (change, change, use, use)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they get in each other's way as often as they can
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    return JsonResponse({"errors": errors, "rounds": len(rounds)})


urlpatterns = [path(view.__name__, view) for view in (ok, task, members, break_take, stampede)]
