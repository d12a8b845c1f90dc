"""What the front page shows of each room, at first and whenever it changes."""

import json

from .models import ChatMessage, Room

GROUP = "lobby"
ROOMS = 100
RAIL = 12
PREVIEW = 140


def rooms():
    """All rooms with their people and last line, the liveliest first."""
    found = list(Room.objects.with_activity()[:ROOMS])
    lines = ChatMessage.objects.select_related("author").in_bulk([room.last_id for room in found if room.last_id])
    return [
        {
            **_card(room),
            "people": room.people,
            "version": room.people_version,
            "line": _preview(lines.get(room.last_id)),
        }
        for room in found
    ]


def recent(here):
    """The rooms to offer beside the room ``here``."""
    others = list(Room.objects.with_activity().exclude(pk=here.pk)[: RAIL - 1])
    return sorted([here, *others], key=lambda room: room.name.lower())


def news(room, line=None, change=None):
    """A message for the front pages: a room is new, has a new line, or somebody came or went."""
    card = _card(room)
    if line is not None:
        card["line"] = _preview(line)
    if change is not None:
        card |= {"people": change["count"], "version": change["version"]}
    return {"text": json.dumps({"type": "rooms", "rooms": [card]})}


def _card(room):
    return {"id": room.pk, "name": room.name, "url": room.get_absolute_url()}


def _preview(line):
    if line is None:
        return None
    text = " ".join(line.text.split())
    return {
        "id": line.pk,
        "author": line.author.username if line.author else "",
        "text": text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…",
        "at": line.at.isoformat(),
    }
