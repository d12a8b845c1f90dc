"""Which of a site's host names its certificates cover (RFC 9525).

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from cryptography.x509 import Certificate
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, CertificatePattern, IPAddress_ID, ServiceID, verify_service_identity


def uncovered(certificates: Iterable[Certificate], hosts: Iterable[str]) -> list[str]:
    """Return those of `hosts` to which clients refuse to connect with all of these certificates.

    :param hosts: as Django's ``ALLOWED_HOSTS``. ``.example.org`` means ``example.org`` and ``*.example.org``. ``*`` and
        the names of this machine (``localhost``, ``127.0.0.1``) are left out: no certificate is expected to have them.
    """
    patterns: list[CertificatePattern] = []
    for certificate in certificates:
        with contextlib.suppress(CertificateError):  # its names are malformed, so clients accept none of them
            patterns += extract_patterns(certificate)
    found = []
    for name in expected_names(hosts):
        try:
            verify_service_identity(patterns, [_identity(name)], [])
        except (CertificateError, VerificationError, ValueError, ImportError):  # the latter two: it is not a host name
            found.append(name)
    return found


def expected_names(hosts: Iterable[str]) -> Iterator[str]:
    """Return the names that a certificate for `hosts` should have, see :func:`uncovered`."""
    for host in hosts:
        name = host.lower().strip("[]").removesuffix(".")
        for expected in (name[1:], f"*{name}") if name.startswith(".") else (name,):
            if expected != "*" and not _is_local(expected):
                yield expected


def _identity(name: str) -> ServiceID:
    try:
        ip_address(name)
    except ValueError:
        # Only a wildcard in the certificate matches a name that no certificate lists.
        return DNS_ID(name.replace("*", "any-name", 1))
    return IPAddress_ID(name)


def _is_local(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
