"""How busy both sides are while something is measured, which tells what the figure is worth.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

import resource
import time

from benchmarks.servers import Program


class Meter:
    """Looks at the processor time of a server and of the load generator, while a ``with`` block runs.

    :param programs: what serves: a server, or all that do the work together.
    :param cores: how many of them it could use.
    """

    def __init__(self, *programs: Program, cores: int = 1) -> None:
        self._programs = programs
        self._cores = cores
        #: Seconds that have passed.
        self.seconds = 0.0
        #: Which part of this time each side has used its core or cores, 0 to 1.
        self.server = self.load = 0.0

    def __enter__(self) -> Meter:
        self._server_begun = self._server_time()
        self._load_begun = _own_time()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self.load = (_own_time() - self._load_begun) / self.seconds
        #: Seconds of processor time of all that serves.
        self.server_seconds = self._server_time() - self._server_begun
        self.server = self.server_seconds / self.seconds / self._cores

    def _server_time(self) -> float:
        return sum(program.processor_time() for program in self._programs)


def _own_time() -> float:
    """Seconds of processor time of this process, and of its children that have ended; servers are killed outside."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
