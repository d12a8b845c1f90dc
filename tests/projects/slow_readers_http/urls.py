from django.http import HttpResponse
from django.urls import path


def large(request, size):
    return HttpResponse(b"x" * size)


urlpatterns = [path("<int:size>", large)]
