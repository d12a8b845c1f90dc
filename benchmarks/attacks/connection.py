"""A client's connection: it sends whatever bytes it likes, and reads only when told to.

Runs in the event loop of a crowd's process; a connection owns its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from functools import cache

#: Bytes the kernel keeps of what a client does not read: little, so that the server is left with the rest.
RECEIVE_BUFFER = 4096
#: Bytes the kernel keeps of what the server has not taken: the attackers' own memory is not of interest.
SEND_BUFFER = 64 * 1024
#: Seconds until a server must have accepted a connection or answered.
TIMEOUT = 10.0
#: Seconds between two looks at whether the server has closed the connection.
LOOK = 0.5


class Closed(ConnectionError):
    """The server has closed the connection."""


class Connection:
    """One connection; made by :meth:`open`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._discarding: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, port: int, source: str, buffer: int = RECEIVE_BUFFER) -> Connection:
        """Connect from a loopback address."""
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((source, 0))
            connection = cls(sock)
            async with asyncio.timeout(TIMEOUT):
                await connection._loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return connection

    async def start_tls(self, protocol: str) -> None:
        """Do the TLS handshake and agree on a protocol: ``h2`` or ``http/1.1``."""
        self._tls = _context(protocol).wrap_bio(self._in, self._out)
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
                else:
                    await self._flush()
                    break
        if self._tls.selected_alpn_protocol() not in (protocol, None):
            raise Closed(f"the server does not speak {protocol}")

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the server does not take them."""
        if self._tls is None:
            await self._loop.sock_sendall(self._socket, data)
        else:
            self._tls.write(data)
            await self._flush()
        await asyncio.sleep(0)

    async def send_records(self, data: bytes) -> None:
        """Send each byte in a TLS record of its own."""
        assert self._tls is not None
        for begin in range(len(data)):
            self._tls.write(data[begin : begin + 1])
        await self._flush()
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        """Return the next bytes.

        :raises Closed: there are no more.
        """
        if self._tls is None:
            data = await self._loop.sock_recv(self._socket, 65_536)
        else:
            while True:
                try:
                    data = self._tls.read(65_536)
                    break
                except ssl.SSLWantReadError:
                    await self._fill()
        if not data:
            raise Closed("the server has closed the connection")
        return data

    async def receive_until(self, end: bytes) -> bytes:
        """Return the next bytes until some that end with `end`."""
        data = b""
        async with asyncio.timeout(TIMEOUT):
            while not data.endswith(end):
                data += await self.receive()
        return data

    def discard(self) -> None:
        """Read everything from now on, and throw it away."""
        self._discarding = asyncio.create_task(self._discard())

    async def hold(self) -> None:
        """Do nothing, in particular do not read, until the server closes the connection.

        :raises Closed: it has.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        while not poll.poll(0):
            await asyncio.sleep(LOOK)
        raise Closed("the server has closed the connection")

    def close(self) -> None:
        """Close it."""
        if self._discarding is not None:
            self._discarding.cancel()
        self._socket.close()

    async def _discard(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self.receive()
                await asyncio.sleep(0)

    async def _fill(self) -> None:
        data = await self._loop.sock_recv(self._socket, 65_536)
        if not data:
            raise Closed("the server has closed the connection")
        self._in.write(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            await self._loop.sock_sendall(self._socket, data)


@cache
def _context(protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context
