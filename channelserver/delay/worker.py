"""A process that does nothing but send delayed messages (Channels 1: ``channels.delay.worker``).

Runs in the main thread; owns the handlers of SIGINT and SIGTERM, if asked to.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from django.db import close_old_connections

from channelserver.asgi import channel_layers
from channelserver.delay.consumers import DELAY_CHANNEL, Delays
from channelserver.exceptions import ConsumeLater
from channelserver.layers.base import BaseChannelLayer
from channelserver.message import Message


class Worker:
    """Sends what is due, and takes new messages from ``asgi.delay`` where the layer lets this process receive.

    :param channel_layer: a layer of ``CHANNEL_LAYERS``, or its wrapper.
    :param signal_handlers: end, in an orderly way, on SIGINT and SIGTERM.
    :param database_sleep_duration: seconds between two looks at the database.
    """

    def __init__(self, channel_layer: Any, signal_handlers: bool = True, database_sleep_duration: float = 1.0) -> None:
        self.channel_layer = channel_layer
        self.signal_handlers = signal_handlers
        self.database_sleep_duration = database_sleep_duration
        self._delays = Delays(channel_layers.alias_of(channel_layer), channel_layer)
        self._receives = True
        self._stopping = False
        self._wake: socket.socket | None = None

    def install_signal_handler(self) -> None:
        """Have SIGINT and SIGTERM end :meth:`run`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.sigterm_handler)

    def sigterm_handler(self, number: int, frame: FrameType | None) -> None:
        """End :meth:`run` when the message in hand has been sent."""
        # No Event: its lock may be held by the very code that this handler interrupts.
        self._stopping = True
        if self._wake is not None:
            with suppress(BlockingIOError):  # it has been woken before
                self._wake.send(b"!")

    def run(self) -> None:
        """Work until a signal comes."""
        if self.signal_handlers:
            self.install_signal_handler()
        self._wake, woken = socket.socketpair()
        with self._wake, woken:
            self._wake.setblocking(False)
            while not self._stopping:
                close_old_connections()
                self._store_new()
                due = self._delays.look()
                pause = self.database_sleep_duration
                if due is not None:
                    pause = min(pause, max(0.0, due - time.time()))
                select.select([woken], [], [], pause)
            self._wake = None

    def _store_new(self) -> None:
        """Take what has come in on ``asgi.delay``; elsewhere the server does."""
        while self._receives and not self._stopping:
            try:
                channel, content = self.channel_layer.receive([DELAY_CHANNEL], block=False)
            except NotImplementedError:
                self._receives = False
                return
            except (OSError, BaseChannelLayer.ChannelFull):
                return  # the layer is out of reach; Delays says so as soon as a message is due
            if channel is None:
                return
            try:
                self._delays.store(Message(content, channel, self.channel_layer))
            except ConsumeLater:
                self.channel_layer.send(DELAY_CHANNEL, content)
                return
