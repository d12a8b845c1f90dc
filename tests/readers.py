"""Clients that read an answer part by part, stop reading, or leave: over HTTP/1.1, HTTP/1.1 in TLS, and HTTP/2.

All three have the same methods, so a test can be run with each.
"""

from __future__ import annotations

from tests.certificates import client_context
from tests.http2_client import Answer, HTTP2Client
from tests.process import Server
from tests.raw import Raw

#: What a client's kernel takes beforehand, in bytes, if the client is one that does not read.
SMALL = 4096


class HTTP1Reader:
    """HTTP/1.1; one request on a connection of its own.

    :param server: where to.
    :param certificate: path of the server's certificate, if it speaks TLS.
    :param small: a small receive buffer.
    """

    def __init__(self, server: Server, path: str, certificate: str = "", small: bool = False) -> None:
        self._raw = Raw(server.port, receive_buffer=SMALL if small else None)
        if certificate:
            context = client_context(certificate, "http/1.1")
            self._raw.socket = context.wrap_socket(self._raw.socket, server_hostname="localhost")
        self._raw.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self._chunked = self._begun = False
        self._left = 0
        self.body = bytearray()

    def head(self) -> tuple[int, dict[str, str]]:
        """Wait for the head; return status and fields."""
        lines = self._raw._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self._begun, self._chunked = True, "transfer-encoding" in fields
        self._left = int(fields.get("content-length", -1))
        return int(lines[0].split()[1]), fields

    def read(self) -> bool:
        """Read a part of the body; return False at the end."""
        if not self._begun:
            self.head()
        if self._chunked:
            size = int(self._raw._until(b"\r\n"), 16)
            self.body += self._raw._exactly(size)
            self._raw._exactly(2)
            return size > 0
        size = min(self._left, 65536)
        self.body += self._raw._exactly(size)
        self._left -= size
        return self._left > 0

    def read_until(self, wanted: bytes) -> None:
        """Read until this is in the body."""
        while wanted not in self.body:
            if not self.read():
                raise AssertionError(f"the answer ended after {bytes(self.body[-1000:])!r}")

    def rest(self) -> bytes:
        """Read to the end; return all of the body."""
        while self.read():
            pass
        return bytes(self.body)

    def leave(self) -> None:
        """Do not wait for the answer any longer."""
        self._raw.socket.close()


class HTTP2Reader:
    """HTTP/2; one stream. :meth:`leave` resets it, the connection stays.

    :param client: the connection; None: one of its own.
    """

    def __init__(
        self, server: Server, path: str, certificate: str, small: bool = False, client: HTTP2Client | None = None
    ) -> None:
        self.client = client if client is not None else HTTP2Client(server, certificate)
        self.client.takes = not small  # its window is 64 KiB from the beginning
        self._number = self.client.send(path)

    @property
    def _answer(self) -> Answer:
        return self.client.answers[self._number]

    @property
    def body(self) -> bytearray:
        """What has come of the body."""
        return self._answer.body

    def head(self) -> tuple[int, dict[str, str]]:
        """Wait for the head; return status and fields."""
        self.client.wait(lambda: self._answer.headers)
        return self._answer.status, self._answer.headers

    def read_until(self, wanted: bytes) -> None:
        """Read until this is in the body."""
        self.client.wait(lambda: wanted in self.body or self._answer.over)
        if wanted not in self.body:
            raise AssertionError(f"the answer ended after {bytes(self.body[-1000:])!r}")

    def rest(self) -> bytes:
        """Read to the end; return all of the body."""
        answer = self.client.finish(self._number)
        assert answer.reset is None, answer.reset
        return bytes(answer.body)

    def leave(self) -> None:
        """Do not wait for the answer any longer."""
        self.client.state.reset_stream(self._number, 8)
        self.client.flush()


Reader = HTTP1Reader | HTTP2Reader


def shut(reader: Reader) -> None:
    """Close the connection of a reader."""
    (reader.client if isinstance(reader, HTTP2Reader) else reader._raw.socket).close()
