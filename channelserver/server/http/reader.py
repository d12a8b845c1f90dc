"""The requests in the bytes of one HTTP/1.1 connection, sans I/O: bytes in, heads and bodies out.

Runs in the reactor thread; owned by its connection.
"""

from __future__ import annotations

import re
from typing import IO

from channelserver.server.common.account import ClientMemory
from channelserver.server.common.options import Settings
from channelserver.server.http.body import FramedBody
from channelserver.server.http.http1 import BadRequest, FieldSection, RequestHead, parse_head

#: Fields of a request which are kept for the next request on the connection: how many, and how many bytes in all. That
#: may be 10 KiB of memory; an idle connection must stay small.
KEPT_FIELDS, KEPT_BYTES = 32, 2048
#: Bytes of a request up to which it is kept, so that the same one is not read again.
REPEATED_BYTES = 1024
#: Empty lines that are skipped before a request.
MAX_EMPTY_LINES = 4
#: Bytes of a chunked body that are read at a time; if most of them are heads of chunks, hundreds, no more are read
#: before the reactor's next turn.
CHUNKED_SLICE = 4 * 1024

_bare_lf = re.compile(rb"(?<!\r)\n").search


class RequestReader:
    """Takes heads and bodies out of what has been read.

    :param options: limits and timeouts.
    """

    __slots__ = ("_empty_lines", "_latest", "_options", "_searched", "_section", "body", "buffer")

    def __init__(self, options: Settings) -> None:
        self._options = options
        #: What has been read and is not part of a request yet; the connection adds to it.
        self.buffer = b""
        self._searched = self._empty_lines = 0
        self._section: FieldSection | None = None  # of the latest head
        self._latest: tuple[bytes, RequestHead] | None = None  # a request without a body, and its head
        #: The body that is coming.
        self.body: FramedBody | None = None

    def take_head(self) -> RequestHead | None:
        """Take a head out of the buffer; return None if it is not complete.

        :raises BadRequest: it breaks a rule or a limit.
        """
        buffer, latest = self.buffer, self._latest
        if latest is not None and buffer == latest[0]:
            self.buffer = b""
            self._searched = self._empty_lines = 0
            return latest[1].again()
        options = self._options
        while buffer[:2] == b"\r\n":  # RFC 9112 section 2.2: an empty line before a request is skipped
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise BadRequest("too many empty lines before a request")
            buffer = self.buffer = buffer[2:]
            self._searched = 0
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if (end if end >= 0 else len(buffer) - 3) > options.max_header_bytes:
            if b"\r\n" in buffer[: options.max_header_bytes]:
                raise BadRequest(f"request head over {options.max_header_bytes} bytes", 431)
            raise BadRequest(f"request line over {options.max_header_bytes} bytes", 414)
        if end < 0:
            if buffer and not self._searched and not (buffer[:1].isupper() or buffer == b"\r"):  # TLS, for instance
                raise BadRequest("malformed request line")
            if _bare_lf(buffer, max(0, self._searched - 1)):
                raise BadRequest("lines end with bare LF")
            self._searched = len(buffer)
            return None
        self._searched = self._empty_lines = 0
        self.buffer = buffer[end + 4 :]
        head = parse_head(buffer[:end], options.max_header_fields, self._section)
        section = head.section
        if section is not self._section and section is not None:
            small = len(section.text) <= KEPT_BYTES and len(section.headers) <= KEPT_FIELDS
            self._section = section if small else None
            self._latest = None
        elif not self.buffer and len(buffer) <= REPEATED_BYTES and head.length == 0:
            self._latest = buffer, head.again()
        return head

    def begin_body(self, head: RequestHead, now: float, memory: ClientMemory) -> None:
        """Read a body next.

        :param now: seconds of the server's clock.
        :param memory: what is kept for all clients.
        :raises BadRequest: it is too large.
        """
        self.body = FramedBody(head, self._options, now, memory)

    def read_body(self) -> tuple[bytes, IO[bytes] | None] | None:
        """Move the buffer, or a slice of it, into the body; return it, when complete, as :meth:`RequestBody.take`.

        :raises BadRequest: it is malformed or too large.
        """
        body, data = self.body, self.buffer
        assert body is not None
        size = CHUNKED_SLICE if body.chunked else len(data)
        position, rest = 0, None
        while rest is None and position < len(data):
            part = data[position : position + size] if size < len(data) else data
            position += len(part)
            before = body.size
            rest = body.feed(part)
            if body.size - before < len(part) // 2:
                break
        self.buffer = data[position:] if rest is None else rest + data[position:]
        if rest is None:
            return None
        self.body = None
        return body.take()

    def kept(self) -> int:
        """Return how many bytes of memory it takes."""
        return len(self.buffer) + (self.body.kept() if self.body is not None else 0)

    def close(self) -> None:
        """Forget what has been read; nothing more will be."""
        self.buffer = b""
        self._section = self._latest = None
        body, self.body = self.body, None
        if body is not None:
            body.close()
