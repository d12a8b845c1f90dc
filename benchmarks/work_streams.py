"""Clients that stay: event streams and slow readers, and a plain view beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.http_load import HttpLoad
from benchmarks.peers import PRODUCT, SLOW_READERS
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.streams import PAUSE, EventStreams, SlowReaders
from benchmarks.work import Goal, Metric, Reading, Turn, Work

#: Connections of the load on the plain view, each with one request under way.
CONNECTIONS = 4
#: Seconds from the opening of the streams until they are measured; and the most that slow readers wait for an answer.
SETTLE, PATIENCE = 0.5, 3.0

_LATENCY = (
    Metric("p99", "ms", "plain view, p99", more_is_better=False),
    Metric("p50", "ms", "plain view, median", more_is_better=False),
)
_THREADS = Metric("threads", "threads", more_is_better=False)
_MEMORY = Metric("rss", "MiB", "RSS", more_is_better=False)


class Events(Work):
    """Event streams that get an event a second."""

    sockets = 2000
    #: Streams opened before, because the first ones load modules and fill caches.
    first = 20

    def __init__(self) -> None:
        metrics = (
            Metric("each", "KiB", "memory a stream", more_is_better=False),
            _MEMORY,
            Metric("use", "% of a core", "CPU use, an event a second", more_is_better=False),
            Metric("last", "ms", "until the last stream has an event", more_is_better=False),
            _THREADS,
            *_LATENCY,
        )
        super().__init__(
            f"events-{self.sockets}",
            f"{self.sockets} event streams",
            Site("events", urls="async_urls", fresh=True),
            metrics,
            (PRODUCT, "uvicorn"),
            (Goal("each", at_most=0.5, against="uvicorn"), Goal("p99", at_most=20)),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn opens the streams; they tick for some seconds, and then beside requests for the plain view."""
        server.expect("/", b"Hello, world!")

        def turn(seconds: int) -> Reading:
            with EventStreams(server, "/events/") as streams:
                streams.grow(self.first)
                streams.tick(2)
                before = server.anonymous_memory()
                streams.grow(self.sockets)
                time.sleep(SETTLE)
                used, begun = server.processor_time(), time.monotonic()
                last = streams.tick(2 * seconds)
                used, passed = server.processor_time() - used, time.monotonic() - begun
                grown, rss, threads = server.anonymous_memory() - before, server.memory(), server.threads()
                load = HttpLoad(server, "/", CONNECTIONS, 2 * seconds)
                streams.tick(2 * seconds)
                load.finish()
            figures = {"each": grown / (self.sockets - self.first) / 1024, "use": 100 * used / passed}
            figures |= {"rss": rss / 2**20, "threads": threads, "last": last * 1000}
            return Reading(figures | {"p99": load.p99, "p50": load.p50})

        yield turn


class Slow(Work):
    """Clients that read a long answer slowly, beside requests for the plain view."""

    sockets = SLOW_READERS
    at_once = False

    def __init__(self, name: str, what: str, path: str, peers: Sequence[str], p99: float) -> None:
        super().__init__(
            f"slow-{name}-{self.sockets}",
            f"{self.sockets} slow readers of {what}",
            Site("slow", urls="async_urls"),
            (*_LATENCY, Metric("served", "clients", "slow readers served"), _THREADS, _MEMORY),
            peers,
            (Goal("p99", at_most=p99), Goal("served", at_least=self.sockets)),
        )
        self._path = path

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn opens the clients and closes them."""
        server.expect("/", b"Hello, world!")

        def turn(seconds: int) -> Reading:
            with SlowReaders(server, self._path, self.sockets) as readers:
                ends = time.monotonic() + PATIENCE
                while readers.served < self.sockets and time.monotonic() < ends:
                    readers.read(PAUSE)
                load = HttpLoad(server, "/", CONNECTIONS, seconds)
                readers.read(seconds)
                figures = {"threads": server.threads(), "rss": server.memory() / 2**20, "served": readers.served}
                load.finish(unanswered=True)
            return Reading(figures | {"p99": load.p99, "p50": load.p50})

        yield turn


WORKS: tuple[Work, ...] = (
    Events(),
    Slow("readers", "a file of 5 MB", "/file/", (PRODUCT, "uvicorn", "gunicorn"), 50),
    Slow("generators", "20 MB from a generator", "/generated/", ("channelserver-streams", "uvicorn", "gunicorn"), 100),
)
