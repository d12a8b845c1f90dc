"""``twistd channelserver``: what twistd asks of a plugin.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from twisted.python.logfile import LogFile

from channelserver.server.common.options import Settings
from channelserver.server.common.reactor import install
from channelserver.server.service import ListenError
from channelserver.start import command, parser
from channelserver.start.application import START_ERRORS
from channelserver.start.log_stream import protect_standard_streams
from channelserver.start.logs import observer
from channelserver.start.parser import WRONG, die, wrong


class Options(parser.Options):
    """The command line behind ``channelserver``."""

    program = "twistd channelserver"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line, and mend what twistd makes of its own part by default."""
        install()  # twistd's --reactor comes before this, and wins
        protect_standard_streams()
        super().parseOptions(options)
        twistd = getattr(self, "parent", None)
        if twistd is not None:
            if "nodaemon" not in twistd:  # Twisted's other runner, which finds the same plugins
                wrong("twist cannot run it; write twistd -n channelserver, or channelserver serve", self.program)
            if (twistd["nodaemon"] and not _pid_file_wanted()) or self["check"]:
                twistd["pidfile"] = ""
            elif twistd["pidfile"]:
                remove_stale_pid_file(twistd["pidfile"])
            if twistd["logger"] is None and not twistd.get("syslog"):
                twistd["logger"] = f"{__name__}.log_observer"

    def with_hint(self, text: str) -> str:
        word = next((word for word in text.split() if word.startswith("-")), "")
        name, twistd = word.lstrip("-"), getattr(self, "parent", None)
        if twistd is not None and name and "not recognized" in text:
            if name in (twistd.shortOpt if len(name) == 1 else {each.rstrip("=") for each in twistd.longOpt}):
                return f"{word} is twistd's own option and comes before channelserver: twistd {word} channelserver"
        return super().with_hint(text)


def _pid_file_wanted() -> bool:
    before = sys.argv[: sys.argv.index("channelserver")] if "channelserver" in sys.argv else sys.argv
    return any(word.split("=")[0] == "--pidfile" for word in before)


def remove_stale_pid_file(path: str) -> None:
    """Remove the pid file of a server that has ended without removing it.

    Twistd only asks whether there is a process of that number: in a container that starts again, the new server itself
    has it. The file counts only if that process runs channelserver, and had begun when the file was written.

    :param path: of the pid file.
    """
    try:
        with open(path) as stream:
            text = stream.read()
        written = os.stat(path).st_mtime
    except (OSError, ValueError):
        return
    if text.strip() and not text.strip().isdigit():
        return  # it is no pid file, and not ours to remove
    number = int(text or 0)
    if number == os.getpid() or not _began_before(number, written):
        os.unlink(path)


def _began_before(number: int, moment: float) -> bool:
    """Whether a process runs channelserver, and began before a moment, in seconds of the clock."""
    try:
        with open(f"/proc/{number}/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")
        with open(f"/proc/{number}/stat") as stream:
            ticks = int(stream.read().rpartition(")")[2].split()[19])
        with open("/proc/stat") as stream:
            boot = next(int(line.split()[1]) for line in stream if line.startswith("btime "))
    except (OSError, StopIteration):
        return False
    # The time of the boot is known to the second.
    return any(b"channelserver" in word for word in words) and boot + ticks / os.sysconf("SC_CLK_TCK") < moment + 2


def makeService(options: Options) -> Any:
    """Return the service for twistd (``IServiceMaker``); an error ends the process with one sentence."""
    twistd = getattr(options, "parent", None) or {}
    daemon = not twistd.get("nodaemon", True)
    given = options.given()
    if given.get("check"):
        command.check(given)
    if given.get("reload"):
        die("--reload needs channelserver serve: twistd starts the server once", WRONG)
    try:
        service = command.make_service(given, daemon, twistd.get("reactor"))
    except START_ERRORS as error:
        die(str(error))
    terminal = 2
    if daemon:  # by the time it listens, it has no terminal; afterwards it must not keep one, or a pipe, open
        terminal = os.dup(2)
        install().callWhenRunning(os.close, terminal)
        service.on_bound = lambda lines: _say(terminal, f"process {os.getpid()}, {', '.join(lines)}")
    else:
        printed = sys.stdout, sys.stderr
        service.on_bound = lambda lines: _restore(*printed)
    _running.append((service.options, twistd))
    service.on_listen_error = lambda problem: _listen_error(problem, daemon, twistd.get("pidfile"), terminal)
    return service


#: The options of the server, and twistd's own, once they are known.
_running: list[tuple[Settings, Any]] = []


def log_observer() -> Any:
    """Return what writes the log, instead of twistd's own observer, in the format of the options."""
    values, twistd = _running[-1]
    path = twistd["logfile"]
    if twistd["nodaemon"] and path in (None, "", "-"):
        return observer(values, sys.stdout)
    if path == "-":
        die("a daemon has no standard output, so its log cannot go there; name a file with twistd --logfile")
    file = LogFile.fromFullPath(path or "twistd.log")
    signal.signal(signal.SIGUSR1, lambda number, frame: install().callFromThread(file.rotate))
    return observer(values, None, file)


def _restore(stdout: Any, stderr: Any) -> None:
    """What the project prints stays as printed: twistd has made lines of its log of it."""
    sys.stdout, sys.stderr = stdout, stderr


def _say(terminal: int, sentence: str) -> None:
    try:
        os.write(terminal, f"channelserver: {sentence}\n".encode())
    except OSError:
        pass  # whoever started the daemon does not read


def _listen_error(problem: ListenError, daemon: bool, pidfile: str | None, terminal: int) -> None:
    """End the process because a listener cannot be opened; print the sentence where the user sees it."""
    if daemon:
        # twistd's parent process cuts the text of an exception to 100 bytes, so this writes to the terminal itself.
        _say(terminal, str(problem))
        sys.excepthook = lambda *_: print(f"channelserver: {problem}", file=sys.stderr)  # which is the log
        raise problem
    if pidfile and os.path.exists(pidfile):
        os.unlink(pidfile)
    die(str(problem))
