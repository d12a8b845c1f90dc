"""What the server asks of a transport: Twisted's own interfaces say less than its classes do.

Types only: nothing runs here.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol


class Transport(Protocol):
    """One connection to a client (``ITCPTransport``, or the same through TLS or a Unix socket)."""

    #: Bytes that are read at a time; over TLS it has no effect.
    bufferSize: int
    #: The operating system's socket; inside TLS there is none, and a Unix socket's may be closed.
    socket: socket.socket

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: Any, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def getPeer(self) -> Any: ...
    def getHost(self) -> Any: ...


class TLSTransport(Transport, Protocol):
    """The same inside TLS (:class:`channelserver.server.edge.tls.PacedTLS`)."""

    def handshake_done(self) -> None: ...

    #: What carries the encrypted bytes.
    transport: Transport
    #: By ALPN; None: the client did not ask.
    negotiatedProtocol: bytes | None
    #: What the decrypted bytes go to.
    wrappedProtocol: Any
    #: Its :class:`channelserver.server.edge.tls.TLSFactory`.
    factory: Any
    #: What the client's hello is read with, until it is complete.
    reader: Any
