"""HTTP: two processes on two cores, and one process on the same two."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.http_load import HttpLoad
from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import START_TIMEOUT, Server
from benchmarks.site import Site
from benchmarks.work import Goal, Metric, Reading, Turn, Work
from benchmarks.work_http import CONNECTIONS

#: Seconds of load that are not counted: each process imports modules and fills its caches at its first requests.
WARM_UP = 1


class Processes(Work):
    """Requests to one view, back to back, from the same number of connections to each server."""

    load = "wrk"

    def __init__(self, name: str, title: str, path: str, answer: bytes, goals: Sequence[Goal]) -> None:
        super().__init__(
            name,
            title,
            Site("processes", spread=True),
            (
                Metric("rate", "requests/s"),
                Metric("cost", "µs", "CPU time of the server, a request", more_is_better=False),
            ),
            ("channelserver-processes", PRODUCT),
            goals,
        )
        self._path = path
        self._answer = answer
        self.turns = 3 if goals else 1

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Check the view's answer; a turn counts requests."""
        _wait_for_all(server)
        server.expect(self._path, self._answer)
        HttpLoad(server, self._path, CONNECTIONS, WARM_UP).finish()

        def turn(seconds: int) -> Reading:
            with Meter(server, cores=server.peer.processes) as meter:
                rate = HttpLoad(server, self._path, CONNECTIONS, seconds).finish()
            return Reading({"rate": rate, "cost": meter.server_seconds / meter.seconds / rate * 1e6}, meter)

        yield turn


def _wait_for_all(server: Server) -> None:
    """Wait until all processes serve."""
    ends = time.monotonic() + START_TIMEOUT
    while server.logged("serves, too") < server.peer.processes - 1:
        if time.monotonic() > ends:
            raise server.failure(f"did not start all its processes within {START_TIMEOUT:g} s")
        time.sleep(0.05)


WORKS: tuple[Work, ...] = (
    Processes(
        "processes", "view without middleware, 2 processes and 1, on two cores", "/", b"Hello, world!",
        (Goal("rate", at_least=1.7, against=PRODUCT),),
    ),
    Processes(
        "processes-busy", "view that computes a little, 2 processes and 1, on two cores", "/busy/", b"computed", (),
    ),
)  # fmt: skip
