from channelserver import Group


def connect(message):
    message.reply_channel.send({"accept": True})
    Group("chat").add(message.reply_channel)


def receive(message):
    Group("chat").send({"text": message["text"]})


channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
