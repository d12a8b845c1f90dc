"""When a pool wakes threads, or the event loop, for work that waits.

:meth:`Waking.work_ready` runs in any thread, :meth:`Waking._watch` in the reactor thread.

No wake-up is lost: work is put into the queues first and announced after; a thread looks into the queues once more,
under the pool's lock, before it parks. The reactor's announcements are seen to at the end of its turn, all at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from channelserver.layers.costs import is_slow
from channelserver.layers.queues import WorkQueues
from channelserver.workers.parking import PATIENCE
from channelserver.workers.places import Places
from channelserver.workers.relief import HOG_SECONDS, Relief
from channelserver.workers.worker_thread import Call, WorkerThread, current

#: Of so many threads one is kept for messages that are known to be quick, as long as there are such messages; of a
#: smaller pool, too, if it has so many threads: of two it would be half of the pool.
KEEP_ONE_OF, FEWEST_TO_KEEP = 6, 3
#: Seconds until a thread that is kept for them looks again whether it still is.
KEPT_SECONDS = 0.5
#: A message that keeps a thread for so many seconds is slow, whatever was known of it.
SLOW_SECONDS = 0.03


class Waking(Places):
    """Wakes as few threads as possible. See :class:`channelserver.workers.pool.WorkerPool` for the arguments."""

    def __init__(
        self,
        queues: WorkQueues,
        channels: tuple[str, ...],
        threads: int,
        call_later: Callable[..., object],
        turn_began: Callable[[], float],
        max_streams: int,
        at_end_of_turn: Callable[[Callable[[], object]], object],
        expect_replies: Callable[[], object],
    ) -> None:
        super().__init__(queues, channels, threads, turn_began, max_streams)
        self._call_later = call_later
        self._at_end_of_turn = at_end_of_turn
        self._expect_replies = expect_replies
        self._announced = False  # _look() is going to be called
        self._several = False  # for more than one message
        self._relief = Relief(queues)
        #: Whether _relieve is going to be called; where nothing can be done it seems to be so for ever.
        self._relieving = threads < 2 or not queues.serves_in_turn(channels)
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
        self._watching = False
        self._seen = 0
        self._step = 1
        self._started = self._stopping = False

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
        state = current.state
        if state is not None and state.busy_since:
            state.busy_since = min(state.busy_since, self._turn_began() - PATIENCE)  # it makes no progress
            if self._has_work():
                self.work_ready()
