"""``python -m benchmarks.chaos``: random faults under load; prints the ledger, and exits 1 if it does not add up."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.chaos.clients import HttpClient, SocketClient, wait_until
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.hosts import Host, Process, Proxy, free_port, listens
from benchmarks.chaos.ledger import Ledger, missing_echoes, missing_groups, read_records, read_sent
from benchmarks.servers import find_redis

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--layer", choices=("memory", "redis"), default="memory")
    parser.add_argument("--requeue", action="store_true", help="start the server with --requeue")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; default: a new one, which is printed")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all records")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"layer {given.layer}, {given.minutes:g} minutes, requeue {given.requeue}, seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="channelserver-chaos-"))
    shutil.copytree(Path(__file__).parent / "project", folder, dirs_exist_ok=True)
    (folder / "records").mkdir()
    try:
        with ExitStack() as stack:
            return Run(folder, given.layer == "redis", given.requeue, random.Random(seed), stack).run(given.minutes)
    finally:
        print("records:", folder) if given.keep else shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One run: start, load with faults, rest, ledger."""

    def __init__(self, folder: Path, redis: bool, requeue: bool, rng: random.Random, stack: ExitStack) -> None:
        self.folder, self.redis, self.requeue = folder, redis, requeue
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if requeue:
            environment["CHAOS_REQUEUE"] = "1"
        proxies: list[Proxy] = []
        redis_port = 0
        environments = [dict(environment)]
        if redis:
            redis_port = free_port()
            server = subprocess.Popen(
                [find_redis(), "--port", str(redis_port), "--save", "", "--appendonly", "no"],
                cwd=folder, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(server.wait)
            stack.callback(server.kill)
            if not wait_until(lambda: listens(redis_port), 60.0):
                raise SystemExit("Redis does not start")
            proxies = [Proxy(redis_port), Proxy(redis_port)]
            environments = [{**environment, "CHAOS_REDIS": f"redis://127.0.0.1:{proxy.port}/0"} for proxy in proxies]
            environment["CHAOS_REDIS"] = f"redis://127.0.0.1:{redis_port}/0"
        self.environment = environment
        subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=folder, env=environment, check=True)
        processes = 2 if redis else 3
        self.hosts = [
            Host(f"host{number}", folder, free_port(), processes, own) for number, own in enumerate(environments, 1)
        ]
        for host in self.hosts:
            stack.callback(lambda host=host: host.process.stop())
        workers = {}
        if not redis:
            environment["CHANNELSERVER_LOCAL_SOCKET"] = str(folder / "host1.sock")
            workers = {
                "worker1": partial(self._worker, "worker1", "chaos.*"),
                "worker2": partial(self._worker, "worker2", "chaos.*", "websocket.receive"),
            }
        self.faults = Faults(folder, self.hosts, workers, proxies, redis_port, rng)
        stack.callback(lambda: [worker.stop() for worker in self.faults.workers.values()])
        self.sender = Process("sender", [sys.executable, "sender.py"], folder, environment)
        stack.callback(self.sender.stop)

    def _worker(self, name: str, *channels: str) -> Process:
        globs = [word for channel in channels for word in ("--only-channels", channel)]
        command = [sys.executable, "manage.py", "runworker", "--threads", "2", *globs]
        return Process(name, command, self.folder, self.environment)

    def run(self, minutes: float) -> int:
        stop, quiet = threading.Event(), threading.Event()
        ports = [host.port for host in self.hosts]
        requests = [HttpClient(ports, quiet) for _ in range(2)]
        sockets = [SocketClient(number, ports[number % len(ports)], stop, quiet) for number in range(12)]
        for client in (*requests, *sockets):
            client.start()
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            time.sleep(self.faults.rng.uniform(1.0, 4.0))
            self.faults.one()
        (self.folder / "stop").touch()
        quiet.set()
        for request in requests:
            request.join(30)
        self._rest()
        stop.set()
        for socket in sockets:
            socket.join(10)
        return self._report(requests, sockets)

    def _rest(self) -> None:
        """Wait until nothing moves any more."""
        sizes: list[tuple[float, int]] = []

        def at_rest() -> bool:
            now, size = time.monotonic(), sum(read_records(self.folder / "records").received.values())
            sizes.append((now, size))
            return any(when < now - 8.0 and before == size for when, before in sizes)

        wait_until(at_rest, 90.0)
        if self.redis:  # what a dead host held counts as lost when it cannot be back any more
            wait_until(lambda: not self.faults.doubted(), 60.0)

    def _report(self, requests: list[HttpClient], clients: list[SocketClient]) -> int:
        sent, unknown, groups, lost = read_sent(self.folder / "sent")
        records = read_records(self.folder / "records")
        for request in requests:
            sent |= request.sent
            unknown |= request.unknown
        # A view that has returned has sent, whether or not its client knows.
        from_views = {name.replace("view.", "http.") for name in records.finished if name.startswith("view.")}
        unanswered = from_views - sent
        sent |= from_views
        unknown -= sent
        records.received = Counter({name: n for name, n in records.received.items() if not name.startswith("view.")})
        sockets = [socket for client in clients for socket in client.sockets]
        echoes, cut = missing_echoes(sockets)
        group_missing, group_received = [0, 0], 0
        for host in self.hosts:
            counters = host.lost()
            for reason, number in counters.items():
                lost[reason] = lost.get(reason, 0) + number
            of_host = [socket for client in clients if client.port == host.port for socket in client.sockets]
            missing, arrived = missing_groups(of_host, groups)
            group_missing["gap" not in counters] += missing
            group_received += arrived
        ledger = Ledger(
            sent, unknown, unanswered, records, self.faults.in_hand, self.faults.emptied, echoes, cut,
            (group_missing[0], group_missing[1]), group_received, lost, self.requeue, self.redis,
        )  # fmt: skip
        ledger.check()
        print(ledger.text())
        print("faults:", ", ".join(f"{number} x {name}" for name, number in sorted(self.faults.count.items())))
        for name, seconds in sorted(self.faults.recoveries.items()):
            print(
                f"  {name:20} recovered after {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s at most"
            )
        failures: dict[str, int] = {}
        for request in requests:
            for outcome, number in request.failures.items():
                failures[outcome] = failures.get(outcome, 0) + number
        print(f"requests: {sum(len(request.sent) for request in requests)} answered, others: {failures or 'none'};",
              f"longest time without an answer {max(request.longest_gap for request in requests):.1f} s")  # fmt: skip
        tracebacks = sum("Traceback" in line for host in self.hosts for one in (*host.ended, host.process)
                         for _, line in one.lines)  # fmt: skip
        for host in self.hosts:
            lines = [text for one in (*host.ended, host.process) for _, text in one.lines]
            (self.folder / f"{host.name}.log").write_text("\n".join(lines))
            print(f"  of {host.name}: {host.lost()}")
        print(f"tracebacks in the servers' logs: {tracebacks}")
        for problem in ledger.problems:
            print("DOES NOT ADD UP:", problem)
        print("it adds up" if not ledger.problems else "")
        return 1 if ledger.problems else 0


if __name__ == "__main__":
    sys.exit(main())
