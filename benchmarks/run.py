"""A run: site after site, the servers in turn, with a progress line for each turn.

Runs in the main thread of the benchmark program; owns the running servers.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.machine import Cores
from benchmarks.peers import PEERS
from benchmarks.plan import Plan, Stage
from benchmarks.results import STOLEN, Results, number
from benchmarks.servers import MeasuringError, Server, serving
from benchmarks.work import Reading, Turn, Work

#: The part of the run's time that repeated turns may take.
REPEATED = 0.1
#: Why a server that failed in one work does no other.
FAILED_BEFORE = "the server had failed before"


class Run:
    """Runs a plan.

    :param seconds: length of a turn.
    """

    def __init__(self, plan: Plan, cores: Cores, rounds: int, seconds: int) -> None:
        self._plan = plan
        self._cores = cores
        self._rounds = rounds
        self._seconds = seconds
        self._total = sum(len(stage.turns(work)) for stage in plan.stages(rounds) for work in stage.works)
        self._done = 0
        self._begun = 0.0
        self._repeated = 0.0
        self.results = Results(plan)

    def go(self) -> Results:
        """Run all rounds."""
        self._begun = time.monotonic()
        for stage in self._plan.stages(self._rounds):
            with ExitStack() as stack:
                self._do(stage, stack)
        return self.results

    def _do(self, stage: Stage, stack: ExitStack) -> None:
        """Start the servers of a stage, which run until the stack is closed, and do its works with them."""
        servers: dict[str, Server] = {}
        broken: dict[str, str] = {}  # why a server has no further turns
        for peer in stage.peers:
            try:
                servers[peer.name] = stack.enter_context(serving(peer, self._cores, stage.site))
            except MeasuringError as error:
                broken[peer.name] = str(error)
        for work in stage.works:
            with ExitStack() as sessions:
                self._measure(work, stage, servers, broken, sessions)

    def _measure(
        self, work: Work, stage: Stage, servers: dict[str, Server], broken: dict[str, str], sessions: ExitStack
    ) -> None:
        """Do one work, in sessions that last until their stack is closed; add servers that fail to `broken`."""
        order = stage.turns(work)
        turns: dict[str, Turn] = {}
        for name in dict.fromkeys(order):
            try:
                if name in broken:
                    raise MeasuringError(broken[name])
                turns[name] = sessions.enter_context(work.session(servers[name]))
            except MeasuringError as error:
                self._fail(work, name, str(error), order.count(name))
                broken[name] = FAILED_BEFORE
        for index, name in enumerate(order):
            if name in broken:
                continue
            try:
                reading = self._take(work, stage.round(work, index), turns[name], servers[name])
            except MeasuringError as error:
                self._fail(work, name, str(error), order[index:].count(name))
                broken[name] = FAILED_BEFORE
                continue
            self.results.add(work, name, reading)
            self._tell(work, name, _describe(work, reading))

    def _take(self, work: Work, round: int, turn: Turn, server: Server) -> Reading:
        """Run a turn; repeat it after CPU steal, as long as the time for repeated turns is not used up."""
        while True:
            begun, before = time.monotonic(), self._cores.stolen()
            reading = turn(self._seconds)
            after, passed = self._cores.stolen(), time.monotonic() - begun
            for each in (server, *server.others):
                each.wait_until_quiet()
            stolen = max(new - old for new, old in zip(after, before, strict=True)) / passed
            now = time.monotonic()
            reading = replace(reading, stolen=stolen, round=round)
            if stolen <= STOLEN or self._repeated + now - begun > REPEATED * (now - self._begun):
                return reading
            self._repeated += now - begun
            self.results.discarded.append((work.name, server.peer.name, reading))

    def _fail(self, work: Work, peer: str, what: str, turns: int) -> None:
        """Note that a peer has no further turns."""
        self.results.fail(work, peer, what)
        self._tell(work, peer, f"FAILED: {what}", turns)

    def _tell(self, work: Work, peer: str, what: str, turns: int = 1) -> None:
        self._done += turns
        passed = time.monotonic() - self._begun
        left = passed / self._done * (self._total - self._done)
        clock = f"{_minutes(passed)} passed, about {_minutes(left)} to go"
        print(
            f"[{self._done}/{self._total}, {clock}] {work.name}, {PEERS[peer].title}: {what}",
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
