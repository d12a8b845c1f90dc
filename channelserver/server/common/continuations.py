"""What connections have still to do: work that is too long for one turn of the reactor.

Runs in the reactor thread; owns the calls that wait.

A turn gives :data:`SLICE` seconds to these calls, after its events and what threads have posted. Addresses are served
in turn. So thousands of clients with much to do delay neither those with little nor a new one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers.turns import address_key

_log = Logger("channelserver.server.continuations")

#: Seconds of a turn of the reactor.
SLICE = 0.002
#: More bytes than this, which a client has sent at once, are such work if the turn is long already.
BULK = 8 * 1024


class Continuations:
    """Calls functions later, some in each turn of the reactor.

    :param bridge: leads to the reactor.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._calls: dict[str, deque[Callable[[], object]]] = {}  # by address, the one whose turn it is first
        self._number = 0
        self._posted = False

    def add(self, peer: str | None, function: Callable[[], object]) -> None:
        """Call `function` in a later turn, after what the same address has added before.

        :param peer: address of the client; None: a Unix socket.
        """
        self._calls.setdefault("" if peer is None else address_key(peer), deque()).append(function)
        self._number += 1
        if not self._posted:
            self._posted = True
            self._bridge.post(self._go_on)

    def behind(self) -> bool:
        """Whether this turn of the reactor is long already, or work waits."""
        return self._number > 0 or time.monotonic() - self._bridge.turn_began() > SLICE

    def run(self, peer: str | None, function: Callable[[], object]) -> None:
        """Call `function` now if this turn of the reactor is still short, else as :meth:`add` does."""
        if self.behind():
            self.add(peer, function)
        else:
            function()

    def _go_on(self) -> None:
        self._posted = False
        ends = time.monotonic() + SLICE
        # What is added meanwhile waits for the next turn, even if there is time.
        for _ in range(self._number):
            key = next(iter(self._calls))
            calls = self._calls.pop(key)
            function = calls.popleft()
            self._number -= 1
            if calls:
                self._calls[key] = calls
            try:
                function()
            except Exception:
                _log.failure("error in {function!r}, work that was put off", function=function)
            if time.monotonic() > ends:
                break
        if self._calls and not self._posted:
            self._posted = True
            self._bridge.post(self._go_on)
