"""The faults: each is a method that does it, waits until it is over, and notes how long recovery took.

Runs in the main thread.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos.hosts import PADDING, Host, Process, Proxy

#: Tries to find a process in a moment in which its books and those of its consumers agree.
TRIES = 2000


class Faults:
    """What can go wrong in a run.

    :param workers: name and command of each worker process.
    """

    def __init__(
        self, folder: Path, hosts: list[Host], workers: dict[str, Callable[[], Process]], proxies: list[Proxy],
        redis_port: int, rng: random.Random,
    ) -> None:  # fmt: skip
        self.folder, self.hosts, self.proxies, self.redis_port, self.rng = folder, hosts, proxies, redis_port, rng
        self._starters = workers
        self.workers = {name: start() for name, start in workers.items()}
        for worker in self.workers.values():
            worker.wait_for("joined the server|Worker process")
        self.count: dict[str, int] = {}
        self.recoveries: dict[str, list[float]] = {}
        self.all: list[Callable[[], None]] = [self.kill_sibling, self.stop_process, self.full_disk]
        if workers:
            self.all += [self.kill_worker, self.kill_worker]
        if proxies:
            self.all += [self.cut_off, self.swallow, self.empty_redis, self.kill_host]

    def one(self) -> str:
        """Do one of them; return its name."""
        fault = self.rng.choice(self.all)
        name = fault.__name__.replace("_", " ")
        fault()
        self.count[name] = self.count.get(name, 0) + 1
        return name

    def _recovered(self, name: str, seconds: float) -> None:
        self.recoveries.setdefault(name, []).append(seconds)

    # -- processes -----------------------------------------------------------------------------------------------------

    def kill(self, pid: int) -> None:
        """Kill a process, at any moment but between a consumer's last line and the server's note that it has ended:
        nobody could say then on which side a message belongs.
        """
        for _ in range(TRIES):
            os.kill(pid, signal.SIGSTOP)
            self._await_stopped(pid)
            if not self._in_between(pid):
                break
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _await_stopped(pid: int) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            while (task / "stat").exists() and (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                time.sleep(0.0002)

    def _in_between(self, pid: int) -> bool:
        try:
            lines = (self.folder / "records" / str(pid)).read_text().splitlines()[-200:]
        except OSError:
            return False
        ended = {line[2:] for line in lines if line[0] == "e"} - {line[2:] for line in lines if line[0] == "f"}
        return bool(ended)

    def kill_sibling(self) -> None:
        host = self.rng.choice(self.hosts)
        siblings = host.siblings()
        if siblings:
            since = time.monotonic()
            self.kill(self.rng.choice(siblings))
            self._recovered("kill sibling", host.process.wait_for("process . serves, too", since) - since)

    def kill_worker(self) -> None:
        name = self.rng.choice(list(self.workers))
        since = time.monotonic()
        self.kill(self.workers[name].pid)
        self.workers[name].process.wait()
        self.workers[name] = self._starters[name]()
        self._recovered("kill worker", self.workers[name].wait_for("joined the server") - since)

    def kill_host(self) -> None:
        host = self.rng.choice(self.hosts)
        since = time.monotonic()
        for pid in [*host.siblings(), host.process.pid]:
            try:
                self.kill(pid)
            except OSError:
                pass
        host.process.process.wait()
        host.start()
        self._recovered("kill host", time.monotonic() - since)

    def stop_process(self) -> None:
        host = self.rng.choice(self.hosts)
        pid = self.rng.choice([host.process.pid, *host.siblings(), *(worker.pid for worker in self.workers.values())])
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 3.0))
        since = time.monotonic()
        os.kill(pid, signal.SIGCONT)
        while not host.health():
            time.sleep(0.05)
        self._recovered("stop process", time.monotonic() - since)

    # -- disk and network ----------------------------------------------------------------------------------------------

    def full_disk(self) -> None:
        host = self.rng.choice(self.hosts)
        pids = [host.process.pid, *host.siblings()]
        for limit in (PADDING + 1000, resource.RLIM_INFINITY):
            for pid in pids:
                try:
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                except (ProcessLookupError, PermissionError, ValueError):
                    pass
            if limit > 0 and limit != resource.RLIM_INFINITY:
                time.sleep(self.rng.uniform(0.5, 3.0))

    def cut_off(self) -> None:
        self._network("cut")

    def swallow(self) -> None:
        self._network("swallow")

    def _network(self, mode: str) -> None:
        index = self.rng.randrange(len(self.hosts))
        self.proxies[index].mode = mode
        time.sleep(self.rng.uniform(0.5, 8.0))
        since = time.monotonic()
        self.proxies[index].mode = "pass"
        while "redis" in self.hosts[index].health():
            time.sleep(0.1)
        self._recovered(f"network: {mode}", time.monotonic() - since)

    def empty_redis(self) -> None:
        with socket.create_connection(("127.0.0.1", self.redis_port)) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(100)
