"""The views: a page, and what the site has stored."""

from typing import Any

from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from channelserver import channel_layers
from channelserver.delay.models import DelayedMessage


def page(request: HttpRequest) -> HttpResponse:
    """A page that looks at the session, and sends something to everybody."""
    return HttpResponse(f"Hello, {request.session.get('name')}")


def stored(request: HttpRequest) -> JsonResponse:
    """Return the figures of the layer, and the numbers of rows."""
    layer: Any = channel_layers["default"].channel_layer
    figures = layer.global_statistics()
    return JsonResponse(
        {
            "session rows": Session.objects.count(),
            "delayed rows": DelayedMessage.objects.count(),
            "groups": figures["groups"],
            "members": figures["group_members"],
            "messages waiting": figures["messages_pending"],
            "lost": figures["lost"],
        }
    )


urlpatterns = [path("", page), path("stored", stored)]
