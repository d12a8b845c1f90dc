"""The consumers: what a socket says decides what is done for it."""

from typing import Any

from benchmarks.apps.soaked.models import Note
from channelserver import Channel, Group, Message, route
from channelserver.auth import channel_session_user, channel_session_user_from_http
from channelserver.sessions import channel_session


@channel_session_user_from_http
def connect(message: Any) -> None:
    """Join the room that the path names, and remember it."""
    message.reply_channel.send({"accept": True})
    room = message["path"].strip("/")
    message.channel_session["room"] = room
    Group(f"room-{room}").add(message.reply_channel)
    Group("all").add(message.reply_channel)


@channel_session_user
def receive(message: Any) -> None:
    """``WHAT TEXT``; the session has lasted."""
    what, _, text = message["text"].partition(" ")
    room = message.channel_session["room"]
    if what == "say":
        Group(f"room-{room}").send({"text": f"{message.user.is_anonymous} {text}"})
    elif what == "all":
        Group("all").send({"text": text})
    elif what == "note":
        note = Note.objects.create(room=room, text=text)
        note.text = text.upper()
        note.save()
        note.delete()
    else:
        delay = {"delay": 1.5} if what == "later" else {}
        Channel("background").send({"reply_channel": message.content["reply_channel"], "text": text}, **delay)


@channel_session
def disconnect(message: Any) -> None:
    """Leave the room, as most applications do; from the other group the server removes the socket."""
    Group(f"room-{message.channel_session.get('room')}").discard(message.reply_channel)


@channel_session
def background(message: Any) -> None:
    """Save the session, perhaps after the socket has closed, and answer."""
    message.channel_session["number"] = message.channel_session.get("number", 0) + 1
    message.reply_channel.send({"text": "done " + message["text"]})


async def coroutine(message: Message) -> None:
    """Answer from the event loop."""
    message.reply_channel.send({"text": "done " + message["text"]})


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", coroutine, text="^async "),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("background", background),
]
