"""Waits for a message, or for room for one, without blocking the reactor thread.

Runs in the reactor thread; owns nothing that lasts. Callers get a Deferred. Cancelling it loses no message: one that
was not handed out stays in its queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from channelserver.bridge import Bridge
from channelserver.layers import ChannelFull, InMemoryChannelLayer
from channelserver.layers.content import Content
from channelserver.layers.receive import Wait, receive


class Waits:
    """Waits in a layer."""

    def __init__(self, layer: InMemoryChannelLayer, bridge: Bridge, clock: IReactorTime) -> None:
        self._layer = layer
        self._bridge = bridge
        self._clock = clock

    def receive(self, names: Sequence[str], seconds: float) -> Any:
        """Take the next message from any of `names`, waiting up to `seconds` for one.

        :returns: ``(channel, content)``, or ``(None, None)`` if there was none; or a Deferred of that.
        """
        return receive(self._layer, tuple(names), seconds, self._bridge, self._clock)

    def room(self, channel: str, content: Content, seconds: float) -> Any:
        """Wait up to `seconds` until `channel` has room for a message.

        :returns: whether it has, or a Deferred of that.
        """
        return self._when_it_fits(channel, content, seconds, lambda: True if self._fits(channel, content) else None)

    def put(self, channel: str, content: Content, seconds: float) -> Any:
        """Put a message into `channel`, waiting up to `seconds` for room. If `channel` is a reply channel, pass the
        message to its connection, and wait until that has room for more.

        :returns: False if there was no room in time or the connection has closed; or a Deferred of that.
        """
        outlet = self._layer.outlet_of(channel)
        if outlet is not None:
            wait = Wait(self._clock, seconds, lambda: None, False)
            outlet.deliver_then(channel, content, wait.end)
            return wait.deferred

        def put() -> bool | None:
            try:
                self._layer.dispatch(channel, content)
            except ChannelFull:
                return None
            return True

        return self._when_it_fits(channel, content, seconds, put)

    def _fits(self, channel: str, content: Content) -> bool:
        return self._layer.when_room(channel, content, lambda: None)

    def _when_it_fits(self, channel: str, content: Content, seconds: float, attempt: Callable[[], Any]) -> Any:
        if attempt():
            return True
        if not seconds:
            return False
        wait = Wait(self._clock, seconds, attempt, False)

        def room() -> None:  # any thread
            self._bridge.post(look)

        def look() -> None:
            if wait.look() is None and self._layer.when_room(channel, content, room):
                room()

        look()
        return wait.deferred
