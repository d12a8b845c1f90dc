"""``python -m benchmarks --site mysite.settings --path /``: a project of the user's, on our server and on the peers.

Runs in the main thread of the benchmark program, in the folder and the Python environment of the project: measured are
the peers that are installed there, and this checkout. Owns the servers, which all run at once and take turns.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from urllib.parse import quote

from benchmarks.http_load import HttpLoad, check_wrk
from benchmarks.machine import Cores, raise_file_limit
from benchmarks.peers import DJANGO_PEERS, PRODUCT, THREADS, UNALTERED, CommandLine, Peer
from benchmarks.servers import ANSWER_TIMEOUT, ROOT, MeasuringError, Program

#: Connections of the load generator, kept alive, each with one request under way; seconds of the first turns.
CONNECTIONS, WARM_UP = 16, 1
#: What stays as it is in a path with a query.
WRITTEN = "%/?:@!$&'()*+,;=~"
#: Figures that differ by less are the same; on a machine that does nothing else, turns differ by so much.
SAME = 1.05
#: Turns of one server that differ by more tell of a machine that does other things, too.
NOISY = 1.2

#: Prints what is wrong with settings, and nothing if they can be used. Arguments: none.
_CHECK = """
try:
    import django
    from django.conf import settings
    django.setup()
    settings.ROOT_URLCONF
except BaseException as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("DEBUG" if settings.DEBUG else "")
"""


@dataclass
class Turns:
    """What was measured of a server: requests a second and p99 in milliseconds of each turn, and memory in MiB."""

    peer: Peer
    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    memory: float = 0.0

    @property
    def rate(self) -> float:
        return median(self.rates)


def _own(*options: str) -> CommandLine:
    def command(programs: Path, port: int, pings: bool) -> list[str]:
        own = ["--settings", os.environ["DJANGO_SETTINGS_MODULE"], "--port", str(port), "--threads", str(THREADS)]
        own += ["--access-log", "", "--local-socket", "", "--processes", "1", "--log-level", "warning"]
        own += ["--log-format", "text"]  # for those who read what went wrong
        return [sys.executable, "-m", "channelserver", "serve", *own, *options]

    return command


def _module(peer: Peer) -> Peer:
    """Have a peer run by ``python -m``: its program may not be beside the interpreter."""

    def command(programs: Path, port: int, pings: bool) -> list[str]:
        return [sys.executable, "-m", peer.family, *peer.command(programs, port, pings)[1:]]

    return replace(peer, command=command)


OURS = (
    Peer(PRODUCT, "channelserver", _own(), shortcuts=True),
    Peer(UNALTERED, "channelserver --no-shortcuts", _own("--no-shortcuts")),
)


def installed() -> tuple[list[Peer], list[str]]:
    """Return the peers of this environment, and the names of those that are missing."""
    there = [peer for peer in DJANGO_PEERS if importlib.util.find_spec(peer.family)]
    return there, [peer.name for peer in DJANGO_PEERS if peer not in there]


class SiteServer(Program):
    """A server with the user's project, started in the current folder."""

    def __init__(self, peer: Peer, cores: Cores) -> None:
        super().__init__(peer.title)
        self.peer = peer
        command = peer.command(Path(sys.executable).parent, self.port, True)
        self.start(command, cores, _environment(peer.shortcuts), folder=Path.cwd())

    def check(self, path: str) -> None:
        """Check that a page is answered by 200.

        :raises MeasuringError: it is not; the text says what to do.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise self.failure(f"did not answer a request for {path}: {error!r}") from None
        if answer.status != 200:
            cure = _cure(answer.status, answer.headers.get("Location", ""))
            raise self.failure(f"answered a request for {path} with {answer.status}: {cure}")


def _cure(status: int, location: str) -> str:
    if location:
        return f"it redirects to {location}. Name a page that needs no log-in and no HTTPS with --path"
    if status == 400:
        return "put 127.0.0.1 into ALLOWED_HOSTS for the measurement"
    if status >= 500:
        return "the page is broken here. Are the migrations applied? Its traceback is in the project's log"
    return "name a page that exists and is open to all with --path"


def _environment(shortcuts: bool) -> dict[str, str]:
    places = [os.getcwd(), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "BENCHMARK_SHORTCUTS": "yes" if shortcuts else "no",
        "BENCHMARK_CONSUMERS": "none",
    }


def check_settings(module: str) -> str:
    """Return what is to be said of settings before the measurement.

    :raises MeasuringError: they cannot be used.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHECK], env=_environment(False), capture_output=True, text=True, timeout=120
    )
    said = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()[-300:]]
    if said == ["DEBUG"]:
        return (
            "DEBUG is on, so Django does work that it does not do in production; figures mean more with DEBUG = False"
        )
    if said != [""] and done.stdout.strip():
        hint = "correct them first"
        if said[0].startswith("ModuleNotFoundError"):
            hint = f"run this in the folder of your manage.py: PYTHONPATH={ROOT} python -m benchmarks --site {module}"
        raise MeasuringError(f"the settings {module} cannot be used ({said[0]}); {hint}")
    return ""


