"""WebSocket echo through a consumer, and the rate of new sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.sockets import Crowd
from benchmarks.work import Goal, Metric, Reading, Turn, Work

#: Seconds of load that are not counted.
WARM_UP = 0.4


class Echo(Work):
    """Messages that a consumer sends back, without pause."""

    def __init__(self, sockets: int, in_flight: int, goals: tuple[Goal, ...] = ()) -> None:
        super().__init__(
            f"echo-{sockets}",
            f"echo through a consumer: {sockets} socket{'s' * (sockets > 1)} with {in_flight} in flight",
            Site("echo", groups=False),
            (Metric("rate", "messages/s"),),
            (PRODUCT, "uvicorn-sync", "uvicorn-async", "daphne-sync", "daphne-async", "bare-autobahn", "bare-loop"),
            goals,
        )
        self.sockets = sockets
        self._in_flight = in_flight
        self.turns = 2 if goals else 1

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Check the echo; a turn counts messages."""
        with Crowd(server, "/echo/") as crowd:
            crowd.grow(self.sockets)
            crowd.check()
            crowd.talk(WARM_UP, self._in_flight)

            def turn(seconds: int) -> Reading:
                with Meter(server) as meter:
                    counted = crowd.talk(seconds, self._in_flight)
                return Reading({"rate": counted.number / counted.seconds}, meter)

            yield turn


class AsyncEcho(Echo):
    """The same through consumers that are coroutines."""

    def __init__(self) -> None:
        super().__init__(50, 1, (Goal("rate", at_least=1.5, against="uvicorn-async"),))
        self.name, self.title = "echo-async", "echo through an async def consumer: 50 sockets with 1 in flight"
        self.peers = ("channelserver-async", "uvicorn-async", "daphne-async")
        self.subject = self.peers[0]


class Accept(Work):
    """New sockets, as fast as the server accepts them; a consumer runs for each."""

    #: The most in a turn; and those that are not counted.
    sockets, first = 3000, 100
    at_once = False
    turns = 2

    def __init__(self) -> None:
        super().__init__(
            "accept",
            "new WebSockets, accepted by a consumer",
            Site("accept", groups=False),
            (Metric("rate", "sockets/s"),),
            (PRODUCT, "uvicorn-sync", "uvicorn-async", "daphne-sync", "bare-loop"),
            (Goal("rate", at_least=1.8, against="uvicorn-sync"), Goal("rate", at_least=1.8, against="uvicorn-async")),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn opens sockets, then closes them."""

        def turn(seconds: int) -> Reading:
            with Crowd(server, "/echo/") as crowd:
                crowd.grow(self.first)
                with Meter(server) as meter:
                    crowd.grow(self.sockets, time.monotonic() + seconds)
                return Reading({"rate": (len(crowd.sockets) - self.first) / meter.seconds}, meter)

        yield turn


WORKS: tuple[Work, ...] = (
    Echo(
        50,
        1,
        (
            Goal("rate", at_least=2.5, against="uvicorn-sync"),
            Goal("rate", at_least=1.5, against="uvicorn-async"),
            Goal("rate", at_least=0.75, against="bare-autobahn"),
        ),
    ),
    Echo(1, 50),
    AsyncEcho(),
    Accept(),
)
