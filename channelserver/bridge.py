"""Calls from worker threads into the reactor thread, in batches.

:meth:`Bridge.post` runs in any thread, the posted functions in the reactor thread. Owns the queue between them.

Only the first post after a drain wakes the reactor. No wake-up is lost: a post sets `_woken` under the lock, and a
drain clears it only when it has seen, under the same lock, that the queue is empty.

Woken at once, the reactor would compete for the interpreter lock with a thread that is about to post more. So a wake-up
may be put off:

* The event loop's thread puts it off until the end of its turn, for the coroutines of that turn will post, too. Another
  thread's post does not wait for that.
* While worker threads have several messages to reply to, the reactor looks for replies by itself, at the end of each
  turn and after :data:`~channelserver.server.common.reactor.LOOK` seconds at the latest. A reply does not wake it then;
  a worker that has nothing more to do does (:meth:`Bridge.flush`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from twisted.logger import Logger

_log = Logger("channelserver.bridge")

#: Bytes that may be queued before a thread that sends more waits, and the longest wait in seconds.
HEAVY, PATIENCE = 1024 * 1024, 2.0
#: A post of so many bytes counts for its own thread only: a page of megabytes holds up nobody's small answer.
LARGE = 64 * 1024
#: Seconds after which the rest of a batch waits for the reactor's next iteration.
TURN = 0.005
#: Seconds for which the event loop, which has more to do, may put off waking the reactor.
DEFERRED = 0.002


class Reactor(Protocol):
    """What the bridge uses of ``IReactorFromThreads`` and ``IReactorTime``."""

    def callFromThread(self, function: Callable[..., Any], /, *arguments: Any) -> None: ...
    def callLater(self, seconds: float, function: Callable[..., Any], /, *arguments: Any) -> object: ...


class TurningReactor(Reactor, Protocol):
    """What the bridge uses of this package's reactor, beside that."""

    turn_began: float | None
    at_end: list[Callable[[], object]]
    look: Callable[[bool], bool] | None


class Loop(Protocol):
    """What the bridge uses of the event loop."""

    #: The identifier of its thread; None: it has not been needed yet.
    thread_id: int | None

    def at_end_of_turn(self, function: Callable[[], object]) -> None: ...


