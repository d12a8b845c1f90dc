"""Run the real server, ``twistd channelserver`` or ``manage.py runserver``, on a project of the test's own.

A test names its project, a folder of ``tests/projects``, starts it, and talks to it over loopback with real clients::

    class EchoTests(ServerTestCase):
        files = project("echo")

        def test_echo(self):
            server = self.start()
            with server.connect("/chat/") as socket:
                socket.send("hello")
                self.assertEqual(socket.recv(TIMEOUT), "hello")

A server still running at the end of its test is stopped; its output is printed if the test fails.
"""

from __future__ import annotations

import atexit
import compileall
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import ClientConnection, connect

from tests import preloaded

ROOT = Path(__file__).resolve().parent.parent

# A shell that runs the tests in the background may have them ignore Ctrl-C; what they start must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The servers write no bytecode, for tests change files of their projects within a second; but ours need not be compiled
# at each start.
compileall.compile_dir(ROOT / "channelserver", quiet=2)

#: Seconds after which something that should have happened is taken to have failed. Long: the machine may be busy.
TIMEOUT = 60.0

# No client of a test goes through a proxy, whatever the environment says.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"

#: Where the projects are which the tests start servers on.
PROJECTS = ROOT / "tests" / "projects"


def project(*names: str) -> dict[str, str]:
    """Return the files of projects in ``tests/projects``, by their paths there; later ones replace earlier ones."""
    files = {}
    for name in names:
        folder = PROJECTS / name
        found = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.py"))}
        assert found, f"{folder} is empty"
        files.update(found)
    return files


#: What every project has; ``extra_settings`` of a test case come after these settings.
FILES = project("base")


def wait_until(condition: Callable[[], Any], what: str = "the condition", timeout: float = TIMEOUT) -> Any:
    """Wait for `condition` to return something true, and return that."""
    ends = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"{what} did not come true in {timeout:g} s")
        pause = min(1.3 * pause, 0.05)  # or on a busy machine, where all take longer, looking takes the time
        time.sleep(pause)


