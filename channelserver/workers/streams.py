"""Responses that threads stream: each takes as long as its client, so none keeps a place in the worker pool.

Runs in worker threads, and in threads of its own. Owns the streams that wait. A lock, held for moments, guards both
numbers.

A worker thread that begins to stream leaves the pool's count, and another one is started in its place when there is
work. At most ``max_streams`` responses are streamed at a time; as many more wait, their iterators not yet begun; what
comes then is refused.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from channelserver.workers.threads import start_thread

logger = logging.getLogger("channelserver.workers")


class Streams:
    """The streamed responses of one pool.

    :param most: how many are streamed at a time, and how many more wait.
    """

    def __init__(self, pool: Any, most: int) -> None:
        self._pool = pool
        self._most = most
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def __len__(self) -> int:
        return self._running + len(self._waiting)

    def add(self, state: Any, run: Callable[[], object], refuse: Callable[[], object]) -> None:
        """Stream a response: now, in the calling thread, or as soon as another one ends.

        :param state: the calling worker thread.
        :param run: sends the response and closes it.
        :param refuse: called if there are too many.
        """
        if state.away:  # it is among the running already
            run()
            return
        later = partial(copy_context().run, run)
        with self._lock:
            full = self._running >= self._most
            if full and len(self._waiting) < self._most:
                self._waiting.append(later)
                return
            self._running += not full
        if full:
            refuse()
        elif state.guests:  # coroutines have their synchronous parts in this thread
            if not self._start_thread(later):
                self.leave()
                refuse()
        else:
            self._pool.leave_count(state)
            try:
                run()
            finally:
                self._pool.return_to_count(state)

    def enter(self) -> bool:
        """Count a thread that waits outside the pool; return False if there are too many."""
        with self._lock:
            room = self._running < self._most
            self._running += room
            return room

    def leave(self) -> None:
        """A thread that was outside the pool has come to its end: start the next stream that waited, if any."""
        following = self._next()
        if following is not None and not self._start_thread(following):
            with self._lock:
                self._waiting.appendleft(following)
            self._pool.retry(self.leave)

    def _next(self) -> Callable[[], object] | None:
        """A stream has ended: return the next that waited, if any."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None

    def _start_thread(self, run: Callable[[], object]) -> bool:
        return start_thread(threading.Thread(target=self._run, args=(run,), name="stream", daemon=True))

    def _run(self, run: Callable[[], object] | None) -> None:
        """Stream one response after the other, as long as some wait."""
        while run is not None:
            try:
                run()
            except BaseException:
                logger.exception("error in a streamed response")
            run = self._next()
        self._pool.thread_done()
