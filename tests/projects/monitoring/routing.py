from channelserver import route


def consume(message):
    raise ValueError("consumed " + message["text"])


async def async_consume(message):
    raise ValueError("consumed by a coroutine " + message["text"])


channel_routing = [
    route("websocket.receive", consume, path="^/sockets/$"),
    route("websocket.receive", async_consume, path="^/async-sockets/$"),
]
