"""A certificate that the server signs itself: until a certificate authority has sent one, and for development.

Runs in the reactor thread, and before the reactor; owns the file that :func:`stored` keeps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: For how long it is valid, and how much of that must be left when the server starts.
VALIDITY, LEFT = timedelta(days=90), timedelta(days=7)


def self_signed(names: Sequence[str], now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return a new P-256 key and a certificate for it, both as PEM.

    :param names: host names and IP addresses.
    """
    now = datetime.now(UTC) if now is None else now
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "channelserver, self-signed")])
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clients' clocks differ
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return (
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )  # fmt: skip


def stored(names: Sequence[str], folder: str) -> tuple[bytes, bytes, str]:
    """Return key and certificate, as PEM, that stay the same from start to start, so that browsers can remember them;
    and why they will not, which is empty if they do.

    :param folder: where to keep them in a file of mode 0600; it is made.
    """
    name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    path = os.path.join(folder, f"self-signed-{name}.pem")
    try:
        found = _read(path)
        if found is not None:
            return *found, ""
        key, certificate = self_signed(names)
        os.makedirs(folder, 0o700, exist_ok=True)
        aside = f"{path}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(aside)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            stream.write(key + certificate)
        os.rename(aside, path)
    except OSError as error:
        return *self_signed(names), f"{path!r} cannot be kept: {(error.strerror or str(error)).lower()}"
    return key, certificate, ""


def _read(path: str) -> tuple[bytes, bytes] | None:
    """Return what :func:`stored` has kept; None: there is nothing, it is not ours alone, or it expires soon."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            data = stream.read()
    except FileNotFoundError:
        return None
    begin = data.find(b"-----BEGIN CERTIFICATE")
    if begin < 0 or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return None
    key, certificate = data[:begin], data[begin:]
    try:
        serialization.load_pem_private_key(key, None)
        ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        return None
    return (key, certificate) if datetime.now(UTC) + LEFT < ends else None


def fingerprint(certificate_pem: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate as browsers show it."""
    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex(":").upper()


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
