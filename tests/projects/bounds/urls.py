from django.http import HttpResponse
from django.urls import path
from routing import released


def page(request, size):
    return HttpResponse(bytes(size))


def release(request):
    released.set()
    return HttpResponse("released")


def small(request):
    return HttpResponse("ok")


urlpatterns = [path("", small), path("page/<int:size>", page), path("release", release)]
