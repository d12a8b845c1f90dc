"""HTTP/1.1 requests (RFC 9112), sans I/O: bytes in, heads and bodies out.

Runs in the reactor thread; owns nothing but the state of one body.

Strict on purpose: what another server on the path could read differently is refused, with 400 and a closed connection.
There is one place that reads heads, and it is this one.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

#: Largest request head, in bytes and in fields; more is answered with 431.
MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 128
#: Bytes of memory that a field takes beside its text.
FIELD_BYTES = 256
#: Request lines up to this many bytes are cached.
SHORT_LINE = 128

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_request_line = re.compile(rb"([A-Z][A-Z0-9_\-]{0,31}) ([!-~]+) HTTP/([0-9])\.([0-9])").fullmatch
_field = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)").fullmatch
_absolute = re.compile(rb"https?://([^/?#]+)([/?].*)?", re.IGNORECASE).fullmatch
_host = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.\-_~!$&'()*+,;=%]*)(?::[0-9]*)?").fullmatch
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)").fullmatch

#: Fields of which a second one would let two readers see two different requests.
SINGLE = frozenset({b"host", b"content-length", b"content-type", b"transfer-encoding"})
#: Fields about framing and routing; they must not follow a body (RFC 9110 section 6.5.1).
NOT_IN_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"content-type", b"content-encoding", b"content-range",
     b"trailer", b"authorization", b"cookie", b"te", b"connection", b"expect", b"max-forwards", b"cache-control"}
)  # fmt: skip

#: Bytes in one chunk's size and extensions, in the extensions of a whole body, and in its trailers.
_MAX_CHUNK_LINE = 256
_MAX_EXTENSIONS = 16 * 1024
_MAX_TRAILERS = 8 * 1024


def _repercent(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("channelserver.repercent", _repercent)


class BadRequest(Exception):
    """The request is refused; the connection must be closed, because the start of the next request is unknown.

    :param status: HTTP status for the client.
    :param reason: one sentence for the client and the log.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class FieldSection:
    """The fields of a request, and what they say, apart from the request's line.

    Several heads may share one, so nothing in it is ever changed.

    :param text: the lines, without the last line's end.
    :param version: of HTTP, "1.0" or "1.1".
    :param max_fields: more of them are refused.
    :raises BadRequest: a field breaks a rule.
    """

    __slots__ = ("expects_continue", "fields", "headers", "keep_alive", "length", "text", "version", "weight")

    def __init__(self, text: bytes, version: str, max_fields: int) -> None:
        self.text = text
        self.version = version
        self.headers: list[list[bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.length: int | None = 0
        self.keep_alive = True
        self.expects_continue = False
        self._read_lines(text.split(b"\r\n") if text else [], max_fields)
        self._read_host()
        self._read_framing()
        self._read_connection()
        #: About how many bytes of memory it takes, with the message that is made of it.
        self.weight = 3 * len(text) + FIELD_BYTES * len(self.headers)

    def _read_lines(self, lines: list[bytes], max_fields: int) -> None:
        if len(lines) > max_fields:
            raise BadRequest(f"more than {max_fields} header fields", 431)
        fields, headers = self.fields, self.headers
        for line in lines:
            match = _field(line)
            if match is None:
                raise BadRequest("malformed header field")
            name, value = match.groups()
            name = name.lower()
            value = value.rstrip(b" \t")
            headers.append([name, value])
            if name not in fields:
                fields[name] = value
            elif name in SINGLE:
                raise BadRequest(f"field {name.decode()} more than once")
            elif name == b"accept-encoding":
                fields[name] += b"," + value

    def _read_host(self) -> None:
        """There must be one well-formed Host field (RFC 9112 section 3.2)."""
        host = self.fields.get(b"host")
        if host is None:
            if self.version == "1.1":
                raise BadRequest("no Host field")
        elif not _host(host):
            raise BadRequest("malformed Host field")

    def _read_framing(self) -> None:
        """Where the body ends (RFC 9112 section 6.3)."""
        length = self.fields.get(b"content-length")
        coding = self.fields.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                raise BadRequest("both Content-Length and Transfer-Encoding")
            if self.version == "1.0":
                raise BadRequest("Transfer-Encoding in HTTP/1.0")
            codings = [item.strip() for item in coding.lower().split(b",")]
            if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
                raise BadRequest("chunked must be the last transfer coding")
            if len(codings) > 1:
                raise BadRequest("transfer codings other than chunked are not supported")
            self.length = None
        elif length is not None:
            if not length.isdigit() or len(length) > 18:
                raise BadRequest("malformed Content-Length")
            self.length = int(length)

    def _read_connection(self) -> None:
        tokens = _tokens(self.headers, b"connection") if b"connection" in self.fields else frozenset()
        self.keep_alive = b"close" not in tokens and (self.version == "1.1" or b"keep-alive" in tokens)
        expect = self.fields.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise BadRequest("expectations other than 100-continue are not supported", 417)
            self.expects_continue = self.version == "1.1"


class RequestHead:
    """The head of one request.

    ``headers`` holds [name, value] pairs of bytes, names in lower case, in their order, repeated ones too. ``path`` is
    percent-decoded; what is not UTF-8 in it stays percent-encoded. ``target`` is path and query as the client wrote
    them. ``length`` is the body's, None if it is chunked. ``size`` is the bytes of the head, over HTTP/2.

    :param section: where ``headers`` and ``fields`` are from. They belong to the section, so a head that needs
        other ones replaces them (a trusted proxy's host).
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "query_string",
        "section",
        "size",
        "target",
        "version",
    )

    def __init__(self, section: FieldSection | None = None) -> None:
        self.method = self.path = ""
        self.target = b""
        self.query_string = b""
        self.size = 0
        self.section = section
        if section is not None:
            self.version = section.version
            self.headers = section.headers
            self.fields = section.fields
            self.length = section.length
            self.keep_alive = section.keep_alive
            self.expects_continue = section.expects_continue
            return
        self.version = "1.1"
        self.headers = []
        #: The first value of each field; of Accept-Encoding all.
        self.fields = {}
        self.length = 0
        self.keep_alive = True
        self.expects_continue = False

    def again(self) -> RequestHead:
        """Return the head of another request that is the same."""
        head = RequestHead.__new__(RequestHead)
        head.method, head.path, head.target, head.query_string = self.method, self.path, self.target, self.query_string
        head.size, head.section, head.version = self.size, self.section, self.version
        head.headers, head.fields, head.length = self.headers, self.fields, self.length
        head.keep_alive, head.expects_continue = self.keep_alive, self.expects_continue
        return head

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes, with the message that is made of it."""
        section = self.section
        fields = section.weight if section is not None else FIELD_BYTES * len(self.headers)
        return fields + 4 * len(self.target)

    def tokens(self, name: bytes) -> set[bytes]:
        """Return the comma-separated values of all fields `name`, in lower case."""
        return _tokens(self.headers, name)


def _tokens(headers: list[list[bytes]], name: bytes) -> set[bytes]:
    values = (value for key, value in headers if key == name)
    return {token for value in values for token in map(bytes.strip, value.lower().split(b",")) if token}


def parse_head(data: bytes, max_fields: int = MAX_FIELDS, known: FieldSection | None = None) -> RequestHead:
    """Read a request head.

    :param data: all up to, and without, the empty line.
    :param max_fields: more of them are refused.
    :param known: the ``section`` of an earlier head, read with the same `max_fields`. Clients repeat the same
        fields; those are not parsed again.
    :raises BadRequest: it breaks a rule of RFC 9112 or RFC 9110, or one of this server's limits.
    """
    line, _, text = data.partition(b"\r\n")
    read = _read_short_line if len(line) <= SHORT_LINE else _read_line
    method, target, path, query_string, version, authority = read(line)
    if known is None or known.text != text or known.version != version:
        known = FieldSection(text, version, max_fields)
    head = RequestHead(known)
    head.method = method
    head.target = target
    head.path = path
    head.query_string = query_string
    if authority is not None:  # counts instead of the Host field (RFC 9112 section 3.2.2)
        if not _host(authority):
            raise BadRequest("malformed request target")
        set_host(head, authority)
    return head


def _read_line(line: bytes) -> tuple[str, bytes, str, bytes, str, bytes | None]:
    """Read a request line; return method, target, path, query string, version and the authority, if it names one."""
    match = _request_line(line)
    if match is None:
        raise BadRequest("malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadRequest("HTTP versions other than 1.0 and 1.1 are not supported", 505)
    target, authority = _read_target(method, target)
    path, _, query_string = target.partition(b"?")
    version = "1.0" if minor == b"0" else "1.1"
    return method.decode("ascii"), target, decode_path(path), query_string, version, authority


#: On most sites a few request lines account for most requests.
_read_short_line = lru_cache(1000)(_read_line)


def _read_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Read one of the four forms of a request target (RFC 9112 section 3.2); return path and query, and the authority
    that it names, if any.
    """
    authority = None
    if method == b"CONNECT":
        raise BadRequest("CONNECT is not supported", 501)
    if b"#" in target:
        raise BadRequest("request target with a fragment")
    if target[:1] != b"/":
        match = _absolute(target)
        if match is not None:
            authority, target = match[1], match[2] or b"/"
            if authority[:1] == b":":
                raise BadRequest("request target without a host")
            if b"@" in authority:
                raise BadRequest("request target with user information")
            if target[:1] == b"?":
                target = b"/" + target
        elif target != b"*" or method != b"OPTIONS":
            raise BadRequest("malformed request target")
    return target, authority


def decode_path(path: bytes) -> str:
    """Return a path without percent signs; what is not UTF-8 in it stays percent-encoded.

    :param path: ASCII.
    """
    return unquote_to_bytes(path).decode("utf-8", "channelserver.repercent") if b"%" in path else path.decode("ascii")


def is_host(value: bytes) -> bool:
    """Whether `value` can stand in a ``Host`` field: a name or an address, with or without a port."""
    return _host(value) is not None


def set_host(head: RequestHead, host: bytes) -> None:
    """Replace the ``Host`` field by `host`."""
    head.fields = {**head.fields, b"host": host}
    head.headers = [[b"host", host], *(pair for pair in head.headers if pair[0] != b"host")]


class LengthBody:
    """A body of known length."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes) -> tuple[list[bytes], bytes | None]:
        """Take the next bytes; return the body's parts among them, and what follows the body, or None if it goes on."""
        if len(data) < self._left:
            self._left -= len(data)
            return [data], None
        part, rest = data[: self._left], data[self._left :]
        self._left = 0
        return [part], rest


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1)."""

    __slots__ = ("_buffer", "_extensions", "_fields", "_left", "_state", "_trailers")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._state = "size"
        self._extensions = self._trailers = self._fields = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes | None]:
        """See :meth:`LengthBody.feed`.

        :raises BadRequest: a chunk or the trailers break a rule.
        """
        parts: list[bytes] = []
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        position, end = 0, len(data)
        while True:
            if self._state == "data":
                size = min(self._left, end - position)
                if size:
                    parts.append(data[position : position + size])
                    position += size
                    self._left -= size
                if self._left:
                    return parts, None
                self._state = "end"
            if self._state == "end":
                mark = data[position : position + 2]
                if not b"\r\n".startswith(mark):
                    raise BadRequest("chunk longer than its size")
                if len(mark) < 2:
                    self._buffer = mark
                    return parts, None
                position += 2
                self._state = "size"
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._buffer = self._unfinished(data[position:])
                return parts, None
            line = data[position:line_end]
            position = line_end + 2
            if self._state == "size":
                self._read_size(line)
            elif line:
                self._read_trailer(line)
            else:
                return parts, data[position:]

    def _unfinished(self, line: bytes) -> bytes:
        if self._state == "size" and len(line.removesuffix(b"\r")) > _MAX_CHUNK_LINE:
            raise BadRequest("chunk size line too long")
        if self._trailers + len(line) > _MAX_TRAILERS:
            raise BadRequest("trailers too long", 431)
        if b"\n" in line or b"\r" in line[:-1]:
            raise BadRequest("bare CR or LF in chunked body")
        return line

    def _read_size(self, line: bytes) -> None:
        match = _chunk_line(line) if len(line) <= _MAX_CHUNK_LINE else None
        if match is None:
            raise BadRequest("malformed chunk size")
        self._extensions += len(match[2])
        if self._extensions > _MAX_EXTENSIONS:  # RFC 9112 section 7.1.1
            raise BadRequest("chunk extensions too long")
        self._left = int(match[1], 16)
        self._state = "data" if self._left else "trailers"

    def _read_trailer(self, line: bytes) -> None:
        """Check a trailer field; trailers are not passed on."""
        self._trailers += len(line) + 2
        self._fields += 1
        if self._trailers > _MAX_TRAILERS or self._fields > MAX_FIELDS:
            raise BadRequest("trailers too long", 431)
        match = _field(line)
        if match is None:
            raise BadRequest("malformed trailer field")
        if match[1].lower() in NOT_IN_TRAILERS:
            raise BadRequest(f"field {match[1].decode()} in trailers")


def body_reader(head: RequestHead) -> LengthBody | ChunkedBody:
    """Return what reads the body that follows `head`."""
    return ChunkedBody() if head.length is None else LengthBody(head.length)
