"""What an attack is, and the client that does it.

Runs in the event loop of a crowd's process, but for the table of attacks, which is plain data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.attacks.connection import RECEIVE_BUFFER, Connection


@dataclass(frozen=True)
class Target:
    """The ports of the attacked server."""

    plain: int
    tls: int
    redirect: int


class Visitor:
    """One attacking client; it comes back when the server has disconnected it.

    :param number: its number, from 0 on.
    :param source: its loopback address.
    """

    def __init__(self, target: Target, number: int, source: str) -> None:
        self.target = target
        self.number = number
        self._source = source
        self._open: list[Connection] = []
        #: Connections made.
        self.opened = 0

    async def connect(self, port: int, buffer: int = RECEIVE_BUFFER) -> Connection:
        """Open a connection.

        :param buffer: bytes that the kernel keeps for a client that does not read; 0: as much as it likes.
        """
        connection = await Connection.open(port, self._source, buffer)
        self._open.append(connection)
        self.opened += 1
        return connection

    async def plain(self) -> Connection:
        """Open a connection to the plain port."""
        return await self.connect(self.target.plain)

    async def tls(self, protocol: str = "http/1.1") -> Connection:
        """Open a connection with TLS."""
        connection = await self.connect(self.target.tls)
        await connection.start_tls(protocol)
        return connection

    async def websocket(self, path: str, extra: str = "") -> Connection:
        """Open a WebSocket."""
        connection = await self.plain()
        await connection.send(handshake(path, extra))
        head = await connection.receive_until(b"\r\n\r\n")
        if b" 101 " not in head[:20]:
            raise ConnectionError(f"no WebSocket: {head[:40]!r}")
        return connection

    def close(self) -> None:
        """Close all its connections."""
        for connection in self._open:
            connection.close()
        self._open.clear()


@dataclass(frozen=True)
class Attack:
    """One kind of attack."""

    name: str
    title: str
    act: Callable[[Visitor], Awaitable[None]]
    clients: int
    #: Further options of the server that make the attack possible, or its end soon enough to be seen.
    options: tuple[str, ...] = ()
    #: Whether ``--mix`` has it.
    mixed: bool = False


ATTACKS: dict[str, Attack] = {}

Act = Callable[[Visitor], Awaitable[None]]


def attack(
    name: str, title: str, clients: int = 5, options: tuple[str, ...] = (), mixed: bool = False
) -> Callable[[Act], Act]:
    """Declare an attack: a coroutine that runs until the time is over or the server has closed its connection."""

    def add(act: Act) -> Act:
        ATTACKS[name] = Attack(name, title, act, clients, options, mixed)
        return act

    return add


def get(path: str, extra: str = "") -> bytes:
    """Return a request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode()


def post(path: str, extra: str) -> bytes:
    """Return the head of a request with a body."""
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode()


def handshake(path: str, extra: str = "") -> bytes:
    """Return the opening handshake of a WebSocket."""
    own = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    return get(path, own + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + extra)


async def for_ever() -> None:
    """Wait until the time is over."""
    await asyncio.get_running_loop().create_future()
