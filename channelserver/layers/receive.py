"""Receiving from a layer in the reactor thread, as protocol servers for Channels 1 do (asgiref 1: extension
``twisted``).

Runs in the reactor thread, which never waits; owns nothing but the requests under way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread

from channelserver.bridge import Bridge
from channelserver.layers.content import Content

#: Seconds until a Deferred fires with ``(None, None)`` (Channels 1: about five).
RECEIVE_SECONDS = 5.0

Received = tuple[str | None, Content | None]


def receive_in_thread(layer: Any, channels: Iterable[str]) -> Deferred[Received]:
    """Take the next message from any of `channels`, for layers whose ``receive`` has to wait for others.

    One of the threads of Twisted's global reactor waits.

    :param layer: a layer.
    :returns: a Deferred as that of :func:`receive_twisted`; if it is cancelled, a message may be lost.
    :raises TypeError: a name is invalid.
    """
    names = tuple(channels)
    layer.valid_channel_names(names, receive=True)
    return deferToThread(layer.receive, names, True)


def receive_twisted(layer: Any, channels: Iterable[str], reactor: Any = None) -> Deferred[Received]:
    """Take the next message from any of `channels`, for layers that have all messages in this process.

    :param layer: a layer with ``queues``, whose ``receive`` never waits.
    :param reactor: an ``IReactorTime`` and ``IReactorFromThreads`` provider; default: Twisted's global one.
    :returns: a Deferred that fires in the reactor thread with ``(channel, message)``; with ``(None, None)`` if no
        message has come for five seconds. It can be cancelled; no message is lost by that.
    :raises TypeError: a name is invalid.
    """
    names = tuple(channels)
    found: Received = layer.receive(names)
    if found[0] is not None:
        return succeed(found)
    if reactor is None:
        from twisted.internet import reactor as installed

        reactor = installed
    return _Request(layer, names, reactor).deferred


class _Request:
    """One request for a message."""

    def __init__(self, layer: Any, names: tuple[str, ...], reactor: Any) -> None:
        self._layer = layer
        self._names = names
        self._bridge = Bridge(reactor)
        self.deferred: Deferred[Received] = Deferred(lambda _: self._end())
        self._timer = reactor.callLater(RECEIVE_SECONDS, self._finish, (None, None))
        layer.queues.listen(names, self._arrived)
        # What came between the first look and this line has told nobody.
        self._look()

    def _arrived(self) -> None:  # any thread
        self._bridge.post(self._look)

    def _look(self) -> None:
        if not self.deferred.called:
            found = self._layer.receive(self._names)
            if found[0] is not None:
                self._finish(found)

    def _finish(self, result: Received) -> None:
        self._end()
        self.deferred.callback(result)

    def _end(self) -> None:
        self._layer.queues.unlisten(self._names, self._arrived)
        if self._timer.active():
            self._timer.cancel()
