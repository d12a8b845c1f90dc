"""A TLS client on a fake transport, for tests of handshakes without a network."""

from __future__ import annotations

import ssl
from typing import Any

from cryptography import x509

from channelserver.server.edge.tls import Negotiation, TLSFactory
from channelserver.server.http.base import ConnectionFactory
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.tls.contexts import Contexts
from tests.certificates import certificate_pem, key_pem, make_key
from tests.fakes import FakeServer, FakeTransport

#: The newest version of TLS that a client speaks.
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def pair(name: str, number: int = 0, **details: Any) -> tuple[bytes, bytes]:
    """Return a key and a certificate for one name, as PEM; its subject is the name and the number."""
    key = make_key(number)
    return key_pem(key), certificate_pem(key, f"{name} {number}", hosts=(name,), **details)


class TLSClient:
    """One connection to a fake server that speaks TLS.

    :param name: the host that it asks for.
    :param protocols: the protocols that it offers.
    """

    def __init__(
        self,
        server: FakeServer,
        contexts: Contexts,
        name: str | None = None,
        *protocols: str,
        newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        site = server.site
        http1 = HTTPFactory(site)
        negotiations = ConnectionFactory(site, lambda peer: Negotiation(site, peer, http1))
        factory = TLSFactory(contexts, negotiations, server.reactor)  # type: ignore[arg-type]
        self.server = server
        server.clients.append(self)  # type: ignore[arg-type]
        self.transport = FakeTransport(server.reactor)
        self.protocol: Any = factory.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = newest
            if protocols:
                context.set_alpn_protocols(list(protocols))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        self._seen = 0

    def leave(self) -> None:
        """Close the connection, if it is open."""
        self.transport.client_leaves()

    def first(self) -> bytes:
        """Return the bytes of the hello."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    def deliver(self, data: bytes) -> None:
        """Have these bytes arrive at the server, and give the client what comes back."""
        self.transport.deliver(data)
        self.server.turn()
        fresh, self._seen = self.transport.received[self._seen :], len(self.transport.received)
        self._in.write(fresh)

    def handshake(self) -> TLSClient:
        """Go through the handshake.

        :raises ssl.SSLError: there is none.
        """
        for _ in range(5):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.deliver(self._out.read())
            else:
                self.deliver(self._out.read())
                return self
        raise AssertionError("the handshake does not end")

    def ask(self, request: bytes = b"HEAD / HTTP/1.1\r\nHost: testserver\r\n\r\n") -> None:
        """Send a request."""
        self.tls.write(request)
        self.deliver(self._out.read())

    def read(self) -> bytes:
        """Return what has come, decrypted."""
        try:
            return self.tls.read(65536)
        except ssl.SSLWantReadError:
            return b""

    @property
    def subject(self) -> str:
        """The subject of the server's certificate."""
        return self.certificate.subject.rfc4514_string().removeprefix("CN=")

    @property
    def certificate(self) -> x509.Certificate:
        """The server's certificate."""
        data = self.tls.getpeercert(True)
        assert data is not None
        return x509.load_der_x509_certificate(data)
