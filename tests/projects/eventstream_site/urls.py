"""A site with django-eventstream."""

import django_eventstream
from django.http import HttpResponse
from django.urls import include, path
from django_eventstream import send_event


def plain(request):
    return HttpResponse("plain")


def publish(request, room):
    send_event(room, "message", {"text": request.POST["text"]})
    return HttpResponse("published")


urlpatterns = [
    path("plain/", plain),
    path("publish/<str:room>/", publish),
    path("rooms/<room>/events/", include(django_eventstream.urls), {"format-channels": ["{room}"]}),
]
