"""Finds out whether a name leads to this server, before a certificate authority is asked to look.

Runs in a thread of its own, because names are looked up as the system does it, and that waits; owns nothing.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing

from channelserver.server.acme.challenges import FOLDER

#: Seconds for a connection and for an answer.
PATIENCE = 5.0
#: Addresses of a name that are looked at.
ADDRESSES = 8


def unreachable(
    name: str, token: str, answer: str, http_ports: Sequence[int], https_ports: Sequence[int], certificate: bytes
) -> str:
    """Return why a name does not lead to this server, in one sentence with the cure; empty: it does.

    :param token: for which this server answers with `answer`, as for a challenge of ``http-01``.
    :param http_ports: on which plain HTTP may be found, the authority's own port first.
    :param https_ports: the same for HTTPS.
    :param certificate: in PEM: with it this server answers ``tls-alpn-01`` for the name.
    """
    try:
        # Not every system resolves these names, which mean this machine (RFC 6761 section 6.3).
        where = "localhost" if name.endswith(".localhost") else name
        found = socket.getaddrinfo(where, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{name} does not resolve ({error.strerror or error}); make a DNS record that points to this machine"
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:ADDRESSES]
    shown = ssl.PEM_cert_to_DER_cert(certificate.decode())
    ways: list[tuple[int, Callable[[str, int], bool]]] = [
        *(
            (port, lambda address, port: _get(address, port, name, FOLDER + token) == answer.encode())
            for port in http_ports
        ),
        *((port, lambda address, port: _certificate(address, port, name) == shown) for port in https_ports),
    ]
    looks = [_look(address, ways) for address in addresses]
    # An authority asks IPv6 first. From inside, the router may answer for its address of IPv4.
    foreign = [
        reason
        for address, (_, is_foreign, reason) in zip(addresses, looks, strict=True)
        if is_foreign and ":" in address
    ]
    if any(is_here for is_here, _, _ in looks):
        if not foreign:
            return ""
        return (
            f"{name} leads to another server by IPv6 ({'; '.join(foreign)}), which the authority asks first; "
            "remove that AAAA record, or let it lead here"
        )
    reasons = "; ".join(reason for _, _, reason in looks)
    return (
        f"{name} does not lead to this server ({reasons}); check its DNS records, the firewall, and that ports 80 and "
        "443 are forwarded here"
    )


def _look(address: str, ways: Sequence[tuple[int, Callable[[str, int], bool]]]) -> tuple[bool, bool, str]:
    """Return whether an address is this server's, whether it is another server's, and why it is not this one's."""
    reasons, is_foreign = [], False
    for port, is_here in ways:
        try:
            if is_here(address, port):
                return True, False, ""
            is_foreign = True
            reasons.append(f"port {port} of {address} is another server's")
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"port {port} of {address}: {getattr(error, 'strerror', None) or error}")
    return False, is_foreign, "; ".join(reasons)


def _get(address: str, port: int, host: str, path: str) -> bytes:
    with closing(http.client.HTTPConnection(address, port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        response = connection.getresponse()
        return response.read(1000) if response.status == 200 else b""


def _certificate(address: str, port: int, name: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["acme-tls/1"])
    with socket.create_connection((address, port), PATIENCE) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return secure.getpeercert(True) or b""
