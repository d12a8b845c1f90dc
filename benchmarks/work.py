"""The works of the benchmarks, their metrics, and the product's goals.

Plain data and one base class; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Self

from benchmarks.meter import Meter
from benchmarks.servers import Server
from benchmarks.site import Site


@dataclass(frozen=True)
class Metric:
    """A figure of a work.

    ``name`` is its key in the JSON; ``title`` explains it where the work's title is not enough.
    """

    name: str
    unit: str
    title: str = ""
    more_is_better: bool = True


@dataclass(frozen=True)
class Goal:
    """Limits for a figure of the work's subject.

    With ``against``, the limits are for the ratio to that peer's figure; without, they are in the metric's unit.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None

    def reached(self, figure: float) -> bool:
        """Whether a ratio, or the figure itself, is within the limits."""
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)


@dataclass(frozen=True)
class Reading:
    """The figures of one server in one turn."""

    #: The figures, by the names of the metrics.
    figures: dict[str, float]
    #: CPU use of both sides, for works that load the server fully: the server should use its whole core, and the load
    #: generator should have time left.
    meter: Meter | None = None
    #: CPU steal: the part of the time, 0 to 1, during which the host of a virtual machine ran something else on one of
    #: our cores; of the two cores, the larger part.
    stolen: float = 0.0
    #: Number of its round, from 0 on.
    round: int = 0


#: Does the work for some seconds.
Turn = Callable[[int], Reading]


class Work(ABC):
    """One kind of work, done with each of its peers in turn.

    :param peers: their names; the others are compared with the first one, the subject.
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

    #: The load generator.
    load = "benchmarks/sockets.py"
    #: Sockets opened to each server; unless :attr:`at_once`, they are closed before the next server's turn.
    sockets = 0
    at_once = True
    #: Turns of each peer in a round. Ratios are better with many short turns: a machine that gets slower or faster
    #: meanwhile affects all peers alike.
    turns = 1
    #: Whether the subject has a turn before and after each turn of another; for results close to a goal.
    closely = False

    def open_sockets(self, peers: Sequence[str]) -> int:
        """Return the highest number of sockets open at once, for these peers."""
        return self.sockets * (len(peers) if self.at_once and not self.site.fresh else 1)

    def between(self, peers: tuple[str, ...]) -> Self:
        """Return the same work with other peers, without goals, with a turn of the subject around each turn."""
        other = copy(self)
        other.peers, other.subject, other.goals, other.closely = peers, peers[0], (), True
        return other

    @abstractmethod
    def session(self, server: Server) -> AbstractContextManager[Turn]:
        """Prepare the work with a server that has just started, or has done another work of the same site.

        The context manager returns a function that runs one turn of so many seconds. Between two turns of a server,
        the others have theirs.

        :raises MeasuringError: the server failed; both the context manager and the turns may raise it.
        """


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile; `part` is 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
