import os
from pathlib import Path

from channelserver import Group

HERE = Path(__file__).parent


def connect(message):
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"text": f"{os.getpid()} {message.reply_channel.name}"})


def work(message):
    with open(HERE / "notes.txt", "a") as stream:
        stream.write(f"{message['name']}\n")


channel_routing = {"websocket.connect": connect, "work": work}
