"""The faults: each is a method that does it, waits until it is over, and notes how long recovery took.

Runs in the main thread.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import resource
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos.hosts import PADDING, Host, Process, Proxy, signal_all
from channelserver.layers.redis.replies import ReplyReader
from channelserver.processes.tickets import SLOTS

#: How the sites' messages are called.
IDENTITY = re.compile(rb"(?:work|delayed|http)\.[0-9]+")
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
        #: How often a process was killed with a message in its hands; and what waited in Redis when it was emptied.
        self.in_hand: Counter[str] = Counter()
        self.emptied: set[str] = set()
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

    def kill(self, *pids: int) -> None:
        """Kill processes, at any moment in which their notes of what they have in their hands agree with what their
        consumers have written: in the instant between the two, nobody could say on which side a message belongs.
        """
        for _ in range(TRIES):
            signal_all(pids, signal.SIGSTOP)
            for pid in pids:
                self._await_stopped(pid)
            in_hand = [self._in_hand(pid) for pid in pids]
            if None not in in_hand:
                for names in in_hand:
                    self.in_hand.update(names or ())
                signal_all(pids, signal.SIGKILL)
                return
            signal_all(pids, signal.SIGCONT)
            time.sleep(0.0005)
        raise RuntimeError(f"processes {pids} never agreed with their consumers about what they had in their hands")

    @staticmethod
    def _await_stopped(pid: int) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            while (task / "stat").exists() and (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                time.sleep(0.0002)

    def _in_hand(self, pid: int) -> set[str] | None:
        """Return what a stopped process has in its hands; None: that is not clear."""
        try:
            lines = (self.folder / "records" / str(pid)).read_text().splitlines()
        except OSError:
            return set()
        names = {kind: {line[2:] for line in lines if line[0] == kind} for kind in "hbef"}
        if names["e"] - names["f"]:
            return None
        begun = {name for name in names["b"] - names["f"] if not name.startswith("view.")}
        if self.proxies:
            begun = {name for name in begun if not name.startswith("socket")}  # never in Redis
            kept = self._kept(min(names["h"]))
            return None if kept & names["f"] or begun - kept else kept
        if pid not in (worker.pid for worker in self.workers.values()):
            begun = {name for name in begun if not name.startswith("socket")}  # the first process has no part in them
        return begun if begun_marks(pid) == len(begun) else None

    def _kept(self, host: str) -> set[str]:
        """Return the messages that Redis holds for a stopped process, when it has all that the process had written."""
        for port in [proxy.port for proxy in self.proxies] * 2:  # what comes before that has passed when it is answered
            with socket.create_connection(("127.0.0.1", port)) as connection:
                ask_redis(connection, b"PING")
        with socket.create_connection(("127.0.0.1", self.redis_port)) as connection:
            values = ask_redis(connection, b"HVALS", b"channelserver:kept:" + host.encode())
        return identities(values)

    def doubted(self) -> int:
        """Return how many hosts are silent, so that what they hold does not count as lost yet."""
        with socket.create_connection(("127.0.0.1", self.redis_port)) as connection:
            hosts, doubted = (
                ask_redis(connection, b"ZCARD", b"channelserver:" + key) for key in (b"hosts", b"doubted")
            )
        return int(hosts + doubted - sum(host.processes for host in self.hosts))

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
        self.kill(host.process.pid, *host.siblings())  # the first one first: it must not start another
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
            for words in ((b"MULTI",), (b"LRANGE", b"channelserver:q:chaos.work", b"0", b"-1"), (b"FLUSHALL",)):
                ask_redis(connection, *words)
            waiting, _ = ask_redis(connection, b"EXEC")
        self.emptied |= identities(waiting)


def begun_marks(pid: int) -> int:
    """Return how many messages of another process a process has begun, by the marks in its memory."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "channelserver-ledger" in os.readlink(entry):
            with open(entry, "rb") as memory, mmap.mmap(memory.fileno(), SLOTS * 8, prot=mmap.PROT_READ) as numbers:
                return sum(number > 0 for number in struct.unpack(f"{SLOTS}q", numbers))
    return 0


def ask_redis(connection: socket.socket, *words: bytes) -> Any:
    """Send a command; return the answer."""
    connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
    reader, values = ReplyReader(), list[Any]()
    while not values:
        values = reader.feed(connection.recv(65536))
    return values[0]


def identities(items: list[bytes]) -> set[str]:
    """Return the identities of messages as Redis has them."""
    return {found[0].decode() for item in items for found in [IDENTITY.search(item)] if found is not None}
