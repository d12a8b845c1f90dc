"""Consumers that are coroutines."""

import asyncio

from django.utils import timezone, translation
from urls import note

from channelserver import Channel, Group, route, route_class
from channelserver.auth import channel_session_user, channel_session_user_from_http
from channelserver.exceptions import DenyConnection
from channelserver.generic.websockets import JsonWebsocketConsumer
from channelserver.sessions import channel_session, enforce_ordering


@channel_session
async def connect(message):
    if message["path"] == "/denied/":
        raise DenyConnection
    message.channel_session["count"] = 0
    Group("all").add(message.reply_channel)


@enforce_ordering
@channel_session
async def receive(message):
    text = message["text"]
    message.channel_session["count"] += 1
    if text.startswith("sleep"):
        try:
            await asyncio.sleep(float(text.split()[1]))
        except asyncio.CancelledError:
            note("consumer cancelled")
            raise
    message.reply_channel.send({"text": f"held {text} {message.channel_session['count']}"})
    if text == "now":
        message.reply_channel.send({"text": "at once"}, immediately=True)
        await asyncio.sleep(0.05)
    if text == "raise":
        raise ValueError("of the consumer")
    if text == "group":
        Group("all").send({"text": "to all"})
    if text == "work":
        Channel("work").send({"reply_channel": message.reply_channel.name})


async def work(message):
    await asyncio.sleep(0)
    message.reply_channel.send({"text": "worked"})


@channel_session_user_from_http
async def user_connect(message):
    message.reply_channel.send({"text": f"connected {message.user.username or 'nobody'}"})


@channel_session_user
async def user_receive(message):
    message.reply_channel.send({"text": f"received {message.user.username or 'nobody'}"})


def context(message):
    """Leave traces in the context, and tell those found there."""
    found = f"{translation.get_language()} {timezone.get_current_timezone_name()}"
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    message.reply_channel.send({"text": found})


async def async_context(message):
    context(message)


class Json(JsonWebsocketConsumer):
    """A class whose hooks are coroutines, but for one."""

    groups = ["json"]
    channel_session = True

    async def connect(self, message, **kwargs):
        await asyncio.sleep(0)
        message.channel_session["room"] = kwargs["room"]
        message.reply_channel.send({"accept": True})

    async def receive(self, content, **kwargs):
        await asyncio.sleep(0)
        self.send({"room": self.message.channel_session["room"], "got": content})

    def disconnect(self, message, **kwargs):
        Group("all").send({"text": f"left {message.channel_session['room']}"})


channel_routing = [
    route_class(Json, path=r"^/json/(?P<room>\w+)/$"),
    route("websocket.connect", user_connect, path=r"^/user/"),
    route("websocket.receive", user_receive, path=r"^/user/"),
    route("websocket.receive", context, path=r"^/context/$"),
    route("websocket.receive", async_context, path=r"^/async-context/$"),
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("work", work),
]
