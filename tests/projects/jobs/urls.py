import contextlib
import json

from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.urls import path
from work import tasks
from work.models import Effect

from channelserver import Channel
from channelserver.jobs.compat import task_backends


def enqueue(request, name):
    """Enqueue ``?args=[…]`` so many times."""
    arguments = json.loads(request.GET.get("args", "[]"))
    return JsonResponse(
        {"ids": [getattr(tasks, name).enqueue(*arguments).id for _ in range(int(request.GET.get("n", 1)))]}
    )


def result(request, pk):
    found = task_backends["default"].get_result(pk)
    return JsonResponse(
        {
            "status": found.status,
            "attempts": found.attempts,
            "errors": [error.exception_class_path for error in found.errors],
            "workers": found.worker_ids,
        }
    )


def in_transaction(request, key):
    """A hundred times: enqueue a job that looks for a row of the same transaction; perhaps roll back."""
    for number in range(100):
        with contextlib.suppress(ValueError), transaction.atomic():
            tasks.sees.enqueue(f"{key}-{number}")
            Effect.objects.create(key=f"{key}-{number}")
            if "back" in request.GET:
                raise ValueError
    return HttpResponse()


def durable(request, key):
    Channel("durable").send({"key": key}, durable=True)
    return HttpResponse()


urlpatterns = [
    path("enqueue/<name>", enqueue),
    path("result/<pk>", result),
    path("transaction/<key>", in_transaction),
    path("durable/<key>", durable),
]
