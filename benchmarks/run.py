"""A run: site after site, its servers in turn, with a line of progress for each turn.

Runs in the main thread of the benchmark program; owns the servers that are running.
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

#: Of the time of the whole run, so much may be spent on turns that are had again.
REPEATED = 0.15


class Run:
    """Measures what the plan says.

    :param seconds: how long a turn lasts.
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
        """Do all rounds."""
        self._begun = time.monotonic()
        for stage in self._plan.stages(self._rounds):
            with ExitStack() as stack:
                self._do(stage, stack)
        return self.results

    def _do(self, stage: Stage, stack: ExitStack) -> None:
        """Start the servers of a stage, which run until the stack is closed, and have them do its works."""
        servers: dict[str, Server] = {}
        broken: dict[str, str] = {}
        for peer in stage.peers:
            try:
                servers[peer.name] = stack.enter_context(serving(peer, self._cores, stage.site))
            except MeasuringError as error:
                broken[peer.name] = str(error)
        for work in stage.works:
            for name, what in broken.items():
                if name in work.peers:
                    self._fail(work, name, what, stage.turns(work).count(name))
            whole = {name: server for name, server in servers.items() if name in work.peers and name not in broken}
            with ExitStack() as sessions:
                failed = self._measure(stage, work, whole, sessions)
            broken = dict.fromkeys([*broken, *failed], "the server had failed before")

    def _measure(self, stage: Stage, work: Work, servers: dict[str, Server], sessions: ExitStack) -> list[str]:
        """Do one work, in sessions that last until their stack is closed; return the names of those that failed."""
        turns: dict[str, Turn] = {}
        failed: list[str] = []
        order = stage.turns(work)
        for name, server in servers.items():
            try:
                turns[name] = sessions.enter_context(work.session(server))
            except MeasuringError as error:
                failed.append(name)
                self._fail(work, name, str(error), order.count(name))
        for index, name in enumerate(order):
            if name not in servers or name in failed:
                continue
            try:
                reading = self._take(turns[name], servers[name])
            except MeasuringError as error:
                failed.append(name)
                self._fail(work, name, str(error), order[index:].count(name))
                continue
            self.results.add(work, name, reading)
            self._tell(work, name, _describe(work, reading))
        return failed

    def _take(self, turn: Turn, server: Server) -> Reading:
        """Have a turn; have it again, as long as there is time for that, if the host had the cores meanwhile."""
        while True:
            begun, before = time.monotonic(), self._cores.stolen()
            reading = turn(self._seconds)
            after, passed = self._cores.stolen(), time.monotonic() - begun
            for each in (server, *server.others):
                each.wait_until_quiet()
            stolen = max(new - old for new, old in zip(after, before, strict=True)) / passed
            now = time.monotonic()
            if stolen <= STOLEN or self._repeated + now - begun > REPEATED * (now - self._begun):
                return replace(reading, stolen=stolen)
            self._repeated += now - begun
            self.results.repeated += 1

    def _fail(self, work: Work, peer: str, what: str, turns: int) -> None:
        """Note that a peer cannot have the rest of its turns."""
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
