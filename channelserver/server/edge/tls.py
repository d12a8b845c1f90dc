"""TLS on the default listener: the certificate, what is negotiated, and the hand-over to HTTP/1.1 or HTTP/2.

Runs in the reactor thread (the first load before the reactor); owns the context from which new connections are made.

A renewed certificate is read by :meth:`ServerTLS.reload`. Connections keep the context they began with, so none of them
notices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from channelserver.processes.link import IReactor
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import Settings
from channelserver.server.common.transport import TLSTransport
from channelserver.server.edge.covered_names import uncovered
from channelserver.server.http.base import Connection, ConnectionFactory
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.site import Site

_log = Logger("channelserver.server.tls")

#: Bytes of memory that OpenSSL takes for a handshake beside what it takes for a connection.
HANDSHAKE_BYTES = 28 * 1024
#: Bytes that are decrypted at a time.
PIECE = 8 * 1024
#: For TLS 1.2: forward secrecy and authenticated encryption only (Mozilla's "intermediate" without finite-field DH).
#: TLS 1.3 has no others.
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


@implementer(interfaces.IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The certificate in use, and how connections are made with it.

    :param certificate: path of a PEM file: the site's certificate, then those that lead to a root.
    :param key: path of a PEM file with the private key; None: it is in the same file.
    :param protocols: the ALPN names of what is spoken here (RFC 7301), the preferred one first.
    :param hosts: the names of the site, as Django's ``ALLOWED_HOSTS``.
    :param now: returns the time.
    :raises OptionError: a file cannot be used; the text says which and why.
    """

    def __init__(
        self,
        certificate: str,
        key: str | None,
        protocols: tuple[bytes, ...],
        hosts: Sequence[str] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        # twistd may change the folder.
        self._certificate = os.path.abspath(certificate)
        self._key = None if key is None else os.path.abspath(key)
        self._protocols = protocols
        self._hosts = hosts
        self._now = now
        self._load()

    def reload(self) -> None:
        """Read the files again. If they are invalid, new connections keep the old certificate."""
        try:
            self._load()
        except OptionError as error:
            _log.error("the new certificate is not used, the old one stays: {error}", error=error)
        else:
            _log.info("certificate read again: {summary}", summary=self.summary)
            self.warn()

    def warn(self) -> None:
        """Log which hosts the certificate does not cover."""
        if self.gap:
            _log.warn("{gap}", gap=self.gap)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def _load(self) -> None:
        chain = read_certificates(self._certificate, self._now())
        key = read_key(self._key if self._key is not None else self._certificate, self._key is None)
        check_pair(chain, key, self._certificate, self._key)
        try:
            context = make_context(chain, key, self._choose)
        except SSL.Error as error:
            raise OptionError(f"--tls-cert {self._certificate!r} cannot be used: {_reasons(error)}") from error
        self._context, self.summary = context, describe(chain[0])
        missing = uncovered(chain[0], self._hosts)
        #: A sentence about the hosts that the certificate does not cover; empty if there are none.
        self.gap = f"the certificate does not cover {', '.join(missing)} of ALLOWED_HOSTS" if missing else ""

    def _choose(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        """ALPN (RFC 7301): our first protocol that the client speaks, too. None: it gets HTTP/1.1, unnegotiated."""
        return next((name for name in self._protocols if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def make_context(chain: list[x509.Certificate], key: Any, choose: Callable[..., Any]) -> SSL.Context:
    """Return what TLS connections are made from.

    :param chain: the site's certificate, and those that lead to a root.
    :param choose: the ALPN callback.
    :raises SSL.Error: OpenSSL finds the certificate or the key too weak.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # RFC 9113 section 9.2.1 forbids both; compression leaks secrets, and a client can force work by renegotiation.
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_cipher_list(CIPHERS)
    # Sessions are resumed by tickets, which the clients keep; a cache here would grow with the number of clients.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # An idle connection keeps no 32 KiB of buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_select_callback(choose)
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def read_certificates(path: str, now: datetime) -> list[x509.Certificate]:
    """Return the certificates in a PEM file.

    :raises OptionError: the file cannot be read, holds none, or the first is not valid `now`.
    """
    data = _read("--tls-cert", path)
    try:
        chain = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise OptionError(f"--tls-cert {path!r} holds no certificate in PEM form") from error
    first = chain[0]
    if now > first.not_valid_after_utc:
        raise OptionError(f"the certificate in --tls-cert {path!r} expired on {first.not_valid_after_utc:%Y-%m-%d}")
    if now < first.not_valid_before_utc:
        raise OptionError(
            f"the certificate in --tls-cert {path!r} is valid from {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; "
            "is this machine's clock right?"
        )
    return chain


def read_key(path: str, with_certificate: bool) -> Any:
    """Return the private key in a PEM file.

    :param with_certificate: it was looked for in the file of the certificate.
    :raises OptionError: the file cannot be read, or holds none.
    """
    option = "--tls-cert" if with_certificate else "--tls-key"
    data = _read(option, path)
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise OptionError(
            f"the private key in {option} {path!r} is encrypted; a server that starts by itself needs it without "
            "a password"
        ) from error
    except ValueError as error:
        cure = "; name its file with --tls-key" if with_certificate else ""
        raise OptionError(f"{option} {path!r} holds no private key in PEM form{cure}") from error


def check_pair(chain: list[x509.Certificate], key: Any, certificate_path: str, key_path: str | None) -> None:
    """Check that the key is the first certificate's.

    :raises OptionError: it is not.
    """
    public = key.public_key()
    if chain[0].public_key() == public:
        return
    if any(certificate.public_key() == public for certificate in chain):
        raise OptionError(f"the site's own certificate must be the first one in --tls-cert {certificate_path!r}")
    where = f"--tls-key {key_path!r}" if key_path is not None else "the same file"
    raise OptionError(
        f"the private key in {where} does not belong to the certificate in --tls-cert {certificate_path!r}"
    )


def describe(certificate: x509.Certificate) -> str:
    """Return the names in a certificate, and how long it is valid."""
    names: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(name.value) for name in extension.value]
    except (x509.ExtensionNotFound, ValueError):
        pass
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown or certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise OptionError(f"{option} {path!r} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _reasons(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else ()
    return "; ".join(entry[-1] for entry in queue if entry[-1]) or "OpenSSL does not say why"


def server_tls(options: Settings, hosts: Sequence[str] = ()) -> ServerTLS | None:
    """Return what the options ask for, None if they ask for no TLS.

    :param hosts: the names of the site, as Django's ``ALLOWED_HOSTS``.
    :raises OptionError: the options contradict each other, or a file is invalid.
    """
    if options.tls_cert is None:
        for name, flag in (("tls_key", "--tls-key"), ("redirect_http", "--redirect-http")):
            if getattr(options, name):
                raise OptionError(f"{flag} needs --tls-cert, the certificate of the site")
        return None
    protocols = (b"h2", b"http/1.1") if has_http2() else (b"http/1.1",)
    tls = ServerTLS(options.tls_cert, options.tls_key, protocols, hosts)
    _log.info("certificate: {summary}", summary=tls.summary)
    tls.warn()
    if not has_http2():
        _log.info("HTTP/2 is off, as h2 is not installed; pip install channelserver[http2] brings it")
    return tls


def has_http2() -> bool:
    """Whether what HTTP/2 needs is installed."""
    try:
        import channelserver.server.http2.connection  # noqa: F401
    except ImportError:
        return False
    return True


# -- connections -------------------------------------------------------------------------------------------------------


@implementer(interfaces.IHandshakeListener)
class Negotiation(Connection):
    """A connection whose TLS handshake is under way. What was negotiated takes its place.

    :param http1: makes the protocols for HTTP/1.1.
    """

    __slots__ = ("_http1", "_overdue")

    transport: TLSTransport

    def __init__(self, site: Site, peer: str | None, http1: HTTPFactory) -> None:
        super().__init__(site, peer)
        self._http1 = http1
        self._overdue = False

    def makeConnection(self, transport: TLSTransport) -> None:  # type: ignore[override]
        super().makeConnection(transport)
        self.account.base += HANDSHAKE_BYTES
        self.account.enter(HANDSHAKE_BYTES)

    def dataReceived(self, data: bytes) -> None:
        """No data arrives before the end of the handshake."""

    def handshakeCompleted(self) -> None:
        transport, site = self.transport, self.site
        if transport.negotiatedProtocol == b"h2":
            from channelserver.server.http2.connection import HTTP2Connection

            successor: Connection = HTTP2Connection(site, self.peer, self._http1.dispatcher)
        else:
            successor = self._http1.make(self.peer)
        transport.handshake_done()
        transport.wrappedProtocol = successor
        successor.makeConnection(transport)
        self.connectionLost(None)
        if site.draining:
            successor.drain()

    def _late(self, now: float) -> float | None:
        if self._overdue:
            return super()._late(now)
        # Under load its bytes may be here, unread; between this look and the next the reactor reads them.
        self._overdue = True
        return now


class PacedTLS(BufferingTLSTransport):
    """TLS on a transport. Of each turn of the reactor handshakes get a slice, and client addresses are served in turn:
    a handshake costs half a millisecond or more, and thousands can begin at the same moment.
    """

    factory: TLSFactory
    transport: Any
    wrappedProtocol: Any

    def makeConnection(self, transport: Any) -> None:
        self._early: list[bytes] = []
        self.dataReceived = self._put_off  # type: ignore[method-assign]  # until the end of the handshake
        super().makeConnection(transport)

    def handshake_done(self) -> None:
        """From now on data is read as it comes."""
        self.__dict__.pop("dataReceived", None)

    def dataReceived(self, data: bytes) -> None:
        """Decrypt some of `data` at a time: OpenSSL keeps a buffer of the largest piece until the connection ends."""
        for begin in range(0, len(data), PIECE):
            if self.connected:
                super().dataReceived(data[begin : begin + PIECE] if len(data) > PIECE else data)

    def _put_off(self, data: bytes) -> None:
        self._early.append(data)
        if len(self._early) == 1:
            self.transport.pauseProducing()
            self.factory.continuations.run(self.wrappedProtocol.peer, self._shake)

    def _shake(self) -> None:
        data = b"".join(self._early)
        self._early.clear()
        if self.connected:
            self.transport.resumeProducing()
            type(self).dataReceived(self, data)


class TLSFactory(TLSMemoryBIOFactory):
    """Makes connections with TLS."""

    protocol = PacedTLS

    def __init__(self, tls: ServerTLS, factory: ConnectionFactory, clock: IReactor) -> None:
        super().__init__(tls, False, factory, clock)
        self.continuations = factory.site.continuations


@implementer(interfaces.IStreamServerEndpoint)
class TLSEndpoint:
    """An endpoint whose connections are encrypted."""

    def __init__(
        self, endpoint: interfaces.IStreamServerEndpoint, tls: ServerTLS, site: Site, reactor: IReactor
    ) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._site = site
        self._reactor = reactor

    def listen(self, factory: HTTPFactory) -> Any:  # type: ignore[override]  # it makes the protocols for HTTP/1.1
        negotiations = ConnectionFactory(self._site, lambda peer: Negotiation(self._site, peer, factory))
        return self._endpoint.listen(TLSFactory(self._tls, negotiations, self._reactor))
