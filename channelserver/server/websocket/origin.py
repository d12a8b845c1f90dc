"""Checks of a handshake's ``Host`` and of a browser's ``Origin``.

Runs in the reactor thread; owns nothing that changes.

A browser lets any page open a WebSocket to any site, with that site's cookies. So the ``Origin`` must be the site
itself or explicitly allowed (RFC 6455 section 10.2), which prevents cross-site WebSocket hijacking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADDRESS = r"\[[a-f0-9]*:[a-f0-9.:]+\]"
_host = re.compile(rf"([a-z0-9.-]+|{_ADDRESS})(?::[0-9]+)?").fullmatch
#: Pages come from names with an underscore, too.
_origin = re.compile(rf"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|{_ADDRESS})(?::[0-9]*)?").fullmatch


class OriginPolicy:
    """Decides about both fields.

    :param allowed_hosts: as Django's ``ALLOWED_HOSTS``: names, ``.example.com`` for a domain and all below it, ``*``
        for any.
    :param allowed_origins: further hosts whose pages may connect, in the same notation.
    """

    def __init__(self, allowed_hosts: Iterable[str], allowed_origins: Iterable[str] = ()) -> None:
        self._hosts = tuple(host.lower() for host in allowed_hosts)
        origins = [_host_of_origin(host.lower()) or split_port(host) or host.lower() for host in allowed_origins]
        self._any_origin = "*" in origins
        # "*" in ALLOWED_HOSTS means that the site has any name, not that it trusts every other site.
        self._origins = (*origins, *(host for host in self._hosts if host != "*"))

    def host_allowed(self, host: str) -> bool:
        """Whether `host`, the value of a ``Host`` field, names the site."""
        name = split_port(host)
        return name is not None and _matches(name, self._hosts)

    def origin_allowed(self, origin: str | None, host: str) -> bool:
        """Whether a page from `origin` may open a WebSocket to `host`. None: not a browser."""
        if origin is None or self._any_origin:
            return True
        name = _host_of_origin(origin.lower())
        return name is not None and (name == split_port(host) or _matches(name, self._origins))


def split_port(host: str) -> str | None:
    """Return a ``Host`` field's name in lower case, without port and final dot; None if it is malformed.

    The rules are those of Django's ``HttpRequest.get_host``.
    """
    match = _host(host.lower())
    return match[1].removesuffix(".") or None if match else None


def _host_of_origin(origin: str) -> str | None:
    match = _origin(origin)
    return match[1].removesuffix(".") or None if match else None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        pattern == "*" or pattern == name or (pattern[:1] == "." and (name.endswith(pattern) or name == pattern[1:]))
        for pattern in patterns
    )
