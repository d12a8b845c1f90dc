"""Twisted's epoll reactor, with less work around each event.

Its main loop runs in the main thread, which so becomes the reactor thread. Installed by the commands, before anything
imports ``twisted.internet.reactor``.

Around each event Twisted's own reactor keeps a logging context, which only messages of its old log module use. An
echo of 100 bytes takes 12 µs less of the CPU without it (26 → 14 µs).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python import log

import channelserver.server.common.late_tls  # noqa: F401 (before Twisted's reactor)

try:
    from select import EPOLLIN, EPOLLOUT

    from twisted.internet.epollreactor import EPollReactor
except ImportError:  # not Linux
    EPollReactor = None  # type: ignore[misc,assignment]

_log = Logger("channelserver.server.reactor")

#: Names of Twisted that are used here and may change.
_PRIVATE = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable", "_reads", "_writes")

#: Seconds of handling events after which what waits for the end of the turn is called in between.
LONG = 0.001
#: Seconds of handling events after which the turn ends: what threads have posted, and timers, come before the rest.
TURN = 0.02
#: Seconds at most between two looks at what threads have posted.
LOOK = 0.001


def install() -> Any:
    """Install the reactor, unless one is installed already or this system has no epoll; return the installed one."""
    if EPollReactor is not None and "twisted.internet.reactor" not in sys.modules:
        installReactor(Reactor())
    return import_module("twisted.internet.reactor")


if EPollReactor is not None:

    class Reactor(EPollReactor):
        """The reactor; if a private name of Twisted is missing, it behaves as ``EPollReactor``."""

        #: When it began to handle the latest events, in seconds of ``time.monotonic``; None: unknown.
        turn_began: float | None = None

        def __init__(self) -> None:
            super().__init__()
            missing = [name for name in _PRIVATE if not hasattr(self, name)]
            if missing:
                _log.warn("this version of Twisted has no EPollReactor.{name}: events cost more", name=missing[0])
                self.doIteration = super().doPoll  # type: ignore[method-assign]
            else:
                #: Called when the events have been handled.
                self.at_end: list[Callable[[], object]] = []
                #: Called after that as long as threads may have posted something, with whether no event has come.
                #: Returns whether there is more to do.
                self.look: Callable[[bool], bool] | None = None
                self._more = False
                self._rest: list[tuple[Any, int, int]] = []  # events for which the latest turn had no time

        def doPoll(self, timeout: float | None) -> None:
            if self.at_end:  # of timers and calls from threads
                self._call_at_end()
            if self.look is not None:
                timeout = 0.0 if self._more else LOOK if timeout is None or timeout > LOOK else timeout
            selectables = self._selectables
            if self._rest:
                events = self._take_rest()
            else:
                events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
            self.turn_began = began = time.monotonic()
            ends, last = began + LONG, began + TURN
            act = self._doReadOrWrite  # logs what the protocols raise, and closes their connections
            for place, (descriptor, event) in enumerate(events, 1):
                selectable = selectables.get(descriptor)
                if selectable is not None:  # else an event before it has closed it
                    if event == EPOLLIN:  # nearly always: what ``act`` does then
                        try:
                            why = selectable.doRead()
                        except BaseException as error:
                            log.err()
                            why = error
                        if why:
                            self._disconnectSelectable(selectable, why, True)
                    else:
                        act(selectable, descriptor, event)
                    if (now := time.monotonic()) > ends:
                        if self.at_end:
                            self._call_at_end()
                        if now > last:
                            self._rest = [(selectables.get(late), late, its) for late, its in events[place:]]
                            break
                        ends = now + LONG
            if self.at_end:
                self._call_at_end()
            if self.look is not None:
                self._more = self.look(not events)

        def _take_rest(self) -> list[tuple[int, int]]:
            """Return the events that were left, as far as they are of interest still."""
            rest, self._rest = self._rest, []
            events = []
            for selectable, descriptor, event in rest:
                if selectable is not None and self._selectables.get(descriptor) is selectable:  # else it was closed
                    event &= -1 if descriptor in self._reads else ~EPOLLIN
                    event &= -1 if descriptor in self._writes else ~EPOLLOUT
                    events.append((descriptor, event))
            return events

        def _call_at_end(self) -> None:
            functions, self.at_end = self.at_end, []
            for function in functions:
                try:
                    function()
                except Exception:
                    _log.failure("error in {function!r}, at the end of a turn", function=function)

        doIteration = doPoll
