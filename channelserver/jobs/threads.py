"""The threads that run jobs: their own, so that jobs never take one from sockets and views.

Started by the claimer when jobs come; they last as long as it does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

from django.db import connections

from channelserver.jobs.ends import LostLeaseError, Outcome
from channelserver.jobs.runner import UNKNOWN_TASK, Running, failed, run
from channelserver.workers.django_cleanup import close_old_connections
from channelserver.workers.threads import NoThreadError, start_thread

logger = logging.getLogger("channelserver.jobs")


#: Jobs are taken ahead for so many seconds of work, and so many at most.
AHEAD_SECONDS, MOST_AHEAD = 0.02, 64
#: While so many jobs wait for a thread, the threads have enough to do.
ENOUGH = 16
#: Jobs that must have ended before any are taken ahead.
KNOWN_AFTER = 16
#: Seconds after which jobs that wait for a thread are given back, if none has begun.
STUCK_SECONDS = 0.5


class JobThreads:
    """A pool that grows when it must.

    :param most: threads at most.
    :param context: returns the context for a job.
    :param ended: called in a job's thread with the attempt and its outcome, None if that is stored already.
    """

    def __init__(
        self, most: int, context: Callable[[], Context], ended: Callable[[Running, Outcome | None], object]
    ) -> None:
        self._most = most
        self._context = context
        self._ended = ended
        self._queue: SimpleQueue[Running | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._busy = 0
        self._ended_count = 0
        self._average = 1.0  # seconds of a job, of the last few
        self._moved = 0.0  # when a job last began

    def ahead(self) -> int:
        """Return how many jobs may wait for a thread: what the threads do in a moment, none if jobs are slow."""
        if self._ended_count < KNOWN_AFTER:
            return 0
        return min(MOST_AHEAD, int(AHEAD_SECONDS * self._most / max(self._average, 1e-6)))

    def waiting(self) -> int:
        """Return how many jobs wait for a thread."""
        return self._queue.qsize()

    def have_enough(self) -> bool:
        """Whether the threads have work for a moment: they need nothing of the claimer. Any thread."""
        return self._queue.qsize() >= ENOUGH

    def is_stuck(self) -> bool:
        """Whether jobs wait for a thread, and have done so for a while."""
        return self.waiting() > 0 and time.monotonic() - self._moved > STUCK_SECONDS

    def take_back(self) -> list[Running]:
        """Return the jobs that wait for a thread; they will not run here."""
        found = []
        with contextlib.suppress(Empty):
            while True:
                running = self._queue.get_nowait()
                if running is not None:
                    found.append(running)
        self._average = 1.0
        return found

    def submit(self, running: Running) -> None:
        """Have an attempt run.

        :raises NoThreadError: the system has no room for the first thread.
        """
        with self._lock:
            idle = len(self._threads) - self._busy
            if idle <= self._queue.qsize() and len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name=f"job-{len(self._threads) + 1}", daemon=True)
                if start_thread(thread):
                    self._threads.append(thread)
            if not self._threads:
                raise NoThreadError("there is no thread for jobs")
        self._queue.put(running)

    def stop(self) -> None:
        """End the threads that have nothing to do, and the others when they have finished."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        try:
            while (running := self._queue.get()) is not None:
                running.thread = threading.current_thread()
                self._moved = began = time.monotonic()
                with self._lock:
                    self._busy += 1
                outcome = None
                try:
                    close_old_connections()
                    outcome = self._context().run(run, running)
                except LostLeaseError:
                    running.lost = True
                except BaseException as error:
                    logger.exception("cannot run job %s", running.job.pk)
                    outcome = failed(running.job, UNKNOWN_TASK, error)
                try:
                    close_old_connections()
                except Exception:
                    logger.exception("cannot close a database connection")
                with self._lock:
                    self._busy -= 1
                    self._ended_count += 1
                    self._average += (time.monotonic() - began - self._average) / min(8, self._ended_count)
                self._ended(running, outcome)
                running = None
        finally:
            connections.close_all()
