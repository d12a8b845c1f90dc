"""The door between threads and the reactor."""

from __future__ import annotations

import os
import queue
import threading
from collections import defaultdict
from typing import Any

from twisted.internet import defer, reactor
from twisted.internet.abstract import FileDescriptor
from twisted.trial.unittest import TestCase

from channelserver import bridge as bridge_module
from channelserver.bridge import HEAVY, Bridge
from channelserver.server.common import reactor as reactor_module
from channelserver.server.common.reactor import Reactor
from tests.fakes import PATIENCE, FakeReactor


class PostTests(TestCase):
    """Handing over."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.bridge = Bridge(self.reactor)
        self.calls: list[Any] = []

    def test_not_at_once(self) -> None:
        """A posted function runs at the reactor's next turn, with its arguments."""
        self.bridge.post(self.calls.extend, [1, 2])
        self.assertEqual(self.calls, [])
        self.reactor.turn()
        self.assertEqual(self.calls, [1, 2])

    def test_order(self) -> None:
        """Functions run in the order of the posts."""
        for number in range(100):
            self.bridge.post(self.calls.append, number)
        self.reactor.turn()
        self.assertEqual(self.calls, list(range(100)))

    def test_one_wake_up_for_many(self) -> None:
        """However many posts come before the reactor looks, it is woken once; afterwards once more."""
        self.patch(bridge_module, "TURN", 60.0)  # however slow the machine is
        for _ in range(2):
            self.reactor.wake_ups = 0
            for number in range(100):
                self.bridge.post(self.calls.append, number)
            self.reactor.turn()
            self.assertEqual(self.reactor.wake_ups, 1)
        self.assertEqual(len(self.calls), 200)

    def test_posts_out_of_a_posted_function(self) -> None:
        """What a posted function posts comes after the others, and the reactor has its turn in between."""

        def again() -> None:
            self.bridge.post(self.calls.append, "later")
            self.bridge.post(self.calls.append, "last")
            self.reactor.callLater(0, self.calls.append, "reactor")

        self.bridge.post(again)
        self.bridge.post(self.calls.append, "same batch")
        self.reactor.turn()
        self.assertEqual(self.calls[0], "same batch")
        self.assertEqual([call for call in self.calls if call != "reactor"], ["same batch", "later", "last"])
        self.assertEqual(self.reactor.wake_ups, 2)

    def test_endless_posting_leaves_turns_to_the_reactor(self) -> None:
        """A function which posts itself again and again does not keep the reactor in one loop."""

        def again() -> None:
            self.calls.append("posted")
            if len(self.calls) < 50:
                self.bridge.post(again)

        self.bridge.post(again)
        self.reactor.turn()
        self.assertEqual((len(self.calls), self.reactor.wake_ups), (50, 50))

    def test_exception(self) -> None:
        """A function that raises is logged; the others of its batch, and later ones, run all the same."""
        for number in range(3):
            self.bridge.post(self.calls.append, number)
            self.bridge.post(lambda: 1 / 0)
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.bridge.post(self.calls.append, 3)
        self.reactor.turn()
        self.assertEqual(self.calls, [0, 1, 2, 3])

    def test_exception_that_means_the_end(self) -> None:
        """SystemExit and its like out of a posted function lose nothing either."""
        for error in (SystemExit, KeyboardInterrupt, GeneratorExit):
            del self.calls[:]

            def leave(error: type[BaseException] = error) -> None:
                raise error

            self.bridge.post(leave)
            self.bridge.post(self.calls.append, 1)
            for _ in range(2):  # a real reactor would go on, or be stopped in an orderly way
                try:
                    self.reactor.turn()
                except error:
                    pass
            self.bridge.post(self.calls.append, 2)
            self.reactor.turn()
            self.assertEqual(self.calls, [1, 2], error)
            self.flushLoggedErrors(error)

    def test_call_later(self) -> None:
        """A function runs after so many seconds."""
        self.bridge.call_later(5, self.calls.append, "now")
        self.reactor.pass_time(4.9)
        self.assertEqual(self.calls, [])
        self.reactor.pass_time(0.2)
        self.assertEqual(self.calls, ["now"])

    def test_call_later_does_not_touch_the_reactor_from_a_thread(self) -> None:
        """The timer is set in the reactor thread, not in the one that asks for it."""
        self.bridge.call_later(5, self.calls.append, "now")
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.reactor.turn()
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_call_later_in_the_reactor_thread(self) -> None:
        """The reactor sets its own timer without waking itself."""
        self.bridge.post(self.bridge.call_later, 5, self.calls.append, "now")
        self.reactor.turn()
        self.assertEqual((self.reactor.wake_ups, len(self.reactor.getDelayedCalls())), (1, 1))
        self.reactor.pass_time(5)
        self.assertEqual(self.calls, ["now"])

    def test_call_later_with_exception(self) -> None:
        """An exception in such a function is logged, and goes no further."""
        self.bridge.call_later(1, lambda: 1 / 0)
        self.reactor.pass_time(2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_signal_handler(self) -> None:
        """A signal handler may call, also while the code it interrupts holds the lock."""

        def interrupted() -> None:
            with self.bridge._lock:
                self.bridge.from_signal_handler(lambda: self.calls.append("signal"))

        thread = threading.Thread(target=interrupted, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive(), "the handler waits for the lock")
        self.reactor.turn()
        self.assertEqual(self.calls, ["signal"])

    def test_signal_handler_with_exception(self) -> None:
        """An exception in what a signal handler handed over is logged, and goes no further."""
        self.bridge.from_signal_handler(lambda: 1 / 0)
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FakeLoop:
    """An event loop in some thread.

    :param ends: gets what is to be called at the end of its turn.
    """

    def __init__(self, thread_id: int, ends: list[Any]) -> None:
        self.thread_id = thread_id
        self.at_end_of_turn = ends.append


class LoopTests(TestCase):
    """Posts of the event loop's thread, which this one plays."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.bridge = Bridge(self.reactor)
        self.ends: list[Any] = []
        self.bridge.loop = FakeLoop(threading.get_ident(), self.ends)
        self.calls: list[Any] = []
        self.patch(bridge_module, "DEFERRED", PATIENCE)

    def test_at_the_end(self) -> None:
        """The reactor is woken once, at the end of the loop's turn, and again in the next one."""
        self.patch(bridge_module, "TURN", 60.0)  # however slow the machine is
        for _ in range(2):
            self.reactor.wake_ups = 0
            for number in range(10):
                self.bridge.post(self.calls.append, number)
            self.assertEqual(self.reactor.wake_ups, 0)
            self.ends.pop()()
            self.assertEqual((self.reactor.wake_ups, self.ends), (1, []))
            self.reactor.turn()
        self.assertEqual(self.calls, [*range(10), *range(10)])

    def test_other_threads(self) -> None:
        """Another thread's post wakes the reactor at once; the loop's does not, then."""
        self.bridge.post(self.calls.append, 1)
        thread = threading.Thread(target=self.bridge.post, args=(self.calls.append, 2))
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual(self.reactor.wake_ups, 1)
        self.ends.pop()()
        self.assertEqual(self.reactor.wake_ups, 1)
        self.reactor.turn()
        self.assertEqual(self.calls, [1, 2])

    def test_long_turn(self) -> None:
        """If the loop's turn takes long, the reactor is woken by the next post."""
        self.patch(bridge_module, "DEFERRED", 0.0)
        self.bridge.post(self.calls.append, 1)
        self.assertEqual(self.reactor.wake_ups, 0)
        self.bridge.post(self.calls.append, 2)
        self.assertEqual(self.reactor.wake_ups, 1)

    def test_blocked(self) -> None:
        """The loop is blocked after a post: the reactor takes it at its next look."""
        self.bridge.post(self.calls.append, 1)
        self.bridge.take_deferred()
        self.assertEqual(self.reactor.wake_ups, 0)
        self.patch(bridge_module, "DEFERRED", 0.0)
        self.bridge.take_deferred()
        self.reactor.turn()
        self.assertEqual(self.calls, [1])
        self.bridge.take_deferred()
        self.assertEqual(self.reactor.wake_ups, 1)


class TurnTests(TestCase):
    """The reactor's turns."""

    def test_end_of_turn(self) -> None:
        """What wakes another thread is called when all events of a turn are done; in another thread, at once."""
        turning = Reactor()
        bridge = Bridge(turning)
        calls: list[Any] = []

        def event() -> None:
            bridge.at_end_of_turn(lambda: calls.append("end"))
            bridge.at_end_of_turn(lambda: 1 / 0)
            bridge.at_end_of_turn(lambda: calls.append("end, too"))
            calls.append("event")

        bridge.post(event)
        turning.runUntilCurrent()
        self.assertEqual(calls, ["event"])
        turning.doPoll(0)
        self.assertEqual(calls, ["event", "end", "end, too"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        thread = threading.Thread(target=bridge.at_end_of_turn, args=(lambda: calls.append("at once"),))
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual(calls[-1], "at once")


class LookingTests(TestCase):
    """Several replies are expected of threads: the reactor looks for them by itself for a while."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.bridge = Bridge(self.reactor)
        self.calls: list[Any] = []
        self.bridge.post(self.bridge.expect_replies)
        self.reactor.runUntilCurrent()

    def in_thread(self, function: Any, *arguments: Any) -> None:
        """Call a function in another thread."""
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        thread.join(PATIENCE)

    def woken(self) -> int:
        """How many calls wait for the reactor after it was woken."""
        return len(self.reactor.threadCallQueue)

    def test_reply(self) -> None:
        """A reply does not wake it, which sleeps no longer than a moment; then it comes to rest."""
        self.in_thread(self.bridge.reply, 5, self.calls.append, 1)
        self.assertEqual(self.woken(), 0)
        while self.reactor.look is not None:
            self.reactor.doPoll(None)
        self.assertEqual(self.calls, [1])
        self.in_thread(self.bridge.reply, 5, self.calls.append, 2)
        self.assertEqual(self.woken(), 1)
        self.reactor.runUntilCurrent()
        self.assertEqual(self.calls, [1, 2])

    def test_order(self) -> None:
        """A post wakes it at once; it takes replies and posts in their order."""
        self.in_thread(self.bridge.reply, 5, self.calls.append, 1)
        self.in_thread(self.bridge.post, self.calls.append, 2)
        self.in_thread(self.bridge.reply, 5, self.calls.append, 3)
        self.assertEqual(self.woken(), 1)
        self.reactor.runUntilCurrent()
        self.assertEqual(self.calls, [1, 2, 3])

    def test_flush(self) -> None:
        """A thread that has nothing more to do wakes it, once, and only if there are replies."""
        self.in_thread(self.bridge.flush)
        self.assertEqual(self.woken(), 0)
        self.in_thread(self.bridge.reply, 5, self.calls.append, 1)
        for _ in range(2):
            self.in_thread(self.bridge.flush)
        self.assertEqual(self.woken(), 1)
        self.reactor.runUntilCurrent()
        self.assertEqual(self.calls, [1])

    def test_loop(self) -> None:
        """The event loop's thread wakes it at the end of its own turn, again after the reactor has looked."""
        ends: list[Any] = []
        self.bridge.loop = FakeLoop(threading.get_ident(), ends)
        for number in range(2):
            self.bridge.reply(5, self.calls.append, number)
            self.assertEqual((len(ends), self.woken()), (number + 1, 0))
            self.reactor.doPoll(0)
        self.assertEqual(self.calls, [0, 1])
        self.bridge.reply(5, self.calls.append, 2)
        ends.pop()()
        self.assertEqual(self.woken(), 1)

    def test_rest_of_a_batch(self) -> None:
        """What a turn has no time for is for the next one, which does not sleep before."""
        self.patch(bridge_module, "TURN", -1.0)
        for number in range(3):
            self.in_thread(self.bridge.reply, 5, self.calls.append, number)
        for number in range(3):
            self.reactor.doPoll(None)
            self.assertEqual(self.calls, list(range(number + 1)))

    def test_other_reactor(self) -> None:
        """Another reactor, and this one in other threads, cannot look by itself: each reply wakes it."""
        other = FakeReactor()
        bridge = Bridge(other)
        bridge.post(bridge.expect_replies)
        other.turn()
        bridge.reply(5, self.calls.append, 1)
        other.turn()
        self.assertEqual(self.calls, [1])
        while self.reactor.look is not None:
            self.reactor.doPoll(None)
        self.in_thread(self.bridge.expect_replies)
        self.in_thread(self.bridge.reply, 5, self.calls.append, 2)
        self.assertEqual(self.woken(), 1)

    def test_long_turn(self) -> None:
        """Other threads are woken in the middle of a turn that takes long."""
        self.patch(reactor_module, "LONG", -1.0)
        for _ in range(2):
            self.add_event()
        self.reactor.doPoll(None)
        self.assertEqual(self.calls, ["event", "woken", "event", "woken"])

    def add_event(self) -> None:
        """Give the reactor an event in which a thread is to be woken."""
        reading, writing = os.pipe()
        os.write(writing, b"x")
        descriptor = FileDescriptor(self.reactor)

        def read() -> None:
            self.calls.append("event")
            self.bridge.at_end_of_turn(lambda: self.calls.append("woken"))

        descriptor.fileno, descriptor.doRead = lambda: reading, read
        self.reactor.addReader(descriptor)
        for end in (reading, writing):
            self.addCleanup(os.close, end)
        self.addCleanup(self.reactor.removeReader, descriptor)


class WatchedGates(dict[int, threading.Lock]):
    """The gates of threads that wait; tells when there is one."""

    def __init__(self, waits: threading.Event) -> None:
        super().__init__()
        self._waits = waits

    def __setitem__(self, thread: int, gate: threading.Lock) -> None:
        super().__setitem__(thread, gate)
        self._waits.set()


class HeavyDataTests(TestCase):
    """Threads that send faster than the reactor takes."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.bridge = Bridge(self.reactor)
        self.reactor.turn()
        self.calls: list[Any] = []
        self.waits = threading.Event()
        self.bridge._gates = WatchedGates(self.waits)
        self.patch(bridge_module, "PATIENCE", PATIENCE)

    def in_thread(self, *sizes: int) -> threading.Thread:
        """Send data of these sizes from a thread."""

        def send() -> None:
            for size in sizes:
                self.bridge.post_data(size, self.calls.append, size)
            self.calls.append("sent")

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def test_waits(self) -> None:
        """A thread waits when too much is under way, until the reactor has taken it; what it sent arrives in order."""
        thread = self.in_thread(HEAVY, 1, 5)
        self.assertTrue(self.waits.wait(PATIENCE))
        self.assertEqual(self.calls, [])
        while thread.is_alive():
            self.reactor.turn()
        self.reactor.turn()  # for what was sent after the last look, before the thread ended
        self.assertEqual([call for call in self.calls if call != "sent"], [HEAVY, 1, 5])

    def test_little_does_not_wait(self) -> None:
        """As long as it is not too much, the thread goes on; taken data counts no more."""
        for _ in range(3):
            self.in_thread(HEAVY - 1, 1).join(PATIENCE)
            self.assertIn("sent", self.calls)
            self.assertFalse(self.waits.is_set())
            del self.calls[:]
            self.reactor.turn()
            self.assertEqual(self.calls, [HEAVY - 1, 1])
            del self.calls[:]

    def test_gates(self) -> None:
        """Only the thread whose data was taken goes on; another one that waits is not woken for it."""
        gates: dict[int, threading.Lock] = self.bridge._gates
        threads = []
        for _ in range(2):
            threads.append(self.in_thread(HEAVY, HEAVY, 1))
            self.assertTrue(self.waits.wait(PATIENCE))
            self.waits.clear()
        first, second = gates.values()
        function, arguments = self.bridge._items.pop(0)
        function(*arguments)
        self.assertEqual((first.locked(), second.locked()), (False, True))
        while any(thread.is_alive() for thread in threads):
            self.reactor.turn()

    def test_large_data_of_others(self) -> None:
        """However much other threads have under way in large pieces, one with a small answer goes on."""
        large = self.in_thread(10 * HEAVY)
        self.assertTrue(self.waits.wait(PATIENCE))
        self.waits.clear()
        self.in_thread(100).join(PATIENCE)
        self.assertEqual(self.calls, ["sent"])
        self.assertFalse(self.waits.is_set())
        while large.is_alive():
            self.reactor.turn()
        self.assertEqual(self.calls[1:3], [10 * HEAVY, 100])

    def test_reactor_thread_never_waits(self) -> None:
        """The reactor's own thread does not wait: nobody else would take what it sends."""
        self.bridge.post(self.calls.append, "known")
        self.reactor.turn()
        self.bridge.post_data(10 * HEAVY, self.calls.append, "much")
        self.assertFalse(self.waits.is_set())
        self.reactor.turn()
        self.assertEqual(self.calls, ["known", "much"])

    def test_not_for_ever(self) -> None:
        """If the reactor takes nothing, the thread goes on after a while; nothing is lost."""
        self.patch(bridge_module, "PATIENCE", 0.01)
        self.in_thread(HEAVY + 1, 7).join(PATIENCE)
        self.assertTrue(self.waits.is_set())
        self.reactor.turn()
        self.assertEqual(self.calls, ["sent", HEAVY + 1, 7])

    def test_exception(self) -> None:
        """Data whose function raises counts no more, either."""
        self.bridge.post(lambda: None)
        self.reactor.turn()
        self.bridge.post_data(HEAVY, lambda: 1 / 0)
        self.reactor.turn()
        self.flushLoggedErrors(ZeroDivisionError)
        self.in_thread(HEAVY).join(PATIENCE)
        self.assertEqual(self.calls, ["sent"])
        self.assertFalse(self.waits.is_set())
        self.reactor.turn()


class ThreadedReactor:
    """A reactor that is nothing but a thread with a list of calls."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Any] = queue.Queue()
        self.wake_ups = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def callFromThread(self, function: Any, *args: Any) -> None:
        self.wake_ups += 1
        self._calls.put((function, args))

    def callLater(self, seconds: float, function: Any, *args: Any) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._calls.put(None)
        self.thread.join(PATIENCE)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call[0](*call[1])


class TurningThread:
    """This package's reactor, in a thread that begins with each turn to look for replies for a while."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.bridge = Bridge(self.reactor)
        self._stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.bridge.post(setattr, self, "_stopped", True)
        self.thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stopped:
            self.reactor.runUntilCurrent()
            self.reactor.doPoll(None)
            self.bridge.expect_replies()


class Hammering:
    """Many threads post to one bridge, in bursts and one by one."""

    def __init__(self, bridge: Bridge, threads: int, each: int) -> None:
        self.received: dict[int, list[int]] = defaultdict(list)
        self.runs_in: set[int] = set()
        self.all_here = threading.Event()
        self.whole = threads * each
        self._count = 0
        self._bridge = bridge
        self._threads = [threading.Thread(target=self._post, args=(number, each)) for number in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)

    def _post(self, thread: int, each: int) -> None:
        for number in range(each):
            self._bridge.reply(0, self.arrive, thread, number)
            if number % 7 == 0:  # let the reactor catch up: the next post must wake it again
                answered = threading.Event()
                self._bridge.reply(0, answered.set)
                if number % 2:
                    self._bridge.flush()
                if not answered.wait(PATIENCE):
                    return

    def arrive(self, thread: int, number: int) -> None:
        self.runs_in.add(threading.get_ident())
        self.received[thread].append(number)
        self._count += 1
        if self._count == self.whole:
            self.all_here.set()


class HammerTests(TestCase):
    """No wake-up is lost, and no post."""

    def test_thread(self) -> None:
        """Against a plain thread, all posts of all threads arrive, each thread's in order."""
        own = ThreadedReactor()
        self.addCleanup(own.stop)
        hammering = Hammering(Bridge(own), threads=8, each=1500)
        hammering.start()
        self.assertTrue(hammering.all_here.wait(PATIENCE), "a wake-up was lost")
        hammering.join()
        self.assertEqual(dict(hammering.received), {thread: list(range(1500)) for thread in range(8)})
        self.assertEqual(hammering.runs_in, {own.thread.ident})
        self.assertLessEqual(own.wake_ups, 8 * 1500 + 8 * 215)

    def test_looking(self) -> None:
        """The same against a reactor that looks by itself now and then."""
        own = TurningThread()
        self.addCleanup(own.stop)
        hammering = Hammering(own.bridge, threads=8, each=700)
        hammering.start()
        self.assertTrue(hammering.all_here.wait(PATIENCE), "a reply was lost")
        hammering.join()
        self.assertEqual(dict(hammering.received), {thread: list(range(700)) for thread in range(8)})
        self.assertEqual(hammering.runs_in, {own.thread.ident})

    @defer.inlineCallbacks
    def test_real_reactor(self) -> Any:
        """Against Twisted's reactor, all posts of all threads arrive in its thread, each thread's in order."""
        done: defer.Deferred[None] = defer.Deferred()
        hammering = Hammering(Bridge(reactor), threads=6, each=700)
        arrive = hammering.arrive

        def watched(thread: int, number: int) -> None:
            arrive(thread, number)
            if hammering.all_here.is_set():
                done.callback(None)

        hammering.arrive = watched  # type: ignore[method-assign]
        hammering.start()
        yield done.addTimeout(PATIENCE, reactor)
        hammering.join()
        self.assertEqual(dict(hammering.received), {thread: list(range(700)) for thread in range(6)})
        self.assertEqual(hammering.runs_in, {threading.get_ident()})
