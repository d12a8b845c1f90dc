"""Bytes on their way out of a plain TCP or Unix socket, without a detour through the reactor.

Runs in the reactor thread; owns nothing.

``ITransport.write`` keeps the bytes until the reactor finds the socket writable: two changes of the set of descriptors
it watches, and a turn of its loop, for what the kernel nearly always takes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import interfaces
from twisted.internet.tcp import Connection

from channelserver.server.common.transport import Transport

#: Gives the kernel bytes; returns how many it has taken.
Put = Callable[[bytes], int]


def direct(transport: Any) -> Any:
    """Return `transport` if it is for :func:`send`; None: it must be written to as usual (TLS)."""
    return transport if isinstance(transport, Connection) and not transport.TLS else None


def send(transport: Any, data: bytes) -> None:
    """Give the kernel what it takes of `data`; the rest waits in the transport, as usual.

    :param transport: what :func:`direct` has returned.
    """
    put = shortcut(transport)
    if put is not None:
        try:
            taken = put(data)
        except OSError:  # it is full; or closed, which the reactor finds out, too, and tells the protocol
            taken = 0
        if taken == len(data):
            return
        if taken:
            data = data[taken:]
    transport.write(data)


def shortcut(transport: Any) -> Put | None:
    """Return what gives the kernel bytes; None: others wait in the transport, and nothing may overtake them.

    :param transport: what :func:`direct` has returned.
    """
    put: Put | None = None if transport.dataBuffer or transport._tempDataLen else transport.socket.send
    return put


def lose_transport(transport: Transport) -> None:
    """Close a transport when all that was written has been sent.

    Closing outright with bytes of the client unread makes the kernel reset the connection, and the client may lose what
    we have sent last. So only our side is closed; the client's follows, or the caller's deadline. (TLS has a way of its
    own to say that there is no more.)
    """
    if interfaces.IHalfCloseableDescriptor.providedBy(transport) and not interfaces.ISSLTransport.providedBy(transport):
        transport.loseWriteConnection()  # type: ignore[attr-defined]  # the interface forgets its method
    else:
        transport.loseConnection()
