"""The pool of worker threads, with real threads.

Where a test depends on which thread does what, time is no matter: the pool's patience is set to for ever or to nothing,
and its timer is called by the test.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from channelserver.layers.costs import UNKNOWN
from channelserver.layers.losses import DropCounter
from channelserver.layers.queues import WorkQueues
from channelserver.layers.throttled_log import ThrottledLog
from channelserver.layers.waiting import Delivery
from channelserver.workers import parking, threads, waking
from channelserver.workers import pool as pool_module
from channelserver.workers.pool import NOTED, WorkerPool
from channelserver.workers.waking import FEWEST_TO_KEEP, KEEP_ONE_OF
from tests.fakes import PATIENCE, StrictTestCase

FOR_EVER = 10_000.0


class Timer:
    """The reactor's timer, in a thread of its own."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def call_later(self, seconds: float, function: Callable[..., object]) -> None:
        """Call a function in the timer's thread, about so many seconds later."""
        self._calls.put((time.monotonic() + seconds, function))

    def stop(self) -> None:
        """End the thread."""
        self._calls.put((0.0, None))
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            when, function = self._calls.get()
            if function is None:
                return
            if (left := when - time.monotonic()) > 0:
                threading.Event().wait(left)
            function()


class PoolTestCase(StrictTestCase):
    """A pool over queues with one ordered channel."""

    def setUp(self) -> None:
        super().setUp()
        self.queues = WorkQueues(
            lambda name: 1_000_000, 1000, time.monotonic, DropCounter(time.monotonic), ["ordered"], 1_000_000
        )
        #: What the pool has asked the timer for, if the test plays the timer.
        self.timer_calls: list[Callable[[], object]] = []
        self.pool: Any = None

    def make(
        self, consume: Callable[[Delivery], object], threads: int, timer: Any = None, start: bool = True, **more: Any
    ) -> WorkerPool:
        """Make a pool, start it, and see to its end."""

        def call_later(seconds: float, function: Callable[[], object]) -> None:
            self.timer_calls.append(function)

        self.pool = WorkerPool(
            self.queues, ["a", "b", "ordered"], consume, threads, timer.call_later if timer else call_later, **more
        )
        if timer is not None:
            self.addCleanup(timer.stop)
        if start:
            self.addCleanup(self.end)
            self.pool.start()
        return self.pool

    def end(self) -> None:
        """Stop the pool; no thread may be left."""
        self.pool.stop()
        self.assertEqual(self.pool.join(PATIENCE), [])

    def set_patience(self, seconds: float) -> None:
        """Set the time after which a thread counts as waiting for something."""
        for module in (parking, waking, pool_module):
            self.patch(module, "PATIENCE", seconds)

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so."""
        ends = time.monotonic() + PATIENCE
        tick = threading.Event()
        while not condition():
            self.assertLess(time.monotonic(), ends, "in vain")
            tick.wait(0.001)

    def until_parked(self, number: int) -> None:
        """Wait until so many threads are parked."""
        self.until(lambda: len(self.pool._parked) == number)

    def run_timer(self) -> None:
        """Call what the pool has asked the timer for until now."""
        calls, self.timer_calls[:] = self.timer_calls[:], []
        for call in calls:
            call()

    def put(self, number: int, channel: str = "a", key: str | None = None) -> None:
        """Put a message into the queues."""
        self.queues.put(channel, {"n": number, "reply_channel": key})


class Jobs:
    """Jobs that tell when they begin and end when they are told."""

    def __init__(self, queues: WorkQueues) -> None:
        self._queues = queues
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.threads: dict[int, str] = {}
        self.gates: dict[int, threading.Event] = {}

    def slow(self, *numbers: int) -> None:
        """Let these jobs wait for :meth:`release`."""
        for number in numbers:
            self.gates[number] = threading.Event()

    def release(self, *numbers: int) -> None:
        """Let these jobs end; without numbers: all."""
        for number in numbers or tuple(self.gates):
            self.gates[number].set()

    def consume(self, delivery: Delivery) -> None:
        """Do a job."""
        number = delivery.content["n"]
        self.threads[number] = threading.current_thread().name
        self.begun.append(number)
        gate = self.gates.get(number)
        if gate is not None and not gate.wait(3 * PATIENCE):
            raise AssertionError(f"job {number} was never released")
        self._queues.finish(delivery)
        self.ended.append(number)


class QuickTests(PoolTestCase):
    """A thread that is kept for messages that are known to be quick."""

    def put_path(self, number: int, path: str, channel: str = "a") -> None:
        self.queues.put(channel, {"n": number, "path": path})

    def test_slow_ones_leave_a_thread(self) -> None:
        """Slow messages have all threads but one, as long as there are quick ones; then they get that, too."""
        self.check(KEEP_ONE_OF)

    def test_small_pool(self) -> None:
        """The same with three threads."""
        self.check(FEWEST_TO_KEEP)

    def check(self, threads: int) -> None:
        self.set_patience(0.0)
        jobs = Jobs(self.queues)
        jobs.slow(*range(threads))
        pool = self.make(jobs.consume, threads)
        self.until_parked(threads)
        costs = self.queues.threads.costs
        costs.record("b", "/quick/", 0.0001, time.monotonic())
        costs.quick_until = math.inf
        for number in range(threads):
            self.put_path(number, "/slow/")
        self.until(lambda: self.run_timer() or len(jobs.begun) == threads - 1)
        for number in range(100, 110):
            self.put_path(number, "/quick/", "b")
            self.until(lambda: self.run_timer() or len(jobs.ended) == number - 99)  # noqa: B023
        self.assertEqual(len(jobs.begun), threads - 1 + 10)
        costs.quick_until = 0.0
        self.until(lambda: self.run_timer() or len(jobs.begun) == threads + 10)
        jobs.release()
        self.until(lambda: len(jobs.ended) == threads + 10)
        self.assertFalse(pool._has_work())

    def test_held_back_while_others_work(self) -> None:
        """What came while no thread was free for it, and none looked, is not forgotten when no quick ones come."""
        self.set_patience(FOR_EVER)
        jobs = Jobs(self.queues)
        jobs.slow(0, 1, 2)
        self.make(jobs.consume, FEWEST_TO_KEEP)
        self.until_parked(FEWEST_TO_KEEP)
        costs = self.queues.threads.costs
        for number in range(2):
            self.put_path(number, "/slow/")
            self.until(lambda: self.run_timer() or len(jobs.begun) > number)  # noqa: B023
        costs.quick_until = math.inf
        self.put_path(2, "/slow/")
        for _ in range(10):
            self.run_timer()
        self.assertEqual(jobs.begun, [0, 1])
        costs.quick_until = 0.0
        self.until(lambda: self.run_timer() or len(jobs.begun) == 3)
        jobs.release()

    def test_noted(self) -> None:
        """Of two paths that are asked for in turn each is noted."""
        self.set_patience(FOR_EVER)
        jobs = Jobs(self.queues)
        self.make(jobs.consume, 1)
        self.until_parked(1)
        for number in range(2 * NOTED):
            self.put_path(number, f"/{number % 2}/")
            self.until(lambda: self.run_timer() or len(jobs.ended) > number)  # noqa: B023
        for path in ("/0/", "/1/"):
            self.until(lambda: self.queues.threads.costs.level("a", path) != UNKNOWN)  # noqa: B023

    def test_nobody_is_quick(self) -> None:
        """Without quick messages all threads are for slow ones."""
        self.set_patience(0.0)
        jobs = Jobs(self.queues)
        jobs.slow(*range(KEEP_ONE_OF))
        self.make(jobs.consume, KEEP_ONE_OF)
        self.until_parked(KEEP_ONE_OF)
        for number in range(KEEP_ONE_OF):
            self.put_path(number, "/slow/")
        self.until(lambda: self.run_timer() or len(jobs.begun) == KEEP_ONE_OF)
        jobs.release()


class HeldUpTests(PoolTestCase):
    """A thread that waits for the reactor, because much of what it has sent is still to be processed."""

    def test_another_works(self) -> None:
        """Another thread takes the next message, whatever the timer does."""
        sent, ended = threading.Event(), threading.Event()

        def consume(delivery: Delivery) -> None:
            if delivery.content["n"] == 0:
                self.pool.held_up()
                sent.set()
                ended.wait(PATIENCE)
            self.queues.finish(delivery)
            if delivery.content["n"] == 2:
                ended.set()

        self.make(consume, 2, turn_began=lambda: 0.0)  # the reactor's turn is a long one
        self.until_parked(2)
        for number in range(3):
            self.put(number)
        self.assertTrue(ended.wait(PATIENCE))
        self.assertEqual(self.timer_calls[2:], [])


class NoRoomTests(PoolTestCase):
    """The system has no room for another thread."""

    def setUp(self) -> None:
        super().setUp()
        self.room = 0
        start = threading.Thread.start

        def start_if_room(thread: threading.Thread) -> None:
            if thread.name.startswith(("worker-", "stream")):
                if not self.room:
                    raise RuntimeError("can't start new thread")
                self.room -= 1
            start(thread)

        self.patch(threading.Thread, "start", start_if_room)
        self.patch(pool_module, "RETRY_SECONDS", 0.0)
        self.patch(pool_module, "thread_log", ThrottledLog(time.monotonic, self.logged.append))
        self.patch(threads, "thread_log", pool_module.thread_log)

    def test_some(self) -> None:
        """The threads that there are do the work; when there is room again, the others are started."""
        self.set_patience(0.0)
        jobs = Jobs(self.queues)
        jobs.slow(1, 2, 3)
        self.room = 1
        pool = self.make(jobs.consume, 3)
        self.until_parked(1)
        for number in range(1, 4):
            self.put(number)
        self.until(lambda: self.run_timer() or jobs.begun == [1])
        jobs.release(1)
        self.until(lambda: self.run_timer() or jobs.begun == [1, 2])
        self.room = 10
        self.until(lambda: self.run_timer() or sorted(jobs.begun) == [1, 2, 3])
        jobs.release()
        self.until(lambda: sorted(jobs.ended) == [1, 2, 3])
        self.until(lambda: self.run_timer() or len(pool._parked) == len(pool._all))
        self.assert_logged()

    def test_none(self) -> None:
        """A pool without a thread is not dead: what waits is done when there is room."""
        jobs = Jobs(self.queues)
        self.make(jobs.consume, 2)
        self.put(1)
        for _ in range(5):
            self.run_timer()
        self.assertEqual(jobs.begun, [])
        self.room = 10
        self.until(lambda: self.run_timer() or jobs.ended == [1])
        self.assert_logged()

    def assert_logged(self) -> None:
        """Assert that it was said once, and then in sums."""
        self.until(lambda: self.run_timer() or len(self.logged) > 1)
        self.assertIn("threads: no room for the thread 'worker-", self.logged[0])
        for line in self.logged[1:]:
            self.assertRegex(line, "threads: [0-9]+ more")
        self.logged.clear()


class FewThreadsTests(PoolTestCase):
    """As few threads as get the work done."""

    def setUp(self) -> None:
        super().setUp()
        self.jobs = Jobs(self.queues)

    def test_one_thread_for_quick_jobs(self) -> None:
        """As long as one thread finishes job after job, it is the only one at work."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 4)
        self.until_parked(4)
        for number in range(2000):
            self.put(number)
            if number % 500 == 250:
                self.until_parked(4)
        self.until(lambda: len(self.jobs.ended) == 2000)
        self.assertEqual(len(set(self.jobs.threads.values())), 1)
        self.assertEqual(self.jobs.ended, list(range(2000)))

    def test_last_parked_first(self) -> None:
        """The thread that parked last is woken first: its memory is still warm."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 3)
        self.until_parked(3)
        for number in range(5):
            self.put(number)
            self.until_parked(3)
        self.assertEqual(len(set(self.jobs.threads.values())), 1)

    def test_an_idle_pool_does_nothing(self) -> None:
        """Without work, all threads are parked and no timer is set."""
        self.make(self.jobs.consume, 3)
        self.until_parked(3)
        self.put(1)
        self.until(lambda: self.jobs.ended == [1])
        self.until_parked(3)
        self.run_timer()
        self.assertEqual(self.timer_calls, [])

    def test_at_the_end_of_the_reactors_turn(self) -> None:
        """The messages of one turn of the reactor wake one thread, once, at its end; several are announced as such."""
        self.set_patience(FOR_EVER)
        ends: list[Callable[[], object]] = []
        expected: list[int] = []
        flushed: list[int] = []
        self.make(
            self.jobs.consume, 2, at_end_of_turn=ends.append, expect_replies=lambda: expected.append(1),
            flush=lambda: flushed.append(len(self.jobs.ended)),
        )  # fmt: skip
        self.until_parked(2)
        self.put(0)
        self.assertEqual((len(ends), len(self.pool._parked)), (1, 2))
        ends.pop()()
        self.until(lambda: self.jobs.ended == [0])
        self.until_parked(2)
        self.assertEqual(expected, [])
        for number in range(1, 10):
            self.put(number)
        self.assertEqual((len(ends), len(self.pool._parked)), (1, 2))
        ends.pop()()
        self.until(lambda: len(self.jobs.ended) == 10)
        self.until_parked(2)
        self.assertEqual(expected, [1])
        self.assertEqual(len(set(self.jobs.threads.values())), 1)
        self.assertEqual((flushed[-1], len(flushed)), (10, 4))

    def test_slow_job_among_those_of_one_turn(self) -> None:
        """A turn brings several messages, and the first one takes long: the others get another thread."""
        self.set_patience(FOR_EVER)
        ends: list[Callable[[], object]] = []
        self.make(self.jobs.consume, 3, at_end_of_turn=ends.append)
        self.until_parked(3)
        self.jobs.slow(1)
        for number in range(1, 4):
            self.put(number)
        ends.pop()()
        self.until(lambda: self.jobs.begun == [1])
        self.assertEqual(len(self.timer_calls), 1)
        self.until(lambda: self.run_timer() or self.jobs.ended == [2, 3])
        self.jobs.release()

    def test_replies_do_not_wait_for_a_slow_job(self) -> None:
        """A thread that has been at work for a while sends what it has before it begins the next job."""
        self.set_patience(0.0)
        flushed: list[int] = []
        self.make(self.jobs.consume, 1, start=False, flush=lambda: flushed.append(len(self.jobs.ended)))
        self.jobs.slow(2)
        for number in range(3):
            self.put(number)
        self.addCleanup(self.end)
        self.pool.start()
        self.until(lambda: self.jobs.begun == [0, 1, 2])
        self.assertEqual(flushed, [1, 2])
        self.jobs.release()

    def test_another_thread_beside_a_slow_job(self) -> None:
        """While a thread is on a slow job, the next message gets another one, after a look by the timer."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.jobs.slow(1)
        self.put(1)
        self.until(lambda: self.jobs.begun == [1])
        self.put(2)
        self.assertEqual(len(self.timer_calls), 1)
        self.run_timer()
        self.until(lambda: self.jobs.ended == [2])
        self.assertNotEqual(self.jobs.threads[1], self.jobs.threads[2])
        self.jobs.release()

    def test_threads_take_shorter_turns_while_several_are_awake(self) -> None:
        """So the reactor, which waits for its turn like them, does not wait for long; afterwards all is as it was."""
        self.set_patience(FOR_EVER)
        usual = sys.getswitchinterval()
        self.addCleanup(sys.setswitchinterval, usual)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.assertEqual(sys.getswitchinterval(), usual)
        self.jobs.slow(1, 2)
        self.put(1)
        self.until(lambda: self.jobs.begun == [1])
        self.assertEqual(sys.getswitchinterval(), usual)
        self.put(2)
        self.run_timer()
        self.until(lambda: self.jobs.begun == [1, 2])
        self.assertAlmostEqual(sys.getswitchinterval(), parking.CROWDED_SWITCH)
        self.jobs.release()
        self.until_parked(2)
        self.assertEqual(sys.getswitchinterval(), usual)

    def test_at_once_if_the_slow_job_is_known(self) -> None:
        """If all awake threads have been on their jobs for long, no timer is needed."""
        self.set_patience(0.0)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.jobs.slow(1)
        self.put(1)
        self.until(lambda: self.jobs.begun == [1])
        self.put(2)
        self.until(lambda: self.jobs.ended == [2])
        self.jobs.release()

    def test_no_other_thread_while_work_flows(self) -> None:
        """As long as jobs are finished between two looks of the timer, no other thread is woken."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.jobs.slow(*range(20))
        for number in range(20):
            self.put(number)
        for number in range(19):
            self.jobs.release(number)
            self.until(lambda number=number: self.jobs.begun == list(range(number + 2)))
            self.run_timer()
            self.assertEqual(len(self.pool._parked), 1)
        self.jobs.release()
        self.until(lambda: len(self.jobs.ended) == 20)
        self.assertEqual(len(set(self.jobs.threads.values())), 1)

    def test_many_slow_jobs(self) -> None:
        """When many slow jobs come at once, each look of the timer wakes twice as many threads as the one before."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 8)
        self.until_parked(8)
        self.jobs.slow(*range(20))
        for number in range(20):
            self.put(number)
        for awake in (1, 2, 4, 8):
            self.until(lambda awake=awake: len(self.jobs.begun) == awake)
            self.assertEqual(len(self.pool.busy()), awake)
            self.run_timer()
        self.assertEqual(len(self.jobs.begun), 8)
        self.jobs.release()

    def test_surplus_parks(self) -> None:
        """When slow jobs are over, threads park again although work waits, and one does all of it."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 3)
        self.until_parked(3)
        self.jobs.slow(1, 2, 3)
        for number in (1, 2, 3):
            self.put(number)
        self.until(lambda: len(self.jobs.begun) == 1)
        self.run_timer()
        self.until(lambda: len(self.jobs.begun) == 2)
        self.run_timer()
        self.until(lambda: len(self.jobs.begun) == 3)
        for number in range(10, 300):
            self.put(number)
        self.jobs.release()
        self.until(lambda: len(self.jobs.ended) == 293)
        quick = {name for number, name in self.jobs.threads.items() if number >= 10}
        self.assertEqual(len(quick), 1)

    def test_surplus_is_there_when_needed(self) -> None:
        """A thread that parked while work waited is woken if the other one runs into a slow job."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.jobs.slow(1, 2, 3)
        for number in (1, 2):
            self.put(number)
        self.until(lambda: len(self.jobs.begun) == 1)
        self.run_timer()
        self.until(lambda: len(self.jobs.begun) == 2)
        self.put(3)
        self.put(4)
        self.jobs.release(1)
        self.until(lambda: 1 in self.jobs.ended and len(self.pool._parked) == 1)
        self.jobs.release(2)
        self.until(lambda: 3 in self.jobs.begun)
        self.run_timer()
        self.run_timer()
        self.until(lambda: 4 in self.jobs.ended)
        self.jobs.release()

    def test_surplus_is_watched_over(self) -> None:
        """A thread that parks while work waits has the timer look after it, also if no message comes any more."""
        self.set_patience(FOR_EVER)
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.jobs.slow(1, 2)
        for number in (1, 2):
            self.put(number)
        self.until(lambda: len(self.jobs.begun) == 1)
        while len(self.jobs.begun) < 2 or self.timer_calls:
            self.run_timer()
        self.put(3)
        self.assertEqual(self.timer_calls, [])
        self.jobs.release(1)
        self.until(lambda: len(self.pool._parked) == 1 and self.timer_calls)
        self.assertEqual(self.jobs.ended, [1])
        self.run_timer()
        self.until(lambda: 3 in self.jobs.ended)
        self.jobs.release()

    def test_between_two_jobs(self) -> None:
        """A thread that has ended a job and not looked for the next one yet will take what comes: no other is woken."""
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        take, looks, go_on = self.queues.take, threading.Event(), threading.Event()

        def watched(*arguments: Any) -> Any:
            if self.jobs.ended:
                looks.set()
                go_on.wait(PATIENCE)
            return take(*arguments)

        self.patch(self.queues, "take", watched)
        self.set_patience(0.0)
        self.put(1)
        self.assertTrue(looks.wait(PATIENCE))
        self.put(2)
        self.assertEqual(len(self.pool._parked), 1)
        go_on.set()
        self.until(lambda: self.jobs.ended == [1, 2])
        self.assertEqual(len(set(self.jobs.threads.values())), 1)


