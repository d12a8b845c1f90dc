"""The certificates in use: one context of OpenSSL for each host name.

Runs in the reactor thread (the first load before the reactor); owns the contexts.

An entry of the table is replaced whole. Connections keep the context that they began with, so an exchange interrupts
none of them; the next handshake gets the new certificate. A handshake looks names up in memory only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL
from twisted.internet import interfaces
from zope.interface import implementer

from channelserver.server.tls.hello import Hello
from channelserver.server.tls.self_signed import self_signed

#: The protocol by which a certification authority asks for a challenge (RFC 8737).
ACME = b"acme-tls/1"
#: Seconds for which sessions are resumed with the same key; then clients do one full handshake.
TICKET_KEY_SECONDS = 86_400.0
#: For TLS 1.2: forward secrecy and authenticated encryption only (Mozilla's "intermediate" without finite-field DH).
#: TLS 1.3 has no others.
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate, ready for handshakes.

    :param begins: POSIX time from which the certificate is valid.
    :param ends: when it expires; 0.0: it is a placeholder, and was never valid.
    """

    context: SSL.Context
    begins: float
    ends: float


@implementer(interfaces.IOpenSSLServerConnectionCreator)
class Contexts:
    """Finds the certificate for a handshake.

    :param protocols: the ALPN names of what is spoken here (RFC 7301), the preferred one first.
    :param now: returns POSIX time.
    """

    def __init__(self, protocols: Sequence[bytes], now: Callable[[], float] = time.time) -> None:
        self._protocols = tuple(protocols)
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._challenges: dict[str, SSL.Context] = {}
        self._placeholder: Entry | None = None
        self._default: Entry | None = None
        self._base = make_context(self._choose)
        self._base_made = now()
        #: Asked in a handshake for a name without a certificate: called with the name and the client's address.
        #: Returns a Deferred that fires with whether to go on with the handshake; None: go on at once.
        self.on_unknown: Callable[[str, str | None], Any] | None = None
        #: Asked for a challenge that is not open here, in the same way: another host may have opened it.
        self.on_challenge: Callable[[str], Any] | None = None

    # -- certificates ------------------------------------------------------------------------------------------------

    def expect(self, names: Sequence[str], pair: tuple[bytes, bytes] | None = None) -> None:
        """Serve `names` with a self-signed placeholder until :meth:`put` brings their certificates.

        The first one of the table that has a certificate also serves clients that ask for an unknown name, or for none.

        :param pair: key and certificate of the placeholder, as PEM; None: new ones.
        """
        key, certificate = self_signed(names) if pair is None else pair
        self._placeholder = placeholder = Entry(self.entry(key, certificate).context, 0.0, 0.0)
        self.exchange({_key(name): self._entries.get(_key(name), placeholder) for name in names})

    def put(self, name: str, key_pem: bytes, chain_pem: bytes) -> None:
        """Use a certificate for `name` from the next handshake on.

        :param name: a host name or ``*.`` and a domain; in any case, ASCII.
        :param chain_pem: the certificate, then those that lead to a root.
        :raises ValueError: the key or the chain cannot be used; the text says why.
        """
        self.exchange({_key(name): self.entry(key_pem, chain_pem)})

    def discard(self, name: str) -> None:
        """Forget the certificate for `name`."""
        self.exchange({}, [name])

    def exchange(self, entries: Mapping[str, Entry], instead_of: Iterable[str] = ()) -> None:
        """Put several entries into the table in one step, and take the names `instead_of` out unless they are in it."""
        for name in instead_of:
            if _key(name) not in entries:
                self._entries.pop(_key(name), None)
        self._entries.update(entries)
        self._default = next((entry for entry in self._entries.values() if entry.ends), None)

    def entry(self, key_pem: bytes, chain_pem: bytes, choose: Callable[..., Any] | None = None) -> Entry:
        """Return an entry for :meth:`exchange`.

        :param choose: the ALPN callback; None: the usual one.
        :raises ValueError: as :meth:`put` does.
        """
        try:
            chain = x509.load_pem_x509_certificates(chain_pem)
            key: Any = serialization.load_pem_private_key(key_pem, None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"no certificate and private key in PEM form: {error}") from error
        return self.entry_of(chain, key, choose)

    def entry_of(self, chain: Sequence[x509.Certificate], key: Any, choose: Callable[..., Any] | None = None) -> Entry:
        """Return an entry for a certificate, those that lead to a root, and the private key.

        :raises ValueError: OpenSSL finds one of them too weak, or the key belongs to another certificate.
        """
        try:
            context = make_context(choose or self._choose, chain, key)
        except SSL.Error as error:
            raise ValueError(_reasons(error)) from error
        first = chain[0]
        return Entry(context, first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())

    def serves(self, name: str) -> bool:
        """Whether `name` is in the table, with a certificate or with a placeholder."""
        return self._find(_key(name)) is not None

    def has_certificate(self, name: str) -> bool:
        """Whether `name` has a certificate, valid or not, and no placeholder."""
        entry = self._find(_key(name))
        return entry is not None and entry.ends > 0.0

    def valid(self, name: str) -> bool:
        """Whether `name` has a certificate that has neither expired nor is a placeholder."""
        entry = self._find(_key(name))
        return entry is not None and entry.begins <= self._now() < entry.ends

    # -- challenges --------------------------------------------------------------------------------------------------

    def challenge(self, name: str, key_pem: bytes, cert_pem: bytes) -> None:
        """Answer ``tls-alpn-01`` for `name` with a certificate until :meth:`end_challenge`.

        :raises ValueError: as :meth:`put` does.
        """
        self._challenges[_key(name)] = self.entry(key_pem, cert_pem, lambda connection, offered: ACME).context

    def has_challenge(self, name: str) -> bool:
        """Whether a challenge is open for `name`."""
        return _key(name) in self._challenges

    def end_challenge(self, name: str) -> None:
        """No longer answer ``tls-alpn-01`` for `name`."""
        self._challenges.pop(_key(name), None)

    # -- handshakes --------------------------------------------------------------------------------------------------

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return a connection without a certificate: :meth:`context_for` has it, when the client's hello is there."""
        if not 0 <= self._now() - self._base_made < TICKET_KEY_SECONDS:
            self._base, self._base_made = make_context(self._choose), self._now()
        return SSL.Connection(self._base, None)

    def context_for(self, server_name: str | None) -> SSL.Context:
        """Return the context for a name: its own, that of its wildcard, or the default.

        :param server_name: in lower case; None: the client names none.
        """
        entry = self._find(server_name) or self._default or self._placeholder
        if entry is None:
            self.expect(())
            return self.context_for(server_name)
        return entry.context

    def context_of(self, hello: Hello) -> SSL.Context:
        """Return the context for a handshake: that of an open challenge if the client asks for it and nothing else."""
        if hello.protocols == (ACME,):
            challenge = self._challenges.get(hello.server_name or "")
            if challenge is not None:
                return challenge
        return self.context_for(hello.server_name)

    def _find(self, name: str | None) -> Entry | None:
        if name is None:
            return None
        entry = self._entries.get(name)
        return entry if entry is not None else self._entries.get("*." + name.partition(".")[2])

    def _choose(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        """ALPN (RFC 7301): our first protocol that the client speaks, too. None: it gets HTTP/1.1, unnegotiated."""
        return next((name for name in self._protocols if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def make_context(choose: Callable[..., Any], chain: Sequence[x509.Certificate] = (), key: Any = None) -> SSL.Context:
    """Return what TLS connections are made from.

    :param choose: the ALPN callback.
    :param chain: the site's certificate, and those that lead to a root; empty: another context brings them.
    :raises SSL.Error: OpenSSL finds the certificate or the key too weak, or one is not the other's.
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
    if not chain:
        context.set_session_id(os.urandom(32))
        return context
    # A session is resumed with the same certificate only, although all connections begin with the same context.
    context.set_session_id(chain[0].fingerprint(hashes.SHA256()))
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def _key(name: str) -> str:
    return name.lower().removesuffix(".")


def _reasons(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else ()
    return "; ".join(entry[-1] for entry in queue if entry[-1]) or "OpenSSL does not say why"
