"""The servers, worker processes, sender and Redis of a run, and a proxy before Redis that can fail.

Runs in the main thread; each process has a thread that reads its output.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from channelserver.processes.shares import BYTES, Shares

#: Bytes of the access log at the start: nothing else is so long, so a limit on the length of files fills its disk only.
PADDING = 64 * 1024 * 1024


class Process:
    """A process with its output, whose lines have times."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        stream: IO[str] | None = self.process.stdout
        assert stream is not None
        with stream:
            for line in stream:
                self.lines.append((time.monotonic(), line.rstrip("\n")))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, pattern: str, since: float = 0.0, seconds: float = 60.0) -> float:
        """Wait for a line that came after `since`; return when it came."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for when, line in tuple(self.lines):
                if when >= since and re.search(pattern, line):
                    return when
            time.sleep(0.05)
        raise TimeoutError(f"{self.name}: no line {pattern!r} in {seconds:g} s: {self.lines[-5:]}")

    def stop(self, seconds: float = 40.0) -> None:
        if self.runs:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Host:
    """A server of several processes, which is started again when it was killed."""

    def __init__(self, name: str, folder: Path, port: int, processes: int, environment: dict[str, str]) -> None:
        self.name, self.folder, self.port, self.processes = name, folder, port, processes
        self.environment = environment
        self.access_log = folder / f"{name}.access"
        with open(self.access_log, "wb") as stream:
            stream.truncate(PADDING)
        self._shares: list[Shares] = []  # of each start: they stay when a process is killed
        self.ended: list[Process] = []
        self.process: Process
        self.start()

    def start(self) -> float:
        """Start it; return the seconds until all processes serve."""
        began = time.monotonic()
        if hasattr(self, "process"):
            self.ended.append(self.process)
        local = self.folder / f"{self.name}.sock"
        self.process = Process(
            self.name,
            [
                sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=",
                "channelserver", "--settings", "settings", "--port", str(self.port), "--processes",
                str(self.processes), "--threads", "2", "--access-log", str(self.access_log), "--local-socket",
                "" if self.environment.get("CHAOS_REDIS") else str(local), "--hang-timeout", "20",
                "--drain-timeout", "20",
            ],
            self.folder, self.environment,
        )  # fmt: skip
        for number in range(2, self.processes + 1):
            self.process.wait_for(f"process {number} serves, too")
        descriptors = Path(f"/proc/{self.process.pid}/fd")
        for entry in descriptors.iterdir():
            if "channelserver-shares" in os.readlink(entry):
                descriptor = os.open(entry, os.O_RDWR)
                self._shares.append(Shares(descriptor, os.fstat(descriptor).st_size // BYTES, 1))
                break
        return time.monotonic() - began

    def lost(self) -> dict[str, int]:
        """Return what all processes have counted, those that were killed included."""
        total: Counter[str] = Counter()
        for shares in self._shares:
            total.update(shares.lost())
        return dict(total)

    def siblings(self) -> list[int]:
        """Return the process IDs of the further processes."""
        try:
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(word) for word in text.split()]

    def health(self) -> dict[str, object]:
        """Return the figures; empty: no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/health", timeout=5) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError):
            return {}


class Proxy:
    """A TCP proxy that can cut connections, or swallow what comes."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.mode = "pass"
        self._pairs: dict[socket.socket, socket.socket] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, *self._pairs], [], [], 0.05)
            if self.mode == "cut":
                for end in tuple(self._pairs):
                    end.close()
                self._pairs.clear()
            for end in ready:
                if end is self._listener:
                    self._accept()
                elif end in self._pairs and self.mode == "pass":
                    self._pass_on(end)
            if self.mode == "swallow":
                time.sleep(0.05)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.mode == "cut":
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        self._pairs[client], self._pairs[server] = server, client

    def _pass_on(self, end: socket.socket) -> None:
        other = self._pairs[end]
        try:
            data = end.recv(65536)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for each in (end, other):
            self._pairs.pop(each, None)
            each.close()


def signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