class LoopTests(PoolTestCase):
    """Messages that are likely to be for the event loop."""

    def test_loop_first(self) -> None:
        """The loop is asked, and no thread woken. A thread gets what it does not take."""
        jobs = Jobs(self.queues)
        self.make(jobs.consume, 2)
        self.until_parked(2)
        asked: list[bool] = []
        self.pool.when_stuck = lambda: asked.append(True)
        self.pool.loop_first = True
        self.put(1)
        self.assertEqual((len(self.pool._parked), asked), (2, [True]))
        delivery = self.queues.take(["a"])  # the loop does
        self.pool.loop_took(1)
        self.run_timer()
        self.assertEqual((delivery.content["n"], len(self.pool._parked), self.timer_calls), (1, 2, []))
        self.put(2)  # the loop is busy
        self.run_timer()
        self.until(lambda: jobs.ended == [2])
        self.until_parked(2)
        self.pool.loop_first = False
        self.run_timer()
        self.put(3)
        self.until(lambda: jobs.ended == [2, 3])
        self.assertEqual(len(asked), 2)


class ManyThreadsTests(PoolTestCase):
    """Slow jobs, in parallel."""

    def test_all_threads_at_once(self) -> None:
        """As many slow jobs run at the same time as there are threads, without help from outside."""
        barrier = threading.Barrier(5)
        ended: list[int] = []

        def consume(delivery: Delivery) -> None:
            barrier.wait(PATIENCE)
            ended.append(delivery.content["n"])

        self.make(consume, 5, Timer())
        for number in range(20):
            self.put(number)
        self.until(lambda: len(ended) == 20)

    def test_no_more_than_that(self) -> None:
        """More jobs than threads wait."""
        jobs = Jobs(self.queues)
        jobs.slow(*range(5))
        self.make(jobs.consume, 3, Timer())
        for number in range(5):
            self.put(number)
        self.until(lambda: len(jobs.begun) == 3)
        self.assertEqual(self.queues.statistics("a")["messages_pending"], 2)
        jobs.release(*jobs.begun)
        self.until(lambda: len(jobs.begun) == 5)
        jobs.release()

    def test_lanes(self) -> None:
        """Messages of one lane run one after the other, whatever threads there are, those of others beside them."""
        jobs = Jobs(self.queues)
        jobs.slow(0, 1, 2, 10)
        self.make(jobs.consume, 4, Timer())
        for number in range(3):
            self.put(number, "ordered", "r!1")
        self.put(10, "ordered", "r!2")
        for number in range(3):
            self.until(lambda number=number: number in jobs.begun and 10 in jobs.begun)
            self.assertEqual([job for job in jobs.begun if job < 10], list(range(number + 1)))
            jobs.release(number)
        jobs.release()


