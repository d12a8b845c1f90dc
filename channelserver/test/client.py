"""A client that sends messages and has them consumed.

For the one thread of the test, in which consumers run, too.
"""

from __future__ import annotations

import random
import string
from typing import Any, NoReturn

from asgiref.sync import async_to_sync

from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.channel import Group
from channelserver.exceptions import ChannelSocketException
from channelserver.layers.content import copy_content
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER, check_channel_name
from channelserver.message import Message
from channelserver.signals import consumer_finished, consumer_started
from channelserver.test.layer import deliver_committed
from channelserver.workers.outbox import Outbox
from channelserver.workers.worker import coroutine_of


class Client:
    """Sends messages with a reply channel of its own, runs their consumers, receives the replies.

    :param alias: which of ``CHANNEL_LAYERS``.
    """

    def __init__(self, alias: str = DEFAULT_CHANNEL_LAYER) -> None:
        self.alias = alias
        self.reply_channel = alias + "".join(random.SystemRandom().choices(string.ascii_letters, k=12))

    @property
    def channel_layer(self) -> ChannelLayerWrapper:
        """The layer, as it is at this moment."""
        return channel_layers[self.alias]

    def get_next_message(self, channel: str) -> Message | None:
        """Take the next message from a channel; None if there is none."""
        return next_message(self.alias, channel)

    def get_consumer_by_channel(self, channel: str) -> Any:
        """Return the consumer to which an empty message on a channel is routed, or None."""
        layer = self.channel_layer
        match = layer.router.match(Message({}, channel, layer.channel_layer))
        return None if match is None else match[0]

    def send(self, to: str, content: dict[str, Any] = {}) -> None:  # noqa: B006  (copied at once)
        """Put a message into a channel, with this client's reply channel unless `content` has one.

        :raises TypeError: the name or the content is invalid.
        """
        # Not as an application would send it: a test's own messages are nothing that was "sent".
        message = {"reply_channel": self.reply_channel, **copy_content(content)}
        self.channel_layer.submit(check_channel_name(to), message)

    def consume(self, channel: str, fail_on_none: bool = True) -> Any:
        """Take the next message from a channel, run its consumer, and return what that returns.

        What the consumer sends is sent when it has ended normally. Its exceptions come to the test, but for
        :class:`channelserver.exceptions.ChannelSocketException`, which does what it stands for.

        :param fail_on_none: whether to fail when there is no message, or no route for it.
        """
        message = self.get_next_message(channel)
        if message is None:
            if fail_on_none:
                raise AssertionError(f"No message for channel {channel}")
            return None
        match = self.channel_layer.router.match(message)
        if match is None:
            if fail_on_none:
                raise AssertionError(f"Can't find consumer for message {message.content!r} on channel {channel}")
            return None
        consumer, kwargs = match
        consumer_started.send(sender=type(self), environ={})
        try:
            with Outbox(_no_room) as outbox:
                decide = coroutine_of(consumer)
                coroutine = decide and decide(message)
                # The synchronous parts of a coroutine run in this thread, inside the test's transaction.
                result = (consumer if coroutine is None else async_to_sync(coroutine))(message, **kwargs)
            outbox.release()
            return result
        except ChannelSocketException as error:
            error.run(message)
            return None
        finally:
            consumer_finished.send(sender=type(self))

    def send_and_consume(
        self,
        channel: str,
        content: dict[str, Any] = {},  # noqa: B006  (copied at once)
        fail_on_none: bool = True,
    ) -> Any:
        """:meth:`send`, then :meth:`consume`."""
        self.send(channel, content)
        return self.consume(channel, fail_on_none=fail_on_none)

    def receive(self) -> Any:
        """Take the next reply; return its content, or None if there is none."""
        message = self.get_next_message(self.reply_channel)
        return None if message is None else message.content

    def join_group(self, group_name: str) -> None:
        """Make this client's reply channel a member of a group."""
        Group(group_name, self.alias).add(self.reply_channel)


def next_message(alias: str, channel: str) -> Message | None:
    """Take the next message from a channel; None if there is none."""
    deliver_committed()
    layer = channel_layers[alias].channel_layer
    name, content = layer.receive([channel])
    return None if name is None or content is None else Message(content, name, layer)


def _no_room(*_: Any) -> NoReturn:
    raise AssertionError("a channel is full: the consumer has sent more than its capacity, and nobody takes it out")
