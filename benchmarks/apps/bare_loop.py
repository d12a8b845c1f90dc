"""The least work that reaches a group: ``python -m benchmarks.apps.bare_loop PORT``.

One thread, one epoll, no framework. Sockets on ``/group/`` are the members of a group. A message on ``/speak/`` is
encoded once and written to one member after the other; on all other paths it is sent back. It only reads whole frames
of less than 126 bytes, trusts its clients and has no limits: it shows what the system calls cost.
"""

import base64
import hashlib
import select
import socket
import sys

_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class BareLoop:
    """Owns the listening socket and all others."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.sockets: dict[int, socket.socket] = {}
        self.paths: dict[int, bytes] = {}
        self.members: list[socket.socket] = []

    def run(self) -> None:
        """Serve."""
        while True:
            for number, _ in self.poll.poll(-1, 1000):
                if number == self.listener.fileno():
                    self.accept()
                    continue
                try:
                    if number in self.paths:
                        self.receive(number)
                    else:
                        self.shake_hands(number)
                except ConnectionError:  # the load has closed all its sockets
                    self.forget(number)

    def accept(self) -> None:
        """Accept a connection."""
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets[connection.fileno()] = connection
        self.poll.register(connection, select.EPOLLIN)

    def shake_hands(self, number: int) -> None:
        """Answer the handshake, which our client sends in one piece."""
        connection = self.sockets[number]
        head = self.read(number)
        if not head:
            return
        path = head.split(b" ", 2)[1]
        key = head.lower().index(b"sec-websocket-key:") + len(b"sec-websocket-key:")
        key = head[key : head.index(b"\r\n", key)].strip()
        accept = base64.b64encode(hashlib.sha1(key + _KEY).digest())
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.paths[number] = path
        if path == b"/group/":
            self.members.append(connection)

    def receive(self, number: int) -> None:
        """Read the frames of a socket."""
        connection = self.sockets[number]
        data = self.read(number)
        while data:
            size = data[1] & 127
            mask, payload, data = data[2:6], data[6 : 6 + size], data[6 + size :]
            key = int.from_bytes((mask * (size // 4 + 1))[:size])
            payload = (int.from_bytes(payload) ^ key).to_bytes(size)
            frame = bytes((0x81, size)) + payload
            if self.paths[number] == b"/speak/":
                for member in self.members:
                    member.send(frame)
            else:
                connection.send(frame)

    def read(self, number: int) -> bytes:
        """Return the data of a socket; empty if its client has closed it."""
        data = self.sockets[number].recv(65536)
        if not data:
            self.forget(number)
        return data

    def forget(self, number: int) -> None:
        """Close a socket."""
        connection = self.sockets.pop(number)
        if self.paths.pop(number, None) == b"/group/":
            self.members.remove(connection)
        connection.close()


if __name__ == "__main__":
    BareLoop(int(sys.argv[1])).run()
