"""Calls from worker threads into the reactor thread, in batches.

:meth:`Bridge.post` runs in any thread, the posted functions in the reactor thread. Owns the queue between them.

Only the first post after a drain wakes the reactor. No wake-up is lost: a post sets `_awake` under the lock, and a
drain clears it only when it has seen, under the same lock, that the queue is empty. The event loop's thread puts the
wake-up off until the end of its turn, for the coroutines of that turn will post, too: woken at once, the reactor would
compete for the interpreter lock after each of them. Another thread's post does not wait for that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

_log = Logger("channelserver.bridge")

#: Bytes that may be queued before a thread that sends more waits, and the longest wait in seconds.
HEAVY, PATIENCE = 1024 * 1024, 2.0
#: A post of so many bytes counts for its own thread only: a page of megabytes holds up nobody's small answer.
LARGE = 64 * 1024
#: Seconds after which the rest of a batch waits for the reactor's next iteration.
TURN = 0.01
#: Seconds for which the event loop, which has more to do, may put off waking the reactor.
DEFERRED = 0.002


class Reactor(Protocol):
    """What the bridge uses of ``IReactorFromThreads`` and ``IReactorTime``."""

    def callFromThread(self, function: Callable[..., Any], /, *arguments: Any) -> None: ...
    def callLater(self, seconds: float, function: Callable[..., Any], /, *arguments: Any) -> object: ...


class Bridge:
    """Calls functions in the reactor thread."""

    def __init__(self, reactor: Reactor) -> None:
        self._wake = reactor.callFromThread
        self._call_later = reactor.callLater
        self._reactor = reactor
        self._lock = threading.Lock()
        self._items: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._awake = False
        self._deferred = 0.0  # when the loop's thread put off waking the reactor; 0: it did not
        self._batch: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # being drained
        self._batch_weight = 0
        self._weight = 0  # bytes in _items and in the batch being drained, but for large posts
        self._large: dict[int, int] = {}  # bytes in the large posts of each thread
        self._lighter = threading.Condition(self._lock)
        self._thread: int | None = None  # the reactor thread, known from the first drain on
        #: Returns the identifier of another thread that must not wait: the event loop's.
        self.loop_thread: Callable[[], int | None] = lambda: None
        #: Calls a function when the event loop has done all that was due.
        self.at_end_of_loop_turn: Callable[[Callable[[], object]], object] = lambda function: function()

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` in the reactor thread, soon, in the order of the posts."""
        self._put(0, function, arguments)

    def _put(self, size: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        with self._lock:
            self._weight += size
            self._items.append((function, arguments))
            if self._awake and not self._deferred:
                return
            in_loop = threading.get_ident() == self.loop_thread()
            if not self._awake:
                self._awake = True
                self._deferred = time.monotonic() if in_loop else 0.0
            elif in_loop and time.monotonic() - self._deferred < DEFERRED:
                return
            else:
                self._deferred, in_loop = 0.0, False
        if in_loop:
            self.at_end_of_loop_turn(self._wake_deferred)
        else:
            self._wake(self._drain)

    def _wake_deferred(self) -> None:
        """Wake the reactor now, unless another post has done so."""
        with self._lock:
            deferred, self._deferred = self._deferred, 0.0
        if deferred:
            self._wake(self._drain)

    def take_deferred(self) -> None:
        """Wake the reactor if the event loop has put that off and is blocked now. Reactor thread, from time to time."""
        with self._lock:
            late = self._deferred and time.monotonic() - self._deferred >= DEFERRED
        if late:
            self._wake_deferred()

    def post_data(self, size: int, function: Callable[..., object], *arguments: Any) -> None:
        """Like :meth:`post`, with back-pressure: the thread waits while more than :data:`HEAVY` bytes are queued.

        Without it, a loop of sends fills the queue faster than the reactor, which shares the interpreter, empties it.

        :param size: bytes of data in `arguments`.
        """
        thread = threading.get_ident()
        if size >= LARGE:
            with self._lock:
                self._large[thread] = self._large.get(thread, 0) + size
            self._put(0, self._call_large, (thread, size, function, arguments))
        else:
            self._put(size, function, arguments)
        if self._heavy(thread) and thread not in (self._thread, self.loop_thread()):
            with self._lighter:
                self._lighter.wait_for(lambda: not self._heavy(thread), PATIENCE)

    def _heavy(self, thread: int) -> bool:
        """Whether so much waits that this thread must wait before it sends more."""
        return self._weight + self._large.get(thread, 0) > HEAVY

    def _call_large(self, thread: int, size: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        finally:
            with self._lock:
                rest = self._large.pop(thread) - size
                if rest:
                    self._large[thread] = rest
                self._lighter.notify_all()

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` in the reactor thread after `seconds`."""
        self.post(self._call_later, seconds, self._guarded, function, *arguments)

    def turn_began(self) -> float:
        """Return when the reactor began its current iteration, in seconds of ``time.monotonic``.

        Only this package's reactor knows; with another one the result is the current time.
        """
        began: float | None = getattr(self._reactor, "turn_began", None)
        return began if began is not None else time.monotonic()

    def at_end_of_turn(self, function: Callable[[], object]) -> None:
        """Call a function: if this is the reactor thread, when the reactor has handled all events that have come.

        What wakes another thread is best done then. That thread gets all of its work at once, and does not compete for
        the interpreter lock meanwhile. Only this package's reactor can; with another one it is called at once.
        """
        ends: list[Callable[[], object]] | None = getattr(self._reactor, "at_end", None)
        if ends is not None and threading.get_ident() == self._thread:
            ends.append(function)
        else:
            function()

    def from_signal_handler(self, function: Callable[..., object]) -> None:
        """Like :meth:`post`, but without taking the lock, which the interrupted code may hold."""
        self._wake(self._guarded, function)

    def _drain(self) -> None:
        # One batch per iteration, or a part of it: in between, the reactor serves its sockets and timers.
        self._thread = threading.get_ident()
        batch = self._batch
        if not batch:
            with self._lock:
                batch.extend(self._items)
                self._items.clear()
                self._batch_weight = self._weight
        ends = time.monotonic() + TURN if len(batch) > 1 else 0.0
        while batch:
            function, arguments = batch.popleft()
            try:
                function(*arguments)
            except BaseException:  # whatever it is, the rest of the batch must run
                _log.failure("error in {function!r}, which a thread posted", function=function)
            if batch and time.monotonic() > ends:  # clients cause sends to large groups, and these add up
                break
        if batch:
            self._wake(self._drain)
            return
        with self._lock:
            if self._batch_weight:
                self._weight -= self._batch_weight
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
