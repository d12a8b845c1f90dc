"""The names that ``--https`` gets certificates for.

Runs before the reactor; owns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

_is_label = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)").fullmatch


def host_name(text: str) -> str:
    """Return a host name as certificates have it: lower case, ``xn--`` for what is not ASCII, no dot at the end.

    :raises ValueError: it is none, or one for which ACME gives no certificate here; the text says what it should be.
    """
    name = text.strip().lower().removesuffix(".")
    if "*" in name:
        raise ValueError(
            "a host name without a wildcard: wildcards need a DNS challenge (dns-01), which the server does not speak; "
            "get that certificate with another tool, and name its file with --tls-cert"
        )
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        raise ValueError("a host name, because certificates are not given for addresses here")
    try:
        name = name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError:
        raise ValueError("a host name such as example.org") from None
    labels = name.split(".")
    if len(labels) < 2 or len(name) > 253 or not all(map(_is_label, labels)) or labels[-1].isdigit():
        raise ValueError("a host name such as example.org, with a dot in it")
    return name


def names_of(value: str) -> list[tuple[str, ...]]:
    """Return the certificates that a value of ``--https`` asks for, each as the names in it.

    ``a.org,b.org`` are two certificates, ``a.org+b.org`` is one.

    :raises ValueError: one of the names is wrong.
    """
    return [
        tuple(dict.fromkeys(host_name(name) for name in joined.split("+")))
        for joined in value.split(",")
        if joined.strip()
    ]


def certificate_names(values: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the certificates that all values of ``--https`` ask for, each once."""
    return list(dict.fromkeys(names for value in values for names in names_of(value)))
