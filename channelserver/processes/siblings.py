"""The further processes of a server with ``--processes``: started, watched, stopped.

Runs in the reactor thread of the first process; owns the others.

A sibling is a new interpreter, not a fork. It gets, as open files: a description of what it is to be, a pipe for its
log, one end of a socket pair to this process, and the listening sockets. What it logs is logged here, with its number;
what it prints goes where this process prints.
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
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher

from channelserver.processes.connectors import adopt
from channelserver.processes.hub import Hub
from channelserver.processes.link import Link
from channelserver.processes.shares import Shares

_log = Logger("channelserver.processes.siblings")

#: Numbers of the open files in a sibling, out of the way of those that options name. The listening sockets come last.
CONFIG, LOG, LINK, SHARES, LISTENERS = 200, 201, 202, 203, 204

#: Seconds before a process that has died is started again: at first, and at most. One that has lived for longer than
#: STEADY seconds starts with a new account.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.5, 30.0, 10.0

#: Bytes in one event of a sibling's log; a longer one is cut off.
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

    :param reactor: the reactor.
    :param number: how many there are.
    :param config: describes a sibling; see :mod:`channelserver.start.sibling`.
    :param listeners: returns the descriptors of the listening sockets.
    :param hub: lets them take part in the layer; None: the layer is shared by other means.
    :param shares: how many connections each process has.
    """

    def __init__(
        self,
        reactor: Any,
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
        self._ended: Any = None

    def start(self) -> None:
        """Start all of them, as soon as the reactor runs."""
        self._all = [Sibling(self, number) for number in range(2, self._number + 2)]
        self.reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        for sibling in self._all:
            sibling.start()

    def signal(self, number: int) -> None:
        """Send a signal to all of them."""
        for sibling in self._all:
            sibling.signal(number)

    def stop(self) -> Any:
        """Have them drain and end; returns a Deferred that fires when none is left."""
        self._ended = defer.Deferred()
        for sibling in self._all:
            sibling.stop()
        self.one_ended()
        return self._ended

    def one_ended(self) -> None:
        """A process has ended."""
        if self._ended is not None and not self._ended.called and not any(one.running for one in self._all):
            self._ended.callback(None)

    @property
    def stopping(self) -> bool:
        """Whether no more are started."""
        return self._ended is not None


class Sibling:
    """One further process, and its successors.

    :param siblings: all of them.
    :param number: of the process; the first one has 1.
    """

    def __init__(self, siblings: Siblings, number: int) -> None:
        self._siblings = siblings
        self._reactor = siblings.reactor
        self._number = number
        self._pause = FIRST_PAUSE
        self._began = 0.0
        self._transport: Any = None
        self._call: Any = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._transport is not None

    def start(self) -> None:
        """Start the process."""
        self._call = None
        if self._siblings.stopping:
            return
        self._began = self._reactor.seconds()
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs, open(os.devnull, "rb") as nothing:
            try:
                self._spawn(theirs.fileno(), nothing.fileno())
            except OSError as problem:
                _log.error("process {number} cannot be started: {problem}", number=self._number, problem=problem)
                self._later()
                return
            hub = self._siblings.hub
            if hub is not None:
                link = adopt(self._reactor, os.dup(ours.fileno()), Link(_too_early))
                hub.join(link, self._transport.pid, sibling=True)

    def _spawn(self, link: int, nothing: int) -> None:
        listeners = self._siblings.listeners()
        files: dict[int, Any] = {0: nothing, 1: 1, 2: 2, CONFIG: "w", LOG: "r"}
        files[SHARES] = self._siblings.shares.descriptor
        if self._siblings.hub is not None:
            files[LINK] = link
        # An option that names a descriptor has it looked at.
        config = self._siblings.config
        files.update(dict.fromkeys(config["named"], listeners[0]))
        files.update(enumerate(listeners, LISTENERS))
        config = {**config, "number": self._number, "listeners": len(listeners), "link": LINK in files}
        self._transport = self._reactor.spawnProcess(
            _Watch(self), sys.executable, [sys.executable, "-c", _PROGRAM], os.environ.copy(), childFDs=files
        )
        self._transport.writeToChild(CONFIG, json.dumps(config).encode())
        self._transport.closeChildFD(CONFIG)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is running."""
        if self._transport is not None:
            try:
                self._transport.signalProcess(number)
            except error.ProcessExitedAlready:
                pass

    def stop(self) -> None:
        """Have it drain and end; start no other."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.signal(signal.SIGTERM)

    def ended(self, reason: Any) -> None:
        """The process has ended."""
        self._transport = None
        siblings = self._siblings
        siblings.shares.gone(self._number)
        if siblings.stopping:
            siblings.one_ended()
            return
        if self._reactor.seconds() - self._began > STEADY:
            self._pause = FIRST_PAUSE
        _log.error(
            "process {number} has ended: {how}; another one is started in {pause:g} s",
            number=self._number, how=_how(reason.value), pause=self._pause,
        )  # fmt: skip
        self._later()

    def _later(self) -> None:
        self._call = self._reactor.callLater(self._pause, self.start)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    def log(self, line: bytes) -> None:
        """Log an event of the process."""
        try:
            event = eventFromJSON(line.decode("utf-8"))
        except Exception:
            _log.warn("process {number}: {line}", number=self._number, line=line[:200])
            return
        level = getattr(event.get("log_level"), "name", "info")
        event["log_system"] = f"{event.get('log_namespace')}#{level},{self._number}"
        globalLogPublisher(event)


class _Watch(ProcessProtocol):
    """Twisted's view of a process.

    :param sibling: ours.
    """

    def __init__(self, sibling: Sibling) -> None:
        self._sibling = sibling
        self._rest = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """See ``IProcessProtocol``: a part of its log."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            # One that follows RFC 7464 begins with a record separator.
            self._sibling.log(line.removeprefix(b"\x1e"))
        if len(self._rest) > LONGEST_EVENT:
            self._rest = b""

    def processEnded(self, reason: Any) -> None:
        """See ``IProcessProtocol``."""
        self._sibling.ended(reason)


def _how(reason: Any) -> str:
    number = getattr(reason, "signal", None)
    if number:
        return f"by signal {signal.Signals(number).name}"
    return f"exit code {getattr(reason, 'exitCode', None)}"


def _too_early(name: str, arguments: list[Any]) -> Any:
    """Replaced when the process joins."""
    raise ValueError(name)