class Server:
    """A server process, and ways to talk to it."""

    def __init__(
        self, command: list[str], folder: Path, environment: dict[str, str], pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = preloaded.start(command, folder, environment, pass_fds)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.scheme = "http"
        self.port = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """All that the process has printed."""
        with self._changed:
            return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait for a line of output that matches a regular expression."""

        def find() -> re.Match[str] | None:
            return next((match for line in self.lines for match in [re.search(pattern, line)] if match), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or not self._reader.is_alive(), timeout)
            match = find()
        if match is None:
            state = "has ended" if self.process.poll() is not None else "is running"
            raise AssertionError(f"no line matches {pattern!r} (the server {state}):\n{self.output}")
        return match

    def wait_until_up(self) -> Server:
        """Wait until it listens; learn the port."""
        match = self.wait_for(r"(?:listening on|server at) (?:unix:\S+, )*(https?)://(?:\[[^]]+\]|[^:/]+):(\d+)/")
        self.scheme, self.port = match[1], int(match[2])
        return self

    def url(self, path: str = "/") -> str:
        """The URL of a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def get(self, path: str = "/", **kwargs: Any) -> requests.Response:
        """GET a path, on a new connection."""
        return requests.get(self.url(path), timeout=TIMEOUT, **kwargs)

    def post(self, path: str = "/", **kwargs: Any) -> requests.Response:
        """POST to a path, on a new connection."""
        return requests.post(self.url(path), timeout=TIMEOUT, **kwargs)

    @contextmanager
    def connect(self, path: str = "/", **kwargs: Any) -> Iterator[ClientConnection]:
        """Open a WebSocket; closed at the end of the ``with`` block."""
        kwargs.setdefault("open_timeout", TIMEOUT)
        kwargs.setdefault("close_timeout", TIMEOUT)
        kwargs.setdefault("compression", None)
        kwargs.setdefault("ping_interval", None)  # else the client gives a server up that is busy for some seconds
        if "ssl" in kwargs:
            # This client reads in a thread of its own while it writes, and Python does not serialise the two. With TLS
            # 1.3, whose session tickets come with the first read, one handshake in hundreds ends as if by the server.
            kwargs["ssl"].maximum_version = ssl.TLSVersion.TLSv1_2
        with connect(f"{'wss' if self.scheme == 'https' else 'ws'}://127.0.0.1:{self.port}{path}", **kwargs) as socket:
            yield socket

    def stop(self, number: int = signal.SIGTERM, timeout: float = TIMEOUT) -> int:
        """Send a signal, wait for the end, return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout)

    @property
    def has_ended(self) -> bool:
        """Whether its output has ended: no process has it open."""
        return not self._reader.is_alive()

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end, return the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end in {timeout:g} s:\n{self.output}") from None
        self._reader.join(TIMEOUT)
        return code

    def kill(self) -> None:
        """End the process, and what it has started, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join(TIMEOUT)


#: By port: the descriptor of a socket that tells other processes of tests that it has been given to this one. It lasts
#: as long as this process.
_given: dict[int, int] = {}


def free_port() -> int:
    """Return a TCP port that is free now, and that no process of tests is given again while this one runs: so it may be
    free for a while, between two servers.

    It lies below those which the system gives to whoever asks for any, so nobody is given it before it is used.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32768)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0channelserver-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _given[port] = mark.detach()
        return port


def environment(**variables: str) -> dict[str, str]:
    """Return the environment for a process of another project: that of the tests, without their own settings."""
    usual = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
    return {**usual, "PYTHONPATH": str(ROOT), **variables}


#: The folders of projects that have tables; and the databases with nothing but these, by the code of the project.
_with_tables: set[Path] = set()
_databases: dict[tuple[Any, ...], bytes] = {}
#: What differs in the settings of the same project: where Redis listens.
_REDIS = re.compile(rb"redis://127\.0\.0\.1:\d+")


class ServerTestCase(SynchronousTestCase):
    """Tests on a running server."""

    #: The project's files, by path: those of :func:`project`, and short ones as text, from which indentation is taken
    #: off. They replace or join :data:`FILES`.
    files: dict[str, str] = {}
    #: Appended to the settings.
    extra_settings = ""
    #: Whether the tables are made before the start.
    migrate = False
    #: Seconds for one test.
    timeout = 120

    def setUp(self) -> None:
        """Write the project."""
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.write({**FILES, **self.files})
        if self.extra_settings:
            with open(self.folder / "settings.py", "a") as stream:
                stream.write(textwrap.dedent(self.extra_settings))
        if self.migrate:
            self.make_tables()

    def write(self, files: dict[str, str]) -> None:
        """Write files of the project."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of server processes."""
        return environment(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")

    def twistd(self, *arguments: str, options: Sequence[str] = ("-n", "--pidfile=")) -> list[str]:
        """The command line of the server.

        :param options: twistd's own; as they are, the server stays in the foreground.
        """
        return [sys.executable, "-c", preloaded.TWISTD, *options, "channelserver", *arguments]

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``channelserver``."""
        return [sys.executable, "-c", preloaded.COMMAND, *arguments]

    def run_process(self, command: list[str], pass_fds: tuple[int, ...] = (), **environment: str) -> Server:
        """Start any command in the project's folder.

        :param environment: variables of its environment, beside the usual ones.
        """
        server = Server(command, self.folder, self.environment | environment, pass_fds)
        self.addCleanup(server.kill)
        self.addCleanup(lambda: print(f"\n--- output of the server ---\n{server.output}") if self._failed else None)
        return server

    def start(self, *arguments: str, port: int = 0) -> Server:
        """Start ``twistd channelserver`` on a free port, and wait until it listens. Its health check has figures for
        this machine.
        """
        usual = ("--port", str(port), "--log-format", "text", "--health-figures", "127.0.0.0/8")
        return self.run_process(self.twistd("--settings", "settings", *usual, *arguments)).wait_until_up()

    def runserver(self, *arguments: str) -> Server:
        """Start ``manage.py runserver`` on a free port, and wait until it listens."""
        command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}", *arguments]
        return self.run_process(command).wait_until_up()

    def manage(self, *arguments: str, stderr: bool = False) -> str:
        """Run a management command; return its output, and with `stderr` its errors and warnings."""
        command = [sys.executable, "manage.py", *arguments]
        done = preloaded.run(command, self.folder, self.environment, TIMEOUT * 2)
        if done.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if stderr else "")

    def make_tables(self, *arguments: str) -> None:
        """Make the tables of the project, once; copy them from an earlier project that had the same files.

        :param arguments: of ``migrate``.
        """
        if self.folder in _with_tables:
            return
        _with_tables.add(self.folder)
        database = self.folder / "db.sqlite3"
        code = sorted((str(path), path.read_bytes()) for path in self.folder.rglob("*.py"))
        own = f"{self.folder}/"
        key = arguments, *((name.removeprefix(own), _REDIS.sub(b"", data)) for name, data in code)
        if key in _databases and not database.exists():
            draft = database.with_suffix(".draft")
            draft.write_bytes(_databases[key])
            draft.rename(database)  # a server may run already
            return
        self.manage("migrate", *arguments, "--verbosity", "0")
        if database.exists():
            _databases[key] = database.read_bytes()

    _failed = False

    def run(self, result: Any) -> Any:
        """See ``unittest.TestCase``; notes whether the test failed, for the cleanups."""
        return super().run(_Watching(result, self))


class SharedServerTestCase(ServerTestCase):
    """Tests that share one running server: it is started for the first of them.

    Trial has nothing that runs after the last test of a class. So the server is stopped when another class needs one,
    or at the end of all tests.
    """

    #: The command line's options.
    arguments: tuple[str, ...] = ()
    server: Server
    _keeper: ServerTestCase | None = None

    def setUp(self) -> None:
        """Start the server, unless it is running."""
        kind = type(self)
        keeper = SharedServerTestCase._keeper
        if type(keeper) is not kind:
            _stop_shared()
            keeper = SharedServerTestCase._keeper = kind(self._testMethodName)
            ServerTestCase.setUp(keeper)
            kind.server = keeper.start(*kind.arguments)
        assert keeper is not None
        self.folder = keeper.folder
        begins = len(self.server.lines)
        self.addCleanup(lambda: print("\n".join(self.server.lines[begins:])) if self._failed else None)


def _stop_shared() -> None:
    keeper, SharedServerTestCase._keeper = SharedServerTestCase._keeper, None
    while keeper is not None and keeper._cleanups:
        function, arguments, keywords = keeper._cleanups.pop()
        function(*arguments, **keywords)


atexit.register(_stop_shared)


class _Watching:
    """Passes everything on to a test result, and tells the test case that it failed before its cleanups run."""

    def __init__(self, result: Any, case: ServerTestCase) -> None:
        self._result = result
        self._case = case

    def __getattr__(self, name: str) -> Any:
        if name in ("addError", "addFailure"):
            self._case._failed = True
        return getattr(self._result, name)
