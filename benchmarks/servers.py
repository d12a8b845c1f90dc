"""Server processes: start one on its core, wait until it serves, read its CPU time and memory, kill it.

Runs in the main thread of the benchmark program. A :class:`Program` owns a temporary folder and its process. The
process leads its own session, so that its children can be found and killed with it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks import certificates
from benchmarks.apps.files import make_files, make_static
from benchmarks.machine import Cores
from benchmarks.peers import Peer
from benchmarks.site import Site

ROOT = Path(__file__).resolve().parent.parent

#: Timeouts in seconds: until a server listens, and for a single request.
START_TIMEOUT, ANSWER_TIMEOUT = 60.0, 30.0
#: Seconds between two attempts to connect to a server that is starting.
RETRY = 0.005

#: A server is quiet when it uses less than this part of its core; timeout in seconds.
QUIET, QUIET_TIMEOUT = 0.2, 10.0

_PAGE = os.sysconf("SC_PAGE_SIZE")


class MeasuringError(Exception):
    """A measurement failed; the text gives the reason, and the cure if there is one."""


class Program:
    """A running program that listens on its own port.

    :param title: its name in messages.
    """

    #: When its process was started, by ``time.perf_counter()``.
    begun = 0.0

    def __init__(self, title: str) -> None:
        self.title = title
        self.port = free_port()
        #: Its temporary folder, removed with the program.
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-benchmark-"))
        self._log = self.folder / "log"

    def start(
        self, command: Sequence[str], cores: Cores, environment: Mapping[str, str] | None = None, spread: bool = False,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        """Start it; it does not serve yet.

        :param spread: it has two cores.
        :param folder: in which it runs; default: its own.
        """
        with self._log.open("wb") as log, cores.pinning_servers(spread):
            self.begun = time.perf_counter()
            self._process = subprocess.Popen(
                command, cwd=folder or self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self._wait_until_up()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _wait_until_up(self) -> None:
        ends = time.monotonic() + START_TIMEOUT
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                raise self.failure(f"ended with status {self._process.returncode} instead of serving")
            try:
                socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT).close()
            except OSError:
                time.sleep(RETRY)
            else:
                return
        raise self.failure(f"did not listen within {START_TIMEOUT:g} s")

    def logged(self, text: str) -> int:
        """Return how often it has logged a text."""
        return self._log.read_text(errors="replace").count(text)

    def failure(self, what: str) -> MeasuringError:
        """Return an error to raise: what this program did, and its last lines of output."""
        lines = self._log.read_text(errors="replace").splitlines()[-20:]
        return MeasuringError("\n".join([f"{self.title} {what}", *(f"    {line}" for line in lines)]))

    def _processes(self) -> list[int]:
        """The process that was started, and its children."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(entry)) == self._process.pid:
                        found.append(int(entry))
        return found

    def memory(self) -> int:
        """Return its resident memory in bytes: the RSS of all its processes."""
        total = 0
        for number in self._processes():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{number}/statm").read_text().split()[1]) * _PAGE
        return total

    def anonymous_memory(self) -> int:
        """Return the bytes of its memory that no file stands behind (RssAnon): what grows with each client.

        The kernel can take back the pages of files at any time, so RSS may shrink while a server grows.
        """
        total = 0
        for number in self._processes():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{number}/status").read_text()
                total += int(status.partition("\nRssAnon:")[2].split()[0]) * 1024
        return total

    def proportional_memory(self) -> int:
        """Return its proportional memory in bytes (PSS): each shared page is divided by the processes that share it."""
        total = 0
        for number in self._processes():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
                total += int(rollup.partition("\nPss:")[2].split()[0]) * 1024
        return total

    def threads(self) -> int:
        """Return the number of its threads, those of all its processes together."""
        total = 0
        for number in self._processes():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{number}/task"))
        return total

    def processor_time(self) -> float:
        """Return its CPU time in seconds, including threads that have ended."""
        total = 0.0
        for number in self._processes():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(_processor_clock(number))
        return total

    def _waits_for_core(self) -> bool:
        """Whether one of its threads runs or is ready to run."""
        for number in self._processes():
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{number}/task"):
                    stat = Path(f"/proc/{number}/task/{task}/stat").read_text()
                    if stat.rpartition(")")[2].split()[0] == "R":
                        return True
        return False

    def wait_until_quiet(self) -> None:
        """Wait until it has finished leftover work, so that the next server has the core for itself.

        Quiet means: hardly any CPU time used, and no thread that waits for the core.
        """
        ends = time.monotonic() + QUIET_TIMEOUT
        now, used = time.monotonic(), self.processor_time()
        while now < ends:
            time.sleep(0.02)
            before, used_before = now, used
            now, used = time.monotonic(), self.processor_time()
            if used - used_before < QUIET * (now - before) and not self._waits_for_core():
                return

    def end(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Commands:
    """Commands that a Redis has executed: those that clients have sent, and all, those inside of scripts included."""

    sent: int = 0
    executed: int = 0


_in_script = re.compile(rb"\+[\d.]+ \[\d+ lua\]").match


class Redis(Program):
    """An empty Redis that writes nothing to disk.

    :raises MeasuringError: ``redis-server`` is not installed.
    """

    def __init__(self, cores: Cores) -> None:
        program = find_redis()
        super().__init__("Redis")
        own = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self.start([program, *own, "--dir", str(self.folder)], cores)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @contextmanager
    def counting(self) -> Iterator[Commands]:
        """Count the commands that it executes meanwhile."""
        counted = Commands()
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT) as connection:
                connection.sendall(b"MONITOR\r\n")
                with connection.makefile("rb") as lines:
                    if (answer := lines.readline()) != b"+OK\r\n":
                        raise ValueError(answer)
                    yield counted
                    connection.sendall(b"QUIT\r\n")  # its answer comes last
                    for line in iter(lines.readline, b"+OK\r\n"):
                        if not line:
                            raise ValueError("it ended early")
                        counted.executed += 1
                        counted.sent += _in_script(line) is None
        except (OSError, ValueError) as error:
            raise self.failure(f"did not tell what it executes: {error}") from None