class HammerTests(PoolTestCase):
    """No wake-up is lost."""

    def hammer(self, threads: int, producers: int, each: int, slow: int, **more: Any) -> None:
        """Let producers put messages in bursts and one by one; every message must be consumed, once."""
        seen: Counter[int] = Counter()
        lock = threading.Lock()
        all_here, tick = threading.Event(), threading.Event()
        answered = [threading.Semaphore(0) for _ in range(producers)]

        def consume(delivery: Delivery) -> None:
            number = delivery.content["n"]
            if slow and number % slow == 0:
                tick.wait(0.004)
            with lock:
                seen[number] += 1
                if len(seen) == producers * each:
                    all_here.set()
            self.queues.finish(delivery)
            if number % each % 5 == 0:
                answered[number // each].release()

        def produce(producer: int) -> None:
            for number in range(producer * each, (producer + 1) * each):
                channel = ("a", "b", "ordered")[number % 3]
                self.queues.put(channel, {"n": number, "reply_channel": f"r!{number % 11}"})
                # Let the pool fall asleep now and then: the next message must wake it.
                if number % each % 5 == 0 and not answered[producer].acquire(timeout=PATIENCE):
                    return

        self.make(consume, threads, Timer(), **more)
        hands = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join(PATIENCE)
        self.assertTrue(all_here.wait(PATIENCE), f"{producers * each - len(seen)} messages were never consumed")
        self.assertEqual(set(seen.values()), {1})

    def test_one_thread(self) -> None:
        """With a single thread, nothing is left lying."""
        self.hammer(threads=1, producers=4, each=500, slow=0)

    def test_quick_jobs(self) -> None:
        """With many producers and quick jobs, nothing is left lying."""
        self.hammer(threads=8, producers=6, each=500, slow=0)

    def test_slow_jobs_among_them(self) -> None:
        """With slow jobs among quick ones, nothing is left lying."""
        self.hammer(threads=4, producers=4, each=400, slow=17)

    def test_at_the_end_of_turns(self) -> None:
        """Nothing is left lying either if another thread ends the turns in which messages are announced."""
        ends: queue.Queue[Callable[[], object] | None] = queue.Queue()

        def turn() -> None:
            while (look := ends.get()) is not None:
                look()

        turning = threading.Thread(target=turn)
        turning.start()
        self.addCleanup(turning.join)
        self.addCleanup(ends.put, None)
        self.hammer(threads=4, producers=4, each=400, slow=17, at_end_of_turn=ends.put)

    def test_message_between_two_looks(self) -> None:
        """A message that comes while the timer looks for work, and finds none, gets a thread all the same."""
        self.set_patience(FOR_EVER)
        jobs = Jobs(self.queues)
        self.make(jobs.consume, 2)
        self.until_parked(2)
        jobs.slow(1)
        self.put(1)
        self.until(lambda: jobs.begun == [1])
        self.put(2)
        taken = self.queues.take(["a"])  # somebody else consumes it
        self.assertIsNotNone(taken)
        has_work = self.queues.has_work
        late: list[threading.Thread] = []

        def look(*arguments: Any) -> bool:
            answer = has_work(*arguments)
            if not late and threading.current_thread() is threading.main_thread():
                late.append(threading.Thread(target=self.put, args=(3,)))
                late[0].start()
                late[0].join(0.2)  # it does not end before the look if the look is guarded; that is well, too
            return answer

        self.patch(self.queues, "has_work", look)
        self.run_timer()
        late[0].join(PATIENCE)
        for _ in range(3):
            self.run_timer()
        try:
            self.until_parked(0)
            self.until(lambda: 3 in jobs.begun)
        finally:
            jobs.release()

    def test_message_before_the_thread_parks(self) -> None:
        """A message that comes after a thread has looked in vain, and before it parks, is consumed all the same."""
        jobs = Jobs(self.queues)
        take = self.queues.take
        late = [1]

        def watched(*arguments: Any) -> Any:
            delivery = take(*arguments)
            if delivery is None and late:
                self.put(late.pop())
            return delivery

        self.patch(self.queues, "take", watched)
        self.make(jobs.consume, 1)
        self.until(lambda: jobs.ended == [1])

    def test_message_during_the_start(self) -> None:
        """A message that comes while the pool starts is consumed, though no other follows it."""
        jobs = Jobs(self.queues)
        pool = self.make(jobs.consume, 1, start=False)
        listen = self.queues.listen

        def late_listen(*arguments: Any) -> None:
            if pool._all[0].thread is not None:
                self.until_parked(1)
                self.put(1)
                listen(*arguments)
            else:
                listen(*arguments)
                self.put(1)

        self.patch(self.queues, "listen", late_listen)
        self.addCleanup(self.end)
        pool.start()
        self.until(lambda: jobs.ended)


class ErrorTests(PoolTestCase):
    """Nothing ends a thread before its time."""

    def test_exceptions(self) -> None:
        """Whatever a consumer raises, it is logged, its lane goes on, and so does its thread."""
        errors = (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError)
        threads: list[str] = []

        def consume(delivery: Delivery) -> None:
            threads.append(threading.current_thread().name)
            number = delivery.content["n"]
            if number < len(errors):
                raise errors[number]("on purpose")
            self.queues.finish(delivery)

        self.make(consume, 1)
        for number in range(len(errors) + 1):
            self.put(number, "ordered", "r!1")
        self.until(lambda: len(threads) == len(errors) + 1)
        self.until_parked(1)
        self.assertEqual(len(set(threads)), 1)
        for error in errors:
            self.expect_logged("worker thread", error.__name__, "on purpose")

    def test_errors_of_the_queues(self) -> None:
        """An error while a message is taken does not end the thread."""
        jobs = Jobs(self.queues)
        take, failures = self.queues.take, [RuntimeError("on purpose")]

        def broken(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return take(*arguments)

        self.patch(self.queues, "take", broken)
        self.make(jobs.consume, 1)
        self.put(1)
        self.until(lambda: jobs.ended == [1])
        self.expect_logged("RuntimeError", "on purpose")

    def test_errors_of_idle_callbacks(self) -> None:
        """An error in a callback for idleness does not end the thread."""
        jobs = Jobs(self.queues)
        jobs.slow(1)
        self.make(jobs.consume, 1)
        self.put(1)
        self.until(lambda: jobs.begun == [1])
        self.pool.when_idle(lambda: 1 / 0)
        hook = threading.excepthook
        self.addCleanup(setattr, threading, "excepthook", hook)
        threading.excepthook = lambda arguments: None
        jobs.release()
        self.until(lambda: 1 in jobs.ended)
        self.put(2)
        self.until(lambda: 2 in jobs.ended or not self.pool._all[0].thread.is_alive())
        self.assertIn(2, jobs.ended)
        self.expect_logged("ZeroDivisionError")

    def test_the_begin_of_a_thread(self) -> None:
        """What is done at the begin of a thread is done in it; an error there is logged, and the thread works."""
        begun: list[str] = []

        def begin() -> None:
            begun.append(threading.current_thread().name)
            raise ZeroDivisionError

        jobs = Jobs(self.queues)
        self.make(jobs.consume, 2, thread_started=begin)
        self.put(1)
        self.until(lambda: jobs.ended == [1])
        self.until_parked(2)
        self.end()
        self.assertEqual(sorted(begun), ["worker-1", "worker-2"])
        for _ in range(2):
            self.expect_logged("beginning of a worker thread", "ZeroDivisionError")

    def test_errors_at_the_end_of_a_thread(self) -> None:
        """An error in what is done at the end of a thread is logged."""
        self.make(lambda delivery: None, 2, thread_done=lambda: 1 / 0)
        self.until_parked(2)
        self.end()
        for _ in range(2):
            self.expect_logged("end of a worker thread", "ZeroDivisionError")


class EndTests(PoolTestCase):
    """Stopping."""

    def test_parked_threads_end(self) -> None:
        """Threads that wait for work end, each after its last duty."""
        ended: list[str] = []
        self.make(lambda delivery: None, 3, thread_done=lambda: ended.append(threading.current_thread().name))
        self.until_parked(3)
        self.pool.stop()
        self.assertEqual(self.pool.join(PATIENCE), [])
        self.assertEqual(sorted(ended), ["worker-1", "worker-2", "worker-3"])
        self.assertFalse(any(state.thread.is_alive() for state in self.pool._all))

    def test_running_job_is_finished(self) -> None:
        """A job under way is finished; what waits is left in the queue."""
        jobs = Jobs(self.queues)
        jobs.slow(1)
        self.make(jobs.consume, 1)
        self.put(1)
        self.put(2)
        self.until(lambda: jobs.begun == [1])
        self.pool.stop()
        jobs.release()
        self.assertEqual(self.pool.join(PATIENCE), [])
        self.assertEqual(jobs.ended, [1])
        self.assertTrue(self.queues.has_work(["a"]))

    def test_no_work_after_the_stop(self) -> None:
        """What comes after the stop wakes nobody."""
        jobs = Jobs(self.queues)
        self.make(jobs.consume, 2)
        self.until_parked(2)  # a thread that is looking for work finds what comes after the stop
        self.pool.stop()
        self.put(1)
        self.pool.join(PATIENCE)
        self.assertEqual((jobs.begun, self.timer_calls), ([], []))

    def test_jobs_that_do_not_end(self) -> None:
        """Joining waits no longer than it should, and tells which jobs do not end."""
        jobs = Jobs(self.queues)
        jobs.slow(1)
        self.make(jobs.consume, 2)
        self.until_parked(2)
        self.put(1, "b")
        self.until(lambda: jobs.begun == [1])
        self.assertEqual(len(self.pool.busy()), 1)
        self.pool.stop()
        self.until(lambda: sum(state.thread.is_alive() for state in self.pool._all) == 1)
        (line,) = self.pool.join(0.0)
        self.assertIn(jobs.threads[1], line)
        self.assertIn("'b'", line)
        jobs.release()

    def test_no_threads(self) -> None:
        """A pool without threads can be started and stopped."""
        self.make(lambda delivery: None, 0)
        self.put(1)
        self.assertEqual(self.pool.busy(), [])


class IdleTests(PoolTestCase):
    """Being told when there is nothing to do."""

    def setUp(self) -> None:
        super().setUp()
        self.jobs = Jobs(self.queues)
        self.told = threading.Event()
        self.calls: list[int] = []

    def tell(self) -> None:
        self.calls.append(len(self.jobs.ended))
        self.told.set()

    def test_now(self) -> None:
        """If there is nothing to do, the callback comes at once."""
        self.make(self.jobs.consume, 2)
        self.until_parked(2)
        self.pool.when_idle(self.tell)
        self.assertTrue(self.told.wait(PATIENCE))

    def test_after_the_last_job(self) -> None:
        """Else it comes after the last job, once."""
        self.jobs.slow(1)
        self.make(self.jobs.consume, 2)
        self.put(1)
        self.until(lambda: self.jobs.begun == [1])
        self.pool.when_idle(self.tell)
        for number in range(2, 10):
            self.put(number)
        self.assertEqual(self.calls, [])
        self.jobs.release()
        self.assertTrue(self.told.wait(PATIENCE))
        self.assertEqual(self.calls, [9])
        self.put(10)
        self.until(lambda: 10 in self.jobs.ended)
        self.until_parked(2)
        self.assertEqual(self.calls, [9])

    def test_waits_for_all_threads(self) -> None:
        """As long as one thread is on a job, the pool is not idle."""
        self.jobs.slow(1, 2)
        self.make(self.jobs.consume, 2, Timer())
        self.put(1)
        self.put(2)
        self.until(lambda: len(self.jobs.begun) == 2)
        self.pool.when_idle(self.tell)
        self.jobs.release(1)
        self.until(lambda: len(self.pool.busy()) == 1)
        self.assertEqual(self.calls, [])
        self.jobs.release(2)
        self.assertTrue(self.told.wait(PATIENCE))
        self.assertEqual(self.calls, [2])

    def test_a_message_just_taken_counts(self) -> None:
        """A thread that has just taken a message, and not begun, is not idle, also if it has never parked."""
        for parked in (True, False):
            self.told.clear()
            self.calls.clear()
            self.jobs.ended.clear()
            self.take_slowly(parked)

    def take_slowly(self, parked: bool) -> None:
        """Ask for idleness while a thread that was parked, or has just been started, has a message in its hand."""
        take = self.queues.take
        taken, go_on = threading.Event(), threading.Event()

        def watched(*arguments: Any) -> Any:
            delivery = take(*arguments)
            if delivery is not None:
                taken.set()
                go_on.wait(PATIENCE)
            return delivery

        patched = self.patch(self.queues, "take", watched)
        if parked:
            self.make(self.jobs.consume, 1)
            self.until_parked(1)
            self.put(1)
        else:
            self.put(1)
            self.make(self.jobs.consume, 1)
        self.assertTrue(taken.wait(PATIENCE))
        self.pool.when_idle(self.tell)
        self.assertEqual(self.calls, [])
        go_on.set()
        self.assertTrue(self.told.wait(PATIENCE))
        self.assertEqual(self.calls, [1])
        self.end()
        patched.restore()
