"""A raw HTTP client for tests: sends any bytes, and reads answers strictly, one by one."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from tests.process import TIMEOUT


class Answer:
    """One answer: ``status``, ``headers`` (lower-case names and values, in their order) and ``body``."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.headers} {self.body[:200]!r}>"

    def get(self, name: str) -> str | None:
        """Return the one value of a field, or None."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} more than once: {values}"
        return values[0] if values else None


class Raw:
    """One connection.

    :param address: a port of 127.0.0.1, or the path of a Unix socket.
    :param receive_buffer: bytes the kernel keeps for us unread; small for a client that does not read.
    :param source: the address to come from.
    """

    def __init__(
        self, address: int | str, timeout: float = TIMEOUT, receive_buffer: int | None = None, source: str = ""
    ) -> None:
        self.socket = socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", address) if isinstance(address, int) else address)
        self._address = address
        self._buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Raw:
        """Send bytes."""
        self.socket.sendall(b"".join(parts))
        return self

    def request(self, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a well-formed request and return its answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode("latin-1"), b"\r\n\r\n", body)
        return self.answer(method)

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._more():
                raise AssertionError(f"the server closed after {self._buffer!r}")
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise AssertionError(f"the server closed after {len(self._buffer)} of {size} bytes")
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer; where its body ends follows from RFC 9112 section 6.3 alone."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-9][0-9]{2}) [ -~]*", lines[0])
        assert match, f"malformed status line {lines[0]!r}"
        status = int(match[1])
        headers = []
        for line in lines[1:]:
            field = re.fullmatch(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([ -~\x80-\xff]*)", line)
            assert field, f"malformed field line {line!r}"
            headers.append((field[1].lower(), field[2]))
        answer = Answer(status, headers, b"")
        length, coding = answer.get("content-length"), answer.get("transfer-encoding")
        assert length is None or coding is None, "both Content-Length and Transfer-Encoding"
        if method == "HEAD" or status in (204, 304) or status < 200:
            return answer
        if coding is not None:
            assert coding == "chunked", coding
            answer.body = b"".join(self._chunks())
        elif length is not None:
            answer.body = self._exactly(int(length))
        else:
            assert answer.get("connection") == "close", f"{answer} has no end"
            answer.body = self.rest()
        return answer

    def _chunks(self) -> Iterable[bytes]:
        while True:
            size = int(self._until(b"\r\n"), 16)
            yield self._exactly(size)
            assert self._exactly(2) == b"\r\n"
            if not size:
                return

    def rest(self) -> bytes:
        """Read until the server closes; return what has not been read yet."""
        while self._more():
            pass
        found, self._buffer = self._buffer, b""
        return found

    def is_closed(self) -> bool:
        """Whether the server sends nothing more and closes: False if it sends something, or nothing in time."""
        if self._buffer:
            return False
        try:
            return not self._more()
        except ConnectionResetError:
            return True

    def is_quiet(self) -> bool:
        """Whether nothing has come, not even the end, by the time the server has answered on another connection."""
        with Raw(self._address) as other:
            other.request("/")
        return not self._buffer and not select.select([self.socket], [], [], 0)[0]


def head(*lines: str | bytes, host: Any = "localhost") -> bytes:
    """Return a request head made of `lines`; a Host field follows the first one, unless `host` is None."""
    encoded = [line if isinstance(line, bytes) else line.encode("latin-1") for line in lines]
    if host is not None:
        encoded.insert(1, b"Host: " + host.encode("latin-1"))
    return b"\r\n".join(encoded) + b"\r\n\r\n"
