"""Sockets whose messages are forwarded to channels of the project's own."""

import json
import multiprocessing
from pathlib import Path

import lab
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model, login
from django.http import HttpRequest

from channelserver import Channel, Group, route
from channelserver.auth import channel_session_user
from channelserver.exceptions import ConsumeLater, DenyConnection
from channelserver.sessions import channel_session
from channelserver.workers.outbox import hold_back


def connect(message):
    if message["path"] == "/refused":
        raise DenyConnection(status=401, headers=[[b"WWW-Authenticate", b"Basic"]], content=b"Log in first.")
    if message["path"] == "/cookie":
        headers = [[b"Set-Cookie", b"seen=1"], [b"Set-Cookie", b"again=2"]]
        message.reply_channel.send({"accept": True, "subprotocol": message["subprotocols"][1], "headers": headers})
        message.reply_channel.send({"close": 4002, "reason": "that is all: \u20ac"})
        return
    if message["path"] == "/injected":
        message.reply_channel.send({"accept": True, "headers": [[b"X-A", b"1\r\nSet-Cookie: b=2"]]})
    message.reply_channel.send({"text": message.reply_channel.name})


def receive(message):
    """``CHANNEL TEXT``: send it on, as projects for Channels 1 do; ``group`` by way of a group."""
    channel, _, text = message["text"].partition(" ")
    content = {"reply_channel": message.content["reply_channel"], "text": text}
    if channel == "member":
        for member in (message.reply_channel, "ordinary"):
            Group("kept").add(member)
    elif channel == "members":
        number = len(Group("kept").channel_layer.group_channels("kept"))
        message.reply_channel.send({"text": str(number)})
    elif channel == "tell":
        Group("kept").send({"text": text})
    elif channel == "half":
        # What any client's JSON may name: half a character, and a whole one in two halves.
        content["text"] = json.loads('"half \\ud83d, whole \\ud83d" ') + json.loads('"\\ude00"')
        content["list"] = [{content["text"]: content["text"]}]
        Group("halves").add(message.reply_channel)
        Group("halves").send({"text": content["text"]})
        message.reply_channel.send({"text": content["text"]})
        Channel("said").send(content)
    elif channel == "fork":
        Group("family").add(message.reply_channel)
        process = multiprocessing.get_context("fork").Process(target=send_in_child, args=(message,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        raise KeyError("drops what this consumer has sent, but not what its child has")
    elif channel == "odd":
        send_odd_things(message)
    elif channel == "group":
        Group("all").add("said")
        Group("all").send(content)
    else:
        Channel(channel).send(content)


#: What no message holds. (An application's send would raise; here the checks are passed by.)
DEEP = []
for _ in range(3000):
    DEEP = [DEEP]
ODD = [2**80, object(), DEEP, {1, 2}]


def send_odd_things(message):
    """Each as a reply and to a group: four that cannot be packed, and one that is too large for other processes."""
    layer, reply = message.channel_layer, message.reply_channel
    Group("odd").add(reply)
    for odd in ODD:
        hold_back(layer, False, reply.name, {"text": "odd", "odd": odd}, False)
        hold_back(layer, True, "odd", {"text": "odd", "odd": odd}, False)
    large = {"text": "odd", "odd": b"x" * (17 * 1024 * 1024)}
    reply.send(large)
    Group("odd").send(large)
    Channel("said").send({"reply_channel": reply.name, "text": "odd", "odd": large["odd"]})
    reply.send({"text": "odd end"})


def send_in_child(message):
    message.reply_channel.send({"text": "reply of a child"})
    Group("family").send({"text": "to the group"})
    Channel("said").send({"reply_channel": message.content["reply_channel"], "text": "by a consumer"})


def say(message):
    lab.note("begin", text=message["text"])
    if message["text"].startswith("wait"):
        lab.wait_for_gate(message["text"])
    tried = Path(f"tried-{message['text']}")
    if message["text"].startswith("later") and not tried.exists():
        tried.touch()
        raise ConsumeLater
    message.reply_channel.send({"text": message["text"]})


async def say_in_coroutine(message):
    await sync_to_async(say)(message)


@channel_session
def remember(message):
    before = len(message.channel_session.keys())
    lab.wait_for_gate(message["text"])
    message.channel_session[message["text"]] = before
    message.reply_channel.send({"text": "remembered"})


def remember_late(message):
    try:
        remember(message)
    finally:
        lab.note("saved", text=message["text"])


@channel_session
def log_in(message):
    user = get_user_model().objects.create_user(message["text"], password="secret")
    request = HttpRequest()
    request.session = message.channel_session
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    message.channel_session["room"] = "a"
    message.reply_channel.send({"text": "logged in"})


@channel_session_user
def who(message):
    """The user, after a change of the password; and what the socket's session has before and after."""
    if message["text"]:
        user = get_user_model().objects.get(username=message["text"])
        user.set_password("changed")
        user.save()
    room = message.channel_session["room"]
    name = message.user.username or "nobody"
    message.reply_channel.send({"text": f"{room} {name} {message.channel_session['room']}"})


@channel_session
def recall(message):
    message.reply_channel.send({"text": " ".join(sorted(message.channel_session.keys()))})


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("said", say),
    route("told", say_in_coroutine),
    route("loose", say, ordered=False),
    route("left", remember),
    route("right", remember),
    route("late", remember_late),
    route("log_in", log_in),
    route("who", who),
    route("recall", recall),
]
