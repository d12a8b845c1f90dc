"""Reads the first message of a TLS client, the ClientHello, before OpenSSL does (RFC 8446 section 4.1.2). Sans-I/O.

The server picks the certificate from it. OpenSSL's own callback for protocols (ALPN) comes too late to change the
certificate of a TLS 1.2 handshake, which ``tls-alpn-01`` of ACME needs.

Nothing here raises: OpenSSL gets the same bytes, so what is malformed is left to it, and to the alert that it sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

#: Bytes that a client may send until its ClientHello is complete. Those of browsers have about 2 KiB.
MOST = 64 * 1024

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16
#: The content of a record, at most (RFC 8446 section 5.1).
_RECORD = 1 << 14


@dataclass(frozen=True, slots=True)
class Hello:
    """What a ClientHello asks for.

    :param server_name: the host (SNI, RFC 6066) in lower case, without a final dot; None: the client names none.
    :param protocols: the protocols that the client speaks (ALPN, RFC 7301), in its order.
    """

    server_name: str | None = None
    protocols: tuple[bytes, ...] = ()


class Verdict(Enum):
    """What is there in place of a ClientHello."""

    INCOMPLETE = 1
    #: A plain HTTP request.
    HTTP = 2
    #: More than :data:`MOST` bytes.
    TOO_LONG = 3


class HelloReader:
    """Collects what a client sends until its ClientHello is complete."""

    def __init__(self) -> None:
        #: All that has come, for OpenSSL.
        self.received = b""
        self._next = 0  # where the next record begins
        self._message = b""  # the content of the records before it

    def feed(self, data: bytes) -> Hello | Verdict:
        """Take `data`; return what the client asks for as soon as that is known.

        Of something that is neither TLS nor HTTP, or malformed, it is an empty :class:`Hello`.
        """
        self.received = received = self.received + data
        if received[:1].isupper():
            return Verdict.HTTP
        while len(received) >= self._next + 5:
            begin = self._next + 5
            size = int.from_bytes(received[begin - 2 : begin], "big")
            if received[self._next] != _HANDSHAKE or not 0 < size <= _RECORD:
                return Hello()
            if begin + size > MOST:
                return Verdict.TOO_LONG
            if len(received) < begin + size:
                break
            self._message += received[begin : begin + size]
            self._next = begin + size
            found = self._whole()
            if found is not None:
                return found
        if received and received[0] != _HANDSHAKE:
            return Hello()
        return Verdict.INCOMPLETE if len(received) <= MOST else Verdict.TOO_LONG

    def _whole(self) -> Hello | Verdict | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            return Hello()
        size = int.from_bytes(message[1:4], "big")
        if size > MOST and len(message) >= 4:
            return Verdict.TOO_LONG
        return read_hello(message[4 : 4 + size]) if len(message) >= 4 + size else None


def read_hello(body: bytes) -> Hello:
    """Return what the body of a ClientHello asks for; of what is malformed, as much as comes before that."""
    position = 2 + 32  # version, random
    for length_bytes in (1, 2, 1):  # session ID, cipher suites, compression methods
        position += length_bytes + int.from_bytes(body[position : position + length_bytes], "big")
    position += 2
    name: str | None = None
    protocols: tuple[bytes, ...] = ()
    end = len(body)
    while position + 4 <= end:
        kind, size = body[position] << 8 | body[position + 1], body[position + 2] << 8 | body[position + 3]
        position += 4 + size
        if position > end:
            break
        if kind == _SERVER_NAME:
            name = _host_name(body[position - size : position])
        elif kind == _ALPN:
            protocols = tuple(_strings(body[position - size + 2 : position]))
    return Hello(name, protocols)


def _host_name(content: bytes) -> str | None:
    size = int.from_bytes(content[3:5], "big")
    found = content[5 : 5 + size]
    # 0 is the only kind of name that there is.
    if content[2:3] != b"\0" or not found or len(found) != size or not found.isascii():
        return None
    return found.decode("ascii").lower().removesuffix(".")


def _strings(data: bytes) -> Iterator[bytes]:
    position = 0
    while len(data) > position:
        begin = position + 1
        position = begin + data[position]
        if position <= len(data):
            yield data[begin:position]
