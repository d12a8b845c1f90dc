"""Answers to a certificate authority that finds out who has a name (RFC 8555 section 8, RFC 8737).

Runs in the reactor thread; owns the open tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred

HTTP_01, TLS_ALPN_01 = "http-01", "tls-alpn-01"

#: Where the authority looks for the answers to ``http-01``.
FOLDER = "/.well-known/acme-challenge/"

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class Tokens:
    """Answers requests for open tokens of ``http-01``, before any other rule of the site is applied."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        #: Asks other hosts for a token: returns a Deferred of the answer or None; or None: they are not asked.
        self.ask: Callable[[str], Deferred[str | None] | None] = lambda token: None

    def __call__(self, exchange: Any, otherwise: Callable[[], object] | None = None) -> bool:
        """Answer a request if it is for an open token; return whether it was.

        :param otherwise: called later, in place of an answer, if other hosts had to be asked and have no such token.
        """
        path = exchange.head.path
        if not path.startswith(FOLDER) or exchange.head.method not in ("GET", "HEAD"):
            return False
        token = path[len(FOLDER) :]
        found = self.open.get(token)
        if found is not None:
            self._answer(exchange, found)
            return True
        asked = None if otherwise is None else self.ask(token)
        if asked is None or otherwise is None:
            return False
        go_on = otherwise
        asked.addErrback(lambda failure: None).addCallback(
            lambda found: go_on() if found is None else self._answer(exchange, found)
        )
        return True

    @staticmethod
    def _answer(exchange: Any, found: str) -> None:
        exchange.quiet = True
        exchange.reply(
            {
                "status": 200,
                "headers": [[b"Content-Type", b"application/octet-stream"], [b"Cache-Control", b"no-store"]],
                "content": found.encode("ascii"),
            }
        )


def alpn_certificate(name: str, key_authorization: str) -> tuple[bytes, bytes]:
    """Return key and certificate, as PEM, that answer ``tls-alpn-01`` (RFC 8737 section 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([])
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
