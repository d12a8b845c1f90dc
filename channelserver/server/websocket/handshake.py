"""The opening handshake of a WebSocket (RFC 6455 section 4): check of the request, and the response.

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from channelserver.layers.content import Content
from channelserver.server.http.exchange import copy_addresses
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.websocket import deflate

if TYPE_CHECKING:
    from channelserver.server.site import Site

_log = Logger("channelserver.server.websocket")

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def check_handshake(head: RequestHead, site: Site) -> deflate.Agreement | None:
    """Check a handshake (RFC 6455 section 4.2.1), its host and its origin.

    :returns: how to compress messages; None: not at all.
    :raises BadRequest: it is malformed or refused.
    """
    fields = head.fields
    if head.method != "GET" or head.version != "1.1":
        raise BadRequest("a WebSocket handshake must be a GET request over HTTP/1.1")
    if head.length != 0:
        raise BadRequest("a WebSocket handshake must not have a body")
    if b"upgrade" not in head.tokens(b"connection"):
        raise BadRequest("the Connection field has no upgrade")
    if fields.get(b"sec-websocket-version") != b"13":
        raise BadRequest("unsupported Sec-WebSocket-Version; use 13", 426)
    try:
        key = base64.b64decode(fields.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16 or sum(name == b"sec-websocket-key" for name, _ in head.headers) != 1:
        raise BadRequest("malformed Sec-WebSocket-Key")
    host = fields.get(b"host", b"").decode("latin-1")
    if not site.origins.host_allowed(host):
        raise BadRequest(f"host {host!r} is not in ALLOWED_HOSTS")
    origins = [value.decode("latin-1") for name, value in head.headers if name == b"origin"]
    if not all(site.origins.origin_allowed(origin, host) for origin in origins):
        raise BadRequest("origin not allowed", 403)
    if site.draining:
        raise BadRequest("the server is shutting down", 503)
    if not site.options.compression:
        return None
    try:
        return deflate.negotiate(value for name, value in head.headers if name == b"sec-websocket-extensions")
    except ValueError as error:
        raise BadRequest("malformed Sec-WebSocket-Extensions") from error


def offered_protocols(head: RequestHead) -> list[str]:
    """Return the subprotocols that the client offers, in its order of preference."""
    items = [value.decode("latin-1") for name, value in head.headers if name == b"sec-websocket-protocol"]
    return [protocol for item in items for protocol in map(str.strip, item.split(",")) if protocol]


def connect_message(name: str, head: RequestHead, site: Site, addresses: dict[str, Any]) -> Content:
    """Return the ``websocket.connect`` message.

    :param name: the reply channel.
    :param addresses: ``client``, ``server`` and ``scheme``.
    """
    message: Content = {
        "reply_channel": name,
        "path": head.path,
        "query_string": head.query_string,
        "root_path": site.root_path,
        "headers": [pair.copy() for pair in head.headers if b"_" not in pair[0]],
        "order": 0,
        **copy_addresses(addresses),
    }
    protocols = offered_protocols(head)
    if protocols:
        message["subprotocols"] = protocols
    return message


def choose_protocol(wanted: Any, offered: list[str], listed: Iterable[str], path: str) -> str | None:
    """Choose a subprotocol: the consumer's, else the first offered that is on the server's list.

    :param wanted: by the consumer; None: it does not say.
    """
    if wanted is None:
        return next((offer for offer in offered if offer in listed), None)
    if wanted in offered:
        return str(wanted)
    _log.error("{path!r}: subprotocol {wanted!r} was not offered by the client", path=path, wanted=wanted)
    return None


def handshake_response(
    head: RequestHead,
    protocol: str | None,
    agreement: deflate.Agreement | None,
    fields: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the response that opens the socket (RFC 6455 section 4.2.2).

    :param protocol: the chosen subprotocol.
    :param agreement: how to compress messages; None: not at all.
    :param fields: further header fields, such as cookies.
    """
    digest = hashlib.sha1(head.fields[b"sec-websocket-key"].strip() + _MAGIC, usedforsecurity=False).digest()
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest),
    ]
    if protocol is not None:
        lines.append(b"Sec-WebSocket-Protocol: " + protocol.encode("latin-1"))
    if agreement is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + agreement.response)
    lines.extend(b"%b: %b" % field for field in fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"
