import sys

import lab
from django.core.signals import request_finished, request_started

from channelserver import route
from channelserver.exceptions import ChannelSocketException
from channelserver.signals import consumer_finished, consumer_started, worker_ready


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words for it")

    __repr__ = __str__


class Bottomless(BaseException):
    pass


class BadEnd(ChannelSocketException):
    def run(self, message):
        sys.exit("even its run() fails")


def recurse():
    recurse()


def do(order):
    if order == "exit":
        sys.exit(3)
    elif order == "interrupt":
        raise KeyboardInterrupt
    elif order == "recursion":
        recurse()
    elif order == "generator exit":
        raise GeneratorExit
    elif order == "memory":
        raise MemoryError
    elif order == "stop":
        raise StopIteration
    elif order == "base":
        raise Bottomless
    elif order == "unprintable":
        raise Unprintable
    elif order == "bad end":
        raise BadEnd
    elif order == "no end":
        raise ChannelSocketException


def receive(message):
    do(message["text"])
    message.reply_channel.send({"text": message["text"]})


def connect(message):
    order = message["path"].strip("/").replace("-", " ")
    lab.note("connect", path=message["path"])
    do(order)


def disconnect(message):
    lab.note("disconnect", path=message["path"])
    do("exit")


def task(message):
    do(message["order"])
    lab.note("task", order=message["order"])


class BadRoute:
    """An object in the routing list that fails when it is asked."""

    def channel_names(self):
        return ["bad.route"]

    def match(self, message):
        sys.exit("this route matches nothing, but loudly")


armed = set()


def receiver(name):
    def receive(sender, **kwargs):
        if name in armed:
            armed.discard(name)
            sys.exit(name + " failed") if name.endswith("exit") else 1 / 0

    return receive


SIGNALS = {
    "started": consumer_started,
    "started exit": consumer_started,
    "finished": consumer_finished,
    "finished exit": consumer_finished,
    "request started": request_started,
    "request finished": request_finished,
    "request started exit": request_started,
    "request finished exit": request_finished,
}
for name, signal in SIGNALS.items():
    signal.connect(receiver(name), weak=False)
worker_ready.connect(lambda sender, **kwargs: 1 / 0, weak=False)

channel_routing = [
    BadRoute(),
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("task", task),
]