def measure(module: str, path: str, rounds: int, seconds: int) -> int:
    """Measure a project, print a table and a sentence; return the exit status.

    :param module: of its settings.
    :param path: of the page that is asked for.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = module
    try:
        if not path.startswith("/"):
            raise MeasuringError(f"--path {path} is no path: it begins with a slash, such as /{path}")
        path = quote(path, safe=WRITTEN)
        if importlib.util.find_spec("twisted") is None:
            cure = f"{sys.executable} -m pip install {ROOT}"
            raise MeasuringError(f"channelserver is not installed in this Python; {cure} installs it")
        remark = check_settings(module)
        check_wrk()
        there, missing = installed()
        if missing:
            cure = f"{sys.executable} -m pip install {' '.join(missing)}"
            _say(f"not installed, so not measured: {', '.join(missing)}; {cure} adds them")
        if remark:
            _say(remark)
        peers = [*OURS, *(_module(each) for peer in there for each in (peer, _with_shortcuts(peer)))]
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the running servers would stay
        raise_file_limit()
        cores = Cores.choose()
        cores.pin_load()
        results = _turns(peers, path, rounds, seconds, cores)
    except MeasuringError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    print(table(results))
    print()
    print(verdict(results, path))
    return 0


def _with_shortcuts(peer: Peer) -> Peer:
    return replace(peer, name=f"{peer.name}-shortcuts", title=f"{peer.title} + shortcuts", shortcuts=True)


def _turns(peers: Sequence[Peer], path: str, rounds: int, seconds: int, cores: Cores) -> list[Turns]:
    with ExitStack() as stack:
        servers = list(_started(stack, peers, path, cores))
        results = {server.peer.name: Turns(server.peer) for server in servers}
        _say(f"{rounds} rounds of {len(servers)} servers, {seconds} s each")
        for number in range(-1, rounds):  # the first round warms up, and shows who fails under load
            for server in list(reversed(servers) if number % 2 else servers):
                server.wait_until_quiet()
                load = HttpLoad(server, path, CONNECTIONS, WARM_UP if number < 0 else seconds)
                with _may_fail(server.peer):
                    rate = load.finish()
                    if number >= 0:
                        results[server.peer.name].rates.append(rate)
                        results[server.peer.name].p99.append(load.p99)
                    continue
                servers.remove(server)
        for server in servers:
            results[server.peer.name].memory = server.proportional_memory() / 2**20
    return [results[server.peer.name] for server in servers]


def _started(stack: ExitStack, peers: Sequence[Peer], path: str, cores: Cores) -> Iterator[SiteServer]:
    """Start the servers, one after the other; a peer that does not serve the page is left out."""
    for peer in peers:
        with _may_fail(peer):
            server = stack.enter_context(SiteServer(peer, cores))
            server.check(path)
            yield server


@contextlib.contextmanager
def _may_fail(peer: Peer) -> Iterator[None]:
    """Say why a peer is not measured. If it is ours, there is nothing to tell."""
    try:
        yield
    except MeasuringError as error:
        if peer.family == PRODUCT:
            raise
        _say(f"not measured: {error}")


def _say(line: str) -> None:
    print(f"benchmarks: {line}", file=sys.stderr, flush=True)


def table(results: Sequence[Turns]) -> str:
    """Return the figures as a table: medians of the turns, and the lowest and highest rate."""
    width = max(len(turns.peer.title) for turns in results)
    lines = [f"{'':{width}}  requests/s   (least to most)   p99 ms   MiB"]
    for turns in results:
        between = f"({min(turns.rates):.0f} to {max(turns.rates):.0f})"
        figures = f"{turns.rate:10.0f}  {between:>16}  {median(turns.p99):7.1f}  {turns.memory:4.0f}"
        lines.append(f"{turns.peer.title:{width}}  {figures}")
    return "\n".join(lines)


def verdict(results: Sequence[Turns], path: str) -> str:
    """Return one honest sentence: whether channelserver is faster on this page, and whether by its shortcuts alone."""
    ours, plain = results[0], results[1]
    others = [turns for turns in results if turns.peer.family != PRODUCT and not turns.peer.shortcuts]
    if not others:
        return f"channelserver answers {ours.rate:.0f} requests a second for {path}; no other server was measured."
    best = max(others, key=lambda turns: turns.rate)
    name, figures = best.peer.family, f"{ours.rate:.0f} requests a second to {best.rate:.0f}"
    if ours.rate > best.rate * SAME and min(ours.rates) > max(best.rates):
        if plain.rate > best.rate * SAME:
            why = f"{plain.rate / best.rate:.2g} times without its Django shortcuts"
        else:
            why = f"all of it due to its Django shortcuts: with the same Django, {name} is at least as fast"
        return f"channelserver is {ours.rate / best.rate:.2g} times as fast as {name} for {path} ({figures}; {why})."
    if best.rate > ours.rate * SAME and min(best.rates) > max(ours.rates):
        times = f"{best.rate / ours.rate:.2g} times as fast as channelserver for {path}"
        return f"Stay with {name} if speed is what you need: it is {times} ({figures})."
    widest = max((ours, best), key=lambda turns: max(turns.rates) / min(turns.rates))
    if max(widest.rates) > min(widest.rates) * NOISY:
        return (
            f"For {path}, no difference between channelserver and {name} shows ({figures}), because turns of the same "
            f"server differ by up to {max(widest.rates) / min(widest.rates):.2g} times: measure on a quiet machine."
        )
    return f"For {path}, channelserver and {name} are equally fast ({figures}): speed is no reason to change."
