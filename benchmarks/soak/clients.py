"""The clients: sockets that stay, sockets that come and go, and visitors of pages.

Runs on one event loop of the benchmark program, at a pace that leaves the server time: a soak looks for what stays
behind, not for speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

#: What a client says, one at random.
SAID = ("say", "say", "note", "background", "later", "async", "all")
#: Seconds that a client waits for an answer.
PATIENCE = 30.0
ROOMS = 5


class Clients:
    """All clients of one soak.

    :param staying: sockets that stay open all the time.
    :param coming: tasks that open one socket after the other.
    """

    def __init__(self, port: int, staying: int, coming: int) -> None:
        self._port = port
        #: What has been done, and what has failed.
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._random = random.Random(5)
        work = [self._stay(number) for number in range(staying)]
        work += [self._come_and_go(number) for number in range(coming)]
        self._tasks = [asyncio.ensure_future(each) for each in (*work, self._visit())]

    async def stop(self) -> None:
        """Close all sockets."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connect(self, room: int) -> connect:
        return connect(f"ws://127.0.0.1:{self._port}/{room}", open_timeout=PATIENCE, close_timeout=PATIENCE)

    async def _stay(self, number: int) -> None:
        """Keep a socket open; say something now and then, and read all that comes."""
        while True:
            try:
                async with self._connect(number % ROOMS) as socket:
                    self.done["stays"] += 1
                    reader = asyncio.ensure_future(self._read(socket))
                    try:
                        while True:
                            await asyncio.sleep(self._random.uniform(5, 15))
                            await socket.send(f"{self._random.choice(SAID)} {number}")
                            self.done["said"] += 1
                    finally:
                        reader.cancel()
            except (OSError, ConnectionClosed, TimeoutError) as error:
                self.failed[f"a socket that stays: {type(error).__name__}: {error}"] += 1
                await asyncio.sleep(1)

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                self.done["received"] += 1

    async def _come_and_go(self, number: int) -> None:
        """Open a socket, use it, and end it in one of several ways, often while something is under way for it."""
        await asyncio.sleep(self._random.uniform(0, 1))
        while True:
            try:
                await self._one(number)
                self.done["came and went"] += 1
            except (OSError, ConnectionClosed, TimeoutError) as error:
                self.failed[f"a socket that comes and goes: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(self._random.uniform(0.2, 1))

    async def _one(self, number: int) -> None:
        async with self._connect(number % ROOMS) as socket:
            await socket.send("background first")
            async with asyncio.timeout(PATIENCE):
                while await socket.recv() != "done first":
                    pass
            for _ in range(self._random.randint(0, 3)):
                await socket.send(f"{self._random.choice(SAID)} {number}")
                self.done["said"] += 1
            if self._random.random() < 0.3:
                socket.transport.abort()

    async def _visit(self) -> None:
        """Ask for a page, on a connection of its own or one that stays."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    for _ in range(self._random.randint(1, 5)):
                        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                        head = await reader.readuntil(b"\r\n\r\n")
                        assert b" 200 " in head.split(b"\r\n")[0], head
                        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                        self.done["pages"] += 1
                        await asyncio.sleep(0.1)
                    writer.close()
            except (OSError, AssertionError, asyncio.IncompleteReadError) as error:
                self.failed[f"a page: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(0.2)
