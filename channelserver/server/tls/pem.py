"""Reads certificates and private keys from PEM files; each error is one sentence for the user.

Runs before the reactor, and in its thread when files are read again; owns nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from channelserver.server.common.option import OptionError


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


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the host names and addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in extension.value]


def describe(certificate: x509.Certificate) -> str:
    """Return the names in a certificate, and how long it is valid."""
    names = names_of(certificate)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown or certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise OptionError(f"{option} {path!r} cannot be read: {(error.strerror or str(error)).lower()}") from error
