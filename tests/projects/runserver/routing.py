import threading

from channelserver import route
from channelserver.exceptions import DenyConnection


def connect(message):
    if message["path"] == "/denied/":
        raise DenyConnection


def receive(message):
    workers = sum(thread.name.startswith("worker") for thread in threading.enumerate())
    message.reply_channel.send({"text": f"{message['text']} from one of {workers} threads"})


channel_routing = [route("websocket.connect", connect), route("websocket.receive", receive)]
