"""The one door between worker threads and the reactor.

:meth:`Bridge.post` runs in any thread, the posted functions in the reactor thread. Owns the list of what waits to
cross.

Only the first post after a drain wakes the reactor. That no wake-up is lost follows from the lock: `_awake` is set by
the post that wakes, and cleared only by a drain that has seen, under the same lock, that nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

_log = Logger("channelserver.bridge")

#: Bytes which may be on their way to the reactor before a thread that sends more waits, and the seconds it waits at
#: most.
HEAVY, PATIENCE = 1024 * 1024, 2.0


class Bridge:
    """Hand work over to the reactor thread.

    :param reactor: an ``IReactorFromThreads`` and ``IReactorTime`` provider.
    """

    def __init__(self, reactor: Any) -> None:
        self._wake = reactor.callFromThread
        self._call_later = reactor.callLater
        self._reactor = reactor
        self._lock = threading.Lock()
        self._items: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._awake = False
        self._weight = 0  # bytes in _items, and in what is being drained
        self._lighter = threading.Condition(self._lock)
        self._thread: int | None = None  # the reactor's, as soon as it is known

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have ``function(*arguments)`` called in the reactor thread, soon, in the order of the posts."""
        self._put(0, function, arguments)

    def _put(self, size: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        with self._lock:
            self._weight += size
            self._items.append((function, arguments))
            if self._awake:
                return
            self._awake = True
        self._wake(self._drain)

    def post_data(self, size: int, function: Callable[..., object], *arguments: Any) -> None:
        """Like :meth:`post`, for `size` bytes of data. A worker thread that sends faster than the reactor takes waits.

        Without that, what a loop of sends has made would pile up here, for computing goes before the reactor's work.
        """
        self._put(size, function, arguments)
        if self._weight > HEAVY and threading.get_ident() != self._thread:
            with self._lighter:
                self._lighter.wait_for(lambda: self._weight <= HEAVY, PATIENCE)

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Have ``function(*arguments)`` called in the reactor thread after `seconds`."""
        self.post(self._call_later, seconds, self._guarded, function, *arguments)

    def turn_began(self) -> float:
        """Return when the reactor began to deal with its latest events, in seconds of ``time.monotonic``.

        If it does not tell: now.
        """
        began: float | None = getattr(self._reactor, "turn_began", None)
        return began if began is not None else time.monotonic()

    def from_signal_handler(self, function: Callable[..., object]) -> None:
        """Like :meth:`post`, but without the lock, which the interrupted code may hold."""
        self._wake(self._guarded, function)

    def _drain(self) -> None:
        # One batch at a turn: between two batches the reactor serves its sockets and timers.
        self._thread = threading.get_ident()
        with self._lock:
            items, self._items = self._items, []
            weight = self._weight
        for function, arguments in items:
            try:
                function(*arguments)
            except BaseException:  # the rest of the batch must not be lost, whatever it is
                _log.failure("error in {function!r}, handed over by a thread", function=function)
        with self._lock:
            if weight:
                self._weight -= weight
                self._lighter.notify_all()
            if not self._items:
                self._awake = False
                return
        self._wake(self._drain)

    @staticmethod
    def _guarded(function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            _log.failure("error in {function!r}", function=function)
