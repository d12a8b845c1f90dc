"""One attack on a new server: before, meanwhile, afterwards.

Runs in the main thread of the benchmark program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.attacks.attack import Attack
from benchmarks.attacks.crowd import Attackers
from benchmarks.attacks.honest import Honest, Waits
from benchmarks.attacks.victim import Victim
from benchmarks.machine import Cores

#: Seconds of honest requests before and after the attack, and until the server must be as before.
ALONE, RECOVERY = 1.5, 10.0
#: Seconds between two looks at the server; the health check is asked less often.
LOOK, ASK = 0.1, 0.5
#: Descriptors that may be open afterwards beside those before: honest clients come and go.
SPARE = 20


@dataclass(frozen=True)
class Outcome:
    """What an attack has cost."""

    title: str
    clients: int
    #: Resident memory before, at most, and afterwards, in bytes.
    before: int
    most: int
    after: int
    #: Growth of what the kernel keeps for all TCP sockets of the machine, attackers' included, in bytes.
    kernel: int
    #: The most descriptors open beside those before.
    descriptors: int
    #: Worker threads at work, the median of all looks; None: the health check never answered.
    busy: float | None
    threads: int
    #: The part of its core that the server used, 0 to 1.
    core: float
    logged: int
    opened: int
    cut: int
    alone: Waits
    meanwhile: Waits
    #: Why the server is not as before; empty: it is.
    remains: str

    @property
    def growth(self) -> int:
        """Growth of its memory in bytes."""
        return max(0, self.most - self.before)


def run(attacks: Sequence[Attack], title: str, seconds: float, options: Sequence[str], addresses: int) -> Outcome:
    """Attack a new server.

    :param attacks: the attack of each client.
    :param addresses: the number of addresses the clients come from.
    :raises MeasuringError: the server did not start.
    """
    own = dict.fromkeys(option for each in attacks for option in each.options)
    with Victim(Cores.choose(), [*own, *options]) as victim:
        alone = _alone(victim)
        before, open_before, logged = victim.memory(), victim.descriptors(), victim.lines()
        kernel = kernel_memory()
        looks = _Looks(victim)
        attackers = Attackers(victim.target, attacks, addresses)
        with Honest(victim.target).process() as honest, attackers.process() as crowd:
            used, begun = victim.processor_time(), time.perf_counter()
            looks.go_on(seconds)
            core = (victim.processor_time() - used) / (time.perf_counter() - begun)
            meanwhile, count = honest.stop(), crowd.stop()
        remains = _recover(victim, open_before, alone)
        return Outcome(
            title,
            clients=len(attacks),
            before=before,
            most=looks.memory,
            after=victim.memory(),
            kernel=looks.kernel - kernel,
            descriptors=looks.descriptors - open_before,
            busy=median(looks.busy) if looks.busy else None,
            threads=looks.threads,
            core=core,
            logged=victim.lines() - logged,
            opened=count.opened,
            cut=count.cut,
            alone=alone,
            meanwhile=meanwhile,
            remains=remains,
        )


class _Looks:
    """What the server was seen to hold."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self.memory = self.kernel = self.descriptors = self.threads = 0
        self.busy: list[int] = []

    def go_on(self, seconds: float) -> None:
        """Look again and again."""
        now = time.perf_counter()
        ends, ask = now + seconds, now + ASK
        while now < ends and self._victim.alive():
            self.memory = max(self.memory, self._victim.memory())
            self.kernel = max(self.kernel, kernel_memory())
            self.descriptors = max(self.descriptors, self._victim.descriptors())
            if now >= ask:
                ask = now + ASK
                if "busy" in (figures := self._victim.health()):
                    self.busy.append(figures["busy"])
                    self.threads = figures["threads"]
            time.sleep(LOOK)
            now = time.perf_counter()


def kernel_memory() -> int:
    """Return the bytes that the kernel keeps for TCP sockets."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _alone(victim: Victim) -> Waits:
    """Return what honest clients meet when nobody else is there."""
    with Honest(victim.target).process() as honest:
        time.sleep(ALONE)
        waits: Waits = honest.stop()
    return waits


def _recover(victim: Victim, descriptors: int, before: Waits) -> str:
    """Wait until the server is as before; return what is not."""
    ends = time.perf_counter() + RECOVERY
    remains = "unknown"
    while remains and time.perf_counter() < ends:
        if not victim.alive():
            return "the server has ended"
        figures = victim.health()
        extra = victim.descriptors() - descriptors
        if not figures:
            remains = "no answer to the health check"
        elif extra > SPARE:
            remains = f"{extra} descriptors"
        elif figures["busy"]:
            remains = f"{figures['busy']} busy threads"
        else:
            remains = ""
        time.sleep(LOOK)
    if not remains:
        waits = _alone(victim)
        if waits.failed or waits.closed:
            remains = f"honest clients fail: {', '.join(sorted(waits.reasons))}"
        elif waits.request(0.5) > 2 * before.request(0.5) + 0.005:
            remains = f"requests take {waits.request(0.5) * 1000:.0f} ms"
    return remains
