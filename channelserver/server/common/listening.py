"""Listening on sockets together with other processes.

Runs in the reactor thread; owns the inherited sockets until they are listened on.

A sibling (``--processes``) describes its listeners by the same options as the first process, and opens them in the same
order; but where that one binds a socket, a sibling takes the next of those it has inherited. So each kind of endpoint
works, whatever it wraps around the socket.

The system wakes all processes for a new connection, and the first one that asks gets it. That would be an idle one, but
among idle ones it is as good as always the same: so whoever has more connections than another lets that one go first.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp, unix
from twisted.protocols.tls import TLSMemoryBIOFactory

from channelserver.processes.shares import Shares

#: Seconds for which a new connection is left to the other processes. They may be busy, so after that it is taken.
COURTESY = 0.005


if TYPE_CHECKING:
    _Port = tcp.Port
else:
    _Port = object


class _InTurn(_Port):
    """A port that shares its socket with other processes' ports."""

    shares: Shares
    reactor: Any
    _has_waited = False

    def doRead(self) -> None:
        """See ``tcp.Port``: take a connection, or leave it to others for a moment."""
        if self.shares.ahead() and not self._has_waited:
            self._has_waited = True
            self.stopReading()
            self.reactor.callLater(COURTESY, self._read_on)
            return
        self._has_waited = False
        self.numberAccepts = 1  # then it is somebody else's turn
        super().doRead()

    def _read_on(self) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()


class TCPPort(_InTurn, tcp.Port):
    """A TCP port."""


class UNIXPort(_InTurn, unix.Port):
    """A Unix socket's port."""


class InheritedUNIXPort(UNIXPort):
    """The same, on a socket whose file belongs to the process that made it."""

    def connectionLost(self, reason: Any) -> None:
        """See ``unix.Port``, which would remove the file."""
        tcp.Port.connectionLost(self, reason)


class SharedListening:
    """A reactor whose ports share their sockets with other processes; everything else is the real one's.

    :param reactor: the real one.
    :param shares: how many connections each process has.
    :param descriptors: of the inherited sockets, in the order in which they will be asked for; None: this process opens
        them.
    """

    def __init__(self, reactor: Any, shares: Shares, descriptors: Iterable[int] | None = None) -> None:
        self._reactor = reactor
        self._shares = shares
        self._descriptors = None if descriptors is None else deque(descriptors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorTCP``."""
        if self._descriptors is not None:
            return self._adopt(self._descriptors.popleft(), factory)
        return self._start(TCPPort(port, factory, backlog, interface, self._reactor))

    def listenSSL(self, port: Any, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorSSL``."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        """See ``IReactorUNIX``."""
        if self._descriptors is not None:
            return self._adopt(self._descriptors.popleft(), factory)
        return self._start(UNIXPort(address, factory, backlog, mode, self._reactor, wantPID))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """See ``IReactorSocket``."""
        if self._descriptors is not None:
            return self._adopt(self._descriptors.popleft(), factory)
        if addressFamily == socket.AF_UNIX:
            return self._start(UNIXPort._fromListeningDescriptor(self._reactor, fileDescriptor, factory))
        return self._start(TCPPort._fromListeningDescriptor(self._reactor, fileDescriptor, addressFamily, factory))

    def _adopt(self, descriptor: int, factory: Any) -> Any:
        with socket.socket(fileno=descriptor) as inherited:  # closed: the port has a copy
            inherited.setblocking(False)
            if inherited.family != socket.AF_UNIX:
                return self._start(
                    TCPPort._fromListeningDescriptor(self._reactor, descriptor, inherited.family, factory)
                )
            port = InheritedUNIXPort._fromListeningDescriptor(self._reactor, descriptor, factory)
            try:
                port.mode = os.stat(inherited.getsockname()).st_mode & 0o777
            except (OSError, ValueError):
                pass  # it has no file
            return self._start(port)

    def _start(self, port: Any) -> Any:
        port.shares = self._shares
        port.startListening()
        return port
