"""What happens at the server's start, at a log-out, and when a room is deleted."""

import threading

from django.contrib.auth.signals import user_logged_out
from django.db import connection
from django.db.models.signals import post_delete
from django.dispatch import receiver

from channelserver import Group
from channelserver.signals import worker_ready

from . import presence
from .models import Room

LOGGED_OUT = 4001

_not_yet_started = threading.Lock()


@receiver(worker_ready)
def server_started(**kwargs):
    """Nobody is here yet, whatever the last run of the server left behind."""
    # Several workers may send the signal; the first one of this process counts, and the lock is never given back.
    if _not_yet_started.acquire(blocking=False):
        presence.forget_everybody()
        # This is the thread that starts the server. Workers are other threads, with connections of their own.
        connection.close()


@receiver(user_logged_out)
def close_sockets(user, **kwargs):
    """Close the user's sockets: they learned who is there when they connected, and would not notice the log-out.

    The user's other browsers lose their sockets as well; they are still logged in, and connect again by themselves.
    """
    if user is not None:
        Group(f"user-{user.pk}").send({"close": LOGGED_OUT})


@receiver(post_delete, sender=Room)
def empty_room(instance, **kwargs):
    """Close the sockets in a room that was deleted."""
    Group(instance.group_name).send({"close": True})
