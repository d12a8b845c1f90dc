"""What the server is doing: figures once a second for the page that shows them, as long as somebody looks."""

import json
import logging
import threading

from django.db import close_old_connections
from django.dispatch import receiver

from channelserver import DEFAULT_CHANNEL_LAYER, Group, channel_layers
from channelserver.signals import server_started, server_stopping

from .models import Room

GROUP = "pulse"
SOCKETS = "sockets"

logger = logging.getLogger(__name__)
_stopping = threading.Event()


def event():
    """The figures as an event: rooms, open sockets, and messages to consumers and views since the start."""
    layer = channel_layers[DEFAULT_CHANNEL_LAYER]
    figures = {
        "rooms": Room.objects.count(),
        "sockets": len(layer.group_channels(SOCKETS)),
        "messages": layer.global_statistics()["messages_count"],
    }
    return {"text": json.dumps(figures)}


@receiver(server_started)
def start(**kwargs):
    threading.Thread(target=_run, name="pulse", daemon=True).start()


@receiver(server_stopping)
def stop(**kwargs):
    _stopping.set()


def _run():
    while not _stopping.wait(1):
        try:
            if channel_layers[DEFAULT_CHANNEL_LAYER].group_channels(GROUP):
                close_old_connections()
                Group(GROUP).send(event())
        except Exception:
            logger.exception("The figures could not be sent.")
