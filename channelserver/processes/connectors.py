"""How a process connects to the one that holds the layer.

Runs in the reactor thread; owns that connection. Used by :mod:`channelserver.processes.remote`.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector, IDelayedCall
from twisted.internet.protocol import ClientFactory, Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from channelserver.processes.link import IReactor, Link

_log = Logger("channelserver.processes.connectors")

#: Seconds between two attempts to reach the server: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class Connector:
    """Base class: a subclass connects in :meth:`connect`, and decides in :meth:`disconnected` what comes next."""

    reactor: IReactor
    link: Link | None = None
    _joined: Callable[[Link], object]
    _left: Callable[[Link], object]
    _closed: Deferred[None] | None = None

    def open(self, reactor: IReactor, joined: Callable[[Link], object], left: Callable[[Link], object]) -> None:
        """Connect.

        :param joined: called with each connection over which the other process accepts this one.
        :param left: called with each connection that is lost.
        """
        self.reactor, self._joined, self._left = reactor, joined, left
        self.connect()

    def close(self) -> Deferred[None] | None:
        """Close the connection for good; return a Deferred that fires when it is closed, or None if there is none."""
        self._closed = Deferred()
        if self.link is None:
            return None
        self.link.transport.loseConnection()
        return self._closed

    def use(self, link: Link) -> None:
        self.link = link
        link.when_lost = self._lost

    def _lost(self, link: Link) -> None:
        self.link = None
        self._left(link)
        if self._closed is None:
            self.disconnected()
        else:
            self._closed.callback(None)

    def connect(self) -> None:
        raise NotImplementedError

    def disconnected(self) -> None:
        """The connection is lost, and :meth:`close` was not called."""
        raise NotImplementedError


class _NewLink(Link):
    """A connection that says when it is made.

    :param made: called with it.
    """

    def __init__(self, made: Callable[[Link], object]) -> None:
        super().__init__(refuse)
        self._made = made

    def connectionMade(self) -> None:
        super().connectionMade()
        self._made(self)


class _Attempt(ClientFactory):
    """One attempt to connect. Twisted's ``UNIXClientEndpoint`` does the same, in a module that imports OpenSSL.

    :param made: called with the connection.
    :param failed: called with the reason why there is none.
    """

    noisy = False

    def __init__(self, made: Callable[[Link], object], failed: Callable[[Failure], object]) -> None:
        self._made = made
        self._failed = failed

    def buildProtocol(self, address: object) -> Link:
        return _NewLink(self._made)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._failed(reason)


class SocketConnector(Connector):
    """Connects to the server's local socket, and again whenever the server has restarted.

    :param alias: which of ``CHANNEL_LAYERS`` this process works for.
    :param configure: called with the options that the server sends when this process joins.
    """

    def __init__(self, path: str, alias: str, configure: Callable[[dict[str, Any]], object]) -> None:
        self._path = path
        self._alias = alias
        self._configure = configure
        self._pause = FIRST_PAUSE
        self._retry: IDelayedCall | None = None
        self._last_warning = ""

    def connect(self) -> None:
        self.reactor.connectUNIX(self._path, _Attempt(self._connected, self._failed))

    def close(self) -> Deferred[None] | None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        return super().close()

    def _connected(self, link: Link) -> None:
        self.use(link)
        link.call("join", self._alias).addCallbacks(self._accepted, self._refused, (link,), errbackArgs=(link,))

    def _accepted(self, options: dict[str, Any], link: Link) -> None:
        self._pause = FIRST_PAUSE
        self._last_warning = ""
        self._configure(options)
        self._joined(link)
        _log.info("joined the server at {path!r}", path=self._path)

    def _refused(self, failure: Failure, link: Link) -> None:
        self._warn(f"the server at {self._path!r} does not let this process join: {failure.value}")
        link.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        reason = getattr(failure.value, "osError", None) or failure.value
        self._warn(f"no server of this project answers on {self._path!r} ({reason}); waiting for one")
        self.disconnected()

    def disconnected(self) -> None:
        if self._closed is None:
            self._retry = self.reactor.callLater(self._pause * random.uniform(0.7, 1.3), self.connect)
            self._pause = min(LONGEST_PAUSE, self._pause * 1.5)

    def _warn(self, text: str) -> None:
        if text != self._last_warning:
            _log.warn("{text}", text=text)
            self._last_warning = text


class InheritedConnector(Connector):
    """Uses a socket that this process was started with, and that lasts as long as the other process.

    :param lost: called when the other process has ended.
    """

    def __init__(self, descriptor: int, lost: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._when_lost = lost

    def connect(self) -> None:
        self.use(adopt(self.reactor, self._descriptor))
        assert self.link is not None
        self._joined(self.link)

    def disconnected(self) -> None:
        self._when_lost()


def adopt(reactor: IReactor, descriptor: int) -> Link:
    """Return a connection over one end of a socket pair.

    :param descriptor: of the socket; closed here, because the connection uses a copy.
    """
    link = Link(refuse)
    factory: Any = Factory.forProtocol(lambda: link)
    factory.noisy = False
    with socket.socket(fileno=descriptor) as end:
        end.setblocking(False)
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
    return link


def refuse(name: str, arguments: list[Any]) -> Any:
    """Refuse a request that arrives before this process has joined."""
    raise ValueError(f"{name!r} was requested before this process had joined")
