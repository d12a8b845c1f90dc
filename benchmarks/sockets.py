"""The load generator for WebSockets: raw sockets on one epoll, frames of known size.

:meth:`Crowd.check` compares the contents once; after that, only bytes are counted. So one core of load keeps up with a
server that writes to thousands of sockets.

Runs in the main thread of the benchmark program. A :class:`Crowd` owns its sockets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

from benchmarks.servers import ANSWER_TIMEOUT, Server

#: Handshakes under way at a time; sockets per loopback address, each of which has some 28 000 ports.
OPENING, PER_ADDRESS = 50, 5000

#: Socket options. Sockets are closed with a reset: an orderly close would keep the port in TIME_WAIT for a minute, and
#: thousands of such ports slow down new sockets. For the same reason the port is chosen at connect: Linux's
#: IP_BIND_ADDRESS_NO_PORT, which Python 3.11 does not name.
_RESET, _BIND_ADDRESS_NO_PORT = struct.pack("ii", 1, 0), 24

#: Seconds within which some member of a group must receive something: slow peers need long with thousands of members.
DELIVERY_TIMEOUT = 120.0

#: While more than this many deliveries are missing, the load sleeps this long between two looks at its sockets.
#: Otherwise the kernel wakes the load for every second or third delivery, on the server's core, which takes about a
#: third of the CPU time of a delivery. Clients on other machines do not cost the server that. Works in which it matters
#: are measured both ways.
FAR_BEHIND, PAUSE = 1000, 0.001

#: The message: ASCII, the length of a chat message, so that its frame has a two-byte head.
TEXT = b"A message in a chat, neither very long nor very short; nobody reads it, but its bytes are counted."

_MASK = b"\x37\xfa\x21\x3d"  # from RFC 6455, section 5.7; a constant mask makes no difference to a server


def client_frame(head: int, payload: bytes) -> bytes:
    """Return a frame as a client sends it, masked.

    :param head: the first byte: opcode and flags.
    """
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    key = int.from_bytes((_MASK * (size // 4 + 1))[:size])
    return bytes((head,)) + length + _MASK + (int.from_bytes(payload) ^ key).to_bytes(size)


#: The message's frame, from the client and from the server.
QUESTION, ANSWER = client_frame(0x81, TEXT), bytes((0x81, len(TEXT))) + TEXT


def _frame_size(data: bytes) -> int:
    """Return the size of a server's frame of at most 64 KiB, from its head."""
    return 2 + data[1] if data[1] < 126 else 4 + int.from_bytes(data[2:4])


@dataclass
class Exchange:
    """The answers to a load."""

    #: Number of answers, and the seconds in which they came.
    number: int
    seconds: float
    #: Seconds from each question to its answer.
    latencies: list[float] = field(default_factory=list)


