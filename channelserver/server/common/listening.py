"""Listening on sockets together with other processes.

Runs in the reactor thread; owns the inherited sockets until they are listened on.

A sibling (``--processes``) describes its listeners by the same options as the first process, and opens them in the same
order; but where that one binds a socket, a sibling takes the next of those it has inherited. So each kind of endpoint
works, whatever it wraps around the socket.

The kernel wakes all processes for a new connection, and the first one to accept gets it. That is an idle one, but among
idle ones nearly always the same. So a process that has more connections than another waits for a moment.
"""

from __future__ import annotations

import functools
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import (
    IListeningPort,
    IReactorSocket,
    IReactorTime,
)
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.python.failure import Failure
from zope.interface import provider

from channelserver.layers.throttled_log import ThrottledLog
from channelserver.processes.shares import Shares
from channelserver.server.common.late_tls import tcp, unix
from channelserver.server.common.unix import Listening

_log = Logger("channelserver.server.listening")

#: Whether Twisted can make our kinds of port from an open socket; ``_fromListeningDescriptor`` is a private name.
_KNOWN = hasattr(tcp.Port, "_fromListeningDescriptor")
if not _KNOWN:
    _log.warn("this version of Twisted has no Port._fromListeningDescriptor: the kernel alone shares out connections")

#: Seconds for which a process leaves a new connection to the others. They may be busy, so afterwards it accepts.
COURTESY = 0.005
#: Seconds until a port accepts again when the system had no room for a connection.
ACCEPT_PAUSE = 0.5
#: Connections that the kernel queues until they are accepted; a client beyond it tries again after a second. Twisted's
#: default is 50.
BACKLOG = 1024
#: Connections that a port accepts in one turn of the reactor; Twisted has no limit.
ACCEPTS_A_TURN = 20


if TYPE_CHECKING:
    _Port = tcp.Port
else:
    _Port = object


class _TurnTaking(_Port):
    """A port that shares its socket with other processes' ports."""

    shares: Shares
    #: Whether this process accepts no connections any more; its siblings do.
    retired = False
    _has_waited = False

    def doRead(self) -> None:
        """Accept a connection, or leave it to other processes for a moment."""
        if self.shares.ahead() and not self._has_waited:
            self._has_waited = True
            self.stopReading()
            IReactorTime(self.reactor).callLater(COURTESY, self._read_on)
            return
        self._has_waited = False
        self.numberAccepts = 1  # then another process may accept
        super().doRead()

    def _read_on(self) -> None:
        if self.connected and not self.disconnecting and not self.retired:
            self.startReading()


class TCPPort(_TurnTaking, tcp.Port):
    """A TCP port."""


class UNIXPort(_TurnTaking, unix.Port):
    """A Unix socket's port."""


class InheritedUNIXPort(UNIXPort):
    """The same, on a socket whose file belongs to the process that created it."""

    def connectionLost(self, reason: Failure) -> None:
        """Close the port, but keep the file, which ``unix.Port`` would remove."""
        tcp.Port.connectionLost(self, reason)


def limit_accepting(port: Any) -> None:
    """Have a listening port accept no more than :data:`ACCEPTS_A_TURN` connections in one turn of the reactor.

    :param port: one without Twisted's ``numberAccepts``, a private name, stays as it is.
    """
    if not hasattr(port, "numberAccepts"):
        return
    accept = port.doRead

    def accept_some() -> None:
        port.numberAccepts = min(port.numberAccepts, ACCEPTS_A_TURN)
        accept()

    port.doRead = accept_some


def watch_accepting(port: Any, log: ThrottledLog, clock: IReactorTime) -> None:
    """Log in sums that connections cannot be accepted; and try again after a while, instead of without a pause.

    Twisted has a descriptor in reserve: when there is no other left (EMFILE), it accepts and closes. Where that does
    not help (ENFILE, ENOMEM), the port stays readable.

    :param port: a listening port; one without Twisted's ``_logger``, a private name, stays as it is.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        log.count("cannot accept", formatEvent(event))
        if "acceptError" in event and port.connected:
            port.stopReading()
            clock.callLater(
                ACCEPT_PAUSE,
                lambda: None if not port.connected or getattr(port, "retired", False) else port.startReading(),
            )

    if hasattr(port, "_logger"):
        port._logger = Logger("twisted.internet.tcp", observer=observe)


class SharedListening(Listening):
    """A reactor whose ports share their sockets with other processes; everything else is the real one's.

    :param reactor: the real one.
    :param descriptors: of the inherited sockets, in the order in which they will be asked for; None: this process opens
        them.
    """

    def __init__(self, reactor: IReactorSocket, shares: Shares, descriptors: Iterable[int] | None = None) -> None:
        super().__init__(reactor)
        self._shares = shares
        self._descriptors = None if descriptors is None else deque(descriptors)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> IListeningPort:
        if self._descriptors is not None:
            return self._inherit(self._descriptors.popleft(), factory)
        return self._start(TCPPort(port, factory, backlog, interface, self._reactor))

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        if self._descriptors is not None:
            return self._inherit(self._descriptors.popleft(), factory)
        return super().listenUNIX(address, factory, backlog, mode)

    def _listen_unix(self, address: str, factory: Any, backlog: int, mode: int) -> IListeningPort:
        port = UNIXPort(address, factory, backlog, mode, self._reactor)  # type: ignore[arg-type]  # as Twisted's
        return self._start(port)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: socket.AddressFamily, factory: Any) -> IListeningPort:
        if self._descriptors is not None:
            return self._inherit(self._descriptors.popleft(), factory)
        if not _KNOWN:
            return self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
        if addressFamily == socket.AF_UNIX:
            return self._start(UNIXPort._fromListeningDescriptor(self._reactor, fileDescriptor, factory))
        return self._start(TCPPort._fromListeningDescriptor(self._reactor, fileDescriptor, addressFamily, factory))

    def _inherit(self, descriptor: int, factory: Any) -> IListeningPort:
        with socket.socket(fileno=descriptor) as inherited:  # closed: the port has a copy
            inherited.setblocking(False)
            try:
                path = inherited.getsockname() if inherited.family == socket.AF_UNIX else ""
                mode = os.stat(path).st_mode & 0o777
            except (OSError, ValueError):
                path, mode = "", 0o666  # it has no file
            if not _KNOWN:
                port: Any = self._reactor.adoptStreamPort(descriptor, inherited.family, factory)
                port.connectionLost = functools.partial(tcp.Port.connectionLost, port)  # the file stays, as above
                if path:
                    os.chmod(path, mode)
                return IListeningPort(port)
            if inherited.family != socket.AF_UNIX:
                return self._start(
                    TCPPort._fromListeningDescriptor(self._reactor, descriptor, inherited.family, factory)
                )
            port = InheritedUNIXPort._fromListeningDescriptor(self._reactor, descriptor, factory)
            port.mode = mode
            return self._start(port)

    def _start(self, port: Any) -> IListeningPort:
        port.shares = self._shares
        port.startListening()
        return IListeningPort(port)
