"""Servers for tests that start in a moment: forks of an interpreter that has imported Twisted, Django and the server.

Four fifths of the processor time of a start are imports, and the tests start some hundred servers. So one process, the
nursery, imports what each of them needs, and no more: no reactor, no settings. Each server is a fork of it, and from
there on what it would be otherwise: a process in a session of its own, with the environment, the working directory,
the files and the command line that the test gives it. But it ends with the nursery, and the nursery with the process of
the tests, even if that is killed.

:func:`start` stands for ``subprocess.Popen``; other programs than ``twistd`` and a project's own scripts it leaves to
that.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any

#: What every server imports. None of these may import a reactor or look at settings.
MODULES = (
    "twisted.scripts.twistd",
    "twisted.cred.strcred",
    "twisted.trial.itrial",
    "twisted.words.iwords",
    "channelserver.start.application",
    "channelserver.start.check",
    "channelserver.start.cli",
    "channelserver.start.twistd",
    "django.contrib.auth.hashers",
    "django.contrib.auth.password_validation",
    "django.contrib.auth.signals",
    "django.contrib.auth.tokens",
    "django.contrib.auth.validators",
    "django.contrib.contenttypes.management",
    "django.contrib.sessions.middleware",
    "django.contrib.sessions.serializers",
    "django.contrib.staticfiles.handlers",
    "django.core.cache.backends.locmem",
    "django.core.management.commands.migrate",
    "django.db.backends.sqlite3.base",
    "django.db.migrations.operations",
    "django.middleware.cache",
    "django.shortcuts",
    "django.utils.translation.reloader",
)

#: The code of a command line with which ``twistd`` is started.
TWISTD = "from twisted.scripts.twistd import run; run()"

#: The same for ``channelserver``.
COMMAND = "from channelserver.start.cli import main; main()"

#: The first file descriptor of those that a fork receives, before they get the numbers they should have.
HIGH = 500

#: ``man 2 prctl``.
PR_SET_PDEATHSIG = 1


class Forked:
    """A process, child of the nursery: the part of ``subprocess.Popen`` that tests use."""

    def __init__(
        self, args: list[str], pid: int, status: socket.socket, stdout: IO[str], stderr: IO[str] | None
    ) -> None:
        self.args = args
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code (``-N`` after signal N), or None if the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code.

        :raises subprocess.TimeoutExpired: it did not end in `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked server", timeout or 0)
            data = self._status.recv(100)
            self.returncode = int(data) if data else -signal.SIGKILL  # the nursery died, and all with it
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int] = (), stderr: bool = False
) -> Any:
    """Start a process in a session of its own, without input.

    :param stderr: its standard error is a pipe of its own, not the one of its output.
    :returns: a ``subprocess.Popen``, or what is as good to a test.
    """
    nursery = _Nursery.of(env) if _can_fork(command) else None
    if nursery is not None:
        return nursery.fork(command[1:], cwd, env, pass_fds, stderr)
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr else subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True, pass_fds=pass_fds,
    )  # fmt: skip


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a process to its end (``subprocess.run``); return its exit code, output and errors.

    :raises subprocess.TimeoutExpired: it did not end in `timeout` seconds; it is killed.
    """
    process = start(command, cwd, env, stderr=True)
    with process.stdout, process.stderr, ThreadPoolExecutor(1) as pool:
        errors = pool.submit(process.stderr.read)
        timer = Timer(timeout, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        try:
            output = process.stdout.read()
            code = process.wait(timeout)
        finally:
            timer.cancel()
        return subprocess.CompletedProcess(command, code, output, errors.result())


def _can_fork(command: Sequence[str]) -> bool:
    return command[0] == sys.executable and (
        command[1].endswith(".py") or list(command[1:3]) in (["-c", TWISTD], ["-c", COMMAND])
    )


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables which the interpreter reads when it begins."""
    return {key: value for key, value in environment.items() if key.startswith("PYTHON")}


class _Nursery:
    """The test's end of the nursery: its process, and the socket by which it is asked for forks."""

    _running: _Nursery | None = None
    _lock = Lock()

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.variables = _read_early(environment)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            # Not an import: the package of the tests sets Django up.
            code = (
                f"from runpy import run_path\nfork = run_path({__file__!r})['serve']({its.fileno()})\n"
                "if fork is not None: fork()"
            )
            command = [sys.executable, "-c", code]
            self._process = subprocess.Popen(
                command, cwd="/", env=environment, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()]
            )
        self._socket = ours

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> _Nursery | None:
        """Return the nursery; None if a process with such an environment cannot be its fork."""
        with cls._lock:
            if cls._running is None:
                cls._running = cls(environment)
        return cls._running if cls._running.variables == _read_early(environment) else None

    def fork(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int], stderr: bool
    ) -> Forked:
        """Ask for a fork; `arguments` are those of the interpreter."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends, outputs = zip(*(os.pipe() for _ in range(1 + stderr)), strict=True)
        order = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env), "numbers": [1, 2, *pass_fds]}
        try:
            files = [its.fileno(), outputs[0], outputs[-1], *pass_fds]
            socket.send_fds(self._socket, [json.dumps(order).encode()], files)
        finally:
            its.close()
            for output in outputs:
                os.close(output)
        pid = int(ours.recv(100))
        pipes = [open(end, errors="replace") for end in ends]
        return Forked([sys.executable, *arguments], pid, ours, pipes[0], pipes[1] if stderr else None)

    @classmethod
    def close(cls) -> None:
        """End the nursery, and the servers that still run."""
        nursery, cls._running = cls._running, None
        if nursery is not None:
            nursery._socket.close()
            nursery._process.wait()


# After the functions which importers of this module register: they stop servers in an orderly way.
atexit.register(_Nursery.close)


# -- the nursery's process ---------------------------------------------------------------------------------------------


def serve(number: int) -> Any:
    """Fork whenever asked. Returns None at the end; in a fork, the function that runs it.

    :param number: the descriptor of a socket (``SOCK_SEQPACKET``).
    """
    import ctypes
    import gc
    import importlib

    before = set(sys.modules)
    imported: set[str] = set()
    atexit.register(_spare, imported)  # the first to be registered runs last
    die_with_parent = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
    nursery = os.getpid()
    _keep_bytecode_of_libraries()
    for name in MODULES:
        importlib.import_module(name)
    imported.update(sys.modules.keys() - before)
    gc.freeze()  # else each fork collects garbage at its end, and copies all that memory for it: two thirds of its time
    from django.conf import settings

    assert "twisted.internet.reactor" not in sys.modules, "forks would share a reactor"
    assert not settings.configured, "forks would share settings"
    asked = socket.socket(fileno=number)
    children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor which tells that it has ended
    poll = select.poll()
    poll.register(asked, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == asked.fileno():
                order, files, _, _ = socket.recv_fds(asked, 1 << 20, 20)
                if not order:
                    asked.close()
                    return None
                pid = os.fork()
                if pid == 0:
                    die_with_parent()
                    if os.getppid() != nursery:  # it died before
                        os._exit(1)
                    for other in (asked, *(status for _, status in children.values())):
                        other.close()
                    return _Fork(json.loads(order), files)
                status = socket.socket(fileno=files[0])
                for file in files[1:]:
                    os.close(file)
                ends = os.pidfd_open(pid)
                children[ends] = (pid, status)
                poll.register(ends, select.POLLIN)
                status.send(b"%d" % pid)
            else:
                poll.unregister(descriptor)
                os.close(descriptor)
                pid, status = children.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with status:
                    try:
                        status.send(b"%d" % code)
                    except OSError:
                        pass  # the test has ended


def _spare(names: set[str]) -> None:
    """Keep modules, those that the nursery has imported, out of the end of the interpreter: taking them apart is a
    fifth of the processor time of a short-lived fork. What the fork has imported itself ends as usual.
    """
    import ctypes

    kept = [sys.modules.pop(name) for name in names if name in sys.modules]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # for ever


def _keep_bytecode_of_libraries() -> None:
    """Have the nursery and its forks write the bytecode of libraries, for else each of them would compile these again;
    but of nothing else, for tests change files of their projects within a second.
    """
    from importlib.machinery import SourceFileLoader

    write = SourceFileLoader.set_data

    def set_data(self: SourceFileLoader, path: str, data: bytes, **mode: Any) -> None:
        if path.startswith(sys.prefix + os.sep):
            write(self, path, data, **mode)

    SourceFileLoader.set_data = set_data  # type: ignore[method-assign, assignment]
    sys.dont_write_bytecode = False


class _Fork:
    """What a fork does: makes itself what was ordered, and runs that."""

    def __init__(self, order: dict[str, Any], files: list[int]) -> None:
        self._order = order
        self._files = files

    def __call__(self) -> None:
        order = self._order
        os.setsid()
        self._set_files(order["numbers"])
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        time.tzset()
        what, *rest = order["arguments"]
        namespace = vars(sys.modules["__main__"])
        if what == "-c":
            sys.argv = ["-c", *rest[1:]]
            code = compile(rest[0], "<string>", "exec")
        else:
            sys.argv = [what, *rest]
            sys.path[0] = order["cwd"]
            namespace["__file__"] = path = os.path.join(order["cwd"], what)
            with open(path, "rb") as stream:
                code = compile(stream.read(), path, "exec")
        namespace.pop("fork", None)
        exec(code, namespace)

    def _set_files(self, numbers: list[int]) -> None:
        import fcntl

        high = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in self._files[1:]]
        for file, number in zip(high, numbers, strict=True):
            os.dup2(file, number)
        kept = {0, *numbers}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                try:
                    os.close(int(name))
                except OSError:
                    pass  # that of the listing
