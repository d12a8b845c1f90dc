"""The readings of a run, and what follows from them: medians, ratios, goals.

Runs in the main thread of the benchmark program. A :class:`Results` owns the readings.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median

from benchmarks.peers import PEERS
from benchmarks.plan import Plan
from benchmarks.work import Goal, Metric, Reading, Work

#: CPU use above which the load generator may have been the bottleneck, and below which the server, which should be
#: busy all the time, had to share its core.
TOO_BUSY, TOO_IDLE = 0.95, 0.85
#: CPU steal above which a turn does not count, if enough others remain.
STOLEN, ENOUGH = 0.05, 3


@dataclass(frozen=True)
class Verdict:
    """The outcome of a goal.

    ``figure`` is a ratio, unless the goal is in the metric's own unit; ``None``: not measured.
    """

    work: Work
    metric: Metric
    goal: Goal
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether it is reached, by the rounded figure: no table should say ``0.75, at least 0.75: missed``."""
        return self.figure is not None and self.goal.reached(float(number(self.figure)))

    @property
    def measure(self) -> str:
        """The peer that the figure is a multiple of; empty: none."""
        if self.goal.against is not None:
            return PEERS[self.goal.against].title
        return ""

    def write(self, figure: float) -> str:
        """Return a figure with the goal's unit."""
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
        #: By work: peers and readings, in the order of the turns.
        self._turns: dict[str, list[tuple[str, Reading]]] = {}
        #: Reasons of failures, by work and peer.
        self.failures: dict[tuple[str, str], str] = {}
        #: Turns that were repeated because of CPU steal: work, peer, reading.
        self.discarded: list[tuple[str, str, Reading]] = []

    def add(self, work: Work, peer: str, reading: Reading) -> None:
        """Add the reading of a turn."""
        self._turns.setdefault(work.name, []).append((peer, reading))

    def fail(self, work: Work, peer: str, what: str) -> None:
        """Note that a peer failed."""
        self.failures[work.name, peer] = what

    def all_turns(self, work: Work, peer: str) -> dict[int, Reading]:
        """Return the turns of a peer, by their place among all turns of the work."""
        return {index: reading for index, (name, reading) in enumerate(self._turns.get(work.name, ())) if name == peer}

    def turns(self, work: Work, peer: str) -> dict[int, Reading]:
        """Like :meth:`all_turns`, without the turns that do not count."""
        turns = self.all_turns(work, peer)
        good = {index: reading for index, reading in turns.items() if reading.stolen <= STOLEN}
        return good if len(good) >= ENOUGH else turns

    @property
    def repeated(self) -> int:
        """The number of turns that were repeated."""
        return len(self.discarded)

    @property
    def set_aside(self) -> int:
        """The number of turns that do not count."""
        pairs = [(work, peer.name) for work in self.plan.works for peer in self.plan.peers(work)]
        return sum(len(self.all_turns(*pair)) - len(self.turns(*pair)) for pair in pairs)

    def figure(self, work: Work, peer: str, metric: str) -> float | None:
        """Return the median of the turns that count; ``None``: not measured."""
        values = [reading.figures[metric] for reading in self.turns(work, peer).values()]
        return median(values) if values else None

    def ratio(self, work: Work, metric: str, peer: str, subject: str | None = None) -> float | None:
        """Return the figure of the subject as a multiple of a peer's; ``None``: not measured.

        Each turn of the peer is compared with the subject's nearest turn, or the mean of two equally near. The result
        is the median of these ratios, not the ratio of medians: within a minute, a virtual machine can become slower.

        :param subject: another server than the work's subject.
        """
        own = self.turns(work, subject or work.subject)
        ratios = []
        for index, reading in self.turns(work, peer).items():
            measure = reading.figures[metric]
            if own and measure:
                distance = min(abs(index - other) for other in own)
                near = [each.figures[metric] for other, each in own.items() if abs(index - other) == distance]
                ratios.append(mean(near) / measure)
        return median(ratios) if ratios else None

    def busy(self, work: Work, peer: str) -> tuple[float, float] | None:
        """Return the CPU use of server and load, 0 to 1, as medians; ``None``: not measured."""
        meters = [reading.meter for reading in self.turns(work, peer).values() if reading.meter]
        if not meters:
            return None
        return median(meter.server for meter in meters), median(meter.load for meter in meters)

    def mark(self, work: Work, peer: str) -> str:
        """Return the mark of a figure that is less reliable; empty: none."""
        busy = self.busy(work, peer)
        if busy is None:
            return ""
        return " (!)" if busy[1] > TOO_BUSY else " (?)" if busy[0] < TOO_IDLE else ""

    def verdicts(self, work: Work) -> list[Verdict]:
        """Return the outcomes of a work's goals, for the servers in the plan."""
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


def number(value: float) -> str:
    """Return a number as text, with three significant digits."""
    if value and abs(value) < 1:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:.0f}"
