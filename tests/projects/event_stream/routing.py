"""Sockets of the same group."""

from channelserver import Group, route


def connect(message):
    Group("news").add(message.reply_channel)


channel_routing = [route("websocket.connect", connect)]