def find_redis() -> str:
    """Return the path of the program.

    :raises MeasuringError: it is not installed.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise MeasuringError("the program redis-server is missing; on Debian: apt-get install redis-server")
    return found


class Server(Program):
    """A running server.

    :param site: how to start it.
    :param redis: the Redis of its channel layer; without one, the layer is in memory.
    """

    #: Further servers of the same site.
    others: Sequence[Server] = ()

    def __init__(self, peer: Peer, cores: Cores, site: Site, redis: Redis | None = None) -> None:
        if peer.name == "nginx" and shutil.which("nginx") is None:
            raise MeasuringError("the program nginx is missing; on Debian: apt-get install nginx")
        super().__init__(peer.title)
        self.peer = peer
        self.cores = cores
        self.site = site
        self.redis = redis
        if site.urls == "async_urls":
            make_files(self.folder)  # its views read them
        if site.files:
            make_static(self.folder, self.port, certificates.files(0) if site.tls else None)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "PYTHON"))}
        environment |= {
            "DJANGO_SETTINGS_MODULE": "benchmarks.apps.settings",
            "PYTHONPATH": os.pathsep.join([*self._product(peer), str(ROOT)]),
            "BENCHMARK_FOLDER": str(self.folder),
            "BENCHMARK_URLS": site.urls,
            "BENCHMARK_MIDDLEWARE": site.middleware,
            "BENCHMARK_GROUPS": "yes" if site.groups else "no",
            "BENCHMARK_FRAMEWORK": peer.framework,
            "BENCHMARK_CONSUMERS": peer.consumers if site.consumers else "none",
            "BENCHMARK_SHORTCUTS": "yes" if peer.shortcuts else "no",
            "BENCHMARK_LAYER": peer.layer,
            "BENCHMARK_REDIS": redis.url if redis else "",
        }
        self.command = peer.command(Path(sys.executable).parent, self.port, site.pings)
        self.start(self.command, cores, environment, site.spread)

    def _product(self, peer: Peer) -> list[str]:
        """Return the folder of another checkout's packages, without its benchmarks."""
        if peer.checkout is None:
            return []
        folder = self.folder / "checkout"
        folder.mkdir()
        for name in ("channelserver", "twisted"):
            (folder / name).symlink_to(peer.checkout / name)
        return [str(folder)]

    def get(self, path: str, body: bytes | None = None) -> bytes:
        """Make a single request, a POST if there is a body; return the body of the 200 response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT)
        if self.site.tls:
            context = ssl._create_unverified_context()  # it is our own certificate
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT, context=context)
        with contextlib.closing(connection):
            try:
                connection.request("GET" if body is None else "POST", path, body)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise self.failure(f"did not answer a request for {path}: {error!r}") from None
        if answer.status != 200:
            raise self.failure(f"answered a request for {path} with {answer.status}")
        return content

    def expect(self, path: str, wanted: bytes, body: bytes | None = None) -> None:
        """Check the answer to a single request."""
        content = self.get(path, body)
        if content != wanted:
            raise self.failure(f"answered a request for {path} with {content[:50]!r}, not with {wanted[:50]!r}")

    def warm_up(self, path: str, body: bytes | None, seconds: float) -> None:
        """Make single requests for some time."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.get(path, body)


@contextmanager
def serving(peer: Peer, cores: Cores, site: Site) -> Iterator[Server]:
    """Run what a site needs during a ``with`` block: a Redis, a server, further servers.

    :raises MeasuringError: one of them does not start.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(cores)) if site.redis else None
        servers = [stack.enter_context(Server(peer, cores, site, redis)) for _ in range(site.servers)]
        servers[0].others = servers[1:]
        yield servers[0]


def _processor_clock(process: int) -> int:
    """Return the CPU-time clock of a process; Python lacks clock_getcpuclockid(3)."""
    return (~process << 3) | 2


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
