import random
import time

import record

from channelserver import Group, route


def work(message):
    record.begin(message["id"])
    time.sleep(random.choice((0.0, 0.001, 0.005, 0.02)))
    record.end(message["id"])


def connect(message):
    Group("all").add(message.reply_channel)


def receive(message):
    identity = message["text"]
    record.begin(identity)
    time.sleep(random.choice((0.0, 0.001, 0.005)))
    message.reply_channel.send({"text": identity})
    record.end(identity)


def disconnect(message):
    Group("all").discard(message.reply_channel)


channel_routing = [
    route("chaos.work", work),
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
]
