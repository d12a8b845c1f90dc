from pathlib import Path

from channelserver import Group

HERE = Path(__file__).parent


def connect(message):
    Group("all").add(message.reply_channel)


def work(message):
    with open(HERE / "work.txt", "a") as stream:
        stream.write(message["text"] + "\n")


channel_routing = {"websocket.connect": connect, "work": work}
