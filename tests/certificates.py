"""Certificates for tests, signed by themselves, for ``localhost`` and ``127.0.0.1``."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@cache
def make_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """Return a key, the same for the same number."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    """Return a key as PEM, encrypted if there is a password."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate_pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    subject: str = "a test",
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
) -> bytes:
    """Return a certificate as PEM.

    :param begins: when its validity begins, from now.
    :param ends: when it ends.
    :param hosts: the names and addresses it is for.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName(
        [
            x509.IPAddress(ip_address(host)) if host.replace(".", "").isdigit() or ":" in host else x509.DNSName(host)
            for host in hosts
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if not hosts:
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now + begins, now + ends
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_pair(folder: Path, number: int = 0) -> tuple[str, str]:
    """Write ``cert.pem`` and ``key.pem``; return their paths."""
    key = make_key(number)
    certificate, key_file = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(certificate_pem(key, f"test {number}"))
    key_file.write_bytes(key_pem(key))
    return str(certificate), str(key_file)


def client_context(certificate: str, *protocols: str) -> ssl.SSLContext:
    """Return a client's context that trusts only one certificate."""
    context = ssl.create_default_context(cafile=certificate)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
