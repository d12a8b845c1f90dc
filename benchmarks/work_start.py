"""What a plain Django site costs before it has a visitor: time to the first answer, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.work import Metric, Reading, Turn, Work

_PEERS = (PRODUCT, "uvicorn", "gunicorn", "granian")
_ANSWER = b"Hello, world!"

#: Seconds from the first answer until the memory of an idle server is read.
SETTLE = 0.5


class Start(Work):
    """Start a server; stop the clock at its first answer. Files are in the page cache, and modules are compiled."""

    def __init__(self) -> None:
        metrics = (Metric("time", "ms", more_is_better=False),)
        super().__init__(
            "start",
            "start of a plain Django site: exec to first answer",
            Site("start", consumers=False),
            metrics,
            _PEERS,
            (),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn starts a server of the same kind, and stops it."""

        def turn(seconds: int) -> Reading:
            with Server(server.peer, server.cores, server.site) as started:
                started.expect("/", _ANSWER)
                return Reading({"time": (time.perf_counter() - started.begun) * 1000})

        yield turn


class Weight(Work):
    """The memory of a server that has answered one request, all its processes together."""

    def __init__(self) -> None:
        metrics = (
            Metric("rss", "MiB", "RSS", more_is_better=False),
            Metric("pss", "MiB", "PSS (shared pages divided)", more_is_better=False),
        )
        site = Site("weight", consumers=False, fresh=True)
        super().__init__("weight", "memory of an idle plain Django site", site, metrics, _PEERS, ())

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn reads the memory of the server, which only this work uses."""
        server.expect("/", _ANSWER)
        time.sleep(SETTLE)
        yield lambda seconds: Reading({"rss": server.memory() / 2**20, "pss": server.proportional_memory() / 2**20})


WORKS: tuple[Work, ...] = (Start(), Weight())
