"""What every connection does, whichever protocol it speaks: admission, deadline, draining, closing.

Runs in the reactor thread; a connection is owned by its transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import interfaces
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from channelserver.server.common.account import Account
from channelserver.server.common.limits import Refusal
from channelserver.server.common.sending import limit_unsent, lose_transport, unsent
from channelserver.server.common.transport import TLSTransport, Transport
from channelserver.server.site import Site, Socket

#: Seconds a closing connection may take to hand over the rest of the answer.
LINGER = 5.0
#: Bytes of memory that an idle connection takes, and how many more with TLS.
IDLE_BYTES, TLS_BYTES = 3 * 1024, 24 * 1024

#: How a listener of IPv6 shows addresses of IPv4.
_MAPPED = "::ffff:"


@implementer(interfaces.IProtocol, interfaces.IPushProducer)
class Connection:
    """One connection of a client.

    :param peer: the address of the other end; None: a Unix socket.
    """

    __slots__ = ("_deadline", "_own", "_paused", "_state", "account", "factory", "hsts", "peer", "site", "transport")

    transport: Transport
    #: The WebSocket that the connection has become, if it has.
    websocket: Socket | None = None

    def __init__(self, site: Site, peer: str | None = None) -> None:
        self.site = site
        self.peer = peer
        self.factory: Any = None
        #: A field for all answers: browsers are to use HTTPS only (RFC 6797).
        self.hsts: tuple[bytes, bytes, bytes] | None = None
        self._state = "open"
        self._deadline = 0.0
        self._paused = False  # the transport has more to send than it wants
        self._own: dict[str, Any] | None = None  # addresses
        #: What is kept for the client.
        self.account = Account(site.memory, self, IDLE_BYTES)

    # -- called by the transport ---------------------------------------------------------------------------------------

    def makeConnection(self, transport: Transport) -> None:  # type: ignore[override]  # ITransport says too little
        self.transport = transport
        if interfaces.ITCPTransport.providedBy(transport):
            cast(interfaces.ITCPTransport, transport).setTcpNoDelay(True)
            limit_unsent(transport)
        if self.secure:
            self.account.base += TLS_BYTES
            self.account.enter(TLS_BYTES)
        self.site.connected(self)
        self.set_deadline(self.site.options.header_timeout)

    def connectionMade(self) -> None:
        """The work is done in :meth:`makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        raise NotImplementedError

    def connectionLost(self, reason: Failure | None) -> None:
        self._state = "closed"
        self.account.close()
        self.site.wheel.remove(self)
        self.site.disconnected(self)

    def pauseProducing(self) -> None:
        """The client reads more slowly than we send."""
        self._paused = True
        self.account.weigh()

    def resumeProducing(self) -> None:
        """The client has read what was waiting."""
        self._paused = False
        self.account.weigh()

    def stopProducing(self) -> None:
        """The transport ends by itself."""

    # -- what is kept for the client: a Holder -------------------------------------------------------------------------

    def kept(self) -> int:
        """Return how many bytes are kept for the client now; subclasses add what they keep beside the transport."""
        return self.account.base + unsent(self.transport)

    def evict(self, size: int) -> None:
        self.site.count_refusal(
            "memory is short",
            f"closed, as {size} bytes were kept for it",
            self.addresses()["client"],
        )
        self.abort()

    # -- addresses -----------------------------------------------------------------------------------------------------

    @property
    def secure(self) -> bool:
        return bool(interfaces.ISSLTransport.providedBy(self.transport))

    def addresses(self) -> dict[str, Any]:
        """Return the connection's own ``client``, ``server`` and ``scheme``.

        Not before the first request: the PROXY protocol, if it is spoken, brings them in the connection's first bytes.
        """
        if self._own is None:
            peer, host = self.transport.getPeer(), self.transport.getHost()
            self._own = {
                "client": [peer.host.removeprefix(_MAPPED), peer.port] if hasattr(peer, "port") else None,
                "server": [host.host.removeprefix(_MAPPED), host.port] if hasattr(host, "port") else None,
                "scheme": "https" if self.secure else "http",
            }
        return self._own

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The server stops: close now if nothing is under way, else after it."""
        self.abort()

    def abort(self) -> None:
        if self._state != "closed":
            self.transport.abortConnection()

    def _finish(self) -> None:
        """Close when all that was written has been sent."""
        self._state = "closing"
        self.transport.unregisterProducer()
        self.set_deadline(LINGER)
        lose_transport(self.transport)

    def _close_idle(self) -> None:
        """Close at once: no data is in flight, so there is no need to wait for the client."""
        self._state = "closing"
        self.set_deadline(LINGER)
        secure = self.secure
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if secure:  # TLS would still wait for the client's close_notify
            cast(TLSTransport, self.transport).transport.loseConnection()

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """Set the deadline to so many seconds from now."""
        wheel = self.site.wheel
        self._deadline = wheel.now() + seconds
        wheel.add(self, self._deadline)

    def on_tick(self, now: float) -> float | None:
        if self._state in ("closed", "socket"):
            return None
        return self._deadline if now < self._deadline else self._late(now)

    def _late(self, now: float) -> float | None:
        """The deadline has passed; return when to look again."""
        self.abort()
        return None


class ConnectionFactory(Factory):
    """Makes the protocols of new connections, or turns them away.

    :param make: returns the protocol of a connection that has been let in, called with the address of the other end.
    """

    noisy = False

    def __init__(self, site: Site, make: Callable[[str | None], Connection]) -> None:
        self.site = site
        self.make = make

    def buildProtocol(self, addr: Any) -> Any:
        peer: str | None = getattr(addr, "host", None)
        peer = peer and peer.removeprefix(_MAPPED)
        site = self.site
        if site.is_full(peer):
            return Refusal(site.admission, site.wheel, site.date_field()[2], peer)
        connection = self.make(peer)
        connection.factory = self
        return connection
