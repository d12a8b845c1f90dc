"""The claimer: the one thread of a process that takes jobs from the table, and stores how they ended.

:meth:`Claimer.wake` and :meth:`Claimer.expect` run in any thread, the start and the stop in the reactor thread, the
rest in the claimer's. Owns the list of running attempts, its database connection, and this process's presence.

One writer that takes a batch is quicker than many threads that want the same lock. It is woken when something is
enqueued, when a job has ended and when one is due; beside that it looks once in :data:`LOOK_SECONDS`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from functools import partial

from django.db import Error as DatabaseProblem
from django.db import connections
from django.utils import timezone

from channelserver.jobs import ends, schedules, store
from channelserver.jobs.delayed import take_over
from channelserver.jobs.ends import Outcome
from channelserver.jobs.listening import Bell, PostgreSQL
from channelserver.jobs.local import claimers
from channelserver.jobs.models import Job, JobServer, State
from channelserver.jobs.presence import Presence, folder_of
from channelserver.jobs.runner import Running, arun, failed
from channelserver.jobs.threads import STUCK_SECONDS, JobThreads
from channelserver.workers.threads import RETRY_SECONDS, NoThreadError, start_thread

logger = logging.getLogger("channelserver.jobs")

#: Seconds between two looks into an idle table.
LOOK_SECONDS = 5.0
#: Seconds until the next try when the database cannot be used.
PROBLEM_SECONDS = 1.0
#: Seconds between two looks for ends while the threads have enough to do: more ends make a larger transaction.
GATHER_SECONDS = 0.005
#: Seconds between two prunings.
PRUNE_SECONDS = 3600.0
#: Coroutines that run at a time for each thread for jobs.
COROUTINES = 10
#: The counters of ends.
_COUNTED = {State.DONE: "done", State.DEAD: "dead", State.WAITING: "retried", State.CANCELLED: "cancelled"}


class Claimer:
    """Runs the jobs of one database in this process.

    :param using: alias of the database.
    :param queues: which to serve; None: all.
    :param threads: for jobs.
    :param call_later: ``call_later(seconds, function)`` runs a function in the reactor thread.
    :param start_coroutine: ``start_coroutine(function, *arguments, context)`` runs a coroutine function on the loop.
    :param context: returns the context for a job.
    :param keep_done: days for which jobs that are done, and used keys, are kept.
    :param keep_dead: days for which dead jobs are kept.
    """

    def __init__(
        self,
        using: str,
        queues: Sequence[str] | None,
        threads: int,
        call_later: Callable[..., object],
        start_coroutine: Callable[..., object],
        context: Callable[[], Context] = copy_context,
        keep_done: float = 7.0,
        keep_dead: float = 30.0,
    ) -> None:
        self.using = using
        self._queues = queues
        self._most = threads
        self._call_later = call_later
        self._start_coroutine = start_coroutine
        self._context = context
        self._keep_done, self._keep_dead = timedelta(days=keep_done), timedelta(days=keep_dead)
        self._threads = JobThreads(threads, context, self._ended)
        self._lock = threading.Lock()
        self._ends: deque[tuple[Running, Outcome | None]] = deque()
        self._running: dict[str, Running] = {}  # by the job's identifier
        self._coroutines = 0
        self._in_threads = 0
        self._draining = self._stopping = False
        self._when_idle: list[Callable[[], object]] = []
        self._ready = True  # a job may be ready
        self._next_look = 0.0
        self._next_at: float | None = None  # the next waiting job or schedule, Unix time
        self._expected: float | None = None  # the earliest announced during a look, which may miss it
        self._next_prune = time.monotonic() + 60.0
        self._problem = ""
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._presence: Presence | None = None
        self._postgresql: PostgreSQL | None = None
        #: What happened since the start, for ``/-/health``.
        self.counters: Counter[str] = Counter()

    # -- any thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"claimer-{self.using}", daemon=True)
        if start_thread(thread):
            claimers[self.using], self._thread = self, thread
        elif not self._stopping:
            self._call_later(RETRY_SECONDS, self.start)

    def wake(self) -> None:
        """A job may be ready."""
        self._ready = True
        if self._bell is not None and not self._threads.have_enough():
            self._bell.ring()

    def look_soon(self) -> None:
        """Something in the table has changed."""
        self._next_look = 0.0
        self.wake()

    def expect(self, at: float) -> None:
        """A job is due at `at` (Unix time)."""
        with self._lock:
            if self._next_at is None or at < self._next_at:
                self._next_at = at
            if self._expected is None or at < self._expected:
                self._expected = at
        if self._bell is not None:
            self._bell.ring()

    @property
    def is_full(self) -> bool:
        """Whether further jobs would wait here."""
        return self._in_threads >= self._most or self._draining

    @property
    def id(self) -> str:
        return self._presence.id if self._presence is not None else ""

    def figures(self) -> dict[str, int]:
        """Return the counters, and what runs now."""
        return {"jobs_running": len(self._running), **{f"jobs_{name}": count for name, count in self.counters.items()}}

    def lost_threads(self) -> int:
        """Return how many threads are in jobs whose time is over."""
        return sum(running.is_late and not running.is_coroutine for running in list(self._running.values()))

    def lost_for(self) -> float | None:
        """Return for how many seconds all threads have been lost: no job begins here; None: not all are."""
        if self.lost_threads() < self._most:
            return None
        late = [running.late_since for running in list(self._running.values()) if running.is_late]
        return time.monotonic() - max(late, default=0.0)

    def drain(self) -> None:
        """Start no more jobs."""
        self._draining = True
        if self._bell is not None:
            self._bell.ring()

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, from any thread, when no job runs and all ends are stored."""
        with self._lock:
            alive = self._thread is not None and self._thread.is_alive()
            if alive:
                self._when_idle.append(callback)
        if not alive:
            callback()
        elif self._bell is not None:
            self._bell.ring()

    def stop(self, timeout: float) -> list[str]:
        """Give back the jobs that still run; return a line for each."""
        self._draining = self._stopping = True
        if self._bell is not None:
            self._bell.ring()
        unfinished = [f"job {running.job.pk} of {running.job.task}" for running in list(self._running.values())]
        if self._thread is not None:
            self._thread.join(timeout)
        self._threads.stop()
        if claimers.get(self.using) is self:
            del claimers[self.using]
        return unfinished

    def _ended(self, running: Running, outcome: Outcome | None) -> None:
        """An attempt has ended. Job threads and the event loop's."""
        self._ends.append((running, outcome))
        if self._bell is not None and not self._threads.have_enough():
            self._bell.ring()

    # -- the claimer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._presence = Presence(folder_of(connections[self.using]))
        except OSError as error:
            logger.error("no jobs run: %s; the folder for locks cannot be used", error)
            return
        self._bell = Bell(self._presence)
        if connections[self.using].vendor == "postgresql":
            self._postgresql = PostgreSQL(connections[self.using], self._presence.id)
        try:
            schedules.discover()
        except Exception:
            logger.exception("a module named tasks cannot be imported, so its schedules do not run")
        begun = False
        while not self._stopping:
            try:
                if not begun:
                    self._begin()
                    begun = True
                seconds = self._turn()
                self._problem = ""
            except Exception as error:
                seconds = self._failed(error)
            try:
                if self._bell.wait(seconds, connections[self.using] if self._postgresql is not None else None):
                    self._next_look, self._ready = 0.0, True
            except Exception as error:
                self._failed(error)
        self._finish()

    def _failed(self, error: Exception) -> float:
        """Take note of a problem; return the seconds until the next try."""
        text = " ".join(str(error).split())
        if text != self._problem:
            self._problem = text
            if isinstance(error, DatabaseProblem):
                hint = "; has manage.py migrate been run?" if "channelserver_jobs" in text else ""
                logger.error("jobs wait, for their database cannot be used: %s%s; will be tried again", text, hint)
            else:
                logger.error("error in the thread that takes jobs; will be tried again", exc_info=error)
        try:
            connections[self.using].close()
        except Exception:
            logger.debug("a connection cannot be closed", exc_info=True)
        return PROBLEM_SECONDS

    def _begin(self) -> None:
        if self._postgresql is not None:
            self._postgresql.prepare()
        assert self._presence is not None
        row = {"host": socket.gethostname(), "pid": os.getpid()}
        JobServer.objects.using(self.using).update_or_create(pk=self._presence.id, defaults=row)
        schedules.store_planned(self.using)
        take_over(self.using)
        self._next_look = 0.0

    def _turn(self) -> float:
        """Do what there is to do; return for how many seconds there is nothing more."""
        if self._postgresql is not None:
            self._postgresql.prepare()
        now = time.monotonic()
        if now >= self._next_look:
            self._look(now)
        with self._lock:
            next_at = self._next_at
        if next_at is not None and next_at <= time.time() and not self._draining:
            self._fire_due()
        if self._draining or self._threads.is_stuck():
            self._take_back()
        self._store_and_claim()
        self._check_deadlines(now)
        if now >= self._next_prune and not self._draining:
            self._prune(now)
        if self._when_idle and not self._running and not self._ends:
            self._call_idle()
        if self._ends:
            return 0.0
        return self._pause(now)

    def _pause(self, now: float) -> float:
        times = [self._next_look - now]
        if self._threads.waiting():
            times.append(GATHER_SECONDS if self._threads.have_enough() else STUCK_SECONDS)
        with self._lock:
            if self._next_at is not None and not self._draining:  # then nothing that is due begins
                times.append(self._next_at - time.time())
        times += [run.deadline - now for run in self._running.values() if run.deadline is not None and not run.is_late]
        return max(0.0, min(times))

    def _call_idle(self) -> None:
        with self._lock:
            callbacks, self._when_idle = self._when_idle, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("error in a when_idle callback")

    def _store_and_claim(self) -> None:
        """Store how attempts ended, and take further jobs, in one transaction; if it fails, nothing has happened."""
        while True:
            ended = list(self._ends)
            count, ahead = self._room(ended)
            if not ended and not count:
                return
            asked = bool(count) and self._ready
            if asked:
                self._ready = False  # what is stored from now on sets it again
            claim: Callable[[], list[Job]] = partial(self._claim, count, ahead) if asked else list
            try:
                stored, jobs = ends.store_all(self.using, [outcome for _, outcome in ended], claim)
            except BaseException:
                self._ready = self._ready or asked
                raise
            for (running, outcome), was_ours in zip(ended, stored, strict=True):
                self._ends.popleft()
                self._forget(running, outcome, was_ours)
            for job in jobs:
                self._start(job)
            if len(jobs) >= count + ahead > 0:
                self._ready = True  # there may be more
            if not jobs:
                return

    def _claim(self, count: int, ahead: int) -> list[Job]:
        assert self._presence is not None
        return store.claim(self.using, self._presence.id, count, self._queues, timezone.now(), ahead)

    def _room(self, ended: list[tuple[Running, Outcome | None]]) -> tuple[int, int]:
        """Return for how many jobs there are free threads, and how many more the threads will soon be ready for."""
        if not self._ready or self._draining or self._coroutines >= self._most * COROUTINES:
            return 0, 0
        occupied = self._in_threads - sum(not running.is_coroutine for running, _ in ended)
        ahead = self._threads.ahead()
        free = self._most - occupied
        return (max(0, free), max(0, ahead + min(0, free))) if free + ahead > 0 else (0, 0)

    def _forget(self, running: Running, outcome: Outcome | None, was_ours: bool) -> None:
        """An attempt has ended, and that is stored."""
        self._running.pop(running.job.pk, None)
        if running.is_coroutine:
            self._coroutines -= 1
        else:
            self._in_threads -= 1
        self._count(running, outcome, was_ours)
        if running.job.concurrency_key or (outcome is not None and outcome.state == State.READY):
            self._ready = True
        if outcome is not None and outcome.run_at is not None:
            self.expect(outcome.run_at.timestamp())

    def _count(self, running: Running, outcome: Outcome | None, was_ours: bool) -> None:
        if not was_ours or running.lost:
            self.counters["lost_lease"] += 1
            logger.warning(
                "the end of job %s is not stored: it was given to another process, as this one seemed dead",
                running.job.pk,
            )
            return
        if outcome is None:
            self.counters["done"] += 1
            return
        if outcome.refund:
            self.counters["returned"] += 1
            return
        self.counters[_COUNTED[outcome.state]] += 1

    def _look(self, now: float) -> None:
        assert self._presence is not None
        self._next_look = now + LOOK_SECONDS
        beat = self._presence.id if self._postgresql is not None else None
        with self._lock:
            self._expected = None
        found = store.look(self.using, beat)
        times = [at.timestamp() for at in (found.next_at, found.next_schedule) if at is not None]
        with self._lock:
            if self._expected is not None:
                times.append(self._expected)
            self._next_at = min(times, default=None)
        self._ready = self._ready or found.ready
        dead = self._dead(found.owners - {self._presence.id}, found.silent, now)
        for owner in dead:
            under_way = self._presence.under_way(owner)
            count, poison = ends.rescue(self.using, owner, under_way, timezone.now())
            self._presence.forget(owner)
            JobServer.objects.using(self.using).filter(pk=owner).delete()
            self.counters["rescued"] += count
            if count:
                self._ready = True
                logger.warning("%d job(s) of a process that died are run again", count)
            for job in poison:
                self.counters["dead"] += 1
                logger.error("job %s is dead: the process that ran it died %d times", job, ends.MOST_DEATHS)
        if self._running:
            self._take_cancellations()

    def _dead(self, owners: set[str], silent: dict[str, float], now: float) -> set[str]:
        """Return which of the owners have ended."""
        assert self._presence is not None
        dead, unknown = set(), set()
        for owner in owners:
            is_dead = self._presence.is_dead(owner)
            if is_dead is None and self._postgresql is None:
                is_dead = True  # a folder beside the database has the files of all owners that live
            if is_dead is None:
                unknown.add(owner)
            elif is_dead:
                dead.add(owner)
        if unknown and self._postgresql is not None:
            found, again = self._postgresql.are_dead(unknown, silent, now)
            dead |= found
            if again:
                self._next_look = min(self._next_look, now + 2.0)
        return dead

    def _fire_due(self) -> None:
        now = timezone.now()
        with self._lock:
            self._next_at = None
        promoted = store.promote(self.using, now)
        fired, next_schedule = schedules.fire(self.using, now)
        self.counters["scheduled"] += fired
        if promoted or fired:
            self._ready = True
        found = store.look(self.using, None)
        for at in (found.next_at, next_schedule):
            if at is not None:
                self.expect(at.timestamp())

    def _take_cancellations(self) -> None:
        ids = list(self._running)
        asked = Job.objects.using(self.using).filter(pk__in=ids, cancel_requested=True).values_list("pk", flat=True)
        for pk in asked:
            self._cancel(self._running[pk])

    @staticmethod
    def _cancel(running: Running) -> None:
        if not running.cancelled:
            running.cancelled = True
            task = running.task
            if task is not None:
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _check_deadlines(self, now: float) -> None:
        for running in list(self._running.values()):
            if running.deadline is None or running.is_late or now < running.deadline:
                continue
            running.is_late = running.cancelled = True
            running.late_since = now
            self.counters["overdue"] += 1
            stack = ""
            thread = running.thread
            frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
            if frame is not None:
                stack = "".join(traceback.format_stack(frame))
            logger.error(
                "job %s of %s is overdue; nothing can stop a thread, so this one is lost until it ends (%d of %d)\n%s",
                running.job.pk, running.job.task, self.lost_threads(), self._most, stack,
            )  # fmt: skip
            ends.mine(self.using, running.job).update(overdue=True)

    def _start(self, job: Job) -> None:
        running = Running(job, self.using, self._call_later, self._presence)
        self._running[job.pk] = running
        if running.options.timeout is not None and not running.is_coroutine:  # that is cancelled by its own time-out
            running.deadline = time.monotonic() + running.options.timeout
        try:
            if running.is_coroutine:
                self._coroutines += 1
                self._start_coroutine(arun, running, partial(self._ended, running), context=self._context())
            else:
                self._in_threads += 1
                self._threads.submit(running)
        except NoThreadError:  # logged in sums
            later = timezone.now() + timedelta(seconds=RETRY_SECONDS)
            self._ended(running, Outcome(job, State.WAITING, refund=True, run_at=later))

    def _prune(self, now: float) -> None:
        self._next_prune = now + PRUNE_SECONDS
        time_now: datetime = timezone.now()
        if store.prune(self.using, time_now - self._keep_done, time_now - self._keep_dead) == store.PRUNE_ROWS:
            self._next_prune = now + 1.0
        assert self._presence is not None
        self._presence.forget_dead()

    def _take_back(self) -> None:
        """Give back the jobs that wait for a thread: the server stops, or its threads have become slow."""
        for running in self._threads.take_back():
            self._ends.append((running, Outcome(running.job, State.READY, refund=True)))

    @staticmethod
    def _unfinished(running: Running) -> Outcome:
        """Return how an attempt ends that the process leaves behind; one whose time is over has had its chance."""
        if running.is_late:
            return failed(running.job, running.options, TimeoutError("the job did not end when its time was over"))
        return Outcome(running.job, State.READY, refund=True)

    def _finish(self) -> None:
        """Store what has ended, give back the rest, and leave."""
        assert self._presence is not None and self._bell is not None
        try:
            ended = [outcome for _, outcome in self._ends]
            rest = [self._unfinished(running) for running in self._running.values()]
            leave = JobServer.objects.using(self.using).filter(pk=self._presence.id).delete
            ends.store_all(self.using, [*ended, *rest], leave)
        except Exception as error:
            self._failed(error)
        self._call_idle()
        connections[self.using].close()
        self._presence.close()
        self._bell.close()
