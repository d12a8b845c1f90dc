"""Clients in processes of their own: the attackers, and the honest ones beside them.

Each process runs one event loop until the parent stops it, and then sends its counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.attacks.attack import Attack, Target, Visitor

#: Seconds until a client that was disconnected comes back.
RETURN = 1.0
#: The attackers' priority is lower than that of honest clients, which share their core.
NICE = 10
#: Seconds a process has to stop.
STOP_TIMEOUT = 20.0

#: Not forks: whoever measures may have threads.
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Count:
    """What the attackers have met."""

    #: Connections opened, and clients that the server has disconnected or refused, with all their returns.
    opened: int
    cut: int


class Crowd:
    """A process of clients, which run during a ``with`` block.

    :param work: the clients: a coroutine function; it is cancelled at the end of the block.
    :param result: returns what was counted. Both are pickled.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], result: Callable[[], Any], nice: int = 0) -> None:
        self._here, self._there = _context.Pipe()
        self._process = _context.Process(target=self._run, args=(work, result, nice), daemon=True)

    def __enter__(self) -> Self:
        """Start the clients; returns when they begin."""
        self._process.start()
        self._there.close()
        if not self._here.poll(STOP_TIMEOUT):
            raise RuntimeError("the clients' process does not start")
        self._here.recv()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> Any:
        """Stop the clients; return what they have counted.

        :raises RuntimeError: their process has failed.
        """
        try:
            self._here.send(None)
            if self._here.poll(STOP_TIMEOUT):
                return self._here.recv()
        except (OSError, EOFError):
            pass
        raise RuntimeError("the clients' process has failed")

    def _run(self, work: Callable[[], Awaitable[None]], result: Callable[[], Any], nice: int) -> None:
        os.nice(nice)
        self._here.close()
        self._there.send(None)
        asyncio.run(self._until_told(work))
        self._there.send(result())

    async def _until_told(self, work: Callable[[], Awaitable[None]]) -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._there.fileno(), told.set)
        task = asyncio.ensure_future(work())
        await told.wait()
        self._there.recv()
        asyncio.get_running_loop().remove_reader(self._there.fileno())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Attackers:
    """The attacking clients of one process.

    :param attacks: the attack of each client.
    :param addresses: the number of loopback addresses they come from.
    """

    def __init__(self, target: Target, attacks: Sequence[Attack], addresses: int = 1) -> None:
        # A client knows its number among those of its attack.
        numbers = [sum(other is each for other in attacks[:at]) for at, each in enumerate(attacks)]
        self._visitors = [
            Visitor(target, number, f"127.1.{at % addresses // 250}.{at % addresses % 250 + 1}")
            for at, number in enumerate(numbers)
        ]
        self._attacks = attacks
        self._cut = 0

    def process(self) -> Crowd:
        """Return their process."""
        return Crowd(self._attack, self._count, NICE)

    async def _attack(self) -> None:
        await asyncio.gather(*map(self._client, self._attacks, self._visitors))

    async def _client(self, attack: Attack, visitor: Visitor) -> None:
        while True:
            try:
                await attack.act(visitor)
            except (OSError, ssl.SSLError, TimeoutError):
                self._cut += 1
            finally:
                visitor.close()
            await asyncio.sleep(RETURN)

    def _count(self) -> Count:
        return Count(sum(visitor.opened for visitor in self._visitors), self._cut)
