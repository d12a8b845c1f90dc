"""Honest clients: requests and WebSockets at a steady, low rate, and how long each has to wait.

Runs in the event loop of a crowd's process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.attacks.attack import Target, get, handshake
from benchmarks.attacks.connection import Connection
from benchmarks.attacks.crowd import Crowd
from benchmarks.work import percentile

#: Their address; the attackers have others.
SOURCE = "127.0.0.2"
#: WebSockets, and seconds between two messages of one; requests are as many.
CLIENTS, EVERY = 5, 0.1
#: Connections for requests that they begin with, and requests on each.
CONNECTIONS, KEPT = 20, 50
#: Seconds after which a client gives up.
PATIENCE = 10.0


@dataclass
class Waits:
    """What honest clients have met, in seconds and counts."""

    requests: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    #: Requests without a 200 response, and WebSockets closed or refused.
    failed: int = 0
    closed: int = 0
    reasons: set[str] = field(default_factory=set)

    def slowest(self) -> float:
        return max([*self.requests, *self.messages], default=0.0)

    def request(self, part: float) -> float:
        """Return a percentile of the requests' times; `part` is 0 to 1."""
        return percentile(self.requests, part) if self.requests else PATIENCE

    def message(self, part: float) -> float:
        """Return a percentile of the times of messages and their echoes."""
        return percentile(self.messages, part) if self.messages else PATIENCE


class Honest:
    """The honest clients of one process."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._waits = Waits()
        self._free: deque[tuple[Connection, int]] = deque()  # with how many requests each has made
        self._under_way: set[float] = set()  # when each was due

    def process(self) -> Crowd:
        """Return their process."""
        return Crowd(self._work, self._result)

    def _result(self) -> Waits:
        waited = [time.perf_counter() - due for due in self._under_way]
        self._waits.requests += [seconds for seconds in waited if seconds > EVERY]
        return self._waits

    async def _work(self) -> None:
        messages = [self._messages(number) for number in range(CLIENTS)]
        await asyncio.gather(self._requests(), *messages)

    async def _requests(self) -> None:
        """Make requests at their times, however long others take: each on a free connection, or a new one."""
        for number in range(CONNECTIONS):  # they are not renewed all at once
            self._free.append((await Connection.open(self._target.plain, SOURCE, 0), KEPT * number // CONNECTIONS))
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                due += EVERY / CLIENTS
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._request(due))

    async def _request(self, due: float) -> None:
        connection, made = self._free.popleft() if self._free else (None, 0)
        self._under_way.add(due)
        try:
            async with asyncio.timeout(PATIENCE):
                if connection is None:
                    connection = await Connection.open(self._target.plain, SOURCE, 0)
                await connection.send(get("/"))
                answer = await connection.receive_until(b"Hello, world!")
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(answer[:12].decode("ascii", "replace"))
        except (OSError, TimeoutError) as error:
            self._waits.failed += 1
            self._waits.reasons.add(str(error) or repr(error))
            made = KEPT
        self._under_way.discard(due)
        self._waits.requests.append(time.perf_counter() - due)
        if connection is not None and made + 1 < KEPT:
            self._free.append((connection, made + 1))
        elif connection is not None:
            connection.close()

    async def _messages(self, number: int) -> None:
        """Send messages that come back."""
        text = os.urandom(10).hex().encode()
        question, answer = b"\x81\x94" + bytes(4) + text, b"\x81\x14" + text
        await asyncio.sleep(EVERY * (number + 0.5) / CLIENTS)
        while True:
            try:
                connection = await Connection.open(self._target.plain, SOURCE, 0)
                await connection.send(handshake("/echo/"))
                async with asyncio.timeout(PATIENCE):
                    await self._expect(connection.receive, b"HTTP/1.1 101 ", b"\r\n\r\n")
                while True:
                    due = time.perf_counter()
                    await connection.send(question)
                    try:
                        async with asyncio.timeout(PATIENCE):
                            await self._expect(connection.receive, answer, answer)
                    finally:
                        self._waits.messages.append(time.perf_counter() - due)
                    await asyncio.sleep(max(0.0, due + EVERY - time.perf_counter()))
            except (OSError, TimeoutError) as error:
                self._waits.closed += 1
                self._waits.reasons.add(f"WebSocket: {str(error) or repr(error)}")
                await asyncio.sleep(EVERY)

    @staticmethod
    async def _expect(receive: Callable[[], Awaitable[bytes]], begin: bytes, end: bytes) -> None:
        data = b""
        while not data.endswith(end):
            data += await receive()
            if data[: len(begin)] != begin[: len(data)]:
                if b"\x89" in data[:1]:  # a ping of the server, which is no answer
                    data = data[2 + data[1] :]
                    continue
                raise ConnectionError(f"{data[:40]!r}")
