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
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from functools import partial

from django.db import Error as DatabaseProblem
from django.db import connections
from django.utils import timezone

from channelserver.jobs import claims, ends, schedules, store
from channelserver.jobs.agenda import Agenda, Clock
from channelserver.jobs.attempts import Attempts
from channelserver.jobs.claims import Room
from channelserver.jobs.delayed import take_over
from channelserver.jobs.ends import Outcome
from channelserver.jobs.listening import Bell, PostgreSQL
from channelserver.jobs.local import claimers
from channelserver.jobs.models import KINDS, LIMITED, Job, JobServer, RunsOn, State
from channelserver.jobs.owners import AGAIN_SECONDS, Owners
from channelserver.jobs.presence import Presence, folder_of, wake
from channelserver.jobs.runner import Running, arun
from channelserver.jobs.threads import STUCK_SECONDS, JobThreads
from channelserver.jobs.wake import announce_change
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
#: Seconds until the next one when there is more to delete.
PRUNE_AGAIN_SECONDS = 0.25
#: Coroutines that run at a time for each thread for jobs.
COROUTINES = 10


class Claimer:
    """Runs the jobs of one database in this process.

    :param using: alias of the database.
    :param queues: which to serve; None: all.
    :param threads: for jobs.
    :param call_later: ``call_later(seconds, function)`` runs a function in the reactor thread.
    :param start_coroutine: ``start_coroutine(function, *arguments, context)`` runs a coroutine function on the loop.
    :param context: returns the context for a job.
    :param keep_done: days for which jobs that are done are kept.
    :param keep_dead: days for which dead jobs are kept; used keys as long as either, and as long as their job.
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
        self._attempts = Attempts(using, threads)
        self._agenda = Agenda()
        self._leaving = threading.Event()  # no more jobs are started
        self._stopping = False
        self._when_idle: list[Callable[[], object]] | None = []  # None: the thread has ended
        self._ready = True  # a job may be ready: set by any thread
        self._may_have: set[RunsOn] = set()  # those for which the table may have ready jobs
        self._next_look = 0.0
        self._trust_at = 0.0  # before, a server whose file is missing may be alive
        self._clock = Clock()
        self._called = False  # another process has called since the last look
        self._next_prune = time.monotonic() + 60.0
        self._problem = ""
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._presence: Presence | None = None
        self._owners: Owners | None = None
        self._postgresql: PostgreSQL | None = None
        #: What happened since the start, for ``/-/health``.
        self.counters: Counter[str] = self._attempts.counters

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
        if not self._threads.have_enough():
            self._ring()

    def look_soon(self) -> None:
        """Something in the table has changed."""
        self._next_look = 0.0
        self.wake()

    def expect(self, at: float) -> None:
        """A job is due at `at` (Unix time)."""
        self._agenda.expect(at)
        self._ring()

    @property
    def is_full(self) -> bool:
        """Whether further jobs would wait here."""
        most, attempts = self._most, self._attempts
        return attempts.in_threads >= most or attempts.coroutines >= most * COROUTINES or self._leaving.is_set()

    @property
    def id(self) -> str:
        return self._presence.id if self._presence is not None else ""

    def figures(self) -> dict[str, int]:
        """Return the counters, and what runs now."""
        counters = {f"jobs_{name}": count for name, count in self.counters.items()}
        return {"jobs_running": len(self._attempts.running), **counters}

    def lost_for(self) -> float | None:
        """Return for how many seconds all threads have been lost: no job begins here; None: not all are."""
        return self._attempts.lost_for()

    def drain(self) -> None:
        """Start no more jobs."""
        self._leaving.set()
        self._ring()

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, from any thread, when no job runs and all ends are stored."""
        with self._lock:
            waits = self._thread is not None and self._when_idle is not None
            if self._thread is not None and self._when_idle is not None:
                self._when_idle.append(callback)
        if waits:
            self._ring()
        else:
            callback()

    def leave(self) -> None:
        """Give back the jobs that still run."""
        self._stopping = True
        self.drain()

    def stop(self, timeout: float) -> list[str]:
        """Give back the jobs that still run; return a line for each."""
        unfinished = self._attempts.names()
        self.leave()
        if self._thread is not None:
            self._thread.join(timeout)
        self._threads.stop()
        if claimers.get(self.using) is self:
            del claimers[self.using]
        return unfinished

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _ended(self, running: Running, outcome: Outcome | None) -> None:
        """An attempt has ended. Job threads and the event loop's."""
        self._ends.append((running, outcome))
        if not self._threads.have_enough():
            self._ring()

    # -- the claimer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._set_up():
            if self._leaving.wait(PROBLEM_SECONDS):
                self._call_idle(last=True)
                return
        assert self._bell is not None
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
                if self._bell.wait(seconds, self._postgresql):
                    self._next_look, self._ready, self._called = 0.0, True, True
            except Exception as error:
                self._bell.wait(self._failed(error))
        self._finish()

    def _set_up(self) -> bool:
        """Make what the thread needs; return whether it is there."""
        try:
            presence = self._presence = Presence(folder_of(connections[self.using]))
            self._bell = Bell(presence)
        except Exception as error:
            self._failed(error)
            return False
        if connections[self.using].vendor == "postgresql":
            self._postgresql = PostgreSQL(connections[self.using], presence.id)
        self._owners = Owners(self.using, presence, self._postgresql, self.counters)
        return True

    def _failed(self, error: Exception) -> float:
        """Take note of a problem; return the seconds until the next try."""
        text = " ".join(str(error).split())
        kind = "database" if isinstance(error, DatabaseProblem) else text  # one line, whatever it says meanwhile
        if kind != self._problem:
            self._problem = kind
            if isinstance(error, DatabaseProblem):
                hint = "; has manage.py migrate been run?" if "channelserver_jobs" in text else ""
                logger.error("jobs wait, for their database cannot be used: %s%s; will be tried again", text, hint)
            elif self._bell is None and isinstance(error, OSError):
                logger.error("no jobs run: %s; the folder for locks cannot be used; will be tried again", text)
            else:
                logger.error("error in the thread that takes jobs; will be tried again", exc_info=error)
        self._take_back()  # what has not begun may be another server's by the time the database is there again
        self._next_look, self._ready = 0.0, True  # it may have done what it did not confirm
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
        schedules.store_planned(self.using, schedules.discover())
        take_over(self.using)
        self._next_look = 0.0

    def _turn(self) -> float:
        """Do what there is to do; return for how many seconds there is nothing more."""
        if self._postgresql is not None:
            self._postgresql.prepare()
        now = time.monotonic()
        if now >= self._next_look:
            self._look(now)
        next_at = self._agenda.next
        if next_at is not None and next_at <= time.time() and not self._leaving.is_set():
            self._fire_due()
        if self._leaving.is_set() or self._threads.is_stuck():
            self._take_back()
        self._store_and_claim()
        self._attempts.check_deadlines(now)
        if now >= self._next_prune and not self._leaving.is_set():
            self._prune(now)
        if self._when_idle and not self._attempts.running and not self._ends:
            self._call_idle()
        if self._ends:
            return 0.0
        return self._pause(now)

    def _pause(self, now: float) -> float:
        times = [self._next_look - now]
        if self._threads.waiting():
            times.append(GATHER_SECONDS if self._threads.have_enough() else STUCK_SECONDS)
        next_at = self._agenda.next
        if next_at is not None and not self._leaving.is_set():  # then nothing that is due begins
            times.append(next_at - time.time())
        if self._postgresql is not None and not self._postgresql.is_locked:
            times.append(PROBLEM_SECONDS)
        times += [deadline - now for deadline in self._attempts.deadlines()]
        return max(0.0, min(times))

    def _call_idle(self, last: bool = False) -> None:
        with self._lock:
            callbacks, self._when_idle = self._when_idle, None if last else []
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                logger.exception("error in a when_idle callback")

    def _store_and_claim(self) -> None:
        """Store how attempts ended, and take further jobs, in one transaction; if it fails, nothing has happened."""
        places: Counter[str] = Counter()
        while self._store_and_claim_once(places):
            pass
        if +places and (self.is_full or self._queues is not None):
            self._call_others()  # what may run now may have to run elsewhere

    def _store_and_claim_once(self, places: Counter[str]) -> bool:
        """Return whether there may be more to do.

        :param places: counts the places of limits that were freed here, and not taken again.
        """
        if self._ready:  # what is stored from now on sets it again
            self._ready, self._may_have = False, set(KINDS)
        ended = list(self._ends)
        room = self._room(ended)
        if not ended and not room:
            return False
        claim: Callable[[], list[Job]] = partial(self._claim, room) if room else list
        stored, jobs = ends.store_all(self.using, [outcome for _, outcome in ended], claim)
        for (running, outcome), was_ours in zip(ended, stored, strict=True):
            self._ends.popleft()
            self._forget(running, outcome, was_ours)
        places.update(running.job.concurrency_key for running, _ in ended if running.job.concurrency_key)
        places.subtract(job.concurrency_key for job in jobs if job.concurrency_key)
        for job in jobs:
            self._start(job)
        if room:
            found = Counter(job.runs_on % LIMITED for job in jobs)
            for kind, most in ((RunsOn.THREAD, room.threads), (RunsOn.LOOP, room.loop)):
                if found[kind] < most:  # else there may be more
                    self._may_have.discard(kind)
        return bool(jobs) or self._ready  # an end has made room under a limit

    def _call_others(self) -> None:
        """Have other processes look: a job may be ready that cannot run here."""
        if self._postgresql is not None:
            self._postgresql.notify()
        wake(folder_of(connections[self.using]), but=self.id)

    def _claim(self, room: Room) -> list[Job]:
        assert self._presence is not None
        return claims.claim(self.using, self._presence.id, room, self._queues, timezone.now())

    def _room(self, ended: list[tuple[Running, Outcome | None]]) -> Room | None:
        """Return for how many jobs there is room which may be ready: free threads, jobs that the threads will soon be
        ready for, the event loop.
        """
        if not self._may_have or self._leaving.is_set():
            return None
        in_loop = sum(running.is_coroutine for running, _ in ended)
        free = self._most - self._attempts.in_threads + len(ended) - in_loop
        loop = self._most * COROUTINES - self._attempts.coroutines + in_loop
        ahead = self._threads.ahead()
        threads = max(0, free) if RunsOn.THREAD in self._may_have else 0
        room = Room(threads, max(0, ahead + min(0, free)), max(0, loop) if RunsOn.LOOP in self._may_have else 0)
        return room if room.threads or room.loop else None

    def _forget(self, running: Running, outcome: Outcome | None, was_ours: bool) -> None:
        """An attempt has ended, and that is stored."""
        self._attempts.forget(running, outcome, was_ours)
        if running.job.concurrency_key or (outcome is not None and outcome.state == State.READY):
            self._ready = True
        if outcome is not None and outcome.run_at is not None:
            self.expect(outcome.run_at.timestamp())

    def _look(self, now: float) -> None:
        """Look into the tables; but of several idle processes of this machine only one does."""
        assert self._presence is not None and self._owners is not None
        self._next_look = now + LOOK_SECONDS
        if self._presence.renew():
            logger.warning("the folder for locks was removed while the server ran; it is there again")
            self._trust_at = now + 2 * LOOK_SECONDS  # until then the other servers do the same
        if self._clock.was_set_back():
            logger.warning("the clock was set back; the next times of schedules follow it")
            schedules.set_back(self.using)
        if not (self._ready or self._may_have or self._attempts.running or self._presence.is_first(3 * LOOK_SECONDS)):
            return
        if not self._leaving.is_set():
            self._presence.touch()
        self._agenda.look_begins()
        found = store.look(self.using, self._presence.id if self._postgresql is not None else None)
        times = [at.timestamp() for at in (found.next_at, found.next_schedule) if at is not None]
        self._agenda.looked(times)
        if found.ready:
            self._ready = True
            if self.is_full and not self._called:  # else full processes would call each other without end
                wake(folder_of(connections[self.using]), but=self._presence.id)
        self._called = False
        rescued = self.counters["rescued"]
        if now >= self._trust_at and self._owners.rescue(found, now):
            self._next_look = min(self._next_look, now + AGAIN_SECONDS)
        if self._presence.id in found.owners:
            count = ends.give_back(self.using, self._presence.id, self._attempts.running)
            if count:
                self.counters["returned"] += count
                self._ready = True
                logger.warning("%d job(s) that this process had taken without knowing it are run again", count)
        if self.counters["rescued"] > rescued:
            self._ready = True
            if self.is_full:
                self._call_others()
        if self._attempts.running:
            self._attempts.take_cancellations()

    def _fire_due(self) -> None:
        now = timezone.now()
        self._agenda.look_begins()
        promoted = store.promote(self.using, now)
        fired = schedules.fire(self.using, now)
        self.counters["scheduled"] += fired
        found = store.look(self.using, None)
        if promoted or fired or found.ready:  # perhaps another server's doing, which has no thread free
            self._ready = True
        times = [at.timestamp() for at in (found.next_at, found.next_schedule) if at is not None]
        if not (promoted or fired):  # another server has locked what is due
            times = [max(at, time.time() + PROBLEM_SECONDS) for at in times]
        self._agenda.looked(times)

    def _start(self, job: Job) -> None:
        running = Running(job, self.using, self._call_later, self._presence)
        self._attempts.add(running)
        try:
            if running.is_coroutine:
                self._start_coroutine(arun, running, partial(self._ended, running), context=self._context())
            else:
                self._threads.submit(running)
        except NoThreadError:  # logged in sums
            later = timezone.now() + timedelta(seconds=RETRY_SECONDS)
            self._ended(running, Outcome(job, State.WAITING, refund=True, run_at=later))

    def _prune(self, now: float) -> None:
        self._next_prune = now + PRUNE_SECONDS
        time_now: datetime = timezone.now()
        if store.prune(self.using, time_now - self._keep_done, time_now - self._keep_dead) == store.PRUNE_ROWS:
            self._next_prune = now + PRUNE_AGAIN_SECONDS
        assert self._owners is not None
        self._owners.forget()

    def _take_back(self) -> None:
        """Give back the jobs that wait for a thread: the server stops, or its threads have become slow."""
        for running in self._threads.take_back():
            self._ends.append((running, Outcome(running.job, State.READY, refund=True)))

    def _finish(self) -> None:
        """Store what has ended, give back the rest, and leave."""
        assert self._presence is not None and self._bell is not None
        try:
            ended = [outcome for _, outcome in list(self._ends)]
            leave = JobServer.objects.using(self.using).filter(pk=self._presence.id).delete
            ends.store_all(self.using, [*ended, *self._attempts.unfinished()], leave)
            announce_change(self.using)
        except Exception as error:
            self._failed(error)
        self._call_idle(last=True)
        connections[self.using].close()
        self._presence.close()
        self._bell.close()
