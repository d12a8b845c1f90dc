"""HTTP: coroutine views, without and with middleware, and with a query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.http_load import HttpLoad
from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.work import Goal, Metric, Reading, Turn, Work
from benchmarks.work_http import CONNECTIONS, WARM_UP


class AsyncRequests(Work):
    """Requests to one coroutine view, back to back.

    :param wanted: the goal, as a multiple of uvicorn.
    """

    load = "wrk"
    turns = 2

    def __init__(self, name: str, title: str, path: str, answer: bytes, middleware: str, wanted: float) -> None:
        super().__init__(
            name,
            title,
            Site(f"async-{middleware}", urls="async_urls", middleware=middleware),
            (Metric("rate", "requests/s"), Metric("p99", "ms", "p99", more_is_better=False)),
            (PRODUCT, "uvicorn", "gunicorn-asgi"),
            (Goal("rate", at_least=wanted, against="uvicorn"),),
        )
        self._path = path
        self._answer = answer

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Check the view's answer; a turn counts requests."""
        server.expect(self._path, self._answer)
        server.warm_up(self._path, None, WARM_UP)

        def turn(seconds: int) -> Reading:
            with Meter(server) as meter:
                load = HttpLoad(server, self._path, CONNECTIONS, seconds)
                rate = load.finish()
            return Reading({"rate": rate, "p99": load.p99}, meter)

        yield turn


WORKS: tuple[Work, ...] = (
    AsyncRequests("async-plain", "async view without middleware", "/async/", b"Hello, world!", "none", 5),
    AsyncRequests("async-query", "async view with one query, SQLite", "/async-query/", b"user", "none", 2),
    AsyncRequests(
        "async-default", "async view, Django's default middleware, session", "/async-session/", b"Hello, world!",
        "default", 4,
    ),
)  # fmt: skip
