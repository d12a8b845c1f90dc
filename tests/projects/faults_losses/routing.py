import os
import signal

import lab

from channelserver import Channel, Group, route
from channelserver.exceptions import ConsumeLater
from channelserver.signals import consumer_finished

last = []


def die(message):
    """End the process, unless so many processes have ended with this message."""
    name = f"death-{message.get('number')}"
    deaths = sum(entry["what"] == name for entry in lab.read())
    if deaths < message["deaths"]:
        lab.note(name)
        os.kill(os.getpid(), signal.SIGKILL)
    lab.note("work", pid=os.getpid(), number=message.get("number"))


def sibling(message):
    """End a process that is not the first one, once."""
    if os.getpid() != message["first"] and not any(entry["what"] == "dying" for entry in lab.read()):
        lab.note("dying")
        os.kill(os.getpid(), signal.SIGKILL)
    lab.note("work", pid=os.getpid(), number=message["number"])


async def die_later(message):
    die(message)


def receive(message):
    if message["text"] == "die" and not any(entry["what"] == "dying" for entry in lab.read()):
        lab.note("dying")
        os.kill(os.getpid(), signal.SIGKILL)
    message.reply_channel.send({"text": message["text"]})


def end(**kwargs):
    """End the process when a consumer has returned, before it can say so."""
    if last:
        os.kill(os.getpid(), signal.SIGKILL)


consumer_finished.connect(end)


def ends(message):
    last.append(True)
    for _ in range(20):
        Channel("other").send({})
    lab.note("work", pid=os.getpid(), number=message["number"])


def held(message):
    """Hold back sends of each kind until the test says so."""
    Channel("other").send({})
    Group("group").send({})
    lab.wait_for_gate("held")


def raises(message):
    if message.get("not") == os.getpid():  # another process must take it
        raise ConsumeLater
    lab.note("raising", pid=os.getpid())
    raise ValueError("on purpose")


def other(message):
    lab.note("other")


channel_routing = [
    route("again", die, requeue=True),
    route("again.async", die_later, requeue=True),
    route("sibling", sibling, requeue=True),
    route("once", die),
    route("ends", ends),
    route("held", held),
    route("raises", raises),
    route("other", other),
    route("websocket.receive", receive, requeue=True),
]