class Crowd:
    """Open WebSockets of one path.

    :param extension: their ``Sec-WebSocket-Extensions`` header.
    """

    def __init__(self, server: Server, path: str, extension: str | None = None) -> None:
        self.server = server
        self._path = path
        self._extension = extension
        self.sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._poll.close()
        for connection in self.sockets.values():
            connection.close()

    @property
    def _handshake(self) -> bytes:
        offer = f"Sec-WebSocket-Extensions: {self._extension}\r\n" if self._extension else ""
        return (
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"{offer}\r\n"
        ).encode()

    def grow(self, size: int, until: float = float("inf")) -> None:
        """Open sockets until there are `size`, or until a time of ``time.monotonic()``."""
        opening: dict[int, tuple[socket.socket, bytearray]] = {}
        handshake = self._handshake
        idle_since = time.monotonic()
        with contextlib.closing(select.epoll()) as poll:
            while True:
                now = time.monotonic()
                while now < until and len(opening) < OPENING and len(self.sockets) + len(opening) < size:
                    connection = self._connect(len(self.sockets) + len(opening))
                    opening[connection.fileno()] = (connection, bytearray())
                    poll.register(connection, select.EPOLLIN)
                    connection.send(handshake)
                if not opening or now >= until:
                    break
                for number, _ in poll.poll(1.0):
                    connection, answer = opening[number]
                    answer += self._receive(connection)
                    if b"\r\n\r\n" in answer:
                        self._welcome(connection, bytes(answer))
                        poll.unregister(connection)
                        del opening[number]
                        idle_since = now
                if now - idle_since > ANSWER_TIMEOUT:
                    raise self.server.failure(f"did not answer a handshake for {self._path} in {ANSWER_TIMEOUT:g} s")
        for connection, _ in opening.values():
            connection.close()

    def _connect(self, index: int) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.0.0.{1 + index // PER_ADDRESS}", 0))
        connection.settimeout(ANSWER_TIMEOUT)
        try:
            connection.connect(("127.0.0.1", self.server.port))
        except OSError as error:
            connection.close()
            raise self.server.failure(f"did not accept connection {index + 1}: {error}") from None
        connection.setblocking(False)
        return connection

    def _welcome(self, connection: socket.socket, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(b"\r\n\r\n"):
            raise self.server.failure(f"answered a handshake for {self._path} with {answer[:200]!r}")
        if self._extension and b"permessage-deflate" not in answer:
            raise self.server.failure(f"did not accept the extension {self._extension}")
        self._add(connection)

    def _add(self, connection: socket.socket) -> None:
        self.sockets[connection.fileno()] = connection
        self._poll.register(connection, select.EPOLLIN)

    def _receive(self, connection: socket.socket) -> bytes:
        try:
            data = connection.recv(65536)
        except OSError as error:
            raise self.server.failure(f"broke a connection of {self._path}: {error}") from None
        if not data:
            raise self.server.failure(f"closed a connection of {self._path}")
        return data

    def check(self) -> None:
        """Check the echo on each socket, one socket after the other."""
        for got in self.exchange(QUESTION):
            if got != ANSWER:
                raise self.server.failure(f"answered on {self._path} with {got[:100]!r}, not with {ANSWER[:100]!r}")

    def exchange(self, question: bytes, begin: int = 0) -> Iterator[bytes]:
        """Send a frame on each socket and read one frame back, one socket after the other.

        :param begin: how many of the oldest sockets to skip.
        :return: the frames received.
        """
        for connection in list(self.sockets.values())[begin:]:
            connection.sendall(question)
            yield self._read_frame(connection)

    def hear(self) -> Iterator[bytes]:
        """Read one frame from each socket; return them."""
        for connection in self.sockets.values():
            yield self._read_frame(connection)

    def _read_frame(self, connection: socket.socket) -> bytes:
        connection.settimeout(ANSWER_TIMEOUT)
        got = self._receive(connection)
        while len(got) < 4 or len(got) < _frame_size(got):
            got += self._receive(connection)
        connection.setblocking(False)
        return got

    def talk(self, seconds: float, in_flight: int = 1, others: Crowd | None = None) -> Exchange:
        """Send the next message on a socket at each answer, for some seconds; then wait for the missing answers.

        :param in_flight: messages in flight on each socket.
        :param others: sockets of another path that do the same, with two messages in flight each, so that their
            consumers never pause; their answers are not counted.
        """
        size, poll, clock = len(ANSWER), self._poll, time.perf_counter
        sockets, counted = dict(self.sockets), set(self.sockets)
        for number, connection in others.sockets.items() if others else ():
            sockets[number] = connection
            poll.register(connection, select.EPOLLIN)
        got = dict.fromkeys(sockets, 0)
        latencies: list[float] = []
        waiting = answered = 0
        begun = clock()
        ends = begun + seconds
        asked = dict.fromkeys(sockets, begun)
        for number, connection in sockets.items():
            connection.send(QUESTION * (in_flight if number in counted else 2))
            waiting += in_flight if number in counted else 2
        now, last = begun, begun
        while waiting:
            events = poll.poll(1.0)
            for number, _ in events:
                connection = sockets[number]
                bytes_got = got[number] + len(self._receive(connection))
                answers, got[number] = divmod(bytes_got, size)
                if not answers:
                    continue
                now = clock()
                waiting -= answers
                if number in counted:
                    latencies.append(now - asked[number])
                if now < ends:
                    answered += answers if number in counted else 0
                    asked[number] = now
                    connection.send(QUESTION * answers)
                    waiting += answers
            if events:
                last = now
            elif clock() - last > ANSWER_TIMEOUT:
                raise self.server.failure(f"did not answer {waiting} messages on {self._path}")
        for connection in others.sockets.values() if others else ():
            poll.unregister(connection)
        return Exchange(answered, seconds, latencies)

    def listen(self, speaker: Crowd, seconds: float, others: Crowd | None = None, pause: float = PAUSE) -> Exchange:
        """Have a socket of another path send to the group of these members, again when all have received it.

        :param others: members on another server.
        :param pause: seconds, as :data:`PAUSE`; 0: wait for each delivery.
        :return: the number of deliveries; as latencies, the seconds to the last delivery of each send.
        """
        poll, clock, sockets = self._poll.poll, time.perf_counter, dict(self.sockets)
        for number, connection in others.sockets.items() if others else ():
            sockets[number] = connection
            self._poll.register(connection, select.EPOLLIN)
        (mouth,) = speaker.sockets.values()
        wanted = len(sockets) * len(ANSWER)
        most = len(sockets)
        latencies: list[float] = []
        begun = clock()
        now = begun
        while not latencies or now < begun + seconds:
            asked, left = clock(), wanted
            mouth.send(QUESTION)
            while left > 0:
                if pause and left > FAR_BEHIND * len(ANSWER):
                    time.sleep(pause)
                events = poll(DELIVERY_TIMEOUT, most)
                for number, _ in events:
                    left -= len(self._receive(sockets[number]))
                if not events:
                    raise self.server.failure(f"did not deliver a message to all members: {left} bytes are missing")
            if left < 0:
                raise self.server.failure(f"delivered {-left} bytes too many")
            now = clock()
            latencies.append(now - asked)
        for connection in others.sockets.values() if others else ():
            self._poll.unregister(connection)
        return Exchange(len(sockets) * len(latencies), now - begun, latencies)

    def idle(self, seconds: float) -> None:
        """Only answer pings, for some seconds."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            for number, _ in self._poll.poll(left):
                connection = self.sockets[number]
                data = self._receive(connection)
                while data:
                    opcode, size = data[0] & 15, data[1]
                    payload, data = data[2 : 2 + size], data[2 + size :]
                    if opcode == 9:
                        connection.send(client_frame(0x8A, payload))
                    elif opcode == 8:
                        raise self.server.failure(f"closed an idle connection of {self._path}")
