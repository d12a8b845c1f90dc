"""What has been measured, and what follows from it: medians, ratios, whether goals are reached.

Runs in the main thread of the benchmark program. A :class:`Results` owns the readings.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.plan import Plan
from benchmarks.work import Goal, Metric, Reading, Work

#: Of the time, the load generator was busy for so much that it may have been what was measured; or the server, which
#: should always be busy, for so little that others have had its core.
TOO_BUSY, TOO_IDLE = 0.95, 0.85
#: Of the time of a turn, the host of a virtual machine had so much of one of our cores that the turn says little. It
#: does not count if there are enough others.
STOLEN, ENOUGH = 0.05, 3


@dataclass(frozen=True)
class Verdict:
    """What has become of a goal.

    ``figure`` is a ratio, unless the goal is in the metric's own unit; ``None``: something was not measured.
    """

    work: Work
    metric: Metric
    goal: Goal
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether it is reached, as the figure is printed: nobody shall read ``0.75, at least 0.75: missed``."""
        return self.figure is not None and self.goal.reached(float(number(self.figure)))

    @property
    def measure(self) -> str:
        """What the figure is a multiple of; empty: nothing."""
        if self.goal.against is not None:
            return PEERS[self.goal.against].title
        return ""

    def write(self, figure: float) -> str:
        """Return a figure with the unit that the goal is in."""
        return f"{number(figure)} {'×' if self.measure else self.metric.unit}"

    @property
    def wanted(self) -> str:
        """The limits, as text."""
        limits = (("at least", self.goal.at_least), ("at most", self.goal.at_most))
        return ", ".join(f"{word} {self.write(limit)}" for word, limit in limits if limit is not None)


class Results:
    """All readings of a run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        #: By the names of the works: who has done what, in this order.
        self._turns: dict[str, list[tuple[str, Reading]]] = {}
        #: What went wrong, by work and peer.
        self.failures: dict[tuple[str, str], str] = {}
        #: Turns that were had again.
        self.repeated = 0

    def add(self, work: Work, peer: str, reading: Reading) -> None:
        """Note what a peer has done in one turn."""
        self._turns.setdefault(work.name, []).append((peer, reading))

    def fail(self, work: Work, peer: str, what: str) -> None:
        """Note that a peer could not do it."""
        self.failures[work.name, peer] = what

    def all_turns(self, work: Work, peer: str) -> dict[int, Reading]:
        """Return the turns of a peer, by their place among all turns of the work."""
        return {index: reading for index, (name, reading) in enumerate(self._turns.get(work.name, ())) if name == peer}

    def turns(self, work: Work, peer: str) -> dict[int, Reading]:
        """Like :meth:`all_turns`, but those that count."""
        turns = self.all_turns(work, peer)
        good = {index: reading for index, reading in turns.items() if reading.stolen <= STOLEN}
        return good if len(good) >= ENOUGH else turns

    @property
    def set_aside(self) -> int:
        """How many turns do not count."""
        pairs = [(work, peer.name) for work in self.plan.works for peer in self.plan.peers(work)]
        return sum(len(self.all_turns(*pair)) - len(self.turns(*pair)) for pair in pairs)

    def figure(self, work: Work, peer: str, metric: str) -> float | None:
        """Return the median of the turns that count; ``None``: it was not measured."""
        values = [reading.figures[metric] for reading in self.turns(work, peer).values()]
        return median(values) if values else None

    def ratio(self, work: Work, metric: str, peer: str) -> float | None:
        """Return what the subject has done as a multiple of what a peer has done.

        Each turn of the peer is compared with the subject's nearest turn, or the mean of two as near; of these ratios
        it is the median. It is not the ratio of medians: turns that were a minute apart may have had different
        machines. ``None``: it was not measured.
        """
        own = self.turns(work, work.subject)
        ratios = []
        for index, reading in self.turns(work, peer).items():
            measure = reading.figures[metric]
            if own and measure:
                distance = min(abs(index - other) for other in own)
                near = [each.figures[metric] for other, each in own.items() if abs(index - other) == distance]
                ratios.append(mean(near) / measure)
        return median(ratios) if ratios else None

    def busy(self, work: Work, peer: str) -> tuple[float, float] | None:
        """Return which part of the time server and load were busy, as medians; ``None``: it does not matter."""
        meters = [reading.meter for reading in self.turns(work, peer).values() if reading.meter]
        if not meters:
            return None
        return median(meter.server for meter in meters), median(meter.load for meter in meters)

    def mark(self, work: Work, peer: str) -> str:
        """Return the sign for a figure that may say less than it seems to; empty: none."""
        busy = self.busy(work, peer)
        if busy is None:
            return ""
        return " (!)" if busy[1] > TOO_BUSY else " (?)" if busy[0] < TOO_IDLE else ""

    def verdicts(self, work: Work) -> list[Verdict]:
        """Return what has become of those goals of a work whose servers the plan has."""
        found = []
        planned = {peer.name for peer in self.plan.peers(work)}
        for goal in work.goals:
            if not planned.issuperset((work.subject, goal.against or work.subject)):
                continue
            if goal.against is not None:
                figure = self.ratio(work, goal.metric, goal.against)
            else:
                figure = self.figure(work, work.subject, goal.metric)
            metric = next(metric for metric in work.metrics if metric.name == goal.metric)
            found.append(Verdict(work, metric, goal, figure))
        return found

    def as_json(self, machine: dict[str, str], rounds: int, seconds: int) -> dict[str, Any]:
        """Return everything in a form that ``json`` can write."""
        works = []
        for work in self.plan.works:
            peers = {
                peer.name: {
                    "title": peer.title,
                    "median": {metric.name: self.figure(work, peer.name, metric.name) for metric in work.metrics},
                    "turns": [
                        {**reading.figures, "place": index, "stolen": reading.stolen}
                        for index, reading in self.all_turns(work, peer.name).items()
                    ],
                    "server_and_load_busy": self.busy(work, peer.name),
                    "failure": self.failures.get((work.name, peer.name)),
                }
                for peer in self.plan.peers(work)
            }
            goals = [
                {
                    "metric": verdict.metric.name,
                    "of": work.subject,
                    "against": verdict.goal.against,
                    "figure": verdict.figure,
                    "at_least": verdict.goal.at_least,
                    "at_most": verdict.goal.at_most,
                    "reached": verdict.reached,
                }
                for verdict in self.verdicts(work)
            ]
            units = {metric.name: metric.unit for metric in work.metrics}
            works.append({"name": work.name, "title": work.title, "units": units, "peers": peers, "goals": goals})
        return {"machine": machine, "rounds": rounds, "seconds": seconds, "repeated": self.repeated, "works": works}


def number(value: float) -> str:
    """Write a number with three digits that say something."""
    if value and abs(value) < 1:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:.0f}"
