import time

import lab

from channelserver import Channel, Group, route


def task(message):
    lab.note("task", at=time.time(), **message.content)


def connect(message):
    message.reply_channel.send({"text": "later"}, delay=0.2)
    Group("waiting").add(message.reply_channel)
    Group("waiting").send({"text": "to all of us"}, delay=0.3)


def failing(message):
    Channel("task").send({"key": message["key"], "of": "failed"}, delay=0.05)
    Channel("task").send({"key": message["key"], "of": "ended"}, delay=0.1, immediately=True)
    raise RuntimeError("as the test wants it")


channel_routing = [
    route("task", task),
    route("websocket.connect", connect, path="^/later/$"),
    route("failing", failing),
]
