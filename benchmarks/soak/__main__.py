"""The command line: ``python -m benchmarks.soak``, with a Python that has channelserver's packages and ``websockets``.

The server has two processes, on loopback. Every few seconds its memory, descriptors, threads, rows and members are
noted. At the end the first third of the notes is compared with the last one: a figure that has grown is a leak. The
exit status is 1 if there is one, if something is left when all clients have gone, or if a client failed.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.machine import Cores
from benchmarks.servers import ROOT, MeasuringError, Program, Redis
from benchmarks.soak.clients import Clients

#: Part of the time that does not count: caches fill, threads start.
WARMING = 0.2
#: Seconds between two notes, at most, and how many there are at least.
PAUSE, NOTES = 10.0, 60
#: By figure: by how much the last third may exceed the first one, in parts of it and absolutely. Others: nothing.
SLACK = {
    "memory MiB": (0.03, 1.0), "Redis KiB": (0.1, 200.0), "descriptors": (0.0, 12.0), "threads": (0.0, 4.0),
    "session rows": (0.0, 5.0), "delayed rows": (0.0, 5.0), "members": (0.0, 10.0), "messages waiting": (0.0, 5.0),
    "connections": (0.0, 8.0), "websockets": (0.0, 6.0), "groups": (0.0, 1.0),
    "Redis keys": (0.0, 5.0),
}  # fmt: skip
#: What is left when all clients have gone, and how long that may take.
AT_REST, REST_SECONDS = ("websockets", "session rows", "delayed rows", "members", "messages waiting"), 30.0


class Soaked(Program):
    """The server.

    :param redis: its layer; None: it is in memory.
    """

    def __init__(self, cores: Cores, processes: int, redis: Redis | None) -> None:
        super().__init__("the server")
        self.redis = redis
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "PYTHON"))}
        self._environment = kept | {
            "PYTHONPATH": str(ROOT),
            "BENCHMARK_FOLDER": str(self.folder),
            "BENCHMARK_REDIS": redis.url if redis else "",
            "DJANGO_SETTINGS_MODULE": "benchmarks.apps.soaked.settings",
        }
        migrate = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
        subprocess.run(migrate, cwd=self.folder, env=self._environment, check=True)
        own = ["--port", str(self.port), "--processes", str(processes), "--access-log=", "--local-socket="]
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]
        command = [*twistd, "channelserver", *own, "--health-figures=127.0.0.1"]
        self.start(command, cores, self._environment, spread=True)

    def descriptors(self) -> int:
        """Return the number of its open files."""
        return sum(len(os.listdir(f"/proc/{number}/fd")) for number in self._processes())

    def _ask(self, path: str) -> dict[str, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def figures(self) -> dict[str, float]:
        """Return all figures of this moment."""
        stored, health = self._ask("/stored"), self._ask("/-/health")
        found = {
            "memory MiB": self.anonymous_memory() / 2**20,
            "descriptors": self.descriptors(),
            "threads": self.threads(),
            "connections": health["connections"],
            "websockets": health["websockets"],
            **{name: value for name, value in stored.items() if name != "lost"},
            "lost": sum(stored["lost"].values()),
        }
        if self.redis is not None:
            found["Redis KiB"] = _redis_bytes(self.redis.port) / 1024
            found["Redis keys"] = _redis_info(self.redis.port, b"keyspace", "keys")
        return found

    def reasons(self) -> str:
        """Return why messages were lost, and its last lines of output."""
        return f"{self._ask('/stored')['lost']}\n{self._log.read_text(errors='replace')[-3000:]}"


def _redis_bytes(port: int) -> float:
    return _redis_info(port, b"memory", "used_memory")


def _redis_info(port: int, section: bytes, name: str) -> float:
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as connection:
        connection.sendall(b"INFO " + section + b"\r\n")
        with connection.makefile("rb") as answer:
            text = answer.read(int(answer.readline()[1:])).decode()
    for word in text.replace("\r\n", ",").replace("db0:", "").split(","):
        key, _, value = word.replace("=", ":").partition(":")
        if key == name:
            return float(value)
    return 0.0


async def soak(server: Soaked, seconds: float, staying: int, coming: int) -> tuple[list[dict[str, float]], Clients]:
    """Let the clients work; return the notes."""
    clients = Clients(server.port, staying, coming)
    pause = min(PAUSE, seconds / NOTES)
    begun = time.monotonic()
    notes: list[dict[str, float]] = []
    while (passed := time.monotonic() - begun) < seconds:
        await asyncio.sleep(pause)
        note = await asyncio.to_thread(server.figures)
        if passed >= WARMING * seconds:
            notes.append(note)
        if len(notes) % 30 == 1:
            print(
                f"{passed / 60:5.1f} min  " + "  ".join(f"{key} {value:.0f}" for key, value in note.items()), flush=True
            )
    await clients.stop()
    return notes, clients


def compare(notes: list[dict[str, float]]) -> tuple[list[str], bool]:
    """Return a line for each figure, with its median in the first and last third, and whether one has grown."""
    third = len(notes) // 3
    lines, leak = [f"{'':18} {'first third':>12} {'last third':>12} {'least':>8} {'most':>8}"], False
    for name in notes[0]:
        values = [note[name] for note in notes]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        part, absolute = SLACK.get(name, (0.0, 0.0))
        grows = last > first * (1 + part) + absolute
        leak = leak or grows
        verdict = "GROWING" if grows else "flat"
        lines.append(f"{name:18} {first:12.1f} {last:12.1f} {min(values):8.1f} {max(values):8.1f}  {verdict}")
    return lines, leak


def rest(server: Soaked) -> dict[str, float]:
    """Wait until nothing is left of the clients; return what is."""
    ends = time.monotonic() + REST_SECONDS
    while True:
        left = {name: value for name, value in server.figures().items() if name in AT_REST and value}
        if not left or time.monotonic() > ends:
            return left
        time.sleep(0.5)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Use a server with two processes for half an hour; see what grows.",
    )
    made.add_argument("--minutes", type=float, default=30.0, help="(default: 30)")
    made.add_argument("--redis", action="store_true", help="the processes share a Redis; else the layer is in memory")
    made.add_argument("--processes", type=int, default=2, help="of the server (default: 2)")
    made.add_argument("--staying", type=int, default=30, help="sockets that stay open (default: 30)")
    made.add_argument("--coming", type=int, default=10, help="sockets at a time that come and go (default: 10)")
    options = made.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the running server would stay
    cores = Cores.choose()
    try:
        with ExitStack() as stack:
            redis = stack.enter_context(Redis(cores)) if options.redis else None
            server = stack.enter_context(Soaked(cores, options.processes, redis))
            notes, clients = asyncio.run(soak(server, options.minutes * 60, options.staying, options.coming))
            left = rest(server)
            lines, leak = compare(notes)
            layer = "Redis" if redis else "memory"
            print(
                f"\n{options.minutes:g} minutes, {options.processes} processes, layer in {layer}; {dict(clients.done)}"
            )
            print("\n".join(lines))
            print(f"left when all clients had gone: {left or 'nothing'}")
            print(f"failures of clients: {dict(clients.failed) or 'none'}")
            if leak or left or clients.failed:
                print(server.reasons())
    except MeasuringError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if leak or left or clients.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
