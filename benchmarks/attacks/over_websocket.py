"""Attacks over WebSockets.

Runs in the event loop of a crowd's process.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from functools import cache

from benchmarks.attacks.attack import Visitor, attack, handshake

TEXT, BINARY, PING, CLOSE, FINAL, COMPRESSED = 1, 2, 9, 8, 0x80, 0x40
MESSAGE = 1024 * 1024
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def frame(first: int, content: bytes) -> bytes:
    """Return a client's frame; its mask is zero, which leaves the content as it is."""
    size = len(content)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + bytes(4) + content


@cache
def large(kind: str) -> bytes:
    """Return a message of 1 MiB: ``ascii``, ``emoji`` (one character outside the BMP), ``compressed`` (both)."""
    content = b"x" * (MESSAGE - 4) + "\N{GRINNING FACE}".encode()
    if kind == "ascii":
        return frame(FINAL | TEXT, b"x" * MESSAGE)
    if kind == "emoji":
        return frame(FINAL | TEXT, content)
    return frame(FINAL | COMPRESSED | TEXT, deflate(content))


def deflate(content: bytes) -> bytes:
    """Return a message's content as RFC 7692 packs it."""
    packer = zlib.compressobj(9, wbits=-15)
    return (packer.compress(content) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def queue(visitor: Visitor, kind: str, extra: str = "") -> None:
    """Send 60 messages of 1 MiB to a consumer that is busy."""
    connection = await visitor.websocket("/slow/", extra)
    for _ in range(60):
        await connection.send(large(kind))
    await connection.hold()


@attack("ws-queue", "WebSocket: 60 messages of 1 MiB to a busy consumer", clients=4, mixed=True)
async def queue_ascii(visitor: Visitor) -> None:
    await queue(visitor, "ascii")


@attack("ws-queue-emoji", "WebSocket: the same, with one character outside the BMP in each", clients=4)
async def queue_emoji(visitor: Visitor) -> None:
    await queue(visitor, "emoji")


@attack("ws-queue-deflate", "WebSocket: the same, compressed to 1 KB each", clients=4, options=("--compression",))
async def queue_deflate(visitor: Visitor) -> None:
    await queue(visitor, "compressed", DEFLATE)


@attack(
    "ws-echo-deflate",
    "WebSocket: compressed messages of 1 MiB without pause, answers read",
    clients=50,
    options=("--compression",),
)
async def echo_deflate(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/", DEFLATE)
    connection.discard()
    while True:
        await connection.send(_digits())


@cache
def _digits() -> bytes:
    return frame(FINAL | COMPRESSED | TEXT, deflate(os.urandom(MESSAGE // 2).hex().encode()))


@attack("ws-queue-small", "WebSocket: messages of a byte to a busy consumer without end", clients=10)
async def queue_small(visitor: Visitor) -> None:
    connection = await visitor.websocket("/slow/")
    while True:
        await connection.send(frame(FINAL | TEXT, b"x") * 1000)


@attack("ws-unfinished", "WebSocket: 1 MiB of a message, unfinished", clients=100, mixed=True)
async def unfinished(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    await connection.send(frame(TEXT, b"x" * (MESSAGE - 1)))
    await connection.hold()


@attack("ws-fragments", "WebSocket: fragments of a byte without end", clients=3)
async def fragments(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    await connection.send(frame(TEXT, b"x"))
    while True:
        await connection.send(frame(0, b"x") * 1000)


@attack("ws-empty-fragments", "WebSocket: empty fragments without end", clients=3)
async def empty_fragments(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    await connection.send(frame(TEXT, b""))
    while True:
        await connection.send(frame(0, b"") * 1000)


@attack("ws-bomb", "WebSocket: messages that unpack to 100 MB", clients=3, options=("--compression",))
async def bomb(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/", DEFLATE)
    await connection.send(frame(FINAL | COMPRESSED | BINARY, _bomb()))
    await connection.hold()


@cache
def _bomb() -> bytes:
    return deflate(bytes(100_000_000))


@attack("ws-unread", "WebSocket: messages whose answers of 64 KiB are not read", clients=20, mixed=True)
async def unread(visitor: Visitor) -> None:
    connection = await visitor.websocket("/answer/")
    for _ in range(1000):
        await connection.send(frame(FINAL | TEXT, b"x"))
    await connection.hold()


@attack("ws-news", "WebSocket: members of a group of 64 KiB messages, not read", clients=20)
async def news(visitor: Visitor) -> None:
    connection = await visitor.websocket("/news/")
    if visitor.number == 0:
        feeder = await visitor.plain()
        feeder.discard()
        while True:
            await feeder.send(b"GET /feed/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await asyncio.sleep(0.1)
    await connection.hold()


@attack("ws-pings", "WebSocket: pings without pause", clients=3)
async def pings(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    connection.discard()
    while True:
        await connection.send(frame(FINAL | PING, b"x" * 100) * 500)


@attack("ws-pings-unread", "WebSocket: pings without pause, not read", clients=3)
async def pings_unread(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    while True:
        await connection.send(frame(FINAL | PING, b"x" * 100) * 500)


@attack("ws-echo", "WebSocket: small messages without pause, answers read", clients=5)
async def echo(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    connection.discard()
    while True:
        await connection.send(frame(FINAL | TEXT, b"x") * 200)


@attack("ws-silent", "WebSocket: open, then silence", clients=200)
async def silent(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    await connection.hold()


@attack("ws-early", "WebSocket: 1 MiB sent before the connection is accepted", clients=100)
async def early(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(handshake("/slow-connect/") + frame(FINAL | TEXT, b"x" * (MESSAGE - 1)))
    await connection.hold()


@attack("ws-closing", "WebSocket: a close frame, answer not read, connection kept", clients=100)
async def closing(visitor: Visitor) -> None:
    connection = await visitor.websocket("/echo/")
    await connection.send(frame(FINAL | CLOSE, struct.pack("!H", 1000)))
    await connection.hold()
