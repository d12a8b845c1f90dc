"""Finds out whether a name leads to this server, before a certificate authority is asked to look.

Runs in a thread of its own, because names are looked up as the system does it, and that waits; owns nothing.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Sequence
from contextlib import closing

from channelserver.server.acme.challenges import FOLDER

#: Seconds for a connection and for an answer.
PATIENCE = 5.0


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
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    reasons = []
    for address in addresses:
        for port in http_ports:
            try:
                if _get(address, port, name, FOLDER + token) == answer.encode():
                    return ""
                reasons.append(f"port {port} of {address} is another server's")
            except (OSError, http.client.HTTPException) as error:
                reasons.append(f"port {port} of {address}: {getattr(error, 'strerror', None) or error}")
        for port in https_ports:
            try:
                if _certificate(address, port, name) == ssl.PEM_cert_to_DER_cert(certificate.decode()):
                    return ""
                reasons.append(f"port {port} of {address} is another server's")
            except OSError as error:
                reasons.append(f"port {port} of {address}: {getattr(error, 'strerror', None) or error}")
    return (
        f"{name} does not lead to this server ({'; '.join(reasons)}); check its DNS records, the firewall, and that "
        "ports 80 and 443 are forwarded here"
    )


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
