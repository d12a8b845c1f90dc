"""The machine of the benchmarks: cores, limits, description.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
#: Index of CPU steal in a line of /proc/stat; see proc_stat(5).
_STEAL = 7

#: Open files of a server or the load generator beside its sockets.
SPARE_FILES = 200

#: Packages whose versions the results name.
PACKAGES = (
    "channelserver", "django", "twisted", "autobahn", "channels", "channels_redis", "redis", "daphne", "uvicorn",
    "gunicorn", "granian",
)  # fmt: skip


@dataclass(frozen=True)
class Cores:
    """The cores of the servers and of the load generator."""

    server: int
    load: int
    #: The second core of servers with two: the load generator's, unless there are three.
    second: int

    @classmethod
    @cache
    def choose(cls) -> Cores:
        """Choose the first and the last of the usable cores; with one core, they are the same.

        A process chooses once: when it has pinned itself to one core, that is all it may use.
        """
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1], usable[min(1, len(usable) - 1)])

    @property
    def shared(self) -> bool:
        """Whether servers and load share one core, so that the figures mean little."""
        return self.server == self.load

    def stolen(self) -> tuple[float, float]:
        """Return the CPU steal of servers' and load's core so far, in seconds: the host ran something else."""
        lost = dict.fromkeys((self.server, self.load), 0.0)
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in lost:
                lost[int(name[3:])] = int(ticks[_STEAL]) / _TICKS
        return lost[self.server], lost[self.load]

    def pin_load(self) -> None:
        """Pin this process, and those it starts from now on, to the load generator's core."""
        os.sched_setaffinity(0, {self.load})

    @contextmanager
    def pinning_servers(self, spread: bool = False) -> Iterator[None]:
        """Pin processes started in this context to the servers' core, with all threads and children.

        :param spread: it has two cores.
        """
        os.sched_setaffinity(0, {self.server, self.second} if spread else {self.server})
        try:
            yield
        finally:
            self.pin_load()


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit; return the number of sockets it allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = 1_000_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most - SPARE_FILES


def describe(cores: Cores) -> dict[str, str]:
    """Describe machine, software and load, for the results; call before the run."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as stream:
        for line in stream:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{model}, {os.cpu_count()} cores; servers on core {cores.server}, load on core {cores.load}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions,
        "load average before": f"{os.getloadavg()[0]:.2g} (1 minute)",
    }
