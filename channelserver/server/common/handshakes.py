"""TLS handshakes that leave the reactor time for others.

Runs in the reactor thread; a connection is owned by its transport.

Of each turn of the reactor handshakes get a slice, and client addresses are served in turn: a handshake costs half a
millisecond or more, and thousands can begin at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from channelserver.server.common.continuations import Continuations
from channelserver.server.common.records import QuickTLS, clock_for_writes


class PacedHandshake(QuickTLS):
    """TLS on a transport."""

    factory: PacedFactory

    def makeConnection(self, transport: ITransport) -> None:
        self._early: list[bytes] = []
        self.dataReceived = self._put_off  # type: ignore[method-assign]  # until the end of the handshake
        super().makeConnection(transport)

    # Objects that refer to each other are kept, with what they have buffered, until the garbage is collected.

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.handshake_done()
        self.undecrypted = b""
        self.disconnecting = False  # or Twisted shuts down what it has just let go
        self.unregisterProducer()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        super()._tlsShutdownFinished(reason)
        if reason is not None:
            reason.cleanFailure()

    def handshake_done(self) -> None:
        """From now on data is read as it comes."""
        self.__dict__.pop("dataReceived", None)

    def grew(self, size: int) -> None:
        account = getattr(self.wrappedProtocol, "account", None)
        if account is not None:
            account.base += size
            account.enter(size)

    def later(self, function: Callable[[], object]) -> None:
        account = getattr(self.wrappedProtocol, "account", None)
        if account is not None:
            account.weigh()
        self.factory.continuations.add(getattr(self.wrappedProtocol, "peer", None), function)

    def _put_off(self, data: bytes) -> None:
        self._early.append(data)
        if len(self._early) == 1:
            self.transport.pauseProducing()
            self.factory.continuations.run(getattr(self.wrappedProtocol, "peer", None), self._shake)

    def _shake(self) -> None:
        data = b"".join(self._early)
        self._early.clear()
        if self.connected:
            self.transport.resumeProducing()
            type(self).dataReceived(self, data)
            if getattr(self, "_handshakeDone", True):  # a private name of Twisted
                self.handshake_done()


class PacedFactory(TLSMemoryBIOFactory):
    """Makes connections with TLS.

    :param contexts: makes OpenSSL's connections, or contexts for them.
    :param factory: makes the protocols that are spoken within TLS.
    """

    protocol = PacedHandshake

    def __init__(self, contexts: Any, factory: Any, continuations: Continuations, reactor: Any) -> None:
        super().__init__(contexts, False, factory, clock_for_writes(reactor))
        self.continuations = continuations


def tls_factory(contexts: Any, factory: Any, reactor: Any) -> TLSMemoryBIOFactory:
    """Return what makes the connections of an ``ssl:`` endpoint.

    :param factory: of this server's connections; handshakes of any other are not paced.
    """
    site = getattr(factory, "site", None)
    if site is None:
        return TLSMemoryBIOFactory(contexts, False, factory)
    return PacedFactory(contexts, factory, site.continuations, reactor)
