"""A run: round after round, each server in turn, with a line of progress for each figure.

Runs in the main thread of the benchmark program; owns the server that is running.
"""

from __future__ import annotations

import sys
import time

from benchmarks.machine import Cores
from benchmarks.plan import Plan, Stage
from benchmarks.results import Results, number
from benchmarks.servers import MeasuringError, serving
from benchmarks.work import Reading, Work


class Run:
    """Measures what the plan says.

    :param seconds: how long each server does each work in each round.
    """

    def __init__(self, plan: Plan, cores: Cores, rounds: int, seconds: int) -> None:
        self._plan = plan
        self._cores = cores
        self._rounds = rounds
        self._seconds = seconds
        self._total = rounds * sum(len(plan.peers(work)) * work.site.turns for work in plan.works)
        self._done = 0
        self._begun = 0.0
        self.results = Results(plan)

    def go(self) -> Results:
        """Do all rounds."""
        self._begun = time.monotonic()
        for round_number in range(self._rounds):
            for stage in self._plan.stages(round_number):
                self._do(stage, round_number)
        return self.results

    def _do(self, stage: Stage, round_number: int) -> None:
        left = list(stage.works)
        try:
            with serving(stage.peer, self._cores, stage.site) as server:
                while left:
                    reading = left[0].measure(server, self._seconds)
                    work = left.pop(0)
                    self.results.add(work, stage.peer.name, reading)
                    self._tell(stage, round_number, work, _describe(work, reading))
        except MeasuringError as error:
            for index, work in enumerate(left):
                what = str(error) if index == 0 else "the server had failed before"
                self.results.fail(work, stage.peer.name, what)
                self._tell(stage, round_number, work, f"FAILED: {what}")

    def _tell(self, stage: Stage, round_number: int, work: Work, what: str) -> None:
        self._done += 1
        passed = time.monotonic() - self._begun
        left = passed / self._done * (self._total - self._done)
        clock = f"{_minutes(passed)} passed, about {_minutes(left)} to go"
        print(
            f"[{self._done}/{self._total}, {clock}] round {round_number + 1}: {work.name}, {stage.peer.title}: {what}",
            file=sys.stderr,
            flush=True,
        )


def _describe(work: Work, reading: Reading) -> str:
    parts = [
        f"{metric.title + ' ' if metric.title else ''}{number(reading.figures[metric.name])} {metric.unit}"
        for metric in work.metrics
    ]
    meter = reading.meter
    return "; ".join(parts) + (f" (busy: server {meter.server:.0%}, load {meter.load:.0%})" if meter else "")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
