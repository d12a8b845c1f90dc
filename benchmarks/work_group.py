"""One message to all members of a group, and what the size of the crowd costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.sockets import Crowd
from benchmarks.work import Goal, Metric, Reading, Turn, Work, percentile

#: Seconds of load that are not counted.
WARM_UP = 0.2


class FanOut(Work):
    """One send to a group after the other, each when all have got the one before."""

    #: Sockets that the server has when it is warmed up; with all of them, that would take some peers half a minute.
    first = 100
    closely = True

    def __init__(self, sockets: int, peers: Sequence[str], turns: int) -> None:
        super().__init__(
            f"fan-out-{sockets}",
            f"one message to a group of {sockets}",
            Site("fan-out"),
            (
                Metric("rate", "deliveries/s"),
                Metric("last", "ms", "until the last one has it", more_is_better=False),
            ),
            (PRODUCT, *peers, "bare-loop"),
            (
                *(Goal("rate", at_least=20, against=peer) for peer in peers if peer.startswith("uvicorn")),
                Goal("rate", at_least=0.8, against="bare-loop"),
            ),
        )
        self.sockets = sockets
        self.turns = turns

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn speaks to them."""
        with Crowd(server, "/group/") as crowd, Crowd(server, "/speak/") as speaker:
            speaker.grow(1)
            crowd.grow(self.first)
            crowd.listen(speaker, WARM_UP)
            crowd.grow(self.sockets)

            def turn(seconds: int) -> Reading:
                with Meter(server) as meter:
                    heard = crowd.listen(speaker, seconds)
                last = percentile(heard.latencies, 0.5) * 1000
                return Reading({"rate": heard.number / heard.seconds, "last": last}, meter)

            yield turn


class Delivery(Work):
    """What a delivery costs in a large group, and in small ones, each on a server of its own.

    That includes its share of what it takes to send one message to the group.
    """

    #: How many sockets whom has.
    sizes: ClassVar[dict[str, int]] = {
        PRODUCT: 10_000,
        "channelserver-1000-sockets": 1000,
        "channelserver-100-sockets": 100,
    }
    turns = 2
    closely = True

    def __init__(self) -> None:
        super().__init__(
            "delivery",
            f"a delivery in a group of {self.sizes[PRODUCT]}",
            Site("delivery"),
            (Metric("cost", "µs", more_is_better=False),),
            tuple(self.sizes),
            (Goal("cost", at_most=1.2, against="channelserver-100-sockets"),),
        )

    def open_sockets(self, peers: Sequence[str]) -> int:
        """See :meth:`Work.open_sockets`."""
        return sum(self.sizes[peer] for peer in peers)

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn speaks to them."""
        with Crowd(server, "/group/") as crowd, Crowd(server, "/speak/") as speaker:
            speaker.grow(1)
            crowd.grow(self.sizes[server.peer.name])
            crowd.listen(speaker, WARM_UP)

            def turn(seconds: int) -> Reading:
                with Meter(server) as meter:
                    heard = crowd.listen(speaker, seconds)
                return Reading({"cost": heard.seconds / heard.number * 1e6}, meter)

            yield turn


class Scale(Work):
    """An echo beside few and beside many idle sockets, members of a group; and their memory."""

    sizes = (100, 1000, 10_000)
    sockets = sizes[-1]
    #: Sockets that echo, one message in flight each.
    echoes = 10

    def __init__(self) -> None:
        metrics = [
            metric
            for size in self.sizes
            for metric in (
                Metric(f"echo-{size}", "ms", f"an echo beside {size} idle sockets, median", more_is_better=False),
                Metric(f"memory-{size}", "KiB", f"memory a socket, {size} sockets", more_is_better=False),
            )
        ]
        super().__init__("scale", "idle sockets", Site("scale", fresh=True), metrics, (PRODUCT, "bare-loop"), ())

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn lets the crowd grow, and measures at each size."""
        yield lambda seconds: self._grow(server, seconds)

    def _grow(self, server: Server, seconds: int) -> Reading:
        figures: dict[str, float] = {}
        with Crowd(server, "/group/") as crowd, Crowd(server, "/echo/") as echoes:
            echoes.grow(self.echoes)
            echoes.talk(WARM_UP)
            before = server.memory()
            for size in self.sizes:
                crowd.grow(size)
                figures[f"memory-{size}"] = (server.memory() - before) / size / 1024
                with Meter(server) as meter:
                    heard = echoes.talk(seconds)
                figures[f"echo-{size}"] = percentile(heard.latencies, 0.5) * 1000
        return Reading(figures, meter)


# Channels 4 takes half a minute to let 5000 members in, and seconds to reach them; so the quickest has to do.
WORKS: tuple[Work, ...] = (
    FanOut(500, ("uvicorn-sync", "uvicorn-async"), turns=3),
    FanOut(5000, ("uvicorn-async",), turns=1),
    Delivery(),
    Scale(),
)
