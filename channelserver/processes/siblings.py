"""The further processes of a server with ``--processes``: starts, watches and stops them.

Runs in the reactor thread of the first process; owns the others.

A sibling is a new interpreter, not a fork. It inherits file descriptors: a pipe with its configuration, a pipe for its
log, one end of a socket pair to this process, the lifeline, and the listening sockets. This process logs what a sibling
logs, with the sibling's number; what a sibling prints goes where this process prints.

The *lifeline* is a socket pair whose other end nobody but this process has. It carries orders (:data:`LISTEN`,
:data:`LEAVE`); its end says that this process has ended. In the other direction,
each process notes in shared memory that its reactor runs (:mod:`channelserver.processes.shares`). One that does not is
killed and started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import defer, error, task
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from channelserver.processes import descriptors
from channelserver.processes.connectors import adopt
from channelserver.processes.gatherer import Gatherer
from channelserver.processes.link import IReactor, Link
from channelserver.processes.shares import BEAT, Shares

_log = Logger("channelserver.processes.siblings")

#: File descriptors in a sibling; high, so that they do not collide with those that options name. The listening sockets
#: come last.
CONFIG, LOG, LINK, SHARES, LIFELINE, LISTENERS = 200, 201, 202, 203, 204, 205

#: What a lifeline tells: accept connections, for all processes serve; stop, for another process takes your place.
LISTEN, LEAVE = b"l", b"r"

#: Seconds before a process that has died is started again: at first, and at most. More than STEADY seconds of life
#: reset the back-off.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.5, 30.0, 10.0

#: Seconds for which the start waits until all processes serve, and between two looks whether they do.
START_SECONDS, LOOK_SECONDS = 10.0, 0.05
#: Seconds that a process has at least until it serves.
LONGEST_START = 120.0

#: Seconds which a process gets beside its own time-out, to end.
GRACE = 3.0

#: Longest event in a sibling's log, in bytes; a longer one is dropped.
LONGEST_EVENT = 1024 * 1024

_PROGRAM = f"""
import json, sys
with open({CONFIG}) as stream:
    config = json.load(stream)
