import os
import signal

import lab

from channelserver import Group, route
from channelserver.exceptions import ConsumeLater
from channelserver.sessions import channel_session
from channelserver.signals import worker_process_ready, worker_ready

for signal_ in (worker_ready, worker_process_ready):

    def ready(sender, signal, **kwargs):
        lab.note("signal", pid=os.getpid(), name="process" if signal is worker_process_ready else "worker")

    signal_.connect(ready, weak=False)


def work(message):
    if message.get("gate"):
        lab.wait_for_gate(message["gate"])
    lab.note("work", pid=os.getpid(), number=message.get("number"))


def other(message):
    lab.note("other", pid=os.getpid())


tries = []


def later(message):
    tries.append(1)
    if len(tries) < 4:
        raise ConsumeLater
    lab.note("later", pid=os.getpid(), tries=len(tries))


@channel_session
def connect(message):
    if message["path"] == "/kill/":
        os.kill(os.getpid(), signal.SIGKILL)
    if message["path"] == "/raise/":
        raise ValueError("on purpose")
    message.channel_session["count"] = 0
    Group("all").add(message.reply_channel)


@channel_session
def receive(message):
    if message["text"] == "die":
        lab.note("dying")
        os.kill(os.getpid(), signal.SIGKILL)
    if message["text"].startswith("gate"):
        lab.wait_for_gate(message["text"])
    message.channel_session["count"] += 1
    if message["text"] == "all":
        Group("all").send({"text": "to all"})
    message.reply_channel.send({"text": f"{message['text']} {message.channel_session['count']} {os.getpid()}"})


def disconnect(message):
    lab.note("disconnect", pid=os.getpid(), members=len(Group("all").channel_layer.group_channels("all")))


channel_routing = [
    route("work", work),
    route("other", other),
    route("later", later),
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
]
