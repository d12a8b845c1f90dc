"""The attempts that are under way in a process: how many, which are late, which ought to end.

Runs in the claimer's thread, the figures in any; owns the list of attempts and the counters of their ends.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import Counter

from channelserver.jobs import ends
from channelserver.jobs.ends import Outcome
from channelserver.jobs.marks import Cancel
from channelserver.jobs.models import Job, State
from channelserver.jobs.runner import Running, cancelled, failed

logger = logging.getLogger("channelserver.jobs")

#: Seconds that a coroutine has to end when its time-out has cancelled it.
GRACE_SECONDS = 5.0
#: The counters of ends.
_COUNTED = {State.DONE: "done", State.DEAD: "dead", State.WAITING: "retried", State.CANCELLED: "cancelled"}


class Attempts:
    """Running attempts.

    :param using: alias of the database.
    :param threads: for jobs.
    """

    def __init__(self, using: str, threads: int) -> None:
        self._using = using
        self._threads = threads
        #: By the job's identifier.
        self.running: dict[str, Running] = {}
        self.coroutines = 0
        self.in_threads = 0
        #: What happened since the start, for ``/-/health``.
        self.counters: Counter[str] = Counter()

    def add(self, running: Running) -> None:
        self.running[running.job.pk] = running
        timeout = running.options.timeout
        if running.is_coroutine:
            self.coroutines += 1
            if timeout is not None:
                running.deadline = time.monotonic() + timeout + GRACE_SECONDS
        else:
            self.in_threads += 1
            if timeout is not None:
                running.deadline = time.monotonic() + timeout

    def forget(self, running: Running, outcome: Outcome | None, was_ours: bool) -> None:
        """An attempt has ended, and that is stored.

        :param was_ours: whether no other process had been given the job meanwhile.
        """
        if self.running.get(running.job.pk) is running:  # else it runs once more: the database is an older copy
            del self.running[running.job.pk]
        if running.is_coroutine:
            self.coroutines -= 1
        else:
            self.in_threads -= 1
        if not was_ours or running.lost:
            self.counters["lost_lease"] += 1
            logger.warning(
                "the end of job %s is not stored: it was given to another process, as this one seemed dead",
                running.job.pk,
            )
        elif outcome is None:
            self.counters["done"] += 1
        else:
            self.counters["returned" if outcome.refund else _COUNTED[outcome.state]] += 1

    # -- the figures: any thread ---------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return a line for each attempt."""
        return [f"job {running.job.pk} of {running.job.task}" for running in list(self.running.values())]

    def lost_threads(self) -> int:
        """Return how many threads are in jobs whose time is over."""
        return len(self._late_in_threads())

    def lost_for(self) -> float | None:
        """Return for how many seconds all threads have been lost: no job begins here; None: not all are."""
        late = self._late_in_threads()
        return None if len(late) < self._threads else time.monotonic() - max(run.late_since for run in late)

    def _late_in_threads(self) -> list[Running]:
        return [run for run in list(self.running.values()) if run.is_late and not run.is_coroutine]

    # -- time limits, cancellation -------------------------------------------------------------------------------------

    def deadlines(self) -> list[float]:
        """Return when attempts are overdue, on the monotonic clock."""
        return [run.deadline for run in self.running.values() if run.deadline is not None and not run.is_late]

    def check_deadlines(self, now: float) -> None:
        """Take note of what is overdue."""
        for running in list(self.running.values()):
            if running.deadline is None or running.is_late or now < running.deadline:
                continue
            if running.thread is None and not running.is_coroutine:  # it waits for a thread
                running.deadline = now + (running.options.timeout or 0.0)
                continue
            running.is_late = running.cancelled = True
            running.late_since = now
            self.counters["overdue"] += 1
            self._log_overdue(running)
            ends.mine(self._using, running.job).update(overdue=True)

    def _log_overdue(self, running: Running) -> None:
        if running.is_coroutine:
            logger.error(
                "job %s of %s is overdue: its coroutine was cancelled, and has not ended; does it wait without await?",
                running.job.pk, running.job.task,
            )  # fmt: skip
            return
        thread = running.thread
        frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
        stack = "" if frame is None else "".join(traceback.format_stack(frame))
        logger.error(
            "job %s of %s is overdue; nothing can stop a thread, so this one is lost until it ends (%d of %d)\n%s",
            running.job.pk, running.job.task, self.lost_threads(), self._threads, stack,
        )  # fmt: skip

    def take_cancellations(self) -> None:
        """Have those end that somebody has cancelled."""
        rows = Job.objects.using(self._using).filter(pk__in=list(self.running), cancel_requested=True)
        for pk in rows.order_by().values_list("pk", flat=True):
            running = self.running[pk]
            if running.cancelled:
                continue
            running.cancelled = True
            if running.task is not None:
                running.task.get_loop().call_soon_threadsafe(running.task.cancel)

    def unfinished(self) -> list[Outcome]:
        """Return how the attempts end that the process leaves behind; one whose time is over has had its chance."""
        return [self._unfinished(running) for running in list(self.running.values())]

    @staticmethod
    def _unfinished(running: Running) -> Outcome:
        if running.is_late:
            return failed(running.job, running.options, TimeoutError("the job did not end when its time was over"))
        if running.cancelled:
            return cancelled(running.job, Cancel("the server stopped before the job had ended"))
        return Outcome(running.job, State.READY, refund=True)
