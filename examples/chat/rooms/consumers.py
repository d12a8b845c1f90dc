"""The real-time side: what happens when a socket opens, says something, or closes.

Plain functions. The server calls them in a thread, one message of a socket after the other. What they send goes out
when they have ended without an error.
"""

import json
import logging
import uuid

from django.db import IntegrityError
from django.http import QueryDict

from channelserver import Channel, Group
from channelserver.auth import channel_session_user, channel_session_user_from_http
from channelserver.exceptions import DenyConnection

from . import history, lobby, presence, pulse
from .forms import LineForm
from .models import ChatMessage, Room
from .receivers import LOGGED_OUT

logger = logging.getLogger(__name__)


# Connected to websocket.connect
@channel_session_user_from_http
def ws_connect(message, slug):
    """Let a logged-in user into the room, and send what happened since the line ``?after=``."""
    room = Room.objects.filter(slug=slug).first()
    if room is None or not message.user.is_authenticated:
        raise DenyConnection()
    message.channel_session["room"] = room.pk
    Group(room.group_name).add(message.reply_channel)
    Group(f"user-{message.user.pk}").add(message.reply_channel)
    Group(pulse.SOCKETS).add(message.reply_channel)

    after = history.line_number(QueryDict(message.content["query_string"]).get("after"))
    lines, skipped = history.latest(room.pk) if after is None else history.since(room.pk, after)
    _reply(message, {"type": "welcome", "lines": lines, "skipped": skipped})
    roster, change = presence.arrive(room.pk, message.user, message.reply_channel)
    _reply(message, roster)
    _announce(room, change)


# Connected to websocket.receive
@channel_session_user
def ws_receive(message, slug):
    """Look at what the browser sent; if it is a line, put it onto the channel that stores and spreads lines."""
    if not message.user.is_authenticated:  # the account is gone
        message.reply_channel.send({"close": LOGGED_OUT})
        return
    try:
        frame = json.loads(message.content.get("text") or "")
        kind = frame["type"]
    except (ValueError, RecursionError, TypeError, KeyError):
        _reply(message, {"type": "error", "text": "The server could not read that."})
        return
    if kind == "line":
        _receive_line(message, frame)
    elif kind == "here":
        _receive_here(message)
    else:
        _reply(message, {"type": "error", "text": "The server does not know that kind of message."})


def _receive_line(message, frame):
    form = LineForm(frame)
    if not form.is_valid():
        key = frame.get("key")
        _reply(message, {"type": "error", "text": form.complaint(), "key": key if isinstance(key, str) else None})
        return
    Channel("chat-messages").send(
        {
            "room": message.channel_session["room"],
            "author": message.user.pk,
            "text": form.cleaned_data["text"],
            "key": str(form.cleaned_data["key"]),
        }
    )


def _receive_here(message):
    """The page is alive. The answer tells it that the connection is, and sets its list of people right."""
    room_id = message.channel_session["room"]
    roster, change = presence.stay(room_id, message.user, message.reply_channel)
    _reply(message, roster)
    if change:
        _announce(Room.objects.get(pk=room_id), change)


# Connected to websocket.disconnect
def ws_disconnect(message, slug):
    """Strike the socket off the list. Its groups need no care: membership ends with the socket."""
    room, change = presence.leave(message.reply_channel)
    _announce(room, change)


# Connected to chat-messages
def save_line(message):
    """Store a line and show it to the room.

    Anybody may send here, not only ``ws_receive``: a view, a signal, ``manage.py say``. ``author`` is a user's number,
    or ``None`` for an announcement.
    """
    content = message.content
    try:
        line, _ = ChatMessage.objects.select_related("author", "room").get_or_create(
            author_id=content["author"],
            key=uuid.UUID(content["key"]) if content.get("key") else uuid.uuid4(),
            defaults={"room_id": content["room"], "text": content["text"]},
        )
    except IntegrityError:
        logger.info("A line was dropped: its room or its author has been deleted.")
        return
    # Also for a line that was already there: its sender did not hear of it, or would not have sent it again.
    Group(line.room.group_name).send({"text": json.dumps({"type": "line", **line.as_dict()})})
    Group(lobby.GROUP).send(lobby.news(line.room, line=line))


# Connected to websocket.connect, for the front page
@channel_session_user_from_http
def lobby_connect(message):
    """Send all rooms once; from then on, whatever changes."""
    if not message.user.is_authenticated:
        raise DenyConnection()
    Group(lobby.GROUP).add(message.reply_channel)
    Group(f"user-{message.user.pk}").add(message.reply_channel)
    Group(pulse.SOCKETS).add(message.reply_channel)
    _reply(message, {"type": "rooms", "rooms": lobby.rooms()})


# Connected to websocket.receive, for the front page
def lobby_receive(message):
    """The page asks whether the connection is alive; any answer will do."""
    _reply(message, {"type": "here"})


# Connected to websocket.connect, for any other path
def refuse(message):
    raise DenyConnection()


def _announce(room, change):
    """Tell the room who came or went, and the front pages how many are there now."""
    if change is not None:
        Group(room.group_name).send({"text": json.dumps(change)})
        Group(lobby.GROUP).send(lobby.news(room, change=change))


def _reply(message, content):
    message.reply_channel.send({"text": json.dumps(content)})
