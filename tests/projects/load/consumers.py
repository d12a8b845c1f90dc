import os
import threading
import time

from channelserver import Group

counts = {"connect": 0, "disconnect": 0, "waiting": 0}
lock = threading.Lock()


def count(what, step=1):
    with lock:
        counts[what] += step


def connect(message):
    count("connect")
    Group("everybody").add(message.reply_channel)


def disconnect(message):
    count("disconnect")


def receive(message):
    text = message["text"]
    if text == "wait":
        count("waiting")
        ends = time.monotonic() + 120
        while not os.path.exists("go") and time.monotonic() < ends:
            time.sleep(0.01)
        count("waiting", -1)
    if message["path"] == "/everybody/":
        Group("everybody").send({"text": text})
    else:
        message.reply_channel.send({"text": text})
