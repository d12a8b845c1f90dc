"""The machine the benchmarks run on: its cores, its limits, what it says about itself.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
#: Which of the figures of a core in /proc/stat is the time stolen from it; see proc_stat(5).
_STEAL = 7

#: Open files that a server or the load generator has beside its sockets.
SPARE_FILES = 200

#: Packages whose versions matter to whoever reads the results.
PACKAGES = (
    "channelserver", "django", "twisted", "autobahn", "channels", "channels_redis", "redis", "daphne", "uvicorn",
    "gunicorn", "granian",
)  # fmt: skip


@dataclass(frozen=True)
class Cores:
    """Which core the servers have, and which one the load generator."""

    server: int
    load: int
    #: The second core of servers that are given two: the load generator's, unless there are three.
    second: int

    @classmethod
    def choose(cls) -> Cores:
        """Take the first and the last of those that this process may use; they are the same if there is only one."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1], usable[min(1, len(usable) - 1)])

    @property
    def shared(self) -> bool:
        """Whether servers and load must share one core, so that no figure is worth much."""
        return self.server == self.load

    def stolen(self) -> tuple[float, float]:
        """Return the seconds that each of the two has been wanted here, but the host of a virtual machine had it."""
        lost = dict.fromkeys((self.server, self.load), 0.0)
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in lost:
                lost[int(name[3:])] = int(ticks[_STEAL]) / _TICKS
        return lost[self.server], lost[self.load]

    def pin_load(self) -> None:
        """Keep this process, and those it starts from now on, on the load generator's core."""
        os.sched_setaffinity(0, {self.load})

    @contextmanager
    def pinning_servers(self, spread: bool = False) -> Iterator[None]:
        """A process that is started in this context stays on the servers' core, with all its threads and children.

        :param spread: it has two cores.
        """
        os.sched_setaffinity(0, {self.server, self.second} if spread else {self.server})
        try:
            yield
        finally:
            self.pin_load()


def raise_file_limit() -> int:
    """Let this process and its children have as many open files as they may; return how many sockets that gives."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = 1_000_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most - SPARE_FILES


def describe(cores: Cores) -> dict[str, str]:
    """Return what a reader needs to know to compare the results with others; to be asked before the run."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as stream:
        for line in stream:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "processor": f"{model}, {os.cpu_count()} cores; servers on core {cores.server}, load on core {cores.load}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions,
        "before": f"{os.getloadavg()[0]:.2g} processes wanted a core, on the average of a minute",
    }
