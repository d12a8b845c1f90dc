"""CPU use of server and load generator during a measurement, which shows what limited the figure.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

import resource
import time

from benchmarks.servers import Program


class Meter:
    """Measures the CPU time of a server and of the load generator during a ``with`` block.

    :param programs: the server, or all programs that do the work together.
    :param cores: the number of cores they may use.
    """

    def __init__(self, *programs: Program, cores: int = 1) -> None:
        self._programs = programs
        self._cores = cores
        #: Length of the block in seconds.
        self.seconds = 0.0
        #: CPU use of each side, 0 to 1, as part of its core or cores.
        self.server = self.load = 0.0

    def __enter__(self) -> Meter:
        self._server_begun = self._server_time()
        self._load_begun = _own_time()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self.load = (_own_time() - self._load_begun) / self.seconds
        #: CPU time of the server's programs in seconds.
        self.server_seconds = self._server_time() - self._server_begun
        self.server = self.server_seconds / self.seconds / self._cores

    def _server_time(self) -> float:
        return sum(program.processor_time() for program in self._programs)


def _own_time() -> float:
    """Return the CPU time of this process and its ended children; no server ends within a block."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
