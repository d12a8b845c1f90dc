import asyncio
import threading

from channelserver.routing import route

#: What consumers on /hold/ wait for.
released = threading.Event()


async def hold(message):
    if message["text"] == "begin":
        message.reply_channel.send({"text": "begun"})
        return
    while not released.is_set():
        await asyncio.sleep(0.05)


def flood(message):
    for _ in range(int(message["text"])):
        message.reply_channel.send({"bytes": bytes(64 * 1024)}, immediately=True)


def count(message):
    message.reply_channel.send({"text": str(len(message["text"]))})


channel_routing = [
    route("websocket.receive", hold, path="^/hold/$"),
    route("websocket.receive", flood, path="^/flood/$"),
    route("websocket.receive", count),
]
