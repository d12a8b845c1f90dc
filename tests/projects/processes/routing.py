import os
import time
from pathlib import Path

from channelserver import Channel, Group, route
from channelserver.sessions import channel_session

HERE = Path(__file__).parent


def note(text):
    with open(HERE / "notes.txt", "a") as stream:
        stream.write(f"{text} {os.getpid()}\n")


def works():
    lines = (HERE / "notes.txt").read_text().split("\n")[:-1]
    return [line for line in lines if line.startswith("work ")]


@channel_session
def connect(message):
    message.channel_session["count"] = 0
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"text": f"{os.getpid()} {message.reply_channel.name}"})


@channel_session
def receive(message):
    text = message["text"]
    message.channel_session["count"] += 1
    if text.startswith("send "):
        for number in range(50):
            Group("all").send({"text": f"{text[5:]} {number}"})
    elif text.startswith("to "):
        Channel(text.split()[1]).send({"text": "personal"})
    elif text.startswith("add "):
        Group("few").add(text.split()[1])
        Group("few").send({"text": "few"})
    elif text == "members":
        all_members, few = (len(Group(name).channel_layer.group_channels(name)) for name in ("all", "few"))
        message.reply_channel.send({"text": f"{all_members} {few}"})
    elif text == "flush":
        Group("all").channel_layer.flush()
        Group("all").send({"text": "to nobody"})
        message.reply_channel.send({"text": "flushed"})
    elif text == "statistics":
        layer = Group("all").channel_layer
        figures = layer.global_statistics()
        count = layer.channel_statistics("websocket.connect")["messages_count"]
        message.reply_channel.send({"text": f"{count} {figures['group_members']} {sorted(figures)[0]}"})
    else:
        message.reply_channel.send({"text": f"{text} {message.channel_session['count']} {os.getpid()}"})


def disconnect(message):
    note("disconnect")


def work(message):
    note("work {}".format(message["number"]))
    # Nobody is done with all of them before the other process has taken one.
    ends = time.monotonic() + 60
    while len({line.split()[-1] for line in works()}) < 2 and time.monotonic() < ends:
        time.sleep(0.005)


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("work", work),
]
