"""The further processes of a server with ``--processes``: starts, watches and stops them.

Runs in the reactor thread of the first process; owns the others.

A sibling is a new interpreter, not a fork. It inherits file descriptors: a pipe with its configuration, a pipe for its
log, one end of a socket pair to this process, and the listening sockets. This process logs what a sibling logs, with
the sibling's number; what a sibling prints goes where this process prints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import defer, error
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from channelserver.processes.connectors import adopt
from channelserver.processes.hub import Hub
from channelserver.processes.link import IReactor
from channelserver.processes.shares import Shares

_log = Logger("channelserver.processes.siblings")

#: File descriptors in a sibling; high, so that they do not collide with those that options name. The listening sockets
#: come last.
CONFIG, LOG, LINK, SHARES, LISTENERS = 200, 201, 202, 203, 204

#: Seconds before a process that has died is started again: at first, and at most. More than STEADY seconds of life
#: reset the back-off.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.5, 30.0, 10.0

#: Longest event in a sibling's log, in bytes; a longer one is dropped.
LONGEST_EVENT = 1024 * 1024

_PROGRAM = f"""
import json, sys
with open({CONFIG}) as stream:
    config = json.load(stream)
sys.path[:] = config["path"]
from channelserver.start.sibling import main
main(config)
"""


class Siblings:
    """All further processes.

    :param config: configures a sibling; its keys are described in :mod:`channelserver.start.sibling`.
    :param listeners: returns the descriptors of the listening sockets.
    :param hub: they join it; None: they share the layer by other means.
    """

    def __init__(
        self,
        reactor: IReactor,
        number: int,
        config: dict[str, Any],
        listeners: Callable[[], list[int]],
        hub: Hub | None,
        shares: Shares,
    ) -> None:
        self.reactor = reactor
        self.config = config
        self.listeners = listeners
        self.hub = hub
        self.shares = shares
        self._number = number
        self._all: list[Sibling] = []
        self._ended: defer.Deferred[None] | None = None

    def start(self) -> None:
        self._all = [Sibling(self, number) for number in range(2, self._number + 2)]
        self.reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        for sibling in self._all:
            sibling.start()

    def signal(self, number: int) -> None:
        for sibling in self._all:
            sibling.signal(number)

    def stop(self) -> defer.Deferred[None]:
        """Drain and end them; return a Deferred that fires when all have ended."""
        ended: defer.Deferred[None] = defer.Deferred()
        self._ended = ended
        for sibling in self._all:
            sibling.stop()
        self.check_ended()
        return ended

    def check_ended(self) -> None:
        """Fire the Deferred of :meth:`stop` if all processes have ended."""
        if self._ended is not None and not self._ended.called and not any(one.running for one in self._all):
            self._ended.callback(None)

    @property
    def stopping(self) -> bool:
        """Whether no process is to be started any more."""
        return self._ended is not None


class Sibling:
    """One further process, and those that replace it when it dies.

    :param number: of the process; the first process of the server has 1.
    """

    def __init__(self, siblings: Siblings, number: int) -> None:
        self._siblings = siblings
        self._reactor = siblings.reactor
        self._number = number
        self._pause = FIRST_PAUSE
        self._began = 0.0
        self._transport: IProcessTransport | None = None
        self._restart: IDelayedCall | None = None

    @property
    def running(self) -> bool:
        return self._transport is not None

    def start(self) -> None:
        self._restart = None
        if self._siblings.stopping:
            return
        self._began = self._reactor.seconds()
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs, open(os.devnull, "rb") as stdin:
            try:
                pid = self._spawn(theirs.fileno(), stdin.fileno())
            except OSError as problem:
                _log.error("process {number} cannot be started: {problem}", number=self._number, problem=problem)
                self._start_later()
                return
            hub = self._siblings.hub
            if hub is not None:
                hub.join(adopt(self._reactor, os.dup(ours.fileno())), pid, sibling=True)

    def _spawn(self, link: int, stdin: int) -> int:
        listeners = self._siblings.listeners()
        files: dict[int, int | str] = {0: stdin, 1: 1, 2: 2, CONFIG: "w", LOG: "r"}
        files[SHARES] = self._siblings.shares.descriptor
        if self._siblings.hub is not None:
            files[LINK] = link
        # The sibling checks each descriptor that an option names: it must be open there, too.
        config = self._siblings.config
        files.update(dict.fromkeys(config["named"], listeners[0]))
        files.update(enumerate(listeners, LISTENERS))
        config = {**config, "number": self._number, "listeners": len(listeners), "link": LINK in files}
        self._transport = transport = self._reactor.spawnProcess(
            _Watch(self), sys.executable, [sys.executable, "-c", _PROGRAM], os.environ.copy(), childFDs=files
        )
        transport.writeToChild(CONFIG, json.dumps(config).encode())
        transport.closeChildFD(CONFIG)
        return int(transport.pid)

    def signal(self, number: int) -> None:
        if self._transport is not None:
            try:
                self._transport.signalProcess(number)
            except error.ProcessExitedAlready:
                pass

    def stop(self) -> None:
        """Drain and end it; do not replace it."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        self.signal(signal.SIGTERM)

    def ended(self, reason: Failure) -> None:
        """Replace the process, which has ended."""
        self._transport = None
        siblings = self._siblings
        siblings.shares.gone(self._number)
        if siblings.stopping:
            siblings.check_ended()
            return
        if self._reactor.seconds() - self._began > STEADY:
            self._pause = FIRST_PAUSE
        _log.error(
            "process {number} has ended: {how}; a new one starts in {pause:g} s",
            number=self._number, how=_how(reason.value), pause=self._pause,
        )  # fmt: skip
        self._start_later()

    def _start_later(self) -> None:
        self._restart = self._reactor.callLater(self._pause, self.start)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    def log(self, line: bytes) -> None:
        """Log an event that the process has logged."""
        try:
            event = eventFromJSON(line.decode("utf-8"))
        except Exception:
            _log.warn("process {number}: {line}", number=self._number, line=line[:200])
            return
        level = getattr(event.get("log_level"), "name", "info")
        event["log_system"] = f"{event.get('log_namespace')}#{level},{self._number}"
        globalLogPublisher(event)


class _Watch(ProcessProtocol):
    """Receives the log of a process, and its end."""

    def __init__(self, sibling: Sibling) -> None:
        self._sibling = sibling
        self._rest = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            # An event may begin with a record separator (RFC 7464).
            self._sibling.log(line.removeprefix(b"\x1e"))
        if len(self._rest) > LONGEST_EVENT:
            self._rest = b""

    def processEnded(self, reason: Failure) -> None:
        self._sibling.ended(reason)


def _how(reason: Any) -> str:
    number = getattr(reason, "signal", None)
    if number:
        return f"by signal {signal.Signals(number).name}"
    return f"exit code {getattr(reason, 'exitCode', None)}"
