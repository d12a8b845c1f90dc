"""Receiving from a layer in the reactor thread (asgiref 1: extension ``twisted``).

Runs in the reactor thread, which never blocks; owns nothing that lasts. Cancelling a Deferred loses no message: one
that was not handed out stays in its queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThread

from channelserver.bridge import Bridge
from channelserver.layers.content import Content

Received = tuple[str | None, Content | None]


class IReactor(IReactorFromThreads, IReactorTime):
    """The parts of Twisted's reactor that are used here; for type checkers."""


def receive_in_thread(layer: Any, channels: Iterable[str]) -> Deferred[Received]:
    """Take the next message from any of `channels`, for layers whose ``receive`` blocks.

    A thread of Twisted's global reactor waits.

    :returns: a Deferred like that of :func:`receive_twisted`; cancelling it may lose a message.
    :raises TypeError: a name is invalid.
    """
    names = tuple(channels)
    layer.valid_channel_names(names, receive=True)
    return deferToThread(layer.receive, names, True)


def receive_twisted(layer: Any, channels: Iterable[str], reactor: IReactor | None = None) -> Deferred[Received]:
    """Take the next message from any of `channels`, for layers that keep all messages in this process.

    :param layer: a layer with ``queues``.
    :param reactor: default: Twisted's global one.
    :returns: a Deferred that fires in the reactor thread with ``(channel, message)``; with ``(None, None)`` if no
        message arrives for ``layer.receive_seconds``.
    :raises TypeError: a name is invalid.
    """
    names = tuple(channels)
    layer.valid_channel_names(names, receive=True)
    if reactor is None:
        from twisted.internet import reactor as installed

        reactor = cast(IReactor, installed)
    return maybeDeferred(receive, layer, names, layer.receive_seconds, Bridge(reactor), reactor)


def receive(layer: Any, names: tuple[str, ...], seconds: float, bridge: Bridge, clock: IReactorTime) -> Any:
    """Take the next message from any of `names`, waiting up to `seconds` for one.

    :param layer: a layer with ``queues``.
    :returns: ``(channel, message)``, or ``(None, None)`` if there was none; or a Deferred of that.
    """

    def take() -> Received | None:
        delivery = layer.queues.take(names)
        if delivery is None:
            return None
        layer.queues.finish(delivery)
        return delivery.channel, delivery.content

    found = take()
    if found is not None or not seconds:
        return found or (None, None)
    wait = Wait(clock, seconds, take, (None, None))

    def arrived() -> None:  # any thread
        bridge.post(wait.look)

    def unlisten(result: Any) -> Any:
        layer.queues.unlisten(names, arrived)
        return result

    layer.queues.listen(names, arrived)
    wait.look()  # for a message that arrived before listen()
    return wait.deferred.addBoth(unlisten)


class Wait:
    """Repeats an attempt until it succeeds or the time is over.

    :param attempt: returns the result, or None to be tried again.
    :param otherwise: the result when the time is over.
    """

    def __init__(self, clock: IReactorTime, seconds: float, attempt: Callable[[], Any], otherwise: Any) -> None:
        self._attempt = attempt
        self.deferred: Deferred[Any] = Deferred()
        self.deferred.addTimeout(seconds, clock, lambda result, seconds: otherwise)

    def look(self) -> Any:
        """Try once more; return the result, None if there is none yet, False if the wait is over."""
        if self.deferred.called:
            return False
        result = self._attempt()
        if result is not None:
            self.end(result)
        return result

    def end(self, result: Any) -> None:
        """End the wait with `result`, unless it is over."""
        if not self.deferred.called:
            self.deferred.callback(result)
