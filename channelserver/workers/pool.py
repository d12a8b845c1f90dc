"""A fixed pool of threads that take messages from the queues.

:meth:`WorkerPool._run` runs in each worker thread, start and end in the reactor thread.

Threads that compute compete for the interpreter lock, threads that wait do not. So the pool keeps as few threads awake
as possible: one, as long as it finishes job after job. When work waits and no awake thread has finished or begun
anything for :data:`PATIENCE` seconds, the pool wakes more, last parked first. A thread that another one makes
superfluous parks again. A prototype with 8 threads answered 11 000 requests a second, and 6500 with a queue that wakes
all threads.

The parts: which threads are parked (:mod:`.parking`), which count (:mod:`.places`), when to wake one (:mod:`.waking`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from channelserver.layers.queues import WorkQueues
from channelserver.layers.waiting import Delivery
from channelserver.workers.loop import adopt_thread
from channelserver.workers.parking import PATIENCE
from channelserver.workers.threads import RETRY_SECONDS, start_thread, thread_log
from channelserver.workers.waking import KEPT_SECONDS, Waking
from channelserver.workers.worker_thread import WorkerThread, current

logger = logging.getLogger("channelserver.workers")

#: Of so many quick messages one is noted, as long as no threads compete: a prime number, so that of paths that are
#: asked for in turn each is noted.
NOTED = 17
#: A pool whose threads have all been on one job for so many seconds makes no progress.
STALLED_SECONDS = 1.0


class WorkerPool(Waking):
    """Run a function for every message that becomes available.

    :param consume: called with each message in a worker thread; it calls :meth:`WorkQueues.finish`.
    :param call_later: ``call_later(seconds, function)`` runs the function in the reactor thread.
    :param thread_done: called at the end of each thread, in it.
    :param turn_began: when the reactor last began to handle events, in seconds of ``time.monotonic``. While it does, it
        holds the interpreter lock: that a thread makes no progress then does not mean that it waits.
    :param thread_started: called at the beginning of each thread, in it.
    :param max_streams: how many responses may be streamed by threads at a time, beside those of the pool.
    :param at_end_of_turn: calls a function when the reactor, if it is the caller, has handled all that has come. So it
        wakes a thread once, and keeps the interpreter lock until then.
    :param expect_replies: threads have several messages to reply to. They need not send each reply at once.
    :param flush: sends what threads have replied so far. Called in a thread that has nothing more to do, or that has
        been at work for :data:`PATIENCE` seconds.
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
        max_streams: int = 50,
        at_end_of_turn: Callable[[Callable[[], object]], object] = lambda function: function(),
        expect_replies: Callable[[], object] = lambda: None,
        flush: Callable[[], object] = lambda: None,
    ) -> None:
        #: The channels to serve, except those left to other processes.
        self.channels = tuple(channels)
        super().__init__(
            queues, self.channels, threads, call_later, turn_began, max_streams, at_end_of_turn, expect_replies
        )
        self._consume = consume
        self.thread_done = thread_done
        self._thread_started = thread_started
        self._flush = flush
        #: What each message's context begins with.
        self.context = Context()
        self._count = 0
        self._start_again = 0.0  # when the system may have room for another thread
        self._idle_callbacks: list[Callable[[], object]] = []

    def start(self) -> None:
        """Start the threads and begin to serve."""
        with self._lock:
            self._awake.update(self._all)
        self._started = True
        self._queues.listen(self._channels, self.work_ready)
        for state in tuple(self._all):
            if not self._start_thread(state):
                with self._lock:
                    self._all.remove(state)
                    self._awake.discard(state)

    def _start_thread(self, state: WorkerThread) -> bool:
        """Start a thread; return False if the system has no room for one. Work that waits is looked at again then."""
        if time.monotonic() < self._start_again:
            return False
        self._count += 1
        thread = threading.Thread(target=self._run, args=(state,), name=f"worker-{self._count}", daemon=True)
        started = start_thread(thread)
        if started:
            state.thread = thread
        else:
            self._start_again = time.monotonic() + RETRY_SECONDS
            self._call_later(RETRY_SECONDS, self._look_again)
        return started

    def _look_again(self) -> None:
        """The system may have room for threads again. Reactor thread."""
        if not self._stopping and self._has_work():
            self.work_ready()
        thread_log.flush(due=time.monotonic() >= self._start_again)

    def retry(self, function: Callable[[], object]) -> None:
        """Call a function that needs a thread for which there was no room."""
        self._call_later(RETRY_SECONDS, function)

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
        for state in tuple(self._all):
            if state.thread is not None:
                state.thread.join(max(0.0, ends - time.monotonic()))
        return [self._describe(state) for state in self._all if state.thread and state.thread.is_alive()]

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Have `callback` called once, from any thread, when no work waits and all threads are parked."""
        with self._lock:
            idle = not self._awake and not self._has_work() and not len(self.streams)
            if not idle:
                self._idle_callbacks.append(callback)
        if idle:
            callback()

    def stalled(self, seconds: float = STALLED_SECONDS) -> bool:
        """Whether all threads have been on the same job for more than `seconds`."""
        limit = time.monotonic() - seconds
        states = tuple(self._all)
        return len(states) >= self.threads and all(0.0 < state.busy_since < limit for state in states)

    def busy(self) -> list[str]:
        """Return a line for each job under way: the thread, the channel, and for how long."""
        return [self._describe(state) for state in self._all if state.delivery is not None]

    @staticmethod
    def _describe(state: WorkerThread) -> str:
        delivery, since = state.delivery, state.busy_since
        name = state.thread.name if state.thread else "worker"
        if delivery is None:
            return f"{name}: between two messages"
        return f"{name}: on a message from {delivery.channel!r} for {time.monotonic() - since:.1f} s"

    @property
    def served(self) -> tuple[str, ...]:
        """The channels that are not left to other processes."""
        return self._channels

    @property
    def finished(self) -> int:
        """How many messages have left threads so far, or were taken by the event loop."""
        return self._finished

    def loop_took(self, number: int) -> None:
        """The event loop has taken so many messages."""
        self._finished += number

    def _run(self, state: WorkerThread) -> None:
        queues, consume, awake = self._queues, self._consume, self._awake
        try:
            adopt_thread(partial(self.wait_for, state, False))
            self._thread_started()
        except Exception:
            logger.exception("error at the beginning of a worker thread")
        current.pool, current.state = self, state
        called = False  # calls and messages in turn
        flush_at = 0.0
        while not self._stopping:
            try:
                if state.calls or self._calls:
                    called = not (called and not state.helper and queues.has_work(self._channels))
                    if called:
                        self._make_call(state)
                        if state.away:
                            self._come_back(state)
                        continue
                if (state.helper or len(self._all) > self.threads) and self._retire(state):
                    break
                delivery = queues.take(self._channels, state, self._crowded and self._quick_only())
                called = False
                if delivery is None:
                    self._park(state)
                    flush_at = time.monotonic() + PATIENCE
                    continue
                state.busy_since = began = time.monotonic()
                # A fresh context: what is set there (language, time zone, error reporting) ends with the message.
                self.context.copy().run(consume, delivery)
            except BaseException:  # a consumer may raise SystemExit; the thread must survive
                logger.exception("error in a worker thread")
                if state.delivery is not None:
                    queues.finish(state.delivery)
            if state.delivery is not None:
                now = time.monotonic()
                quick = now - began < PATIENCE
                if now > flush_at:  # the next message may take long
                    self._flush()
                    flush_at = now + PATIENCE
                if not quick or self._crowded or self._finished % NOTED == 0:
                    self._costs.record(state.delivery.channel, state.delivery.path, now - began, now)
                state.delivery = delivery = None  # a thread that parks keeps no message
                state.busy_since = 0.0
                self._finished += 1
                if state.away:
                    self._come_back(state)
                elif quick and len(awake) > 1:
                    self._park_if_surplus(state)
        try:
            self.thread_done()
        except Exception:
            logger.exception("error at the end of a worker thread")
        with self._lock:
            callbacks = self._take_idle_callbacks()
        _call_all(callbacks)

    def _take_idle_callbacks(self) -> list[Callable[[], object]]:
        """Return the callbacks to call, if nothing is to be done. The lock is held."""
        callbacks: list[Callable[[], object]] = []
        if not self._awake and not len(self.streams):
            callbacks, self._idle_callbacks = self._idle_callbacks, callbacks
        return callbacks

    def _make_call(self, state: WorkerThread) -> None:
        try:
            call = state.calls.popleft()[0] if state.calls else self._calls.popleft()
        except IndexError:  # another thread was quicker
            return
        state.busy_since = time.monotonic()
        call(state)
        state.busy_since = 0.0
        self._finished += 1

    def _park(self, state: WorkerThread) -> None:
        """Wait for work, unless there is some."""
        self._flush()
        with self._lock:
            if self._stopping or state.calls or self._has_work():
                return
            keep = self._holds_back()
            self._awake.discard(state)
            self._set_switch_interval()
            self._parked.append(state)
            callbacks = self._take_idle_callbacks()
        if keep:
            self._call_later(KEPT_SECONDS, self._keep)
        _call_all(callbacks)
        state.gate.acquire()

    def _park_if_surplus(self, state: WorkerThread) -> None:
        """Park even if work waits, as long as another thread takes it."""
        self._flush()
        with self._lock:
            if self._stopping or state.calls or not self._flowing(state):
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


def _call_all(callbacks: list[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            logger.exception("error in a when_idle callback")


def stream(run: Callable[[], object], refuse: Callable[[], object]) -> None:
    """Stream a response without keeping a place in the pool.

    :param run: sends the response, as fast as the client reads, and closes it.
    :param refuse: called instead if there are too many already.
    """
    pool, state = current_pool(), current.state
    if pool is None or state is None:
        run()
    else:
        pool.streams.add(state, run, refuse)


def wait_for(function: Callable[..., Any]) -> Any:
    """Call a function that waits for a coroutine, without keeping a place in the pool while work waits."""
    pool, state = current_pool(), current.state
    if pool is None or state is None:
        return function()
    return pool.wait_for(state, True, function)


def current_pool() -> WorkerPool | None:
    """Return the pool of the calling thread, if it is a worker thread."""
    pool: WorkerPool | None = current.pool
    return pool