sys.path[:] = config["path"]
from channelserver.server.common.collector import look_seldom
look_seldom()
from channelserver.start.sibling import main
main(config)
"""


class Siblings:
    """All further processes.

    :param config: configures a sibling; its keys are described in :mod:`channelserver.start.sibling`.
    :param listeners: returns the descriptors of the listening sockets.
    :param hub: they join it: a hub, or, if they share the layer by other means, one that only asks for their figures.
    :param hang_timeout: seconds without a sign of life after which one is killed; 0: none ever is.
    :param drain_timeout: seconds that one has to finish what it is on.
    :param listen: called when all serve: this process may accept connections, too.
    :param retire: called when a further process takes this one's place.
    """

    def __init__(
        self,
        reactor: IReactor,
        number: int,
        config: dict[str, Any],
        listeners: Callable[[], list[int]],
        hub: Gatherer | None,
        shares: Shares,
        hang_timeout: float,
        drain_timeout: float,
        listen: Callable[[], object],
        retire: Callable[[], defer.Deferred[None]],
    ) -> None:
        self.reactor = reactor
        self.config = config
        self.listeners = listeners
        self.hub = hub
        self.shares = shares
        self.hang_timeout = hang_timeout
        #: Whether all processes may accept connections.
        self.listening = False
        #: How many processes have been replaced, by reason.
        self.replaced: dict[str, int] = {}
        self.drain_timeout = drain_timeout
        self._listen = listen
        self._retire = retire
        self._retired = False
        self._replacing: defer.Deferred[None] | None = None
        self._again = False
        self._number = number
        self._all: list[Sibling] = []
        self._ended: defer.Deferred[None] | None = None
        self._looked = 0.0

    def start(self) -> None:
        self._all = [Sibling(self, number) for number in range(2, self._number + 2)]
        self.reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        descriptors.sockets.watch(self.reactor, self)
        for sibling in self._all:
            sibling.start()
        self._looked = began = self.reactor.seconds()
        self._await_all(began)
        self._look()

    def _await_all(self, began: float) -> None:
        """Have all processes accept connections as soon as all serve: the first would get all clients of a server that
        has been started again, and keep them.
        """
        late = [sibling.number for sibling in self._all if not self.shares.last_beat(sibling.number)]
        waited = self.reactor.seconds() - began
        if self.stopping:
            return
        if late and waited < START_SECONDS:
            self.reactor.callLater(LOOK_SECONDS, self._await_all, began)
            return
        if late:
            _log.warn(
                "accepting connections without process {late}, which does not serve after {waited:.0f} s",
                late=", ".join(map(str, late)), waited=waited,
            )  # fmt: skip
        self.listening = True
        for sibling in self._all:
            sibling.order(LISTEN)
        self._listen()

    def _look(self) -> None:
        """Look who is hung. What this process has missed itself, stopped or suspended, counts as one beat."""
        now = self.reactor.seconds()
        elapsed, self._looked = min(now - self._looked, 2 * BEAT), now
        if not self.stopping:
            for sibling in self._all:
                sibling.look(elapsed)
            self._look_for_wishes()
            self.reactor.callLater(BEAT, self._look)

    # -- replacing processes that run ----------------------------------------------------------------------------------

    def replace_all(self) -> None:
        """Replace all processes by new ones, with new code, one after the other."""
        if self._replacing is not None:
            self._again = True
        elif self.listening and not self.stopping:
            _log.info("replacing all processes, one after the other")
            self._replace([1, *(sibling.number for sibling in self._all)], "restart")

    def _look_for_wishes(self) -> None:
        """Replace a process whose threads hang, or that has had its number of requests."""
        if self._replacing is not None or not self.listening:
            return
        for number in range(1, self.shares.processes + 1):
            wish = self.shares.wish_of(number)
            if wish and not (number == 1 and self._retired):
                _log.warn("process {number} is replaced: {wish}", number=number, wish=wish)
                self._replace([number], wish)
                return

    def _replace(self, numbers: list[int], reason: str) -> None:
        self._replacing = defer.ensureDeferred(self._replace_each(numbers, reason))
        self._replacing.addErrback(lambda failure: _log.failure("error while processes were replaced", failure))
        self._replacing.addBoth(self._replaced)

    def _replaced(self, _: object) -> None:
        self._replacing = None
        again, self._again = self._again, False
        if again:
            self.replace_all()

    async def _replace_each(self, numbers: list[int], reason: str) -> None:
        for number in numbers:
            if self.stopping:
                return
            if number == 1:
                served = await self._replace_first(reason)
            else:
                served = await self._all[number - 2].replace(reason)
            if not served and not self.stopping:
                _log.error("the new process for process {number} does not serve; no other is replaced", number=number)
                return
        if reason == "restart" and not self.stopping:
            _log.info("all processes have been replaced")

    async def _replace_first(self, reason: str) -> bool:
        """This process keeps the layer and the listeners. A further one takes over the rest, once."""
        if self._retired:
            return True
        further = Sibling(self, self._number + 2)
        self._all.append(further)
        further.start()
        if not await further.serves():
            self._all.remove(further)
            further.discard()
            self.check_ended()
            return False
        self._retired = True
        self.count(reason)
        await self._retire()
        return True

    def count(self, reason: str) -> None:
        """Count a process that is replaced."""
        self.replaced[reason] = self.replaced.get(reason, 0) + 1

    def sockets(self) -> list[socket.socket]:
        """Return the lifelines, which forked children must not keep."""
        return [sibling.lifeline for sibling in self._all if sibling.lifeline is not None]

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
        self.number = number
        #: This process's end of the lifeline.
        self.lifeline: socket.socket | None = None
        self._link: Link | None = None
        self._pause = FIRST_PAUSE
        self._began = 0.0
        self._transport: IProcessTransport | None = None
        self._beat = 0
        self._silence = 0.0  # seconds for which it has not moved
        self._restart: IDelayedCall | None = None
        self._reason = "ended"  # why it is going to be replaced
        self._planned = self._discarded = False

    @property
    def running(self) -> bool:
        return self._transport is not None

    def start(self) -> None:
        self._restart = None
        if self._siblings.stopping:
            return
        self._began = self._reactor.seconds()
        self._beat, self._silence = 0, 0.0
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        self.lifeline, theirs_too = socket.socketpair(socket.AF_UNIX)
        with ours, theirs, theirs_too, open(os.devnull, "rb") as stdin:
            try:
                pid = self._spawn(theirs.fileno(), theirs_too.fileno(), stdin.fileno())
            except OSError as problem:
                _log.error("process {number} cannot be started: {problem}", number=self.number, problem=problem)
                self._start_later()
                return
            if self._siblings.listening:
                self.order(LISTEN)
            hub = self._siblings.hub
            if hub is not None:
                self._link = adopt(self._reactor, os.dup(ours.fileno()))
                hub.join(self._link, pid, self.number)
                hub.when_joined(self._link)

    def _spawn(self, link: int, lifeline: int, stdin: int) -> int:
        listeners = self._siblings.listeners()
        files: dict[int, int | str] = {0: stdin, 1: 1, 2: 2, CONFIG: "w", LOG: "r", LIFELINE: lifeline}
        files[SHARES] = self._siblings.shares.descriptor
        if self._siblings.hub is not None:
            files[LINK] = link
        # The sibling checks each descriptor that an option names: it must be open there, too.
        config = self._siblings.config
        files.update(dict.fromkeys(config["named"], listeners[0]))
        files.update(enumerate(listeners, LISTENERS))
        config = {
            **config, "parent": os.getpid(), "number": self.number, "listeners": len(listeners), "link": LINK in files
        }  # fmt: skip
        with descriptors.sockets.kept():
            self._transport = transport = self._reactor.spawnProcess(
                _Watch(self), sys.executable, [sys.executable, "-c", _PROGRAM], os.environ.copy(), childFDs=files
            )
        transport.writeToChild(CONFIG, json.dumps(config).encode())
        transport.closeChildFD(CONFIG)
        return int(transport.pid)

    async def replace(self, reason: str) -> bool:
        """Drain and end the process, and start a new one; return whether that serves."""
        if self._restart is not None:  # it has ended by itself
            self._restart.cancel()
            self.start()
        elif self._transport is not None:
            ended, self._reason, self._planned = self._transport, reason, True
            self.order(LEAVE)
            deadline = self._reactor.seconds() + self._siblings.drain_timeout + GRACE
            while self._transport is ended and not self._siblings.stopping:
                if self._reactor.seconds() > deadline:
                    self.signal(signal.SIGKILL)
                await task.deferLater(self._reactor, LOOK_SECONDS)
        return await self.serves()

    async def serves(self) -> bool:
        """Wait until the process serves; return False if it has ended, or needs too long."""
        process, deadline = self._transport, self._reactor.seconds() + LONGEST_START
        while process is not None and self._transport is process and self._reactor.seconds() < deadline:
            if self._siblings.shares.last_beat(self.number):
                return True
            await task.deferLater(self._reactor, LOOK_SECONDS)
        return False

    def discard(self) -> None:
        """End it for good: it has not served."""
        self._discarded = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        self.signal(signal.SIGKILL)

    def order(self, order: bytes) -> None:
        """Tell the process what to do."""
        if self.lifeline is not None:
            with contextlib.suppress(OSError):  # it has ended
                self.lifeline.send(order)

    def look(self, elapsed: float) -> None:
        """Kill the process if it is hung.

        :param elapsed: seconds since the last call.
        """
        siblings = self._siblings
        beat = siblings.shares.last_beat(self.number)
        if self._transport is None or self._planned or beat != self._beat:
            self._beat, self._silence = beat, 0.0
            return
        self._silence += elapsed
        limit = siblings.hang_timeout if beat else max(siblings.hang_timeout, LONGEST_START)
        if siblings.hang_timeout and self._silence > limit:
            self._silence = 0.0
            _log.error("process {number} has not moved for {limit:g} s; killing it", number=self.number, limit=limit)
            self._reason = "hung"
            self.signal(signal.SIGKILL)

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
        shares = self._siblings.shares
        if self._transport is not None and shares.silent(self.number):  # it may not be able to drain
            self._reactor.callLater(GRACE, self._kill_if_still, self._transport, shares.last_beat(self.number))

    def _kill_if_still(self, process: IProcessTransport, beat: int) -> None:
        """End a process that was silent when it should stop, and has not moved since."""
        if self._transport is process and self._siblings.shares.last_beat(self.number) == beat:
            _log.error("process {number} does not move; killing it", number=self.number)
            self.signal(signal.SIGKILL)

    def ended(self, reason: Failure) -> None:
        """Replace the process, which has ended. Its children may still have its descriptors."""
        self._transport = None
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None
        link, self._link = self._link, None
        if link is not None:
            link.hang_up()
        siblings = self._siblings
        if unsent := siblings.shares.gone(self.number):
            _log.warn(
                "{unsent} message(s) lost: unsent; they waited for Redis in process {number}, which has ended",
                unsent=unsent, number=self.number,
            )  # fmt: skip
        if self._discarded:
            return
        why, self._reason = self._reason, "ended"
        if siblings.stopping:
            siblings.check_ended()
            return
        siblings.count(why)
        if self._planned:
            self._planned = False
            self.start()
            return
        if self._reactor.seconds() - self._began > STEADY:
            self._pause = FIRST_PAUSE
        _log.error(
            "process {number} has ended: {how}; a new one starts in {pause:g} s",
            number=self.number, how=_how(reason.value), pause=self._pause,
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
            _log.warn("process {number}: {line}", number=self.number, line=line[:200])
            return
        event["process"] = self.number
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

    def processExited(self, reason: Failure) -> None:
        # Not processEnded, which comes when the pipes are closed: children of the process may have them, too.
        self._sibling.ended(reason)


def _how(reason: Any) -> str:
    number = getattr(reason, "signal", None)
    if number:
        return f"by signal {signal.Signals(number).name}"
    return f"exit code {getattr(reason, 'exitCode', None)}"
