"""The consumers of channelserver: functions that take a message, run by worker threads."""

from benchmarks.apps import burden
from channelserver import Group, Message, route

EVERYBODY = Group("everybody")


def echo(message: Message) -> None:
    """Send back what came."""
    message.reply_channel.send({"text": message["text"]})


def join(message: Message) -> None:
    """Let the socket become a member of the group."""
    EVERYBODY.add(message.reply_channel)


def speak(message: Message) -> None:
    """Send a text to the whole group."""
    EVERYBODY.send({"text": message["text"]})


def burn(message: Message) -> None:
    """Compute, then answer."""
    burden.burn()
    message.reply_channel.send({"text": message["text"]})


def sleep(message: Message) -> None:
    """Wait for the database, then answer."""
    burden.sleep_in_database()
    message.reply_channel.send({"text": message["text"]})


def task(message: Message) -> None:
    """Do a task of the queue, which is nothing; the last one of each lot is told to the group."""
    if not message["left"]:
        EVERYBODY.send({"text": "done"})


def welcome(message: Message) -> None:
    """Accept a socket, by saying nothing against it."""


channel_routing = [
    route("websocket.connect", welcome, path=r"^/echo/$"),
    route("websocket.receive", echo, path=r"^/(?:echo|group)/$"),
    route("websocket.connect", join, path=r"^/group/$"),
    route("websocket.receive", speak, path=r"^/speak/$"),
    route("websocket.receive", burn, path=r"^/burn/$"),
    route("websocket.receive", sleep, path=r"^/sleep/$"),
    route("task", task),
]
