"""What a reverse proxy says about the client: ``X-Forwarded-*`` and ``Forwarded`` (RFC 7239), sans I/O.

Runs in the reactor thread; owns nothing that changes.

Rules:

1. These fields are believed when the peer of the connection, as the kernel names it, is trusted (``--trust-proxy``),
   and from no other peer. If any proxy is trusted, these fields are removed from the requests of all other peers, so
   that an application cannot trust them by mistake. If none is, they are ordinary fields.
2. Lists are read from the right, where the nearest proxy has written. An address which is itself trusted is one more
   proxy, and is skipped; the first that is not is the client. What stands to the left of it is the client's own claim.
3. A trusted proxy which contradicts itself, or whose headers are malformed, gets 400: picking one would let a client
   spoof the header that its proxy doesn't strip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from channelserver.layers.turns import read_address
from channelserver.server.http.http1 import BadRequest, RequestHead, is_host, set_host

#: The fields that speak of the client, and are therefore not for everyone to send.
FIELDS = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
     b"x-forwarded-ssl", b"x-forwarded-server", b"x-real-ip"}
)  # fmt: skip

#: Stands for the peer of a Unix socket, which has no address.
UNIX = "unix"

_UNIX_NODE = "unix:"  # as nginx writes it
_SCHEMES = {b"http": "http", b"ws": "http", b"https": "https", b"wss": "https"}
_PORTS = {"http": 80, "https": 443}

_pair = re.compile(
    rb"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)|\"((?:[^\"\\]|\\.)*)\")"
).match
_separator = re.compile(rb"[ \t]*([;,]|\Z)[ \t]*").match
_node = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?").fullmatch
_obfuscated = re.compile(r"(?:unknown|_[A-Za-z0-9._-]+)(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?", re.IGNORECASE).fullmatch

#: A client as messages have it: [address, port], or None if it is not known.
Client = list[Any] | None


class Claim:
    """What one source says; None where it says nothing."""

    __slots__ = ("client", "client_known", "scheme", "host", "port")

    def __init__(self) -> None:
        self.client: Client = None
        self.client_known = False  # although it may be None
        self.scheme: str | None = None
        self.host: bytes | None = None
        self.port: int | None = None


class ProxyPolicy:
    """The trusted proxies.

    :param trusted: networks in CIDR notation, single addresses, or ``unix`` for the peers of Unix sockets.
    :raises ValueError: one of them is none of these.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._unix = False
        networks = []
        for text in trusted:
            if text.strip().lower() == UNIX:
                self._unix = True
            else:
                networks.append(ip_network(text.strip(), strict=False))
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def trusts(self, host: str | None) -> bool:
        """Whether the peer at `host` is believed. None: the peer of a Unix socket."""
        if host is None:
            return self._unix
        try:
            return self._contains(read_address(host))
        except ValueError:
            return False

    def _contains(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def apply(self, head: RequestHead, addresses: dict[str, Any], peer: str | None) -> dict[str, Any]:
        """Return the ``client``, ``server`` and ``scheme`` of a request; put the right host into its head.

        :param addresses: the same, as the connection itself has them.
        :param peer: the address of the other end of the connection; None on a Unix socket.
        :raises BadRequest: a trusted proxy cannot be understood.
        """
        if FIELDS.isdisjoint(head.fields):
            return addresses
        if not self.trusts(peer):
            head.headers = [pair for pair in head.headers if pair[0] not in FIELDS]
            head.fields = {name: value for name, value in head.fields.items() if name not in FIELDS}
            return addresses
        claims = [claim for claim in (self._read_forwarded(head, addresses), self._read_x(head, addresses)) if claim]
        if not claims:
            return addresses
        claim = claims[0] if len(claims) == 1 else _agreed(*claims)
        return _result(claim, head, addresses)

    # -- the two notations ---------------------------------------------------------------------------------------------

    def _read_x(self, head: RequestHead, addresses: dict[str, Any]) -> Claim | None:
        """``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port``."""
        hops = _list(head, b"x-forwarded-for")
        schemes, hosts, ports = (_list(head, b"x-forwarded-" + name) for name in (b"proto", b"host", b"port"))
        tls = _list(head, b"x-forwarded-ssl")
        if not (hops or schemes or hosts or ports or tls):
            return None
        claim = Claim()
        skipped = self._walk(claim, [hop.decode("latin-1") for hop in hops], addresses, "X-Forwarded-For")
        # A list with one element for each proxy is read at the same hop as the client; a single value is what the
        # nearest one has set or passed on.
        if schemes:
            claim.scheme = _scheme(_at(schemes, skipped), "X-Forwarded-Proto")
        if tls:
            over_tls = {b"on": "https", b"off": "http"}.get(_at(tls, skipped).lower())
            if over_tls is None or (claim.scheme is not None and claim.scheme != over_tls):
                raise BadRequest("X-Forwarded-Ssl does not agree with X-Forwarded-Proto")
        if hosts:
            claim.host = _host(_at(hosts, skipped), "X-Forwarded-Host")
        if ports:
            claim.port = _port(_at(ports, skipped).decode("latin-1"), "X-Forwarded-Port")
        return claim

    def _read_forwarded(self, head: RequestHead, addresses: dict[str, Any]) -> Claim | None:
        """``Forwarded`` (RFC 7239)."""
        if b"forwarded" not in head.fields:
            return None
        elements = parse_forwarded(b", ".join(value for name, value in head.headers if name == b"forwarded"))
        if not elements:
            return None
        claim = Claim()
        named: list[str] = []
        for element in reversed(elements):
            if b"for" not in element:
                break
            named.insert(0, element[b"for"].decode("latin-1"))
        skipped = self._walk(claim, named, addresses, "Forwarded")
        # From the client's hop to the nearest one: the first that speaks of the scheme, and of the host, counts.
        for element in elements[-(skipped + 1) :]:
            if claim.scheme is None and b"proto" in element:
                claim.scheme = _scheme(element[b"proto"], "Forwarded")
            if claim.host is None and b"host" in element:
                claim.host = _host(element[b"host"], "Forwarded")
        return claim

    def _walk(self, claim: Claim, hops: list[str], addresses: dict[str, Any], field: str) -> int:
        """Find the client, from the right; return how many trusted proxies stand between it and the nearest one."""
        client = addresses["client"]
        # Where the PROXY protocol names a client, the walk goes on from there.
        nearest = client is None or self.trusts(client[0])
        skipped = -1
        while hops and nearest:
            hop = hops.pop()
            skipped += 1
            claim.client_known = True
            client = _client(hop, field)
            nearest = self._contains(read_address(client[0])) if client else self._unix and hop == _UNIX_NODE
        claim.client = client
        return max(0, skipped)


def parse_forwarded(value: bytes) -> list[dict[bytes, bytes]]:
    """Read a ``Forwarded`` field (RFC 7239 section 4): for each element its parameters, names in lower case.

    :raises BadRequest: it is malformed.
    """
    elements: list[dict[bytes, bytes]] = []
    element: dict[bytes, bytes] = {}
    position, end = 0, len(value)
    while position < end:
        match = _pair(value, position)
        if match is not None:
            name, token, quoted = match.groups()
            name = name.lower()
            if name in element:
                raise BadRequest("malformed Forwarded field")
            element[name] = token if token is not None else re.sub(rb"\\(.)", rb"\1", quoted)
            position = match.end()
        match = _separator(value, position)
        if match is None:
            raise BadRequest("malformed Forwarded field")
        if match[1] != b";":
            if element:
                elements.append(element)
            element = {}
        position = match.end()
    if element:
        elements.append(element)
    return elements


def _agreed(one: Claim, other: Claim) -> Claim:
    """Merge two sources, which must not contradict each other."""
    claim = Claim()
    for name in ("scheme", "host", "port"):
        first, second = getattr(one, name), getattr(other, name)
        if first is not None and second is not None and first != second:
            raise BadRequest("Forwarded does not agree with X-Forwarded-*")
        setattr(claim, name, first if first is not None else second)
    if one.client_known and other.client_known and (one.client or [None])[0] != (other.client or [None])[0]:
        raise BadRequest("Forwarded does not agree with X-Forwarded-For")
    source = one if one.client_known else other
    claim.client, claim.client_known = source.client, source.client_known
    return claim


def _result(claim: Claim, head: RequestHead, addresses: dict[str, Any]) -> dict[str, Any]:
    scheme = claim.scheme or addresses["scheme"]
    server, port = addresses["server"], claim.port
    if claim.host is not None:
        name, own_port = _split_port(claim.host)
        if own_port is None and port is not None and port != _PORTS[scheme]:
            claim.host = b"%s:%d" % (claim.host, port)
        elif own_port is not None and port is not None and port != own_port:
            raise BadRequest("X-Forwarded-Port does not agree with X-Forwarded-Host")
        set_host(head, claim.host)
        server = [name, port or own_port or _PORTS[scheme]]
    elif port is not None or claim.scheme is not None:
        own_port = _split_port(head.fields.get(b"host", b""))[1]
        server = [server[0] if server else "localhost", port or own_port or _PORTS[scheme]]
    return {**addresses, "client": claim.client, "server": server, "scheme": scheme}


def _split_port(host: bytes) -> tuple[str, int | None]:
    name, colon, digits = host.decode("latin-1").rpartition(":")
    if not colon or name.count("[") != name.count("]"):  # no port, though perhaps the colons of an IPv6 address
        return host.decode("latin-1"), None
    return name, _port(digits, "Host") if digits else None


def _list(head: RequestHead, name: bytes) -> list[bytes]:
    """Return the elements of a list field, of all its lines; empty ones do not count (RFC 9110 section 5.6.1)."""
    if name not in head.fields:
        return []
    return [item for key, value in head.headers if key == name for item in map(bytes.strip, value.split(b",")) if item]


def _at(values: list[bytes], skipped: int) -> bytes:
    return values[max(0, len(values) - 1 - skipped)]


def _client(text: str, field: str) -> Client:
    """Read one node (RFC 7239 section 6), or one address of ``X-Forwarded-For``, which may lack the brackets."""
    if text == _UNIX_NODE or _obfuscated(text):
        return None
    match = _node(text)
    host, port = (match[1] or match[2], match[3] or "0") if match else (text, "0")
    try:
        address = read_address(host)
    except ValueError:
        raise BadRequest(f"malformed {field} field") from None
    return [str(address), _port(port, field) if port != "0" else 0]


def _scheme(value: bytes, field: str) -> str:
    scheme = _SCHEMES.get(value.lower())
    if scheme is None:
        raise BadRequest(f"malformed {field} field")
    return scheme


def _host(value: bytes, field: str) -> bytes:
    if not value or not is_host(value):
        raise BadRequest(f"malformed {field} field")
    return value


def _port(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise BadRequest(f"malformed {field} field")
    return int(text)
