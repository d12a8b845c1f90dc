"""One message to all members of a group, and the cost of the group's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.sockets import FAR_BEHIND, Crowd
from benchmarks.work import Goal, Metric, Reading, Turn, Work, percentile

#: Seconds of load that are not counted.
WARM_UP = 0.2

#: What the figures are called that are measured with a load which waits for each delivery.
_EAGER = "load woken by each delivery"


class FanOut(Work):
    """One send to a group after the other, each when all members have received the one before.

    In large groups the load pauses between deliveries (:data:`benchmarks.sockets.PAUSE`); there, a second figure comes
    from the same load without pauses.
    """

    #: Sockets at warm-up; with all of them, some peers would need half a minute.
    first = 100
    closely = True

    def __init__(self, sockets: int, peers: Sequence[str], turns: int) -> None:
        self._paused = sockets > FAR_BEHIND
        metrics = [
            Metric("rate", "deliveries/s"),
            Metric("last", "ms", "until the last member has it", more_is_better=False),
        ]
        if self._paused:
            metrics.append(Metric("rate-eager", "deliveries/s", _EAGER))
        super().__init__(
            f"fan-out-{sockets}",
            f"one message to a group of {sockets}",
            Site("fan-out"),
            metrics,
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
        """Open the sockets; a turn sends to the group."""
        with Crowd(server, "/group/") as crowd, Crowd(server, "/speak/") as speaker:
            speaker.grow(1)
            crowd.grow(self.first)
            crowd.listen(speaker, WARM_UP)
            crowd.grow(self.sockets)

            def turn(seconds: int) -> Reading:
                with Meter(server) as meter:
                    heard = crowd.listen(speaker, seconds)
                last = percentile(heard.latencies, 0.5) * 1000
                figures = {"rate": heard.number / heard.seconds, "last": last}
                if self._paused:
                    eager = crowd.listen(speaker, seconds, pause=0)
                    figures["rate-eager"] = eager.number / eager.seconds
                return Reading(figures, meter)

            yield turn


class Delivery(Work):
    """The cost of a delivery in a large group and in small ones, each on its own server.

    It includes a share of the cost of the send.
    """

    #: Sockets of each server.
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
            (Metric("cost", "µs", more_is_better=False), Metric("cost-eager", "µs", _EAGER, more_is_better=False)),
            tuple(self.sizes),
            (Goal("cost", at_most=1.2, against="channelserver-100-sockets"),),
        )

    def open_sockets(self, peers: Sequence[str]) -> int:
        return sum(map(self._size, peers))

    def _size(self, peer: str) -> int:
        return self.sizes.get(peer, self.sizes[PRODUCT])  # another checkout: as this one

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn sends to the group."""
        with Crowd(server, "/group/") as crowd, Crowd(server, "/speak/") as speaker:
            speaker.grow(1)
            crowd.grow(self._size(server.peer.name))
            crowd.listen(speaker, WARM_UP)

            def turn(seconds: int) -> Reading:
                with Meter(server) as meter:
                    heard = crowd.listen(speaker, seconds)
                # A small group is never far behind: there is no pause to leave out.
                eager = crowd.listen(speaker, seconds, pause=0) if len(crowd.sockets) > FAR_BEHIND else heard
                costs = {"cost": heard, "cost-eager": eager}
                return Reading({name: each.seconds / each.number * 1e6 for name, each in costs.items()}, meter)

            yield turn


class Scale(Work):
    """An echo beside few and many idle members of a group; and their memory."""

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
        """A turn opens more and more sockets, and measures at each size."""
        yield lambda seconds: self._grow(server, seconds)

    def _grow(self, server: Server, seconds: int) -> Reading:
        figures: dict[str, float] = {}
        with Crowd(server, "/group/") as crowd, Crowd(server, "/echo/") as echoes:
            echoes.grow(self.echoes)
            echoes.talk(WARM_UP)
            before = server.anonymous_memory()
            for size in self.sizes:
                crowd.grow(size)
                figures[f"memory-{size}"] = (server.anonymous_memory() - before) / size / 1024
                with Meter(server) as meter:
                    heard = echoes.talk(seconds)
                figures[f"echo-{size}"] = percentile(heard.latencies, 0.5) * 1000
        return Reading(figures, meter)


# Channels 4 needs half a minute to accept 5000 members and seconds for each send, so only its fastest kind takes part.
WORKS: tuple[Work, ...] = (
    FanOut(500, ("uvicorn-sync", "uvicorn-async"), turns=3),
    FanOut(5000, ("uvicorn-async",), turns=1),
    Delivery(),
    Scale(),
)
