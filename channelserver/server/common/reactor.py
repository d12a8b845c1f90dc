"""Twisted's epoll reactor, with less around each event.

Its main loop runs in the main thread, which so becomes the reactor thread. Installed by the commands, before anything
imports ``twisted.internet.reactor``.

Around each event Twisted's own reactor keeps a logging context, from which only messages of its old log module profit;
that is a tenth of the time a small request takes in the reactor thread.
"""

from __future__ import annotations

import sys
import time

from twisted.internet.main import installReactor

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:  # not Linux
    EPollReactor = None  # type: ignore[misc,assignment]


def install() -> None:
    """Install the reactor, unless another one is there already, or this system has no epoll."""
    if EPollReactor is not None and "twisted.internet.reactor" not in sys.modules:
        installReactor(Reactor())


if EPollReactor is not None:

    class Reactor(EPollReactor):
        """See the module's text."""

        #: When it began to deal with the latest events, in seconds of ``time.monotonic``.
        turn_began = 0.0

        def doPoll(self, timeout: float | None) -> None:
            """Wait for events, and deal with them. See ``EPollReactor``."""
            selectables = self._selectables
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
            self.turn_began = time.monotonic()
            act = self._doReadOrWrite  # logs what the protocols raise, and closes their connections
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                if selectable is not None:  # else it was closed by an event before it
                    act(selectable, descriptor, event)

        doIteration = doPoll
