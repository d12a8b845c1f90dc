"""TLS on the server's own listeners: the handshake, what is negotiated, and the hand-over to HTTP/1.1 or HTTP/2.

Runs in the reactor thread; a connection is owned by its transport.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import interfaces
from zope.interface import implementer

from channelserver.processes.link import IReactor
from channelserver.server.common.handshakes import PacedFactory, PacedHandshake
from channelserver.server.common.sending import lose_transport
from channelserver.server.common.transport import TLSTransport
from channelserver.server.http.base import LINGER, Connection, ConnectionFactory
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.site import Site
from channelserver.server.tls.contexts import ACME, Contexts
from channelserver.server.tls.hello import Hello, HelloReader, Verdict

#: Bytes of memory that OpenSSL takes for a handshake beside what it takes for a connection.
HANDSHAKE_BYTES = 28 * 1024

_PLAIN = b"This port speaks HTTPS, and the request was plain HTTP. Use https:// instead of http://.\n"
#: Fatal alerts (RFC 8446 section 6.2): decode_error, unrecognized_name.
_DECODE_ERROR, _UNRECOGNIZED_NAME = b"\x15\x03\x03\0\x02\x02\x32", b"\x15\x03\x03\0\x02\x02\x70"


@implementer(interfaces.IHandshakeListener)
class Negotiation(Connection):
    """A connection whose TLS handshake is under way. What was negotiated takes its place.

    :param http1: makes the protocols for HTTP/1.1.
    """

    __slots__ = ("_http1", "_overdue", "server_name")

    transport: TLSTransport

    def __init__(self, site: Site, peer: str | None, http1: HTTPFactory) -> None:
        super().__init__(site, peer)
        self._http1 = http1
        self._overdue = False
        #: The host that the client has asked for.
        self.server_name: str | None = None

    def makeConnection(self, transport: TLSTransport) -> None:  # type: ignore[override]
        super().makeConnection(transport)
        self.account.base += HANDSHAKE_BYTES
        self.account.enter(HANDSHAKE_BYTES)

    def dataReceived(self, data: bytes) -> None:
        """No data arrives before the end of the handshake."""

    def kept(self) -> int:
        reader = self.transport.reader
        return super().kept() + (0 if reader is None else len(reader.received))

    def handshakeCompleted(self) -> None:
        transport, site = self.transport, self.site
        transport.handshake_done()
        if transport.negotiatedProtocol == ACME:  # the handshake itself was the answer (RFC 8737 section 3)
            self._close_idle()
            return
        if transport.negotiatedProtocol == b"h2":
            from channelserver.server.http2.connection import HTTP2Connection

            successor: Connection = HTTP2Connection(site, self.peer, self._http1.dispatcher)
        else:
            successor = self._http1.make(self.peer)
        if site.options.hsts and self.server_name is not None and transport.factory.contexts.valid(self.server_name):
            successor.hsts = site.hsts
        transport.wrappedProtocol = successor
        successor.makeConnection(transport)
        self.connectionLost(None)
        if site.draining:
            successor.drain()

    def refuse(self, verdict: Verdict | None) -> None:
        """Tell a client, without TLS, why there is no handshake, and close.

        :param verdict: on what it has sent; None: nobody wants to serve the host that it has asked for.
        """
        client = self.addresses()["client"]
        answer = _UNRECOGNIZED_NAME
        if verdict is Verdict.HTTP:
            self.site.count_refusal("bad request", "plain HTTP on the HTTPS port", client)
            answer = (
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n%s"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (self.site.date_field()[2], len(_PLAIN), _PLAIN)
            )
        elif verdict is Verdict.TOO_LONG:
            self.site.count_refusal("bad request", "a ClientHello of more than 64 KiB", client)
            answer = _DECODE_ERROR
        self._state = "closing"
        self.set_deadline(LINGER)
        self.account.weigh()
        self.transport.transport.write(answer)
        lose_transport(self.transport.transport)

    def _late(self, now: float) -> float | None:
        if self._overdue:
            return super()._late(now)
        # Under load its bytes may be here, unread; between this look and the next the reactor reads them.
        self._overdue = True
        return now


class PacedTLS(PacedHandshake):
    """TLS on a transport. It reads the ClientHello before OpenSSL does, and picks the certificate."""

    factory: TLSFactory

    def makeConnection(self, transport: interfaces.ITransport) -> None:
        #: Until the client's hello is complete.
        self.reader: HelloReader | None = HelloReader()
        super().makeConnection(transport)

    def _shake(self) -> None:
        data = b"".join(self._early)
        self._early.clear()
        if not self.connected:
            return
        if self.reader is None:
            self._go_on(data)
            return
        found = self.reader.feed(data)
        negotiation = self.wrappedProtocol if isinstance(self.wrappedProtocol, Negotiation) else None
        if isinstance(found, Hello):
            self._greeted(found, negotiation)
            return
        if found is not Verdict.INCOMPLETE:
            self._refuse(found)
            return
        self.transport.resumeProducing()
        if negotiation is not None:
            negotiation.account.weigh()

    def _greeted(self, hello: Hello, negotiation: Negotiation | None) -> None:
        contexts, name, waits = self.factory.contexts, hello.server_name, None
        if negotiation is not None:
            negotiation.server_name = name
            if hello.protocols == (ACME,) and name is not None and contexts.on_challenge is not None:
                waits = contexts.on_challenge(name)
            elif contexts.on_unknown is not None and name is not None and not contexts.serves(name):
                waits = contexts.on_unknown(name, negotiation.peer)
        if waits is None:
            self._picked(True, hello)
        else:
            waits.addErrback(lambda failure: False).addCallback(self._picked, hello)

    def _picked(self, wanted: bool, hello: Hello) -> None:
        reader = self.reader
        if not self.connected or reader is None:
            return
        if not wanted:
            self._refuse(None)
            return
        self.reader = None
        self.getHandle().set_context(self.factory.contexts.context_of(hello))
        self._go_on(reader.received)

    def _go_on(self, data: bytes) -> None:
        self.transport.resumeProducing()
        type(self).dataReceived(self, data)

    def _refuse(self, verdict: Verdict | None) -> None:
        self.reader = None
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self.transport.resumeProducing()
        if isinstance(self.wrappedProtocol, Negotiation):
            self.wrappedProtocol.refuse(verdict)
        else:
            self.abortConnection()


class TLSFactory(PacedFactory):
    """Makes connections with TLS."""

    protocol = PacedTLS

    def __init__(self, contexts: Contexts, factory: ConnectionFactory, clock: IReactor) -> None:
        super().__init__(contexts, factory, factory.site.continuations, clock)
        self.contexts = contexts


@implementer(interfaces.IStreamServerEndpoint)
class TLSEndpoint:
    """An endpoint whose connections are encrypted."""

    encrypts = True

    def __init__(
        self, endpoint: interfaces.IStreamServerEndpoint, contexts: Contexts, site: Site, reactor: IReactor
    ) -> None:
        self._endpoint = endpoint
        self._contexts = contexts
        self._site = site
        self._reactor = reactor

    def listen(self, factory: HTTPFactory) -> Any:  # type: ignore[override]  # it makes the protocols for HTTP/1.1
        negotiations = ConnectionFactory(self._site, lambda peer: Negotiation(self._site, peer, factory))
        return self._endpoint.listen(TLSFactory(self._contexts, negotiations, self._reactor))
