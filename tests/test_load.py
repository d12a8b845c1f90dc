"""Many at once: nothing is lost, nothing comes twice, nobody waits for somebody else.

These tests count; they do not measure. A slow consumer waits for a file that the test makes, so a slow machine makes
these tests slow, not wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.crowd import Crowd, allow_descriptors
from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until


class LoadTests(ServerTestCase):
    """One server, many clients."""

    files = project("load")

    def run_clients(self, clients: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine to its end."""

        async def bounded() -> None:
            async with asyncio.timeout(3 * TIMEOUT):
                await clients()

        asyncio.run(bounded())

    def counts(self, server: Server) -> dict[str, int]:
        """Return how many consumers have run, and how many wait."""
        counts: dict[str, int] = server.get("/counts/").json()
        return counts

    def assert_clean(self, server: Server) -> None:
        """Assert that the server has nothing to complain of, and still answers."""
        self.assertEqual(server.get("/counts/").status_code, 200)
        for word in ("Traceback", "lost", " WARNING ", " ERROR "):
            self.assertNotIn(word, "\n".join(line for line in server.lines if "channelserver.check" not in line))

    def test_group_of_300(self) -> None:
        """Five sends to a group of 300: 1500 deliveries, each exactly once, and in order for every socket."""
        server = self.start()
        texts = [f"message {number}" for number in range(5)]

        async def clients() -> None:
            async with AsyncExitStack() as stack:
                sockets = await open_sockets(stack, server, ["/everybody/"] * 300)
                for text in [*texts, "the end"]:
                    await sockets[7].send(text)
                received = await asyncio.gather(*(receive_until(socket, "the end") for socket in sockets))
            self.assertEqual(sum(map(len, received)), 1500)
            for of_one in received:
                self.assertEqual(of_one, texts)

        self.run_clients(clients)
        wait_until(lambda: self.counts(server)["disconnect"] == 300, "the end of 300 sockets")
        self.assert_clean(server)

    def test_200_messages_without_waiting_for_an_answer(self) -> None:
        """A client that sends everything before it reads anything gets every answer, in order."""
        server = self.start()
        texts = ["wait", *(f"message {number}" for number in range(199))]

        async def clients() -> None:
            async with AsyncExitStack() as stack:
                socket, other = await open_sockets(stack, server, ["/", "/"])
                for text in [*texts, "the end"]:
                    await socket.send(text)
                # While the first one's consumer waits, the others would overtake it if they could, as this one does.
                await other.send("another's")
                self.assertEqual(await other.recv(), "another's")
                (self.folder / "go").touch()
                self.assertEqual(await receive_until(socket, "the end"), texts)

        self.run_clients(clients)
        self.assert_clean(server)

    def test_40_slow_requests(self) -> None:
        """More requests to a view, in which eight have to meet, than there are threads: each gets its own answer."""
        server = self.start("--threads", "8")
        with ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(lambda number: server.get(f"/meet/{number}/"), range(40)))
        self.assertEqual([answer.status_code for answer in answers], [200] * 40)
        self.assertEqual([answer.text for answer in answers], [f"met {number}" for number in range(40)])
        self.assert_clean(server)

    def test_nobody_waits_for_a_slow_consumer(self) -> None:
        """While one consumer takes its time, 50 other sockets are answered; its own socket's next message waits."""
        self.others_are_answered(slow=1)

    def test_nobody_waits_as_long_as_a_thread_is_free(self) -> None:
        """Even if all threads but one are taken."""
        self.others_are_answered(slow=7)

    def others_are_answered(self, slow: int) -> None:
        server = self.start("--threads", "8")

        async def clients() -> None:
            async with AsyncExitStack() as stack:
                sockets = await open_sockets(stack, server, ["/"] * (slow + 50))
                waiting, others = sockets[:slow], sockets[slow:]
                for socket in waiting:
                    await socket.send("wait")
                    await socket.send("behind it")
                await asyncio.to_thread(wait_until, lambda: self.counts(server)["waiting"] == slow, "slow consumers")
                for number, socket in enumerate(others):
                    await socket.send(f"quick {number}")
                self.assertEqual([await socket.recv() for socket in others], [f"quick {n}" for n in range(50)])
                counts = await asyncio.to_thread(self.counts, server)
                self.assertEqual(counts["waiting"], slow)
                (self.folder / "go").touch()
                for socket in waiting:
                    self.assertEqual([await socket.recv(), await socket.recv()], ["wait", "behind it"])

        self.run_clients(clients)
        self.assert_clean(server)

    def test_100_sockets_at_once(self) -> None:
        """A hundred handshakes at the same moment: all are accepted, all sockets work, all are seen off."""
        server = self.start()

        async def clients() -> None:
            async with AsyncExitStack() as stack:
                sockets = await open_sockets(stack, server, [f"/{number}/" for number in range(100)], at_once=100)
                for number, socket in enumerate(sockets):
                    await socket.send(f"I am {number}")
                self.assertEqual([await socket.recv() for socket in sockets], [f"I am {n}" for n in range(100)])
                counts = await asyncio.to_thread(self.counts, server)
                self.assertEqual(counts, {"connect": 100, "disconnect": 0, "waiting": 0})

        self.run_clients(clients)
        wait_until(lambda: self.counts(server)["disconnect"] == 100, "the end of 100 sockets")
        self.assert_clean(server)

    def test_10_000_idle_sockets(self) -> None:
        """So many sockets that nobody uses stay open, and everybody else is served meanwhile; a group's message still
        finds each of them.
        """
        number = 10_000
        allow_descriptors(number + 1000)
        server = self.start("--max-connections", str(number + 100), "--access-log", "", "--ping-interval", "0")
        with Crowd(server.port) as crowd:
            idle = crowd.grow(number)
            for _ in range(20):
                self.assertEqual(server.get("/counts/").json()["connect"], number)
            with server.connect("/everybody/") as speaker:
                speaker.send("wake up")
                self.assertEqual(speaker.recv(TIMEOUT), "wake up")
                for connection in idle:
                    self.assertEqual(connection.recv(100), b"\x81\x07wake up")
            self.assert_clean(server)
        wait_until(lambda: self.counts(server)["disconnect"] == number + 1, "all to be gone", 5 * TIMEOUT)
        self.assert_clean(server)


async def open_sockets(
    stack: AsyncExitStack, server: Server, paths: list[str], at_once: int = 20
) -> list[ClientConnection]:
    """Open a socket for each path, `at_once` at the same time; they are closed with `stack`."""
    free = asyncio.Semaphore(at_once)

    async def open_socket(path: str) -> ClientConnection:
        async with free:
            return await connect(
                f"ws://127.0.0.1:{server.port}{path}", compression=None, open_timeout=TIMEOUT, close_timeout=TIMEOUT,
                ping_interval=None,
            )  # fmt: skip

    sockets = await asyncio.gather(*map(open_socket, paths))
    stack.push_async_callback(close_sockets, sockets)
    return sockets


async def close_sockets(sockets: list[ClientConnection]) -> None:
    """Close all at the same time, after making sure that nothing more has come than was read."""
    await asyncio.gather(*(socket.close() for socket in sockets))
    for socket in sockets:
        async for message in socket:
            raise AssertionError(f"{message!r} has come as well")


async def receive_until(socket: ClientConnection, last: str) -> list[str | bytes]:
    """Return what a client gets before the text `last`."""
    received: list[str | bytes] = []
    async with asyncio.timeout(2 * TIMEOUT):
        while (text := await socket.recv()) != last:
            received.append(text)
    return received
