import lab

from channelserver import Group, channel_layers, route
from channelserver.server.websocket import frames

encode = frames.encode_reply


def noting(content):
    lab.note("encoded", text=content.get("text"))
    return encode(content)


frames.encode_reply = noting


def group_of(message):
    return Group(message["path"].strip("/").split("/")[0])


def members(group):
    return channel_layers["default"].group_channels(group.name)


def connect(message):
    group_of(message).add(message.reply_channel)


def receive(message):
    group, reply = group_of(message), message.reply_channel
    if message["text"] == "leave":
        group.discard(reply)
        group.discard(reply)
    elif message["text"] == "join":
        group.add(reply)
        group.add(reply)
    elif message["text"] == "close":
        reply.send({"close": 4000})
    elif message["text"] == "send":
        for number in range(20):
            group.send({"text": str(number)})
    lab.note("received", path=message["path"], text=message["text"])


def disconnect(message):
    group = group_of(message)
    before = message.reply_channel.name in members(group)
    group.add(message.reply_channel)
    after = message.reply_channel.name in members(group)
    lab.note("disconnect", path=message["path"], code=message["code"], before=before, after=after)


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
]
