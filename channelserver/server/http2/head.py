"""Request heads of HTTP/2 (RFC 9113 section 8), sans I/O: header fields in, the same heads as HTTP/1.1's out.

Runs in the reactor thread; owns nothing.

As strict as :mod:`channelserver.server.http.http1`, so that a request means the same over both protocols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from channelserver.server.http.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    NOT_IN_TRAILERS,
    SINGLE,
    BadRequest,
    RequestHead,
    decode_path,
    is_host,
    set_host,
)
from channelserver.server.http.reader import KEPT_BYTES, KEPT_FIELDS

Fields = Iterable[tuple[bytes, bytes]]

_method = re.compile(rb"[A-Z][A-Z0-9_\-]{0,31}").fullmatch
_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_value = re.compile(rb"(?:[!-~\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
_target = re.compile(rb"[!-\"$-~]+").fullmatch

_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
#: Fields about an HTTP/1.1 connection (RFC 9113 section 8.2.2).
_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


class Malformed(BadRequest):
    """The request is malformed (RFC 9113 section 8.1.1); the stream is reset."""


class KnownFields:
    """The fields of a connection's latest request, apart from pseudo-fields.

    Clients repeat the same ones; those are not checked again.
    """

    __slots__ = ("fields", "headers", "raw", "size")

    def __init__(self) -> None:
        #: As they came.
        self.raw: list[tuple[bytes, bytes]] = []
        #: As a head has them. Several heads share them, so they are never changed.
        self.headers: list[list[bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        #: The bytes that they would have in HTTP/1.1.
        self.size = 0


def read_head(
    fields: Fields,
    ended: bool,
    scheme: bytes,
    max_fields: int = MAX_FIELDS,
    max_bytes: int = MAX_HEAD_BYTES,
    known: KnownFields | None = None,
) -> RequestHead:
    """Read a request head.

    :param fields: the header fields, pseudo-fields first.
    :param ended: there is no body.
    :param scheme: of the connection.
    :param max_fields, max_bytes: more are refused; the bytes are those that the head would have in HTTP/1.1.
    :param known: from the latest head; updated.
    :raises Malformed: the request is malformed.
    :raises BadRequest: it breaks another rule, or one of this server's limits.
    """
    head = RequestHead()
    head.version = "2"
    pseudo: dict[bytes, bytes] = {}
    raw = list(fields)
    number = 0
    for name, value in raw:
        if name[:1] != b":":
            break
        if name in pseudo or name not in _PSEUDO or not _value(value):
            raise Malformed("pseudo-header field unknown or repeated")
        pseudo[name] = value
        number += 1
    del raw[:number]
    if known is None or known.raw != raw:
        known = _read_fields(raw, known)
    head.headers, head.fields = known.headers, known.fields
    head.size = _check_size(head, pseudo, known.size, max_fields, max_bytes)
    _read_method(head, pseudo)
    if pseudo.get(b":scheme") != scheme:
        raise Malformed("no :scheme, or not the connection's")
    _read_path(head, pseudo.get(b":path", b""))
    _read_authority(head, pseudo.get(b":authority"))
    _read_body(head, ended)
    return head


def _read_fields(raw: list[tuple[bytes, bytes]], known: KnownFields | None) -> KnownFields:
    """Check the fields of a request; remember them if they are few."""
    read = KnownFields()
    for name, value in raw:
        if name[:1] == b":":
            raise Malformed("pseudo-header field misplaced")
        _check_field(name, value)
        if name not in read.fields:
            read.fields[name] = value
        elif name in SINGLE:
            raise Malformed(f"field {name.decode()} more than once")
        elif name == b"accept-encoding":
            read.fields[name] += b"," + value
        read.headers.append([name, value])
    read.size = sum([len(name) + len(value) + 4 for name, value in raw])  # 4: colon, space, CR LF
    if known is not None and read.size <= KEPT_BYTES and len(raw) <= KEPT_FIELDS:
        known.raw, known.headers, known.fields, known.size = raw, read.headers, read.fields, read.size
    return read


def _check_size(head: RequestHead, pseudo: dict[bytes, bytes], size: int, max_fields: int, max_bytes: int) -> int:
    """Return the bytes of a head.

    :param size: those of its fields.
    """
    line = len(pseudo.get(b":method", b"")) + len(pseudo.get(b":path", b"")) + len("  HTTP/1.1")
    if line > max_bytes:
        raise BadRequest(f"request line over {max_bytes} bytes", 414)
    number, size = len(head.headers), size + line
    if b":authority" in pseudo:
        number, size = number + 1, size + len("host: \r\n") + len(pseudo[b":authority"])
    if size > max_bytes:
        raise BadRequest(f"request head over {max_bytes} bytes", 431)
    if number > max_fields:
        raise BadRequest(f"more than {max_fields} header fields", 431)
    return size


def check_trailers(fields: Fields) -> None:
    """Check the fields after a body; they are not passed on.

    :raises Malformed: they break a rule, or have no place there (RFC 9110 section 6.5.1).
    """
    for number, (name, value) in enumerate(fields):
        _check_field(name, value)
        if name in NOT_IN_TRAILERS or number >= MAX_FIELDS:
            raise Malformed(f"field {name.decode()} in trailers")


def _check_field(name: bytes, value: bytes) -> None:
    if not _name(name) or not _value(value):
        raise Malformed("malformed header field")
    if name in _CONNECTION or (name == b"te" and value != b"trailers"):
        raise Malformed(f"field {name.decode()}, which belongs to HTTP/1.1")


def _read_method(head: RequestHead, pseudo: dict[bytes, bytes]) -> None:
    method = pseudo.get(b":method", b"")
    if not _method(method):
        raise Malformed("no :method, or a malformed one")
    head.method = method.decode("ascii")
    if head.method == "CONNECT":
        raise BadRequest("CONNECT is not supported", 501)


def _read_path(head: RequestHead, target: bytes) -> None:
    if not _target(target) or (target[:1] != b"/" and (target != b"*" or head.method != "OPTIONS")):
        raise Malformed("no :path, or a malformed one")
    head.target = target
    path, _, head.query_string = target.partition(b"?")
    head.path = decode_path(path)


def _read_authority(head: RequestHead, authority: bytes | None) -> None:
    """The host is the authority, or else the Host field (RFC 9113 section 8.3.1)."""
    host = head.fields.get(b"host")
    if authority is not None:
        if host is not None and host.lower() != authority.lower():
            raise Malformed("Host field and :authority differ")
        set_host(head, authority)
        host = authority
    if not host or not is_host(host):
        raise BadRequest("no host, or a malformed one")


def _read_body(head: RequestHead, ended: bool) -> None:
    length = head.fields.get(b"content-length")
    if length is not None and (not length.isdigit() or len(length) > 18):
        raise Malformed("malformed Content-Length")
    head.length = 0 if ended else None if length is None else int(length)
    if ended and length is not None and int(length):
        raise Malformed("Content-Length without a body")
    expect = head.fields.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise BadRequest("expectations other than 100-continue are not supported", 417)
        head.expects_continue = not ended
