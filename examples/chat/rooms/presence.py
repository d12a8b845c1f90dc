"""Who is in which room.

Kept in the database and not in a variable, so that it is right however many processes serve the site. The reply channel
is the key: it names one socket for as long as that socket lives.

A server that is killed cannot say good-bye for its sockets. Hence two safety nets: a server that starts empties the
table (see ``receivers.py``), and an entry counts only while its page keeps saying "I am here". Should an entry vanish
wrongly, because a second server has just started, the page's next "I am here" puts it back.

Who enters gets the whole roster, the others only what has changed: in a room of hundreds that all come back after a
restart, a roster to everybody for everybody would be millions of names.
"""

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from .models import Presence, Room
from .people import person


def arrive(room_id, user, reply_channel):
    """Note a socket in a room. Return the room's roster, and what has changed for the others, or ``None``."""
    with transaction.atomic():
        _bump(room_id)
        Presence.objects.stale().delete()
        is_new = not Presence.objects.filter(room=room_id, user=user).exists()
        Presence.objects.create(reply_channel=reply_channel.name, room_id=room_id, user=user)
        people = roster(room_id)
    return people, _change("came", user, people) if is_new else None


def stay(room_id, user, reply_channel):
    """Renew a socket's entry. Return the same as :func:`arrive`."""
    with transaction.atomic():
        if Presence.objects.filter(reply_channel=reply_channel.name).update(seen=timezone.now()):
            return roster(room_id), None
        return arrive(room_id, user, reply_channel)


def leave(reply_channel):
    """Strike out a socket. Return its room, and what has changed for the others; or ``None`` for either."""
    with transaction.atomic():
        entry = Presence.objects.select_related("room", "user").filter(reply_channel=reply_channel.name).first()
        if entry is None:
            return None, None
        _bump(entry.room_id)
        entry.delete()
        if Presence.objects.fresh().filter(room=entry.room, user=entry.user).exists():
            return entry.room, None  # through another tab
        return entry.room, _change("went", entry.user, roster(entry.room_id))


def roster(room_id):
    """The people in a room, each once."""
    entries = Presence.objects.fresh().filter(room=room_id).select_related("user")
    users = {entry.user_id: entry.user for entry in entries}
    return {
        "type": "people",
        "version": Room.objects.values_list("people_version", flat=True).get(pk=room_id),
        "people": [person(user) for user in users.values()],
    }


def forget_everybody():
    """Empty the table: right after a start, no socket can be open."""
    Presence.objects.all().delete()


def _change(kind, user, people):
    return {"type": kind, "version": people["version"], "person": person(user), "count": len(people["people"])}


def _bump(room_id):
    # Must come first in its transaction. Changing the row locks it, so that two people who come or go at the same
    # moment do so one after the other; and of two messages the browser can tell the newer, whichever arrives first.
    Room.objects.filter(pk=room_id).update(people_version=F("people_version") + 1)
