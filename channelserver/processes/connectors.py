"""How a process gets its connection to the one that holds the layer.

Runs in the reactor thread; owns that connection. See :mod:`channelserver.processes.remote`.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from channelserver.processes.link import Link

if TYPE_CHECKING:
    from channelserver.processes.remote import RemoteLayer

_log = Logger("channelserver.processes.connectors")

#: Seconds between two attempts to reach the server: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class SocketWay:
    """By the server's Unix socket. While there is no server, another attempt is made every now and then.

    :param path: the socket.
    :param alias: which of ``CHANNEL_LAYERS`` this process works for.
    :param told: called with what the server tells those who join.
    :param rng: source of the pauses' variation.
    """

    def __init__(
        self, path: str, alias: str, told: Callable[[dict[str, Any]], object], rng: random.Random | None = None
    ) -> None:
        self._path = path
        self._alias = alias
        self._told = told
        self._random = rng or random.Random()
        self._pause = FIRST_PAUSE
        self._link: Link | None = None
        self._call: Any = None
        self._closing: Any = None
        self._complaint = ""

    def open(self, reactor: Any, layer: RemoteLayer) -> None:
        """See :class:`channelserver.processes.remote.Way`."""
        self._reactor = reactor
        self._layer = layer
        self._connect()

    def close(self) -> Any:
        """See :class:`channelserver.processes.remote.Way`."""
        self._closing = Deferred()
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._link is None:
            return None
        self._link.transport.loseConnection()  # type: ignore[union-attr]
        return self._closing

    def _connect(self) -> None:
        factory = Factory.forProtocol(lambda: Link(_refuse))
        factory.noisy = False
        attempt = UNIXClientEndpoint(self._reactor, self._path).connect(factory)
        attempt.addCallbacks(self._connected, self._failed)

    def _connected(self, link: Any) -> None:
        self._link = link
        link.when_lost = self._lost
        link.call("join", self._alias).addCallbacks(self._joined, self._refused, callbackArgs=(link,))

    def _joined(self, told: dict[str, Any], link: Link) -> None:
        self._pause = FIRST_PAUSE
        self._complaint = ""
        self._told(told)
        self._layer.joined(link)
        _log.info("joined the server at {path!r}", path=self._path)

    def _refused(self, failure: Any) -> None:
        self._complain(f"the server at {self._path!r} does not let this process join: {failure.value}")
        if self._link is not None:
            self._link.transport.loseConnection()  # type: ignore[union-attr]

    def _failed(self, failure: Any) -> None:
        reason = getattr(failure.value, "osError", None) or failure.value
        self._complain(f"no server of this project answers on {self._path!r} ({reason}); waiting for one")
        self._later()

    def _lost(self, link: Link) -> None:
        self._link = None
        self._layer.left(link)
        if self._closing is not None:
            self._closing.callback(None)
        else:
            self._later()

    def _later(self) -> None:
        if self._closing is None:
            self._call = self._reactor.callLater(self._pause * self._random.uniform(0.7, 1.3), self._connect)
            self._pause = min(LONGEST_PAUSE, self._pause * 1.5)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            _log.warn("{text}", text=text)
            self._complaint = text


class InheritedWay:
    """By a socket that this process was started with, and which connects it for as long as it lives.

    :param descriptor: of the socket.
    :param lost: called when the other process has gone.
    """

    def __init__(self, descriptor: int, lost: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._gone = lost
        self._link: Link | None = None
        self._closing: Any = None

    def open(self, reactor: Any, layer: RemoteLayer) -> None:
        """See :class:`channelserver.processes.remote.Way`."""
        self._link = link = adopt(reactor, self._descriptor, Link(_refuse))

        def lost(_: Link) -> None:
            self._link = None
            layer.left(link)
            if self._closing is None:
                self._gone()
            else:
                self._closing.callback(None)

        link.when_lost = lost
        layer.joined(link)

    def close(self) -> Any:
        """See :class:`channelserver.processes.remote.Way`."""
        if self._link is None:
            return None
        self._closing = Deferred()
        self._link.transport.loseConnection()  # type: ignore[union-attr]
        return self._closing


def adopt(reactor: Any, descriptor: int, link: Link) -> Link:
    """Make a connection of one end of a socket pair.

    :param descriptor: of the socket; it is closed here, for the connection has a copy.
    """
    factory = Factory.forProtocol(lambda: link)
    factory.noisy = False
    with socket.socket(fileno=descriptor) as end:
        end.setblocking(False)
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
    return link


def _refuse(name: str, arguments: list[Any]) -> Any:
    """Nothing may be asked for before this process has joined."""
    raise ValueError(f"{name!r} was asked for too early")
