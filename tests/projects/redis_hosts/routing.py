import os
import threading
import time
from pathlib import Path

from channelserver import Group, channel_layers, route
from channelserver.sessions import channel_session, enforce_ordering

folder = Path(__file__).resolve().parent
lock = threading.Lock()


def note(name, text):
    with lock, open(folder / f"{name}.{os.getpid()}", "a") as stream:
        stream.write(text + "\n")


@enforce_ordering
def connect(message):
    message.reply_channel.send({"accept": True})
    Group("all").add(message.reply_channel)
    Group("all").send({"text": "joined"}) if message["path"] == "/hello/" else None


@channel_session
def receive(message):
    verb, _, rest = message["text"].partition(" ")
    if verb == "all":
        Group("all").send({"text": rest})
    elif verb == "leave":
        Group("all").discard(message.reply_channel)
        message.reply_channel.send({"text": "left"})
    elif verb == "count":
        message.channel_session["count"] = message.channel_session.get("count", 0) + 1
        note("order", message["text"])
        number = int(rest)
        if number % 100 == 7:
            raise ValueError("as the test wants it")
        if (folder / f"kill-{number}").exists():
            (folder / f"kill-{number}").unlink()
            os.kill(os.getpid(), 9)
        message.reply_channel.send({"text": f"{number} {message.channel_session['count']}"})
    elif verb == "statistics":
        figures = channel_layers["default"].global_statistics()
        count = channel_layers["default"].channel_statistics("websocket.receive")["messages_count"]
        count += channel_layers["default"].channel_statistics("websocket.connect")["messages_count"]
        message.reply_channel.send({"text": f"{os.getpid()} {figures['groups']} {figures['group_members']} {count}"})
    elif verb == "members":
        message.reply_channel.send({"text": str(len(channel_layers["default"].group_channels("all")))})


def disconnect(message):
    note("disconnect", str(message["code"]))


def work(message):
    note("work", str(message["number"]))
    if message["number"] >= 300 and (folder / "hold").exists():
        while (folder / "hold").exists():
            time.sleep(0.002)
        note("done", str(message["number"]))


channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("work", work),
]
