"""Listening on sockets that another process has opened.

Runs in the reactor thread; owns the inherited sockets until they are listened on.

A sibling (``--processes``) describes its listeners by the same options as the first process, and opens them in the same
order; but where that one binds a socket, this one takes the next of those it has inherited. So each kind of endpoint
works, whatever it wraps around the socket.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Any

from twisted.internet import tcp, unix
from twisted.protocols.tls import TLSMemoryBIOFactory


class InheritedUnixPort(unix.Port):
    """A port on a Unix socket whose file belongs to the process that made it."""

    def connectionLost(self, reason: Any) -> None:
        """See ``unix.Port``, which would remove the file."""
        tcp.Port.connectionLost(self, reason)


class InheritingReactor:
    """A reactor that listens on inherited sockets; everything else is the real one's.

    :param reactor: the real one.
    :param descriptors: of the sockets, in the order in which they will be asked for.
    """

    def __init__(self, reactor: Any, descriptors: Iterable[int]) -> None:
        self._reactor = reactor
        self._descriptors = deque(descriptors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorTCP``."""
        return self._adopt(factory)

    def listenSSL(self, port: Any, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorSSL``."""
        return self._adopt(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        """See ``IReactorUNIX``."""
        return self._adopt(factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """See ``IReactorSocket``."""
        return self._adopt(factory)

    def _adopt(self, factory: Any) -> Any:
        descriptor = self._descriptors.popleft()
        with socket.socket(fileno=descriptor) as inherited:
            inherited.setblocking(False)
            family = inherited.family
            if family != socket.AF_UNIX:
                return self._reactor.adoptStreamPort(descriptor, family, factory)
            port = InheritedUnixPort._fromListeningDescriptor(self._reactor, descriptor, factory)
            try:
                port.mode = os.stat(port.port).st_mode & 0o777
            except (OSError, ValueError):
                pass  # it has no file
            port.startListening()
            return port
