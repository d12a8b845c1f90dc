"""Attacks over HTTP/1.1, in the open and encrypted, and on the redirect port.

Runs in the event loop of a crowd's process.
"""

from __future__ import annotations

import asyncio
import os

from benchmarks.attacks.attack import Visitor, attack, for_ever, get, handshake, post

PAGE = "/page/5000000/"


@attack("unread", "HTTP/1.1: a page of 5 MB, not read", clients=20, mixed=True)
async def unread(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(get(PAGE))
    await connection.hold()


@attack("unread-pipelined", "HTTP/1.1: 100 requests for 5 MB each at once, not read", clients=20)
async def unread_pipelined(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(get(PAGE) * 100)
    await connection.hold()


@attack("unread-small", "HTTP/1.1: pipelined requests for 60 KB each without end, not read", clients=10)
async def unread_small(visitor: Visitor) -> None:
    connection = await visitor.plain()
    while True:
        await connection.send(get("/page/60000/") * 100)


@attack("unread-generated", "HTTP/1.1: a streamed response of 50 MB, not read", clients=60)
async def unread_generated(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(get("/generated/"))
    await connection.hold()


@attack("unread-events", "event streams, fed by 64 KiB ten times a second, not read", clients=20, mixed=True)
async def unread_events(visitor: Visitor) -> None:
    if visitor.number == 0:
        connection = await visitor.connect(visitor.target.plain, 0)
        connection.discard()
        while True:
            await connection.send(get("/feed/"))
            await asyncio.sleep(0.1)
    connection = await visitor.plain()
    await connection.send(get("/events/"))
    await connection.hold()


@attack("tls-unread", "HTTP/1.1 over TLS: a page of 5 MB, not read", clients=20, mixed=True)
async def tls_unread(visitor: Visitor) -> None:
    connection = await visitor.tls()
    await connection.send(get(PAGE))
    await connection.hold()


@attack("tls-hello", "TLS: half a hello, then silence", clients=200)
async def tls_hello(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.tls)
    await connection.send(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + os.urandom(8000))
    await connection.hold()


@attack("tls-silent", "TLS: a handshake, then silence", clients=200)
async def tls_silent(visitor: Visitor) -> None:
    connection = await visitor.tls()
    await connection.hold()


@attack("tls-handshakes", "TLS: handshakes without pause", clients=3)
async def tls_handshakes(visitor: Visitor) -> None:
    while True:
        await visitor.tls()
        visitor.close()


@attack("tls-records", "TLS: records of a byte of a body", clients=50)
async def tls_records(visitor: Visitor) -> None:
    connection = await visitor.tls()
    await connection.send(post("/upload/", "Content-Length: 10000000\r\n"))
    while True:
        await connection.send_records(b"x" * 500)


@attack("idle", "connections that send nothing", clients=1000)
async def idle(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.hold()


@attack("connect", "connections without pause, each closed at once", clients=3)
async def connect(visitor: Visitor) -> None:
    while True:
        await visitor.plain()
        visitor.close()
        await asyncio.sleep(0)


@attack("slow-heads", "HTTP/1.1: 30 KiB of a head, then a byte a second", clients=200, mixed=True)
async def slow_heads(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(get("/", f"a: {'x' * 30_000}\r\n")[:-2])
    while True:
        await connection.send(b"b")
        await asyncio.sleep(1)


@attack("slow-bodies", "HTTP/1.1: 10 MB announced, 66 KB sent, then a byte a second", clients=200, mixed=True)
async def slow_bodies(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Content-Length: 10000000\r\n") + b"x" * 66_000)
    while True:
        await connection.send(b"x")
        await asyncio.sleep(1)


@attack("small-bodies", "HTTP/1.1: 64 KiB of a body that stays in memory, unfinished", clients=200)
async def small_bodies(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Content-Length: 65536\r\n") + b"x" * 65_000)
    await connection.hold()


@attack("chunk-extensions", "HTTP/1.1: chunks of a byte with extensions of 4 KB", clients=3)
async def chunk_extensions(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Transfer-Encoding: chunked\r\n"))
    while True:
        await connection.send((b"1;" + b"e" * 4000 + b"\r\nx\r\n") * 16)


@attack("tiny-chunks", "HTTP/1.1: chunks of a byte", clients=3)
async def tiny_chunks(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Transfer-Encoding: chunked\r\n"))
    while True:
        await connection.send(b"1\r\nx\r\n" * 10_000)


@attack("trailers", "HTTP/1.1: trailer fields without end", clients=3)
async def trailers(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Transfer-Encoding: chunked\r\n") + b"0\r\n")
    while True:
        await connection.send(b"a: b\r\n" * 1000)


@attack("slow-trailers", "HTTP/1.1: 6 KB of trailers, then a byte a second", clients=1000)
async def slow_trailers(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Transfer-Encoding: chunked\r\n") + b"0\r\n" + b"a: b\r\n" * 1000)
    while True:
        await connection.send(b"a")
        await asyncio.sleep(1)


@attack("header-names", "HTTP/1.1: requests with a header name of 31 KB, each another", clients=3)
async def header_names(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.plain, 0)
    connection.discard()
    while True:
        name = os.urandom(15_500).hex()
        await connection.send(get("/", f"{name}: x\r\n"))


@attack("health", "HTTP/1.1: pipelined requests for the health check without end", clients=5)
async def health(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.plain, 0)
    connection.discard()
    while True:
        await connection.send(get("/-/health") * 100)


@attack("requests", "HTTP/1.1: pipelined requests for a small view without end", clients=5)
async def requests(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.plain, 0)
    connection.discard()
    while True:
        await connection.send(get("/") * 100)


@attack("not-found", "HTTP/1.1: pipelined requests with a wrong host without end", clients=5)
async def not_found(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.plain, 0)
    connection.discard()
    while True:
        await connection.send(get("/").replace(b"127.0.0.1", b"wrong.example") * 100)


@attack("empty-lines", "HTTP/1.1: only CR LF", clients=3)
async def empty_lines(visitor: Visitor) -> None:
    connection = await visitor.plain()
    while True:
        await connection.send(b"\r\n" * 5000)


@attack("redirect-lines", "redirect port: only CR LF", clients=1)
async def redirect_lines(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.redirect)
    while True:
        await connection.send(b"\r\n" * 5000)


@attack("redirect-unread", "redirect port: pipelined requests without end, not read", clients=3)
async def redirect_unread(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.redirect)
    while True:
        await connection.send(get("/" + "x" * 4000) * 10)


@attack("expect", "HTTP/1.1: Expect: 100-continue, never a body", clients=200)
async def expect(visitor: Visitor) -> None:
    connection = await visitor.plain()
    await connection.send(post("/upload/", "Content-Length: 10\r\nExpect: 100-continue\r\n"))
    await connection.hold()


@attack("expect-pipelined", "HTTP/1.1: Expect: 100-continue with each of pipelined requests, not read", clients=5)
async def expect_pipelined(visitor: Visitor) -> None:
    connection = await visitor.plain()
    while True:
        await connection.send((post("/upload/", "Content-Length: 1\r\nExpect: 100-continue\r\n") + b"x") * 100)


@attack("slow-views", "HTTP/1.1: 20 connections of one client with slow views", clients=20)
async def slow_views(visitor: Visitor) -> None:
    connection = await visitor.connect(visitor.target.plain, 0)
    connection.discard()
    await connection.send(get("/slow/") * 100)
    await for_ever()


@attack("leave", "HTTP/1.1: slow views asked for and left at once, without pause", clients=5)
async def leave(visitor: Visitor) -> None:
    while True:
        connection = await visitor.plain()
        await connection.send(get("/slow/"))
        visitor.close()
        await asyncio.sleep(0.01)


@attack("handshakes", "WebSocket handshakes without pause while websocket.connect is full", clients=20)
async def handshakes(visitor: Visitor) -> None:
    while True:
        for _ in range(50):
            connection = await visitor.connect(visitor.target.plain, 0)
            await connection.send(handshake("/slow-connect/"))
            connection.discard()
        await asyncio.sleep(0.5)
