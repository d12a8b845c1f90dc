"""The load of works whose clients stay: event streams, and clients that read slowly.

Runs in the main thread of the benchmark program; each object owns its sockets.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from statistics import median

from benchmarks.servers import ANSWER_TIMEOUT, Server
from benchmarks.sockets import Crowd

#: A slow reader takes so many bytes, and waits so many seconds until the next ones. Its buffer has the size in bytes.
SIP, PAUSE, BUFFER = 4096, 0.05, 32768

_EVENT_ENDS = b"\n\n"


class EventStreams(Crowd):
    """Open event streams."""

    @property
    def _handshake(self) -> bytes:
        return (
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()

    def _welcome(self, connection: socket.socket, answer: bytes) -> None:
        head, _, begin = answer.partition(b"\r\n\r\n")
        self._add(connection)
        if not head.startswith(b"HTTP/1.1 200 ") or b"text/event-stream" not in head:
            raise self.server.failure(f"answered a request for {self._path} with {answer[:200]!r}")
        if _EVENT_ENDS not in begin:
            self._wait({connection.fileno()})

    def tick(self, seconds: int) -> float:
        """Have an event sent to all streams, each second; return the seconds until the last one has it, as median."""
        passed = []
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=ANSWER_TIMEOUT)
        with contextlib.closing(connection):
            for _ in range(seconds):
                begun = time.monotonic()
                connection.request("GET", "/tick/")
                connection.getresponse().read()
                self._wait(set(self.sockets))
                passed.append(time.monotonic() - begun)
                time.sleep(max(0.0, 1 - passed[-1]))
        return median(passed)

    def _wait(self, missing: set[int]) -> None:
        """Wait until some streams have an event."""
        while missing:
            events = self._poll.poll(ANSWER_TIMEOUT)
            if not events:
                raise self.server.failure(f"did not send an event to {len(missing)} streams in {ANSWER_TIMEOUT:g} s")
            missing.difference_update(
                number for number, _ in events if _EVENT_ENDS in self._receive(self.sockets[number])
            )


class SlowReaders:
    """Clients that ask for a long answer and read it slowly."""

    def __init__(self, server: Server, path: str, number: int) -> None:
        self._server = server
        self._path = path
        self._number = number
        self._sockets: list[socket.socket] = []
        self._begun: set[socket.socket] = set()

    def __enter__(self) -> SlowReaders:
        request = f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._server.port}\r\n\r\n".encode()
        for _ in range(self._number):
            connection = socket.socket()
            self._sockets.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            connection.settimeout(ANSWER_TIMEOUT)
            try:
                connection.connect(("127.0.0.1", self._server.port))
                connection.sendall(request)
            except OSError as error:
                raise self._server.failure(f"did not accept connection {len(self._sockets)}: {error}") from None
            connection.setblocking(False)
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._sockets:
            connection.close()  # with unread data: a reset

    def read(self, seconds: float) -> None:
        """Read slowly for some time."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for connection in self._sockets:
                with contextlib.suppress(BlockingIOError):
                    self._check(connection, connection.recv(SIP))
            time.sleep(PAUSE)

    def _check(self, connection: socket.socket, data: bytes) -> None:
        if not data:
            raise self._server.failure(f"closed a connection before the end of {self._path}")
        if connection not in self._begun:
            if not data.startswith(b"HTTP/1.1 200 "):
                raise self._server.failure(f"answered a request for {self._path} with {data[:200]!r}")
            self._begun.add(connection)

    @property
    def served(self) -> int:
        """How many have received the beginning of their answer."""
        return len(self._begun)
