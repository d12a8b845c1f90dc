"""Thousands of WebSocket clients, as plain sockets of one thread: a client library would need too much for each."""

from __future__ import annotations

import resource
import socket
from types import TracebackType

from tests.process import TIMEOUT
from tests.test_websocket import handshake

#: Sockets from one loopback address, which has some 28 000 ports, and sockets opened in one go.
PER_ADDRESS, BATCH = 5000, 100


class Crowd:
    """Open sockets.

    :param port: the server's, on 127.0.0.1.
    :param extension: offered in each handshake, and expected to be accepted.
    """

    def __init__(self, port: int, extension: str | None = None) -> None:
        self._port = port
        self._extension = extension
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for connection in self.sockets:
            connection.close()

    def grow(self, number: int) -> list[socket.socket]:
        """Open so many more sockets, some at a time; return these."""
        added: list[socket.socket] = []
        while len(added) < number:
            added += self._open(min(BATCH, number - len(added)))
        return added

    def _open(self, number: int) -> list[socket.socket]:
        request = handshake(host="localhost", sec_websocket_extensions=self._extension)
        batch = []
        for _ in range(number):
            connection = socket.socket()
            self.sockets.append(connection)
            connection.settimeout(TIMEOUT)
            connection.bind((f"127.0.0.{1 + len(self.sockets) // PER_ADDRESS}", 0))
            connection.connect(("127.0.0.1", self._port))
            connection.sendall(request)
            batch.append(connection)
        for connection in batch:
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += (part := connection.recv(1000))
                assert part, answer
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            assert (b"permessage-deflate" in answer) == (self._extension is not None), answer
        return batch


def allow_descriptors(number: int) -> None:
    """Let this process and those it starts have so many open files.

    :raises ValueError: the machine does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, max(number, hard)))
