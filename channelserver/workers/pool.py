"""A fixed pool of threads that take messages from the queues.

:meth:`WorkerPool.work_ready` runs in any thread, :meth:`WorkerPool._watch` in the reactor thread,
:meth:`WorkerPool._run` in each worker thread. One lock, held for moments, guards which threads are parked.

Threads that compute compete for the interpreter lock, threads that wait do not. So the pool keeps as few threads awake
as possible: one, as long as it finishes job after job. When work waits and no awake thread has finished or begun
anything for :data:`PATIENCE` seconds, the pool wakes more, last parked first. A thread that another one makes
superfluous parks again. A prototype with 8 threads answered 11 000 requests a second, and 6500 with a queue that wakes
all threads.

No wake-up is lost: work is put into the queues first and announced after; a thread looks into the queues once more,
under the pool's lock, before it parks. The reactor's announcements are seen to at the end of its turn, all at once.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from channelserver.layers.costs import is_slow
from channelserver.layers.queues import Delivery, WorkQueues
from channelserver.layers.turns import Client
from channelserver.workers.loop import adopt_thread
from channelserver.workers.relief import HOG_SECONDS, Relief
from channelserver.workers.streams import Streams
from channelserver.workers.threads import RETRY_SECONDS, start_thread, thread_log

logger = logging.getLogger("channelserver.workers")

#: Seconds on the same job after which a thread counts as waiting for something.
PATIENCE = 0.002
#: The interpreter's switch interval in seconds while several threads are awake; otherwise it stays as it is (5 ms).
CROWDED_SWITCH = 0.001
#: Threads at most that make nothing but calls.
MAX_HELPERS = 100


#: A synchronous part of a coroutine; called with the thread it runs in.
Call = Callable[["WorkerThread"], object]


#: Of so many threads one is kept for messages that are known to be quick, as long as there are such messages; of a
#: smaller pool, too, if it has so many threads: of two it would be half of the pool.
KEEP_ONE_OF, FEWEST_TO_KEEP = 6, 3
#: Seconds until a thread that is kept for them looks again whether it still is.
KEPT_SECONDS = 0.5
#: A message that keeps a thread for so many seconds is slow, whatever was known of it.
SLOW_SECONDS = 0.03
#: Of so many quick messages one is noted, as long as no threads compete.
NOTED = 16
#: A pool whose threads have all been on one job for so many seconds makes no progress.
STALLED_SECONDS = 1.0


class WorkerThread:
    """One worker thread as the pool sees it."""

    __slots__ = (
        "away", "busy_since", "calls", "client", "delivery", "gate", "guests", "helper", "outside", "thread", "waits",
    )  # fmt: skip

    def __init__(self, helper: bool = False) -> None:
        #: Calls for this thread, each with whether no other may make it, and how many coroutines will make further
        #: ones (workers/sticky.py).
        self.calls: deque[tuple[Call, bool]] = deque()
        self.guests = 0
        #: It makes calls only, and ends when there are none.
        self.helper = helper
        #: It waits for a coroutine; it has left the pool's count.
        self.waits = self.outside = False
        self.away = False  # it has left the count until the end of its message, see workers/relief.py
        self.gate = threading.Lock()
        self.gate.acquire()
        self.busy_since = 0.0  # 0: awake, and between two jobs
        self.delivery: Delivery | None = None
        self.client: Client = None  # of the coroutine whose call it makes
        self.thread: threading.Thread | None = None

    @property
    def serves(self) -> Client:
        """The client whose message it is on, or whose coroutine has a synchronous part there."""
        delivery = self.delivery
        return self.client if delivery is None else delivery.client


class _Current(threading.local):
    """The pool and the state of the calling thread, if it is a worker thread."""

    pool: WorkerPool | None = None
    state: WorkerThread | None = None


_current = _Current()


class WorkerPool:
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
        #: The channels to serve, except those left to other processes, and by how many threads.
        self.channels = tuple(channels)
        self.threads = threads
        self._queues = queues
        self._channels = self.channels
        self._consume = consume
        self._call_later = call_later
        self.thread_done = thread_done
        self._turn_began = turn_began
        self._at_end_of_turn = at_end_of_turn
        self._expect_replies = expect_replies
        self._flush = flush
        self._announced = False  # _look() is going to be called
        self._several = False  # for more than one message
        self._thread_started = thread_started
        self._lock = threading.Lock()
        self._awake: set[WorkerThread] = set()
        self._parked: list[WorkerThread] = []
        self._waiting: dict[WorkerThread, bool] = {}  # for a coroutine; they may leave the count, if True for messages
        self._helpers: set[WorkerThread] = set()
        self._away: set[WorkerThread] = set()
        self._all = [WorkerThread() for _ in range(threads)]
        self._calls: deque[Call] = deque()  # for whichever thread is free
        self.streams = Streams(self, max_streams)
        self._relief = Relief(queues)
        #: Whether _relieve is going to be called; where nothing can be done it seems to be so for ever.
        self._relieving = threads < 2 or not queues.serves_in_turn(channels)
        queues.threads.holders.append(self._held)
        #: What each message's context begins with.
        self.context = Context()
        #: Called, in any thread, when messages wait and no thread moves: the event loop may take some of them.
        self.when_stuck: Callable[[], object] | None = None
        #: The latest messages were for the event loop: it is asked first, and not a thread that would pass them on.
        self.loop_first = False
        #: It was asked, and has not looked yet.
        self.loop_asked = False
        #: So many threads at most are on slow messages, while there are quick ones.
        self._most_slow = threads - max(1, threads // KEEP_ONE_OF) if threads >= FEWEST_TO_KEEP else sys.maxsize
        self._keeping = False  # work_ready is going to be called for one that is kept
        self._costs = queues.threads.costs
        self._count = self._finished = 0
        self._start_again = 0.0  # when the system may have room for another thread
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

    # -- threads that stream, or wait for a coroutine, in the thread itself --------------------------------------------

    def leave_count(self, state: WorkerThread) -> None:
        """A thread of the pool streams from now on: another one takes its place if it is needed."""
        with self._lock:
            surplus = len(self._all) > self.threads
            self._remove(state)
            self._set_switch_interval()
            self._finished += 1
        if surplus:  # instead of its end
            self.streams.leave()
        if state.delivery is not None:
            self._queues.release(state.delivery)
        self.work_ready()

    def return_to_count(self, state: WorkerThread) -> None:
        """The thread is done with it. If its place is taken, a thread without guests ends."""
        with self._lock:
            state.outside = False
            self._all.append(state)
            self._awake.add(state)
            surplus = len(self._all) > self.threads
            if surplus and state.guests:
                for other in self._parked:
                    if not other.guests:
                        self._parked.remove(other)
                        self._unpark(other)
                        break
        if not surplus:
            self.streams.leave()

    def wait_for(self, state: WorkerThread, yields: bool, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that waits for a coroutine. If coroutines need threads, another one takes this one's place.

        :param yields: the same if messages wait.
        """
        if state.waits or state.outside:
            return function(*arguments)
        with self._lock:
            state.waits = True
            if not state.helper and not state.outside:
                self._waiting[state] = yields
            # What its guests want done is no longer for this thread: it may be one of them that it waits for.
            self._calls.extend(call for call, stays in state.calls if not stays)
            state.calls = deque(entry for entry in state.calls if entry[1])
        if yields and state.delivery is not None:
            self._queues.release(state.delivery)
        if self._has_work():
            self.work_ready()
        try:
            return function(*arguments)
        finally:
            with self._lock:
                state.waits = False
                self._waiting.pop(state, None)
                left = state.outside and not state.away
            if left:
                self.return_to_count(state)

    def _release_waiting(self) -> None:
        """Start a thread to replace one that waits for a coroutine. The lock is held."""
        state = next((state for state, yields in self._waiting.items() if yields or self._calls), None)
        if state is None:
            return
        if self.streams.enter():
            self._remove(state)
            self._replace()
        elif self._calls and len(self._helpers) < MAX_HELPERS and all(helper.waits for helper in self._helpers):
            # So many wait that no more may leave. What the coroutine that they wait for needs is done all the same, if
            # need be although such parts of others wait for it, too.
            helper = WorkerThread(helper=True)
            self._helpers.add(helper)
            if not self._start_thread(helper):
                self._helpers.discard(helper)

    def _remove(self, state: WorkerThread) -> None:
        """Take a thread out of the count. The lock is held."""
        state.outside = True
        self._all.remove(state)
        self._awake.discard(state)
        self._waiting.pop(state, None)

    def _replace(self) -> None:
        """Start a thread to replace one that has left. The lock is held."""
        state = WorkerThread()
        self._all.append(state)
        self._awake.add(state)
        if not self._start_thread(state):
            self._all.remove(state)
            self._awake.discard(state)

    def _retire(self, state: WorkerThread) -> bool:
        """Return whether a thread is no longer needed. It ends."""
        with self._lock:
            if state.helper:
                retires = not self._calls
                if retires:
                    self._helpers.discard(state)
                return retires
            if len(self._all) <= self.threads or state.guests or state.calls:
                return False
            self._remove(state)
        self.streams.leave()
        return True

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

    def call(self, function: Call, thread: WorkerThread | None = None, stays: bool = False) -> None:
        """Have a function called in a worker thread, before any message. Any thread.

        :param function: called with the thread; it does not raise.
        :param thread: where; None, and if it waits for a coroutine: in whichever is free first.
        :param stays: only there, however long that takes.
        """
        if thread is not None:
            with self._lock:
                if stays or not thread.waits:
                    thread.calls.append((function, stays))
                    if thread in self._parked:
                        self._parked.remove(thread)
                        self._unpark(thread)
                        self._set_switch_interval()
                    return
        self._calls.append(function)
        self.work_ready()

    def held_up(self) -> None:
        """The calling thread is going to wait for the reactor. If others have work, another thread does it."""
        state = _current.state
        if state is not None and state.busy_since:
            state.busy_since = min(state.busy_since, self._turn_began() - PATIENCE)  # it makes no progress
            if self._has_work():
                self.work_ready()

    # -- waking --------------------------------------------------------------------------------------------------------

    def work_ready(self) -> None:
        """Wake a thread if necessary, or the event loop: there is new work. Any thread."""
        if self._announced:
            self._several = True
            if self._announced:  # still: _look() will see it
                return
        self._announced = True
        self._at_end_of_turn(self._look)

    def _look(self) -> None:
        """See to the new work. Any thread; the reactor's does it when it has handled the events that have come."""
        self._announced = False  # first: what is announced now gets a look of its own
        several, self._several = self._several, False
        with self._lock:
            if self._parked and not self.loop_first:  # as a rule
                flowing = self._flowing(None)
                if flowing or several:
                    self._expect_replies()
                if not flowing:
                    self._wake(1)
                if self._watching or not (flowing or several):
                    return
            watch, relieve, ask_loop = not self._watching, False, False
            if not self._parked:
                if len(self._all) < self.threads and self._started and not self._stopping and self._has_work():
                    self._replace()
                    return
                watch &= self.when_stuck is not None or bool(self._waiting)
                relieve = not self._relieving
                self._relieving = True
            elif self.loop_first and self.loop_asked and not watch:
                return
            elif not self._flowing(None):
                if not self.loop_first or self._calls:
                    self._wake(1)
                    return
                ask_loop = True
            if watch:
                self._watching = True
                self._seen = self._finished
        if ask_loop and self.when_stuck is not None:
            self.when_stuck()
        if watch:  # what the loop does not take is for threads
            self._call_later(PATIENCE, self._watch)
        if relieve:
            self._call_later(HOG_SECONDS, self._relieve)

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

    def _watch(self) -> None:
        """Shortly after work was announced, check that it makes progress. Reactor thread."""
        with self._lock:
            # Under the lock: work that arrives after this check sees that nobody watches, and schedules a new check.
            all_awake = not self._parked
            relieve = all_awake and not self._relieving
            self._relieving |= relieve
            if (all_awake and self.when_stuck is None and not self._waiting) or not self._has_work():
                self._watching = False
                self._step = 1
                if relieve:
                    self._call_later(HOG_SECONDS, self._relieve)
                if self._holds_back():
                    self._call_later(KEPT_SECONDS, self._keep)
                return
            stuck = self._finished == self._seen
            if not stuck:
                self._step = 1
            elif not all_awake:
                self._wake(self._step)
                self._step *= 2  # many slow jobs at once: the last one must not wait for long
            elif self._waiting:
                self._release_waiting()
            self._seen = self._finished
        if stuck and all_awake and self.when_stuck is not None:
            self.when_stuck()
        self._call_later(PATIENCE, self._watch)
        if relieve:
            self._call_later(HOG_SECONDS, self._relieve)

    def _relieve(self) -> None:
        """While work waits, look whether one client keeps others from the threads. Reactor thread."""
        with self._lock:
            self._relieving = self._has_work() and not self._stopping
            if not self._relieving:
                return
            for state in self._relief.surplus(self._all, self._channels):
                if not self.streams.enter():
                    break
                state.away = True
                self._remove(state)
                self._away.add(state)
                self._queues.threads.away += 1
                self._replace()
        self._call_later(HOG_SECONDS, self._relieve)

    def _held(self, channel: str) -> tuple[list[Client], int]:
        """Return the clients of the messages that threads are on, for the queues."""
        if channel not in self._channels:
            return [], 0
        return [state.serves for state in (*self._all, *self._away)], self.threads

    def _come_back(self, state: WorkerThread) -> None:
        """A thread that was away has finished its message."""
        state.away = False
        with self._lock:
            self._away.discard(state)
            self._queues.threads.away -= 1
        self.return_to_count(state)
        self.work_ready()  # its client may have threads again

    def _wake(self, number: int) -> None:
        parked = self._parked
        for _ in range(min(number, len(parked))):
            place = -1
            if parked[-1].guests:  # rather one without: a message that takes long would keep them waiting
                place = next((place for place in range(len(parked) - 1, -1, -1) if not parked[place].guests), -1)
            self._unpark(parked.pop(place))
        self._set_switch_interval()

    def _unpark(self, state: WorkerThread) -> None:
        state.busy_since = 0.0
        self._awake.add(state)
        state.gate.release()

    def _set_switch_interval(self) -> None:
        """Switch threads more often while several are awake, since the reactor also competes with them, a few times
        for each message. The caller holds the lock.
        """
        crowded = len(self._awake) > 1
        if crowded != self._crowded:
            self._crowded = crowded
            sys.setswitchinterval(CROWDED_SWITCH if crowded else self._usual_switch)

    def _has_work(self) -> bool:
        return bool(self._calls) or self._queues.has_work(self._channels, self._quick_only())

    def _quick_only(self) -> bool:
        """Whether so many threads are on slow messages that the others are for quick ones."""
        if len(self._all) - len(self._parked) < self._most_slow:
            return False
        costs, now = self._costs, time.monotonic()
        if now > costs.quick_until:
            return False
        slow = 0
        for state in tuple(self._all):
            delivery = state.delivery
            if delivery is not None:
                slow += 0.0 < state.busy_since < now - SLOW_SECONDS or is_slow(
                    costs.level(delivery.channel, delivery.path)
                )
        return slow >= self._most_slow

    def _flowing(self, besides: WorkerThread | None) -> bool:
        """Whether an awake thread is between two jobs, or has just begun one."""
        limit = self._turn_began() - PATIENCE
        for state in self._awake:
            if state is not besides and (state.busy_since == 0.0 or state.busy_since > limit):
                return True
        return False

    # -- working -------------------------------------------------------------------------------------------------------

    def _run(self, state: WorkerThread) -> None:
        queues, consume, awake = self._queues, self._consume, self._awake
        try:
            adopt_thread(partial(self.wait_for, state, False))
            self._thread_started()
        except Exception:
            logger.exception("error at the beginning of a worker thread")
        _current.pool, _current.state = self, state
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

    def _holds_back(self) -> bool:
        """Whether work waits that the free threads are not for, and nobody is going to look again. The lock is held."""
        keep = self._quick_only() and not self._keeping and self._queues.has_work(self._channels)
        self._keeping |= keep
        return keep

    def _keep(self) -> None:
        """Look whether threads are still kept for quick messages, while slow ones wait. Reactor thread."""
        self._keeping = False
        if self._has_work():
            self.work_ready()
        elif self._parked and self._queues.has_work(self._channels):
            self._keeping = True
            self._call_later(KEPT_SECONDS, self._keep)

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
    pool, state = _current.pool, _current.state
    if pool is None or state is None:
        run()
    else:
        pool.streams.add(state, run, refuse)


def wait_for(function: Callable[..., Any]) -> Any:
    """Call a function that waits for a coroutine, without keeping a place in the pool while work waits."""
    pool, state = _current.pool, _current.state
    if pool is None or state is None:
        return function()
    return pool.wait_for(state, True, function)


def current_pool() -> WorkerPool | None:
    """Return the pool of the calling thread, if it is a worker thread."""
    return _current.pool