class Bridge:
    """Calls functions in the reactor thread."""

    def __init__(self, reactor: Reactor) -> None:
        self._wake = reactor.callFromThread
        self._call_later = reactor.callLater
        self._turning = cast(TurningReactor, reactor) if hasattr(reactor, "at_end") else None
        self._lock = threading.Lock()
        self._items: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._woken = False  # the reactor will call _drain()
        self._looking = False  # it will call _look()
        self._deferred = 0.0  # when the loop's thread put off waking the reactor; 0: it did not
        self._batch: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # being drained
        self._batch_weight = 0
        self._weight = 0  # bytes in _items and in the batch being drained, but for large posts
        self._large: dict[int, int] = {}  # bytes in the large posts of each thread
        self._gates: dict[int, threading.Lock] = {}  # of the threads that wait until less is queued
        self._thread: int | None = None  # the reactor thread, known from the first drain on
        #: Called in the reactor thread before what a large post asks for.
        self.before_large: Callable[[], object] = lambda: None
        #: Called in a thread that is going to wait until less is queued.
        self.before_waiting: Callable[[], object] = lambda: None
        #: The event loop, whose thread must not wait either.
        self.loop: Loop | None = None

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` in the reactor thread, soon, in the order of the posts."""
        self._put(0, function, arguments)

    def _put(self, size: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        with self._lock:
            self._weight += size
            self._items.append((function, arguments))
            if self._woken:
                return
            in_loop = self._in_loop()
            if in_loop and not self._deferred:
                self._deferred = time.monotonic()
            elif in_loop and time.monotonic() - self._deferred < DEFERRED:
                return
            else:
                self._woken, self._deferred, in_loop = True, 0.0, False
        if in_loop and self.loop is not None:
            self.loop.at_end_of_turn(self.flush)
        else:
            self._wake(self._drain)

    def _in_loop(self) -> bool:
        """Whether this is the event loop's thread."""
        loop = self.loop
        return loop is not None and loop.thread_id is not None and threading.get_ident() == loop.thread_id

    def flush(self) -> None:
        """Wake the reactor if a post or a reply has not done so. Any thread."""
        if not self._items:
            return
        with self._lock:
            if self._woken or not self._items:
                return
            self._woken, self._deferred = True, 0.0
        self._wake(self._drain)

    def take_deferred(self) -> None:
        """Wake the reactor if the event loop has put that off and is blocked now. Reactor thread, from time to time."""
        if self._deferred and time.monotonic() - self._deferred >= DEFERRED:
            self.flush()

    def post_data(self, size: int, function: Callable[..., object], *arguments: Any) -> None:
        """Like :meth:`post`, with back-pressure: the thread waits while more than :data:`HEAVY` bytes are queued.

        Without it, a loop of sends fills the queue faster than the reactor, which shares the interpreter, empties it.

        :param size: bytes of data in `arguments`.
        """
        if size >= LARGE:
            thread = threading.get_ident()
            with self._lock:
                self._large[thread] = self._large.get(thread, 0) + size
            self._put(0, self._call_large, (thread, size, function, arguments))
        else:
            self._put(size, function, arguments)
        if self._large or self._weight > HEAVY:
            self._wait_until_lighter()

    def reply(self, size: int, function: Callable[..., object], *arguments: Any) -> None:
        """Like :meth:`post_data`, from a thread that does not wait for what follows: it does not wake the reactor while
        that looks by itself.
        """
        loop = self.loop
        if not self._looking or size >= LARGE or (loop is not None and loop.thread_id is not None and self._in_loop()):
            self.post_data(size, function, *arguments)
            return
        with self._lock:
            self._weight += size
            self._items.append((function, arguments))
            looks = self._looking
        if not looks:  # it has just ceased to look
            self.flush()
        if self._large or self._weight > HEAVY:
            self._wait_until_lighter()

    def _wait_until_lighter(self) -> None:
        thread = threading.get_ident()
        if not self._heavy(thread) or thread == self._thread or self._in_loop():
            return
        self.flush()
        self.before_waiting()
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if not self._heavy(thread):
                return
            self._gates[thread] = gate
        gate.acquire(timeout=PATIENCE)
        with self._lock:
            self._gates.pop(thread, None)

    def _open_gates(self, threads: Iterable[int]) -> None:
        """Let those of `threads` go on for which no longer too much waits. The lock is held."""
        for thread in threads:
            if thread in self._gates and not self._heavy(thread):
                self._gates.pop(thread).release()

    @property
    def weight(self) -> int:
        """Bytes that are queued."""
        with self._lock:
            return self._weight + sum(self._large.values())

    def _heavy(self, thread: int) -> bool:
        """Whether so much waits that this thread must wait before it sends more."""
        return self._weight + self._large.get(thread, 0) > HEAVY

    def _call_large(self, thread: int, size: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            self.before_large()
            function(*arguments)
        finally:
            with self._lock:
                rest = self._large.pop(thread) - size
                if rest:
                    self._large[thread] = rest
                self._open_gates((thread,))

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` in the reactor thread after `seconds`."""
        if threading.get_ident() == self._thread:
            self._call_later(seconds, self._guarded, function, *arguments)
        else:
            self.post(self._call_later, seconds, self._guarded, function, *arguments)

    def turn_began(self) -> float:
        """Return when the reactor began its current iteration, in seconds of ``time.monotonic``.

        Only this package's reactor knows; with another one the result is the current time.
        """
        began = None if self._turning is None else self._turning.turn_began
        return began if began is not None else time.monotonic()

    def at_end_of_turn(self, function: Callable[[], object]) -> None:
        """Call a function that wakes another thread: if this is the reactor thread, when the reactor has handled all
        events that have come.

        The other thread gets all of its work at once then, and does not compete for the interpreter lock meanwhile.
        Only this package's reactor can; with another one the function is called at once.
        """
        if self._turning is not None and threading.get_ident() == self._thread:
            self._turning.at_end.append(function)
        else:
            function()

    def expect_replies(self) -> None:
        """Threads are about to send several replies: the reactor looks for them by itself, until none has come for
        a moment. Only this package's reactor can, and only when this is its thread.
        """
        turning = self._turning
        if turning is not None and not self._looking and threading.get_ident() == self._thread:
            with self._lock:
                self._looking = True
            turning.look = self._look

    def from_signal_handler(self, function: Callable[..., object]) -> None:
        """Like :meth:`post`, but without taking the lock, which the interrupted code may hold."""
        self._wake(self._guarded, function)

    def _drain(self) -> None:
        self._thread = threading.get_ident()
        if self._call_batch():
            self._wake(self._drain)

    def _look(self, idle: bool) -> bool:
        """Take what threads have posted without waking the reactor; return whether there is more.

        :param idle: nothing has happened since the last call, :data:`LOOK` seconds ago.
        """
        if self._items or self._batch:
            return self._call_batch()
        if idle:
            with self._lock:
                self._looking = bool(self._items)
            if self._turning is not None and not self._looking:
                self._turning.look = None
        return False

    def _call_batch(self) -> bool:
        """Call what was posted, or a part of it; return whether there is more.

        There is one batch per iteration: in between, the reactor serves its sockets and timers.
        """
        batch = self._batch
        if not batch:
            with self._lock:
                batch.extend(self._items)
                self._items.clear()
                self._deferred = 0.0
                self._batch_weight = self._weight
        ends = time.monotonic() + TURN if len(batch) > 1 else 0.0
        while batch:
            function, arguments = batch.popleft()
            try:
                function(*arguments)
            except BaseException:  # whatever it is, the rest of the batch must run
                _log.failure("error in {function!r}, which a thread posted", function=function)
            if batch and time.monotonic() > ends:  # clients cause sends to large groups, and these add up
                return True
        with self._lock:
            if self._batch_weight:
                self._weight -= self._batch_weight
                self._open_gates(tuple(self._gates))
            if not self._items:
                self._woken = False
                return False
        return True

    @staticmethod
    def _guarded(function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            _log.failure("error in {function!r}", function=function)
