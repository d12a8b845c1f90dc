import json

from channels import Channel, Group
from channels.auth import channel_session_user, channel_session_user_from_http
from channels.handler import AsgiHandler
from channels.sessions import channel_session, enforce_ordering
from django.http import HttpResponse


def http_consumer(message):
    response = HttpResponse("You asked for {}".format(message.content["path"]))
    for chunk in AsgiHandler.encode_response(response):
        message.reply_channel.send(chunk)


@enforce_ordering(slight=True)
@channel_session_user_from_http
def ws_connect(message):
    room = message.content["path"].strip("/")  # in 0.9 with .decode() before it
    message.channel_session["room"] = room
    Group(f"chat-{room}").add(message.reply_channel)


@enforce_ordering(slight=True)
@channel_session
def ws_message(message):
    if message.content["text"] == "echo":
        message.reply_channel.send(message.content)
    else:
        Channel("chat-messages").send({"room": message.channel_session["room"], "message": message.content["text"]})


@channel_session_user
def ws_disconnect(message):
    Group("chat-{}".format(message.channel_session["room"])).discard(message.reply_channel)


def msg_consumer(message):
    Group("chat-{}".format(message.content["room"])).send({"text": json.dumps({"said": message.content["message"]})})
