from channelserver import Group
from channelserver.exceptions import DenyConnection
from channelserver.sessions import channel_session


@channel_session
def connect(message):
    if message["path"] == "/denied/":
        raise DenyConnection
    message.channel_session["path"] = message["path"]
    Group("all").add(message.reply_channel)
    Group("own-" + message.reply_channel.name.partition("!")[2].replace("_", "-")).add(message.reply_channel)


@channel_session
def receive(message):
    if message.content.get("text") == "fill":
        for _ in range(20):
            message.reply_channel.send({"text": "x" * 100_000})
    elif message.content.get("text") == "close":
        message.reply_channel.send({"close": 4000})
    else:
        message.reply_channel.send({"text": "x" * 2000})


channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
