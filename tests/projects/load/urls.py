import threading

import consumers
from django.http import HttpResponse, JsonResponse
from django.urls import path

together = threading.Barrier(8)


def meet(request, number):
    together.wait(60)
    return HttpResponse(f"met {number}")


def counts(request):
    return JsonResponse(consumers.counts)


urlpatterns = [path("meet/<number>/", meet), path("counts/", counts)]
