"""Runs the consumer of a durable message: a job whose task is a channel.

Runs in a job's thread; owns nothing. :mod:`channelserver.jobs.durable` stores such jobs.
"""

from __future__ import annotations

from asgiref.sync import async_to_sync

from channelserver.delay.text import from_text
from channelserver.exceptions import ConsumeLater
from channelserver.jobs.marks import Retry
from channelserver.jobs.models import CHANNEL, Job
from channelserver.layers.content import copy_content
from channelserver.message import Message
from channelserver.registry import channel_layers
from channelserver.workers.worker import coroutine_of


def consume(job: Job) -> None:
    """Run the consumer of a durable message.

    :raises LookupError: no route names its channel.
    :raises Retry: the consumer raised :class:`~channelserver.exceptions.ConsumeLater`.
    """
    alias, text = job.args["args"]
    wrapper = channel_layers[alias]
    channel = job.task.removeprefix(CHANNEL)
    message = Message(copy_content(from_text(text)), channel, wrapper.channel_layer)
    match = wrapper.router.match(message)
    if match is None:
        raise LookupError(f"no route of CHANNEL_LAYERS[{alias!r}] names the channel {channel!r}")
    consumer, kwargs = match
    kind = coroutine_of(consumer)
    coroutine = None if kind is None else kind(message)
    try:
        if coroutine is not None:
            async_to_sync(coroutine)(message, **kwargs)
        else:
            consumer(message, **kwargs)
    except ConsumeLater as later:
        raise Retry("the consumer raised ConsumeLater") from later
