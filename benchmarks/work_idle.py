"""The cost of idle sockets: memory and CPU time."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.sockets import Crowd, client_frame
from benchmarks.work import Goal, Metric, Reading, Turn, Work

_UVICORN = ("uvicorn-sync", "uvicorn-async")

#: A message of 4000 bytes that compresses as typical JSON does.
_LONG = json.dumps([{"id": number, "text": f"message {number}"} for number in range(120)])[:4000].encode()


class Memory(Work):
    """The growth of the server's memory with each socket, a member of one group.

    :param used: each socket first sends a message of 4000 bytes and receives it back.
    """

    sockets = 2000
    #: Sockets opened before, because the first ones load modules and fill caches.
    first = 200

    def __init__(self, name: str, title: str, peers: tuple[str, ...], goals: tuple[Goal, ...], used: bool) -> None:
        metrics = (Metric("each", "KiB", "memory a socket", more_is_better=False),)
        super().__init__(name, title, Site(name, fresh=True), metrics, peers, goals)
        self._used = used

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn opens sockets and reads the server's memory, however long that takes."""
        yield lambda seconds: self._grow(server)

    def _grow(self, server: Server) -> Reading:
        compressed = "--compression" in server.command
        extension = "permessage-deflate; client_max_window_bits" if compressed else None
        message = client_frame(0x81, _LONG)
        if compressed:
            message = client_frame(0xC1, zlib.compress(_LONG, wbits=-12) + b"\x00")
        with Crowd(server, "/group/", extension) as crowd:
            crowd.grow(self.first)
            list(crowd.exchange(message))
            time.sleep(0.2)
            before = server.anonymous_memory()
            crowd.grow(self.sockets)
            if self._used:
                list(crowd.exchange(message, self.first))
            grown = server.anonymous_memory() - before
        return Reading({"each": grown / (self.sockets - self.first) / 1024})


class Idle(Work):
    """CPU time with sockets that are only pinged, at the default interval."""

    sockets = 1000
    #: Seconds between two pings of a socket; length of a turn.
    period = 20

    def __init__(self) -> None:
        super().__init__(
            "idle",
            f"{self.sockets} idle sockets, pings on",
            Site("idle", pings=True),
            (Metric("use", "% of a core", "CPU use", more_is_better=False),),
            (PRODUCT,),
            (Goal("use", at_most=1),),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; in a turn each is pinged once."""
        with Crowd(server, "/group/") as crowd:
            crowd.grow(self.sockets)
            crowd.idle(1)

            def turn(seconds: int) -> Reading:
                before, begun = server.processor_time(), time.monotonic()
                crowd.idle(self.period)
                used, passed = server.processor_time() - before, time.monotonic() - begun
                return Reading({"use": 100 * used / passed})

            yield turn


WORKS: tuple[Work, ...] = (
    Memory(
        "memory",
        "memory of idle sockets",
        (PRODUCT, *_UVICORN),
        tuple(Goal("each", at_most=0.45, against=peer) for peer in _UVICORN),
        used=False,
    ),
    Memory(
        "memory-used",
        "memory of idle sockets after a message of 4000 bytes",
        (PRODUCT, "uvicorn-async"),
        (),
        used=True,
    ),
    Memory(
        "memory-deflate",
        "memory of idle sockets after a compressed message",
        ("channelserver-deflate", "uvicorn-async"),
        (),
        used=True,
    ),
    Idle(),
)
