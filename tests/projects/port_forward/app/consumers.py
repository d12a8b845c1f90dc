import json

from channels import Channel
from channels.auth import channel_session_user, channel_session_user_from_http

from .models import Room


@channel_session_user_from_http
def ws_connect(message):
    message.reply_channel.send({"accept": True})
    message.channel_session["rooms"] = []


def ws_receive(message):
    payload = json.loads(message["text"])
    payload["reply_channel"] = message.content["reply_channel"]
    Channel("chat.receive").send(payload)


@channel_session_user
def ws_disconnect(message):
    for number in message.channel_session.get("rooms", []):
        Room.objects.get(pk=number).websocket_group.discard(message.reply_channel)


def answer(message, **content):
    message.reply_channel.send({"text": json.dumps(content)})


@channel_session_user
def chat_join(message):
    room = Room.objects.get(pk=message["room"])
    if not message.user.is_authenticated or (room.staff_only and not message.user.is_staff):
        answer(message, error="NO_ACCESS")
        return
    room.websocket_group.add(message.reply_channel)
    message.channel_session["rooms"] = list(set(message.channel_session["rooms"]).union([room.id]))
    answer(message, join=room.id, title=room.title)


@channel_session_user
def chat_leave(message):
    room = Room.objects.get(pk=message["room"])
    room.websocket_group.discard(message.reply_channel)
    message.channel_session["rooms"] = list(set(message.channel_session["rooms"]).difference([room.id]))
    answer(message, leave=room.id)


@channel_session_user
def chat_send(message):
    if int(message["room"]) not in message.channel_session["rooms"]:
        answer(message, error="NO_ACCESS")
        return
    line = {"room": message["room"], "message": message["message"], "username": message.user.username}
    Room.objects.get(pk=message["room"]).websocket_group.send({"text": json.dumps(line)})


@channel_session_user
def chat_rooms(message):
    answer(message, rooms=sorted(message.channel_session["rooms"]))
