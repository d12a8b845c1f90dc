from channelserver import Group


def connect(message):
    Group("chat").add(message.reply_channel)


def receive(message):
    raise LookupError(message["text"])


async def elsewhere(message):
    raise RuntimeError("a coroutine")


channel_routing = {"websocket.connect": connect, "websocket.receive": receive, "elsewhere": elsewhere}
