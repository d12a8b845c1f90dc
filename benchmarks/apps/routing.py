"""The consumers for channelserver: functions that take a message, in worker threads.

With ``BENCHMARK_CONSUMERS=async``, the echo is a coroutine.
"""

import os

from benchmarks.apps import burden
from channelserver import Group, Message, route

EVERYBODY = Group("everybody")


def echo(message: Message) -> None:
    """Send the message back."""
    message.reply_channel.send({"text": message["text"]})


async def async_echo(message: Message) -> None:
    """Send the message back."""
    message.reply_channel.send({"text": message["text"]})


def join(message: Message) -> None:
    """Add the socket to the group."""
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
    """Do nothing; report the last task of a batch to the group."""
    if not message["left"]:
        EVERYBODY.send({"text": "done"})


def welcome(message: Message) -> None:
    """Accept the socket: the default when a consumer does not reply."""


coroutines = os.environ["BENCHMARK_CONSUMERS"] == "async"

channel_routing = [
    route("websocket.connect", welcome, path=r"^/echo/$"),
    route("websocket.receive", async_echo if coroutines else echo, path=r"^/(?:echo|group)/$"),
    route("websocket.connect", join, path=r"^/group/$"),
    route("websocket.receive", speak, path=r"^/speak/$"),
    route("websocket.receive", burn, path=r"^/burn/$"),
    route("websocket.receive", sleep, path=r"^/sleep/$"),
    route("task", task),
]
