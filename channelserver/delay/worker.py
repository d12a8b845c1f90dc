"""A process that only sends delayed messages (Channels 1: ``channels.delay.worker``).

Runs in the main thread.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from django.db import close_old_connections

from channelserver.asgi import channel_layers
from channelserver.delay.consumers import DELAY_CHANNEL, Delays
from channelserver.exceptions import ConsumeLater
from channelserver.layers.base import BaseChannelLayer
from channelserver.message import Message

#: The signals that end :meth:`Worker.run`.
STOP = {signal.SIGINT, signal.SIGTERM}


class Worker:
    """Sends what is due, and takes new messages from ``asgi.delay`` if the layer lets this process receive.

    :param channel_layer: a layer of ``CHANNEL_LAYERS``, or its wrapper.
    :param signal_handlers: whether SIGINT and SIGTERM end :meth:`run`.
    :param database_sleep_duration: seconds between two looks into the table.
    """

    #: Whether :meth:`run` is to end (Channels 1).
    termed = False

    def __init__(self, channel_layer: Any, signal_handlers: bool = True, database_sleep_duration: float = 1.0) -> None:
        self.channel_layer = channel_layer
        self.database_sleep_duration = database_sleep_duration
        self._signals = STOP if signal_handlers else set()
        self._delays = Delays(channel_layers.alias_of(channel_layer), channel_layer)
        self._receives = True

    def run(self) -> None:
        """Work until a signal comes; the message in hand is sent first."""
        # Blocked, a signal waits until this thread asks for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        pause = 0.0
        while not self.termed and signal.sigtimedwait(self._signals, pause) is None:
            close_old_connections()
            self._store_new()
            due = self._delays.look()
            pause = self.database_sleep_duration
            if due is not None:
                pause = min(pause, max(0.0, due - time.time()))

    def _store_new(self) -> None:
        """Take the new messages on ``asgi.delay``, if the layer lets this process receive."""
        while self._receives and not self._signals & signal.sigpending():
            try:
                channel, content = self.channel_layer.receive([DELAY_CHANNEL], block=False)
            except NotImplementedError:
                self._receives = False
                return
            except (OSError, BaseChannelLayer.ChannelFull):
                return  # the layer is not available; Delays logs that as soon as a message is due
            if channel is None:
                return
            try:
                self._delays.store(Message(content, channel, self.channel_layer))
            except ConsumeLater:
                self.channel_layer.send(DELAY_CHANNEL, content)
                return
