import os
import time
from pathlib import Path

from channelserver import Group

HERE = Path(__file__).parent


def connect(message):
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"text": f"{os.getpid()} {message.reply_channel.name}"})


def work(message):
    if message["name"] == "fork":
        if not os.fork():
            time.sleep(600)
            os._exit(0)
        (HERE / "forked").touch()
        while not (HERE / "gate").exists():
            time.sleep(0.005)
    with open(HERE / "notes.txt", "a") as stream:
        stream.write(f"{message['name']}\n")


channel_routing = {"websocket.connect": connect, "work": work}
