from channelserver import Group


def connect(message):
    Group("all").add(message.reply_channel)


def receive(message):
    Group("all").send({"text": message["text"]})


channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
