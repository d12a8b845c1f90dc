"""Bytes on their way out of a plain TCP or Unix socket, without a detour through the reactor.

Runs in the reactor thread; owns nothing.

``ITransport.write`` keeps the bytes until the reactor finds the socket writable: two changes of the set of descriptors
it watches, and a turn of its loop, for what the kernel nearly always takes at once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor


def direct(transport: Any) -> FileDescriptor | None:
    """Return `transport` if :func:`send` can do with it what it is for; None: it must be written to as usual (TLS)."""
    return transport if isinstance(transport, FileDescriptor) and not getattr(transport, "TLS", False) else None


def send(transport: FileDescriptor, data: bytes) -> None:
    """Give the kernel what it takes of `data`; the rest waits in the transport, as usual.

    :param transport: what :func:`direct` has returned.
    """
    # Nothing may overtake what waits already, and a transport that is closing takes no more.
    if not transport.dataBuffer and not transport._tempDataLen and transport.connected and not transport.disconnecting:
        taken = transport.writeSomeData(data)
        if taken == len(data):
            return
        if isinstance(taken, int) and taken > 0:
            data = data[taken:]
        # An error is found again by the reactor, which then tells the protocol.
    transport.write(data)
