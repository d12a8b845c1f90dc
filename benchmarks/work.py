"""What is measured: works, their metrics, and the goals of the product.

Plain data and one base class; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.meter import Meter
from benchmarks.servers import Server
from benchmarks.site import Site


@dataclass(frozen=True)
class Metric:
    """A figure that a work gives.

    ``name`` is its key in the JSON, ``title`` says what it is where the work's title alone does not.
    """

    name: str
    unit: str
    title: str = ""
    more_is_better: bool = True


@dataclass(frozen=True)
class Goal:
    """What a figure of the product should be: itself, or as a multiple of another one.

    The figure is that of the work's subject. ``against`` is the peer whose figure is its measure; without one, the
    limits are in the metric's unit.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None

    def reached(self, figure: float) -> bool:
        """Say whether a ratio, or a figure itself, is within the limits."""
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)


@dataclass(frozen=True)
class Reading:
    """What one server has done in one turn."""

    #: The figures, by the names of the metrics.
    figures: dict[str, float]
    #: How busy both sides were, where the figures tell how much the server can do: it should have had its core for
    #: itself, and the load generator should have had time left.
    meter: Meter | None = None
    #: Which part of the time the host of a virtual machine has kept one of our cores for others, 0 to 1; the one that
    #: lost more.
    stolen: float = 0.0


#: What a session gives: does the work for so many seconds.
Turn = Callable[[int], Reading]


class Work(ABC):
    """One kind of work, done with each of its peers in turn.

    :param peers: their names; the first one is the subject, which the others are compared with.
    """

    def __init__(
        self, name: str, title: str, site: Site, metrics: Sequence[Metric], peers: Sequence[str], goals: Sequence[Goal]
    ) -> None:
        self.name = name
        self.title = title
        self.site = site
        self.metrics = tuple(metrics)
        self.peers = tuple(peers)
        self.subject = peers[0]
        self.goals = tuple(goals)

    #: Sockets it opens to each server; if not :attr:`at_once`, they are closed before another server has its turn.
    sockets = 0
    at_once = True
    #: Turns that each peer has in a round, where they alternate. Many short ones where ratios matter: a machine that
    #: gets slower or faster meanwhile meets all peers alike.
    turns = 1
    #: Whether the subject has a turn before and after each turn of another, where little decides about a goal.
    closely = False

    def open_sockets(self, peers: Sequence[str]) -> int:
        """Return the most sockets that are open at a time, if it is done with some of its peers."""
        return self.sockets * (len(peers) if self.at_once and not self.site.fresh else 1)

    @abstractmethod
    def session(self, server: Server) -> AbstractContextManager[Turn]:
        """Prepare the work with a server that has just been started, or has done another work of the same site.

        What the context gives is called once for each turn, with the seconds that it should last. Between two turns
        others have theirs.

        :raises MeasuringError: the server has failed; both the context and its turns may raise it.
        """


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of all, 0 to 1, do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
