import json

from places import place

FIRST = place()


def receive(message):
    message.reply_channel.send({"text": json.dumps([place(), FIRST])})


channel_routing = {"websocket.receive": receive}
