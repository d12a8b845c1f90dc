"""A fixed pool of threads that take messages from the queues.

:meth:`WorkerPool.work_ready` runs in any thread, :meth:`WorkerPool._watch` in the reactor thread,
:meth:`WorkerPool._run` in each worker thread. One lock, held for moments, guards which threads are parked.

Threads that compute compete for the interpreter lock, threads that wait do not. So the pool keeps as few threads awake
as possible: one, as long as it finishes job after job. When work waits and no awake thread has finished or begun
anything for :data:`PATIENCE` seconds, the pool wakes more, last parked first. A thread that another one makes
superfluous parks again. A prototype with 8 threads answered 11 000 requests a second, and 6500 with a queue that wakes
all threads.

No wake-up is lost: work is put into the queues first and announced after; a thread looks into the queues once more,
under the pool's lock, before it parks.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence

from channelserver.layers.queues import Delivery, WorkQueues

logger = logging.getLogger("channelserver.workers")

#: Seconds on the same job after which a thread counts as waiting for something.
PATIENCE = 0.002
#: The interpreter's switch interval in seconds while several threads are awake; otherwise it stays as it is (5 ms).
CROWDED_SWITCH = 0.001


class _Thread:
    """One worker thread as the pool sees it."""

    __slots__ = ("busy_since", "delivery", "gate", "thread")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.busy_since = 0.0  # 0: awake, and between two jobs
        self.delivery: Delivery | None = None
        self.thread: threading.Thread | None = None


class WorkerPool:
    """Run a function for every message that becomes available.

    :param queues: where the messages are.
    :param channels: which channels to serve.
    :param consume: called with each message in a worker thread; it calls :meth:`WorkQueues.finish`.
    :param threads: how many threads.
    :param call_later: ``call_later(seconds, function)`` runs the function in the reactor thread.
    :param thread_done: called at the end of each thread, in it.
    :param turn_began: when the reactor last began to handle events, in seconds of ``time.monotonic``. While it does, it
        holds the interpreter lock: that a thread makes no progress then does not mean that it waits.
    :param thread_started: called at the beginning of each thread, in it.
    """

    def __init__(
        self,
        queues: WorkQueues,
        channels: Sequence[str],
        consume: Callable[[Delivery], object],
        threads: int,
        call_later: Callable[..., object],
        thread_done: Callable[[], object] = lambda: None,
        thread_started: Callable[[], object] = lambda: None,
        turn_began: Callable[[], float] = time.monotonic,
    ) -> None:
        #: The channels to serve, except those left to other processes, and by how many threads.
        self.channels = tuple(channels)
        self.threads = threads
        self._queues = queues
        self._channels = self.channels
        self._consume = consume
        self._call_later = call_later
        self._thread_done = thread_done
        self._turn_began = turn_began
        self._thread_started = thread_started
        self._lock = threading.Lock()
        self._awake: set[_Thread] = set()
        self._parked: list[_Thread] = []
        self._all = [_Thread() for _ in range(threads)]
        self._finished = 0
        self._watching = False
        self._seen = 0
        self._step = 1
        self._started = self._stopping = False
        self._crowded = False
        self._usual_switch = sys.getswitchinterval()
        self._idle_callbacks: list[Callable[[], object]] = []

    # -- start and stop ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads and begin to serve."""
        with self._lock:
            self._awake.update(self._all)
        self._started = True
        self._queues.listen(self._channels, self.work_ready)
        for number, state in enumerate(self._all, 1):
            state.thread = threading.Thread(target=self._run, args=(state,), name=f"worker-{number}", daemon=True)
            state.thread.start()

    def leave(self, channels: Collection[str]) -> None:
        """Leave these channels to other processes, and serve all others. Reactor thread, as :meth:`start` and
        :meth:`stop`.
        """
        wanted = tuple(channel for channel in self.channels if channel not in channels)
        if wanted == self._channels:
            return
        before, self._channels = self._channels, wanted
        if self._started and not self._stopping:
            # Work that arrives between the two calls is found by the check below.
            self._queues.unlisten(before, self.work_ready)
            self._queues.listen(wanted, self.work_ready)
            if self._queues.has_work(wanted):
                self.work_ready()

    def stop(self) -> None:
        """Take no more work. Threads end after the job they are on; :meth:`join` waits for them."""
        self._queues.unlisten(self._channels, self.work_ready)
        with self._lock:
            self._stopping = True
            parked, self._parked = self._parked, []
            self._awake.update(parked)
        for state in parked:
            state.gate.release()

    def join(self, timeout: float) -> list[str]:
        """Wait up to `timeout` seconds for the threads to end; return a line for each that has not."""
        ends = time.monotonic() + timeout
        for state in self._all:
            if state.thread is not None:
                state.thread.join(max(0.0, ends - time.monotonic()))
        return [self._describe(state) for state in self._all if state.thread and state.thread.is_alive()]

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Have `callback` called once, from any thread, when no work waits and all threads are parked."""
        with self._lock:
            idle = not self._awake and not self._queues.has_work(self._channels)
            if not idle:
                self._idle_callbacks.append(callback)
        if idle:
            callback()

    def busy(self) -> list[str]:
        """Return a line for each job under way: the thread, the channel, and for how long."""
        return [self._describe(state) for state in self._all if state.delivery is not None]

    @staticmethod
    def _describe(state: _Thread) -> str:
        delivery, since = state.delivery, state.busy_since
        name = state.thread.name if state.thread else "worker"
        if delivery is None:
            return f"{name}: between two messages"
        return f"{name}: on a message from {delivery.channel!r} for {time.monotonic() - since:.1f} s"

    # -- waking --------------------------------------------------------------------------------------------------------

    def work_ready(self) -> None:
        """Wake a thread if necessary: there is new work. Any thread."""
        with self._lock:
            if not self._parked:
                return
            if not self._flowing(None):
                self._wake(1)
                return
            if self._watching:
                return
            self._watching = True
            self._seen = self._finished
        self._call_later(PATIENCE, self._watch)

    def _watch(self) -> None:
        """Shortly after work was announced, check that it makes progress. Reactor thread."""
        with self._lock:
            # Under the lock: work that arrives after this check sees that nobody watches, and schedules a new check.
            if not self._parked or not self._queues.has_work(self._channels):
                self._watching = False
                self._step = 1
                return
            if self._finished == self._seen:
                self._wake(self._step)
                self._step *= 2  # many slow jobs at once: the last one must not wait for long
            else:
                self._step = 1
            self._seen = self._finished
        self._call_later(PATIENCE, self._watch)

    def _wake(self, number: int) -> None:
        for _ in range(min(number, len(self._parked))):
            state = self._parked.pop()
            state.busy_since = 0.0
            self._awake.add(state)
            state.gate.release()
        self._set_switch_interval()

    def _set_switch_interval(self) -> None:
        """Switch threads more often while several are awake, since the reactor also competes with them, a few times
        for each message. The caller holds the lock.
        """
        crowded = len(self._awake) > 1
        if crowded != self._crowded:
            self._crowded = crowded
            sys.setswitchinterval(CROWDED_SWITCH if crowded else self._usual_switch)

    def _flowing(self, besides: _Thread | None) -> bool:
        """Whether an awake thread is between two jobs, or has just begun one."""
        limit = self._turn_began() - PATIENCE
        for state in self._awake:
            if state is not besides and (state.busy_since == 0.0 or state.busy_since > limit):
                return True
        return False

    # -- working -------------------------------------------------------------------------------------------------------

    def _run(self, state: _Thread) -> None:
        queues, consume = self._queues, self._consume
        try:
            self._thread_started()
        except Exception:
            logger.exception("error at the beginning of a worker thread")
        while not self._stopping:
            try:
                delivery = queues.take(self._channels)
                if delivery is None:
                    self._park(state)
                    continue
                state.delivery = delivery
                state.busy_since = began = time.monotonic()
                consume(delivery)
            except BaseException:  # a consumer may raise SystemExit; the thread must survive
                logger.exception("error in a worker thread")
                if state.delivery is not None:
                    queues.finish(state.delivery)
            if state.delivery is not None:
                quick = time.monotonic() - began < PATIENCE
                state.delivery = delivery = None  # a thread that parks keeps no message
                state.busy_since = 0.0
                self._finished += 1
                if quick and len(self._awake) > 1:
                    self._park_if_surplus(state)
        try:
            self._thread_done()
        except Exception:
            logger.exception("error at the end of a worker thread")

    def _park(self, state: _Thread) -> None:
        """Wait for work, unless there is some."""
        with self._lock:
            if self._stopping or self._queues.has_work(self._channels):
                return
            self._awake.discard(state)
            self._set_switch_interval()
            self._parked.append(state)
            callbacks: list[Callable[[], object]] = []
            if not self._awake:
                callbacks, self._idle_callbacks = self._idle_callbacks, callbacks
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("error in a when_idle callback")
        state.gate.acquire()

    def _park_if_surplus(self, state: _Thread) -> None:
        """Park even if work waits, as long as another thread takes it."""
        with self._lock:
            if self._stopping or not self._flowing(state):
                return
            self._awake.discard(state)
            self._set_switch_interval()
            self._parked.append(state)
            watch = not self._watching
            if watch:
                self._watching = True
                self._seen = self._finished
        if watch:  # the other thread's next job may be a slow one
            self._call_later(PATIENCE, self._watch)
        state.gate.acquire()
