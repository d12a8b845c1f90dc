import threading

import lab

from channelserver import Channel, route
from channelserver.layers import ChannelFull
from channelserver.workers import outbox

# Two seconds are so short that a busy machine may need them for what has to happen before.
outbox.RETRY_SECONDS = 8


def connect(message):
    lab.note("connect", path=message["path"])
    if message["path"].startswith("/held/"):
        lab.wait_for_gate("connect")


def receive(message):
    reply, text = message.reply_channel, message["text"]
    if text.startswith("wait"):
        lab.wait_for_gate(text.replace(" ", "."))
    elif text == "fill":
        reply.send({"text": "before"})
        for _ in range(3):
            Channel("hole.receive").send({})
        reply.send({"text": "after"})
    elif text == "squeeze":
        for number in range(4):
            Channel("hole.squeeze").send({"number": number})
        reply.send({"text": "squeezed"})
    elif text == "direct":
        results = [attempt("hole.direct", immediately=True) for _ in range(3)]
        thread = threading.Thread(target=lambda: results.append(attempt("hole.direct")))
        thread.start()
        thread.join()
        reply.send({"text": " ".join(results)})
    else:
        reply.send({"text": text[:20]})


def attempt(name, **options):
    channel = Channel(name)
    try:
        channel.send({}, **options)
    except channel.channel_layer.ChannelFull as error:
        assert isinstance(error, ChannelFull)
        return "full"
    return "sent"


def disconnect(message):
    lab.note("disconnect", path=message["path"])


def task(message):
    if "gate" in message:
        lab.wait_for_gate(message["gate"])
    lab.note("task", **message.content)


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("task", task),
]
