"""Which threads count: a pool has a fixed number of places.

A thread that streams, waits for a coroutine, or has to make room for other clients leaves its place, and another
thread takes it when there is work. Runs in worker threads and in the reactor thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from channelserver.layers.queues import WorkQueues
from channelserver.layers.turns import Client
from channelserver.workers.parking import Parking
from channelserver.workers.streams import Streams
from channelserver.workers.worker_thread import Call, WorkerThread

#: Threads at most that make nothing but calls.
MAX_HELPERS = 100


class Places(Parking):
    """The threads of a pool, and those that have left its count for a while.

    :param threads: the number of places.
    :param max_streams: as of :class:`channelserver.workers.pool.WorkerPool`.
    """

    def __init__(
        self,
        queues: WorkQueues,
        channels: tuple[str, ...],
        threads: int,
        turn_began: Callable[[], float],
        max_streams: int,
    ) -> None:
        super().__init__(turn_began)
        self.threads = threads
        self._queues = queues
        self._channels = channels
        self._waiting: dict[WorkerThread, bool] = {}  # for a coroutine; they may leave the count, if True for messages
        self._helpers: set[WorkerThread] = set()
        self._away: set[WorkerThread] = set()
        self._all = [WorkerThread() for _ in range(threads)]
        self._calls: deque[Call] = deque()  # for whichever thread is free
        self.streams = Streams(self, max_streams)
        self._finished = 0
        queues.threads.holders.append(self._held)

    def work_ready(self) -> None:
        """Wake a thread if necessary, or the event loop: there is new work. Any thread."""
        raise NotImplementedError

    def _has_work(self) -> bool:
        raise NotImplementedError

    def _start_thread(self, state: WorkerThread) -> bool:
        """Start a thread; return False if the system has no room for one. Work that waits is looked at again then."""
        raise NotImplementedError

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
