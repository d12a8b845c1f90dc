"""Jobs without a server: what is stored, what a task says of itself, and what the helpers for tests run."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress as suppress_errors
from contextvars import Context
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from asgiref.sync import async_to_sync, sync_to_async
from cronsim import CronSim
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone
from twisted.trial.unittest import SynchronousTestCase

from channelserver import Channel, Group, Message, channel_layers, jobs
from channelserver.asgi import ChannelLayerWrapper
from channelserver.delay import keeping
from channelserver.delay.consumers import Delays
from channelserver.delay.models import DelayedMessage
from channelserver.jobs import (
    Cancel,
    JobBackend,
    Retry,
    backend,
    captured_jobs,
    claims,
    delayed,
    ends,
    job,
    once,
    run_jobs,
    schedule,
    schedules,
    store,
)
from channelserver.jobs.agenda import Clock
from channelserver.jobs.attempts import Attempts
from channelserver.jobs.claimer import Claimer
from channelserver.jobs.compat import (
    IN_DJANGO,
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    task,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from channelserver.jobs.listening import Bell
from channelserver.jobs.marks import FIRST_RETRY, JITTER, LONGEST_RETRY, JobOptions, options_of, planned
from channelserver.jobs.models import LIMITED, Job, JobError, JobOnce, JobQueue, JobServer, RunsOn, Schedule, State
from channelserver.jobs.owners import Owners
from channelserver.jobs.presence import Presence
from channelserver.jobs.runner import Running, current, failed, run
from channelserver.jobs.threads import JobThreads
from channelserver.layers import InMemoryChannelLayer
from channelserver.start.jobs import make_claimers
from channelserver.start.project import StartError
from channelserver.workers.threads import NoThreadError
from tests import DatabaseTestCase

done: list[Any] = []
#: Where Django's tasks log the end of a job.
LOGGER = "django.tasks" if IN_DJANGO else "django_tasks"


@task
def add(a: int, b: int) -> int:
    """A task as in Django's documentation."""
    return a + b


@task(priority=5)
@job(retries=2)
def failing(text: str) -> None:
    """A task that fails, and is tried again."""
    raise ValueError(text)


@task(takes_context=True)
@job(retries=3)
def failing_by_number(context: Any) -> None:
    """A task that fails, and says in which try."""
    raise ValueError(f"try {context.attempt}")


#: Seconds that nobody waits in vain.
LONG = 20.0


class Speechless(Exception):
    """An exception that cannot tell its text."""

    def __str__(self) -> str:
        raise LookupError


@task
@job(retries=1)
def speechless() -> None:
    """A task that raises it."""
    raise Speechless


nameless = task(lambda: None)


@task
def interrupted() -> None:
    """A task during which somebody presses Ctrl-C."""
    raise KeyboardInterrupt


@task
def failing_once_for_all() -> None:
    """A task that says nothing of itself, and fails."""
    raise LookupError


@task
@job(retries=5, give_up_on=[KeyError], retry_on=[LookupError])
def choosy(name: str) -> None:
    """A task that is tried again after some errors only."""
    raise {"key": KeyError, "index": IndexError, "value": ValueError}[name]


@task(takes_context=True)
def context_of(context: Any) -> list[Any]:
    """A task that looks at its context."""
    return [context.attempt, context.cancelled, context.task_result.id, current() is not None]


@task
async def slowly(value: int) -> int:
    """A coroutine."""
    await asyncio.sleep(0)
    return value * 2


@task
async def slowly_nothing() -> None:
    """A coroutine without arguments."""
    await asyncio.sleep(0)


@task
@job(unique=True)
def one(value: int) -> None:
    """One for each argument."""
    done.append(value)


@task
@job(unique="all", unique_for=timedelta(hours=1))
def hourly() -> None:
    """One an hour."""
    done.append("hourly")


@task
@job(concurrency=2, key=lambda shop, number: shop)
def of_shop(shop: str, number: int) -> None:
    """Two for each shop."""


@task
@job(retries=1)
def asks(again: bool) -> None:
    """A task that says itself how it goes on."""
    raise Retry(in_=60) if again else Cancel("no more")


@task
def odd() -> Any:
    """A task whose result is no JSON."""
    return object()


@task
@job(atomic=True, retries=1)
def atomically(fail: bool) -> None:
    """A task that leaves a row behind, and may fail then."""
    add.enqueue(3, 4)
    if fail:
        raise ValueError


@task
def nan() -> float:
    """A task whose result is no JSON of a database."""
    return float("nan")


@task
async def cancels_itself() -> None:
    """A coroutine that awaits what is cancelled."""
    raise asyncio.CancelledError


@task
def sends() -> None:
    """A task that enqueues another."""
    add.enqueue(1, 1)


class ClaimerTests(SynchronousTestCase):
    """Parts of the claimer, without its thread."""

    def make(self) -> Claimer:
        return Claimer("default", None, 1, lambda *_: None, lambda *_: None)

    def test_drain(self) -> None:
        """While the server stops, a job that is due keeps the claimer from no sleep."""
        claimer = self.make()
        claimer.expect(0.0)
        claimer._next_look = 105.0
        self.assertEqual(claimer._pause(100.0), 0.0)
        claimer.drain()
        self.assertEqual(claimer._pause(100.0), 5.0)

    def test_problems(self) -> None:
        """Whatever a database says while it is away, the log says it once; what has not begun is given back."""
        claimer = self.make()
        row = Job(task="channel:x", args={"args": [], "kwargs": {}}, owner="x", attempt=1)
        with mock.patch("channelserver.jobs.threads.start_thread", return_value=False), suppress_errors(NoThreadError):
            claimer._threads.submit(Running(row, "default", lambda *_: None))
        claimer._threads._queue.put(Running(row, "default", lambda *_: None))
        with self.assertLogs("channelserver.jobs", "ERROR") as logs:
            claimer._failed(DatabaseError("the connection is closed"))
            claimer._failed(DatabaseError("the database system is starting up"))
        self.assertEqual(len(logs.records), 1)
        self.assertIn("closed", logs.output[0])
        ((_, outcome),) = claimer._ends
        assert outcome is not None
        self.assertEqual((outcome.state, outcome.refund), (State.READY, True))

    def test_no_folder(self) -> None:
        """Without a folder for locks no job runs, until there is one; a server that stops does not wait for it."""
        claimer = self.make()
        folder = Path(self.mktemp())
        folder.touch()
        with (
            mock.patch("channelserver.jobs.claimer.folder_of", return_value=folder),
            mock.patch("channelserver.jobs.claimer.PROBLEM_SECONDS", 0.01),
            self.assertLogs("channelserver.jobs", "ERROR") as logs,
        ):
            claimer.start()
            idle = Event()
            claimer.when_idle(idle.set)
            claimer.drain()
            self.assertTrue(idle.wait(30))
            claimer.stop(30)
        self.assertIn("the folder for locks cannot be used", logs.output[0])
        after = Event()
        claimer.when_idle(after.set)
        self.assertTrue(after.is_set())

    def test_first(self) -> None:
        """Of several idle processes one looks into the tables: the first that lives, and does not stand still."""
        folder = Path(self.mktemp())
        with mock.patch("secrets.token_hex", side_effect=["a" * 16, "b" * 16]):
            first, second = Presence(folder), Presence(folder)
        self.assertEqual((first.is_first(15), second.is_first(15)), (True, False))
        os.utime(folder / ("a" * 16 + ".lock"), (1, 1))
        self.assertTrue(second.is_first(15))
        first.touch()
        self.assertFalse(second.is_first(15))
        first.close()
        self.assertTrue(second.is_first(15))
        second.close()

    def test_folder_removed(self) -> None:
        """If somebody removes the folder, a server that lives makes its files again: it is not taken for dead."""
        folder = Path(self.mktemp())
        presence = Presence(folder)
        presence.began("a")
        presence.began("b")
        presence.ended("a")
        self.assertFalse(presence.renew())
        rmtree(folder)
        script = (
            "import sys\nfrom pathlib import Path\nfrom channelserver.jobs.presence import Presence, wake\n"
            "folder = Path(sys.argv[1])\npresence = Presence(folder)\n"
            "print(presence.is_dead(sys.argv[2]), *presence.under_way(sys.argv[2]))\npresence.close()\nwake(folder)"
        )
        self.assertTrue(presence.renew())
        self.assertFalse(presence.renew())
        command = [sys.executable, "-c", script, str(folder), presence.id]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "False b\n")
        assert presence.socket is not None
        self.assertEqual(presence.socket.recv(8), b"!")
        presence.close()
        self.assertEqual(os.listdir(folder), [])

    def test_clock_set_back(self) -> None:
        """A clock that is set back is noticed once; one that is set forward, or a little back, never."""
        times = iter([1000.0, 5000.0, 4990.0, 1000.0, 1000.0])
        with (
            mock.patch("channelserver.jobs.agenda.time.time", side_effect=lambda: next(times)),
            mock.patch("channelserver.jobs.agenda.time.monotonic", return_value=7.0),
        ):
            clock = Clock()
            self.assertEqual([clock.was_set_back() for _ in range(4)], [False, False, True, False])

    def test_too_many_files(self) -> None:
        """A process is not dead because its file cannot be opened."""
        presence = Presence(Path(self.mktemp()))
        with mock.patch("os.open", side_effect=OSError(errno.EMFILE, "too many open files")):
            self.assertFalse(presence.is_dead("other"))
        with mock.patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "no space")):
            presence.began("job")
            presence.ended("job")
        presence.close()

    def test_ahead(self) -> None:
        """The slower the jobs, the fewer are taken ahead; there is no step."""
        threads = JobThreads(4, Context, lambda running, outcome: None)
        threads._ended_count = 100
        found = []
        for threads._average in (0.001, 0.01, 0.021, 0.05, 0.1):
            found.append(threads.ahead())
        self.assertEqual(found, [64, 8, 3, 1, 0])

    def test_cannot_run(self) -> None:
        """If even the run of a job raises, the job has failed: it does not stay in a thread for ever."""
        ended: list[Any] = []
        threads = JobThreads(1, Context, lambda running, outcome: ended.append(outcome))
        row = Job(task="channel:x", args={"args": [], "kwargs": {}}, owner="x", attempt=1)
        with mock.patch("channelserver.jobs.threads.close_old_connections", side_effect=OSError):
            with self.assertLogs("channelserver.jobs", "ERROR"):
                threads.submit(Running(row, "default", lambda *_: None))
                threads.stop()
                for thread in threads._threads:
                    thread.join(30)
        self.assertEqual([outcome.state for outcome in ended], [State.WAITING])

    def test_time_of_a_waiting_job(self) -> None:
        """The time of a job that waits for a thread does not run."""
        attempts = Attempts("default", 1)
        row = Job(pk="a", task="channel:x", args={"args": [], "kwargs": {}}, owner="x", attempt=1)
        running = Running(row, "default", lambda *_: None)
        running.options = JobOptions(timeout=5)
        attempts.add(running)
        begin = running.deadline or 0.0
        attempts.check_deadlines(begin + 1)
        self.assertEqual((running.is_late, running.deadline, attempts.lost_for()), (False, begin + 6, None))

    def test_same_job_twice(self) -> None:
        """A job that runs here twice, as its database is an older copy, stays known when the first run ends."""
        attempts = Attempts("default", 2)
        first, second = (
            Running(Job(pk="a", task="channel:x", owner="x", attempt=number), "default", lambda *_: None)
            for number in (1, 2)
        )
        attempts.add(first)
        attempts.add(second)
        with self.assertLogs("channelserver.jobs", "WARNING"):
            attempts.forget(first, None, was_ours=False)
        self.assertEqual(attempts.running, {"a": second})
        attempts.forget(second, None, was_ours=True)
        self.assertEqual((attempts.running, attempts.in_threads), ({}, 0))

    def test_no_room_for_threads(self) -> None:
        """Where the system has no room for a thread, a job waits for a moment, and has not spent a try."""
        threads = JobThreads(2, Context, lambda running, outcome: None)
        job_row = Job(task="channel:x", args={"args": [], "kwargs": {}}, owner="x", attempt=1)
        with mock.patch("channelserver.jobs.threads.start_thread", return_value=False):
            self.assertRaises(NoThreadError, threads.submit, Running(job_row, "default", lambda *_: None))
        claimer = self.make()
        for _ in range(2):
            with mock.patch.object(claimer._threads, "submit", side_effect=NoThreadError):
                claimer._start(job_row)
        (_, outcome), _ = claimer._ends
        assert outcome is not None and outcome.run_at is not None
        self.assertEqual((outcome.state, outcome.refund), (State.WAITING, True))
        self.assertGreater(outcome.run_at, timezone.now())

    def test_fork(self) -> None:
        """A forked child does not take its parent's claimers for its own."""
        script = (
            "import os\nfrom channelserver.jobs.local import claimers\nclaimers['default'] = object()\n"
            "child = os.fork()\nif not child: os._exit(len(claimers))\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(claimers))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "0 1\n")

    def test_own_locks(self) -> None:
        """A process does not take its own second claimer for dead, nor free its lock by looking."""
        folder = Path(self.mktemp())
        first, second = Presence(folder), Presence(folder)
        self.assertEqual((first.is_dead(second.id), second.is_dead(first.id)), (False, False))
        script = (
            "import sys\nfrom pathlib import Path\nfrom channelserver.jobs.presence import Presence\n"
            "presence = Presence(Path(sys.argv[1]))\nprint(*map(presence.is_dead, sys.argv[2:]))\npresence.close()"
        )
        command = [sys.executable, "-c", script, str(folder), first.id, second.id, "gone"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "False False None\n")
        first.close()
        second.close()


class BellTests(SynchronousTestCase):
    """What wakes the claimer."""

    def test_rung_while_it_wakes(self) -> None:
        """Who rings while the claimer takes an earlier ring keeps nobody from ringing later."""
        bell = Bell(Presence(None))
        self.addCleanup(bell.close)
        read = os.eventfd_read

        def read_late(descriptor: int) -> int:
            bell.ring()
            return read(descriptor)

        bell.ring()
        with mock.patch.object(os, "eventfd_read", read_late):
            bell.wait(LONG)
        bell.ring()
        begun = time.monotonic()
        bell.wait(LONG)
        self.assertLess(time.monotonic() - begun, LONG / 2)


class MarkTests(SynchronousTestCase):
    """What a task says of itself."""

    def test_wrong_values(self) -> None:
        """A value that makes no sense is an error where it stands."""
        for wrong in (
            {"retries": -1}, {"retries": True}, {"backoff": "quadratic"}, {"backoff": []}, {"timeout": 0},
            {"timeout": "1"}, {"timeout": float("nan")}, {"concurrency": 0}, {"backoff": -1}, {"backoff": [1, "2"]},
            {"unique": 5}, {"unique_for": 5}, {"key": "fixed"}, {"retry_on": [ValueError()]},
            {"give_up_on": "KeyError"}, {"concurrency": ("key", 0)}, {"unique_for": timedelta(0), "unique": True},
        ):  # fmt: skip
            with self.assertRaises(ValueError, msg=str(wrong)) as caught:
                job(**wrong)  # type: ignore[arg-type]
            self.assertIn(next(iter(wrong)), str(caught.exception))

    def test_empty_key(self) -> None:
        """A key of ``concurrency`` that comes out empty is one as others; its jobs are not without a limit."""

        def task_of_shop(shop: str) -> None:
            """Takes what the key is made of."""

        options = options_of(job(concurrency=(lambda shop: shop, 2))(task_of_shop))
        keys = [options.concurrency_of("path", [shop], {}) for shop in ("", "a", "")]
        self.assertEqual(keys[1], ("a", 2))
        self.assertEqual(keys[0], keys[2])
        self.assertTrue(keys[0][0])

    def test_order_of_decorators(self) -> None:
        """``@job`` above ``@task`` says where it stands, and without parentheses that it needs them."""
        self.assertIn("@job()", str(self.assertRaises(TypeError, job, add.func)))
        self.assertEqual(options_of(job(retry_on=OSError)(lambda: None)).retry_on, (OSError,))
        self.assertIn("below @task", str(self.assertRaises(TypeError, job(), add)))
        self.assertIn("atomic", str(self.assertRaises(TypeError, job(atomic=True), slowly.func)))

    def test_wrong_schedules(self) -> None:
        """A schedule that can never be is an error where it stands."""
        for cron, kwargs in (
            ("* * * *", {}), ("61 * * * *", {}), ("0 0 31 2 *", {}), ("@daily", {"tz": "Mars/Olympus"}),
            ("0 0 * * *", {"tz": "Mars/Olympus"}), ("0 0 * * *", {"catch_up": "some"}),
        ):  # fmt: skip
            self.assertRaises(ValueError, schedule, cron, **kwargs)
        self.addCleanup(planned.clear)
        planned.clear()
        self.assertIn("'a'", str(self.assertRaises(TypeError, schedule("* * * * *"), add)))
        for name in (None, "other"):
            schedule("* * * * *", name=name)(context_of)
        self.assertIn("name=", str(self.assertRaises(ValueError, schedule("1 * * * *"), context_of)))

    def test_pauses(self) -> None:
        """Pauses grow, at most a quarter more at random, and never above an hour."""
        error = ValueError()
        exponential = JobOptions(retries=20)
        for failures in range(1, 12):
            least = min(LONGEST_RETRY, FIRST_RETRY * 2 ** (failures - 1))
            self.assertEqual(exponential.pause(failures, error, lambda: 0.0), least)
            most = exponential.pause(failures, error, lambda: 1.0)
            self.assertEqual(most, min(LONGEST_RETRY, least * (1 + JITTER)))
        self.assertEqual(JobOptions(backoff="linear").pause(3, error, lambda: 0.0), 45.0)
        self.assertEqual(JobOptions(backoff=7).pause(3, error), 7.0)
        self.assertEqual([JobOptions(backoff=(1, 5)).pause(n, error) for n in (1, 2, 3)], [1.0, 5.0, 5.0])
        self.assertEqual(JobOptions(backoff=lambda failures: failures * 2).pause(3, error), 6.0)
        self.assertEqual(JobOptions().pause(1, Retry(in_=timedelta(minutes=1))), 60.0)

    def test_wrong_pauses(self) -> None:
        """A pause that cannot be told, or is too long for a date, neither hides the error nor adds tries."""
        far = timezone.now() + timedelta(days=365)
        for backoff in (lambda failures: 1 / 0, lambda failures: None):
            with self.assertLogs("channelserver.jobs", "ERROR"):
                self.assertEqual(JobOptions(backoff=backoff).pause(2, ValueError(), lambda: 0.0), 2 * FIRST_RETRY)
        row = Job(task="x", args={"args": [], "kwargs": {}})
        for options, error in (
            (JobOptions(retries=1, backoff=lambda failures: 1e30), ValueError("x")),
            (JobOptions(retries=1, backoff=(float("1e300"),)), ValueError("x")),
            (JobOptions(retries=1), Retry(in_=1e30)),
        ):
            outcome = failed(row, options, error)
            self.assertIs(outcome.error, error)
            assert outcome.run_at is not None
            self.assertGreater(outcome.run_at, far)
        with self.assertLogs("channelserver.jobs", "ERROR"):
            outcome = failed(row, JobOptions(retries=1), Retry(in_="soon"))  # type: ignore[arg-type]
        self.assertEqual(outcome.state, State.WAITING)

    def test_long_keys(self) -> None:
        """A key of any length fits the column, and stays a key."""
        options = JobOptions(unique=True)
        first, second = (options.unique_key("tasks.one", ["x" * 1000 + end], {}) for end in "ab")
        self.assertNotEqual(first, second)
        self.assertLessEqual(len(first or ""), 255)


class BackendTests(DatabaseTestCase):
    """Jobs in the table, run by the helpers for tests."""

    def setUp(self) -> None:
        super().setUp()
        done.clear()
        self.later = timezone.now() + timedelta(days=1)

    def test_result(self) -> None:
        """A job is stored, runs, and keeps its result."""
        result = add.enqueue(1, b=2)
        self.assertEqual((result.status, result.attempts), ("READY", 0))
        (ran,) = run_jobs()
        result.refresh()
        self.assertEqual((result.status, result.return_value, result.attempts), ("SUCCESSFUL", 3, 1))
        self.assertEqual(ran, result)
        self.assertEqual(add.get_result(result.id), result)
        self.assertEqual(run_jobs(), [])
        other = add.using(priority=-5, queue_name="other", run_after=self.later).enqueue(1, 2)
        self.assertEqual(add.get_result(other.id), other)

    def test_unknown_result(self) -> None:
        """There is an error for what does not exist."""
        self.assertRaises(TaskResultDoesNotExist, add.get_result, "0" * 32)
        self.assertRaises(TaskResultDoesNotExist, add.get_result, "no such job")

    def test_coroutine_and_context(self) -> None:
        """Coroutines run; a task sees its context."""
        results = [slowly.enqueue(4), context_of.enqueue()]
        run_jobs()
        for result in results:
            result.refresh()
        self.assertEqual(results[0].return_value, 8)
        self.assertEqual(results[1].return_value, [1, False, results[1].id, True])

    def test_retries(self) -> None:
        """A job is run again as often as it says; all errors are kept; a task that says nothing is not."""
        result = failing.enqueue("bad")
        run_jobs()
        row = Job.objects.get()
        self.assertEqual((row.state, row.failures), (State.WAITING, 1))
        result.refresh()
        self.assertEqual(result.status, "READY")
        self.assertEqual(run_jobs(), [])
        with self.assertLogs(LOGGER, "ERROR"):
            run_jobs(until=self.later)
        result.refresh()
        self.assertEqual((result.status, result.attempts, len(result.errors)), ("FAILED", 3, 3))
        self.assertEqual({error.exception_class for error in result.errors}, {ValueError})
        self.assertIn("raise ValueError(text)", result.errors[0].traceback)
        plain = failing_once_for_all.enqueue()
        with self.assertLogs(LOGGER, "ERROR"):
            run_jobs(until=self.later)
        plain.refresh()
        self.assertEqual((plain.status, plain.attempts), ("FAILED", 1))

    def test_times_of_retries(self) -> None:
        """A retry waits for its pause, and never longer than its chance allows; each try leaves its traces."""
        result = failing_by_number.enqueue()
        due: datetime | None = None
        for number in range(1, 5):
            before = timezone.now()
            with mock.patch("channelserver.jobs.testing._OWNER", f"server-{number}"):
                (ran,) = run_jobs(until=due)
            after = timezone.now()
            result.refresh()
            self.assertEqual((ran.id, ran.errors), (result.id, result.errors))
            self.assertEqual(result.worker_ids, [f"server-{n}" for n in range(1, number + 1)])
            self.assertEqual(result.attempts, number)
            self.assertEqual(
                [error.traceback.splitlines()[-1] for error in result.errors],
                [f"ValueError: try {n}" for n in range(1, number + 1)],
            )
            if due is None:
                first = result.started_at
                self.assertTrue(before <= first == result.last_attempted_at <= after)
            else:
                self.assertEqual((result.started_at, result.last_attempted_at), (first, due))
            if number == 4:
                break
            self.assertEqual((result.status, result.finished_at), ("READY", None))
            due = Job.objects.get().run_at
            pause = timedelta(seconds=FIRST_RETRY * 2 ** (number - 1))
            self.assertTrue(before + pause <= due <= after + pause * (1 + JITTER))
            self.assertEqual(run_jobs(until=due - timedelta(microseconds=1)), [])
        self.assertEqual(result.status, "FAILED")
        self.assertTrue(before <= result.finished_at <= after)
        self.assertEqual(list(JobError.objects.values_list("attempt", flat=True)), [1, 2, 3, 4])

    def test_asynchronous_calls(self) -> None:
        """A coroutine can enqueue, ask for a result, and refresh it."""

        async def calls() -> None:
            result = await add.aenqueue(1, b=2)
            self.assertEqual(await add.aget_result(result.id), result)
            self.assertEqual(len(await sync_to_async(run_jobs)()), 1)
            self.assertEqual(result.status, "READY")
            await result.arefresh()
            self.assertEqual((result.status, result.return_value), ("SUCCESSFUL", 3))
            for wrong in ("0" * 32, "no such job"):
                with self.assertRaises(TaskResultDoesNotExist):
                    await add.aget_result(wrong)
            with self.assertRaises(TaskResultMismatch):
                await slowly.aget_result(result.id)

        async_to_sync(calls)()

    def test_interrupted(self) -> None:
        """Ctrl-C ends the tests, though a job is running; in a thread for jobs, the exception is the job's failure."""
        interrupted.enqueue()
        self.assertRaises(KeyboardInterrupt, run_jobs)
        running = Running(Job.objects.get(), "default", lambda *_: None)
        with ThreadPoolExecutor(1) as thread, self.assertLogs(LOGGER, "ERROR"):
            ended = thread.submit(run, running)
            self.assertIsNone(ended.exception())
            outcome = ended.result()
        assert outcome is not None
        self.assertEqual(outcome.state, State.DEAD)

    def test_errors_that_end_a_job(self) -> None:
        """``give_up_on`` and ``retry_on`` decide which errors do."""
        results = {name: choosy.enqueue(name) for name in ("key", "index", "value")}
        run_jobs()
        for result in results.values():
            result.refresh()
        self.assertEqual(
            {name: result.status for name, result in results.items()},
            {"key": "FAILED", "index": "READY", "value": "FAILED"},
        )

    def test_retry_and_cancel(self) -> None:
        """A task can ask for another try, or end its job."""
        again, never = asks.enqueue(True), asks.enqueue(False)
        run_jobs()
        again.refresh()
        never.refresh()
        self.assertEqual((again.status, never.status), ("READY", "FAILED"))
        self.assertEqual(never.errors[0].exception_class, Cancel)
        self.assertEqual(Job.objects.get(pk=never.id).state, State.CANCELLED)
        run_jobs(until=self.later)
        again.refresh()
        self.assertEqual((again.status, again.attempts), ("FAILED", 2))

    def test_signals(self) -> None:
        """Django's signals are sent, those of the end once, when there is no further try."""
        seen: list[tuple[str, str, int, int]] = []
        names = {task_enqueued: "enqueued", task_started: "started", task_finished: "finished"}

        def note(signal: Any, sender: Any, task_result: Any, **_: Any) -> None:
            self.assertIs(sender, JobBackend)
            seen.append((names[signal], task_result.status, task_result.attempts, len(task_result.errors)))
            ids.add(task_result.id)
            self.assertEqual(task_result.finished_at is not None, signal is task_finished)

        ids: set[str] = set()
        for signal in names:
            signal.connect(note)
            self.addCleanup(signal.disconnect, note)
        result = failing.enqueue("x")
        run_jobs(until=self.later)
        self.assertEqual(seen, [
            ("enqueued", "READY", 0, 0), *(("started", "RUNNING", number, number - 1) for number in (1, 2, 3)),
            ("finished", "FAILED", 3, 3),
        ])  # fmt: skip
        self.assertEqual(ids, {result.id})
        seen.clear()
        add.enqueue(1, 1)
        run_jobs()
        self.assertEqual(
            seen, [("enqueued", "READY", 0, 0), ("started", "RUNNING", 1, 0), ("finished", "SUCCESSFUL", 1, 0)]
        )

    def test_unique(self) -> None:
        """A second job with the same key is the first one, until that has ended."""
        first, second, other = one.enqueue(1), one.enqueue(1), one.enqueue(2)
        self.assertEqual(first.id, second.id)
        self.assertNotEqual(first.id, other.id)
        run_jobs()
        self.assertEqual(done, [1, 2])
        self.assertNotEqual(one.enqueue(1).id, first.id)

    def test_unique_after_a_death(self) -> None:
        """The death of a process neither frees the key too early nor keeps it for ever."""
        first = one.enqueue(1)
        for number in range(ends.MOST_DEATHS):
            self.assertEqual(one.enqueue(1).id, first.id)
            claims.claim("default", f"p{number}", 1, None, timezone.now())
            ends.rescue("default", f"p{number}", None, timezone.now())
        self.assertNotEqual(one.enqueue(1).id, first.id)

    def test_unique_again(self) -> None:
        """A unique job that is run again takes its key again, unless another one has it."""
        first = one.enqueue(1)
        store.cancel("default", Job.objects.all())
        second = one.enqueue(1)
        self.assertNotEqual(first.id, second.id)
        output = StringIO()
        call_command("jobs", "retry", first.id, stdout=output)
        self.assertIn("0 will run again; 1 will not, for another job has their unique key", output.getvalue())
        store.cancel("default", Job.objects.all())
        self.assertEqual(store.retry("default", Job.objects.filter(pk=first.id)), 1)
        self.assertEqual(one.enqueue(1).id, first.id)

    def test_unique_for_a_time(self) -> None:
        """With ``unique_for`` the key stays when the job has ended, until its time is over."""
        first = hourly.enqueue()
        run_jobs()
        self.assertEqual(hourly.enqueue().id, first.id)
        self.assertEqual(hourly.enqueue().status, "SUCCESSFUL")
        Job.objects.update(unique_until=timezone.now())
        self.assertNotEqual(hourly.enqueue().id, first.id)

    def test_kept_as_long_as_its_key(self) -> None:
        """A job that has ended is not deleted while its key is wanted."""
        first = hourly.enqueue()
        run_jobs()
        later = timezone.now() + timedelta(days=1)
        self.assertEqual(store.prune("default", later, later), 0)
        self.assertEqual(hourly.enqueue().id, first.id)
        Job.objects.update(unique_until=timezone.now())
        self.assertEqual(store.prune("default", later, later), 1)

    def test_concurrency(self) -> None:
        """No more jobs of a key are claimed than may run; others are not held up by them."""
        for number in range(5):
            of_shop.enqueue("a", number)
        of_shop.enqueue("b", 5)
        add.enqueue(0, 0)
        now = timezone.now()
        found = claims.claim("default", "x", 10, None, now)
        self.assertEqual(len(found), 4)
        self.assertEqual([row.args["args"] for row in found], [["a", 0], ["a", 1], ["b", 5], [0, 0]])
        self.assertEqual(claims.claim("default", "x", 10, None, now), [])
        self.assertTrue(ends.end("default", ends.Outcome(found[0], State.DONE)))
        self.assertEqual([row.args["args"] for row in claims.claim("default", "x", 10, None, now)], [["a", 2]])

    def test_order(self) -> None:
        """The highest priority goes first, then the oldest job; a delayed one waits."""
        ids = [
            add.using(priority=priority, run_after=after).enqueue(0, 0).id
            for priority, after in ((-5, None), (0, None), (100, self.later), (0, None), (7, None))
        ]
        found = claims.claim("default", "x", 10, None, timezone.now())
        self.assertEqual([row.pk for row in found], [ids[4], ids[1], ids[3], ids[0]])

    def test_fence(self) -> None:
        """An end is stored only by the attempt that owns the job."""
        add.enqueue(1, 1)
        (row,) = claims.claim("default", "dead", 1, None, timezone.now())
        self.assertEqual(ends.rescue("default", "dead", None, timezone.now()), (1, []))
        (again,) = claims.claim("default", "other", 1, None, timezone.now())
        self.assertFalse(ends.end("default", ends.Outcome(row, State.DONE, result=1)))
        self.assertTrue(ends.end("default", ends.Outcome(again, State.DONE, result=2)))
        self.assertEqual(Job.objects.get().result, 2)

    def test_poison(self) -> None:
        """A job at whose side three processes died is dead; its failures are counted apart."""
        result = add.enqueue(1, 1)
        for number in range(3):
            (row,) = claims.claim("default", f"p{number}", 1, None, timezone.now())
            count, dead = ends.rescue("default", f"p{number}", {row.pk}, timezone.now())
        self.assertEqual((count, dead), (0, [row.pk]))
        result.refresh()
        self.assertEqual((result.status, result.attempts), ("FAILED", 3))
        self.assertEqual(result.errors[0].exception_class.__name__, "WorkerDied")
        self.assertEqual(store.retry("default", Job.objects.all()), 1)
        self.assertEqual(Job.objects.get().deaths, 0)

    def test_bystanders(self) -> None:
        """A job that was taken but not under way is not blamed."""
        ids = [add.enqueue(number, 0).id for number in range(2)]
        for number in range(4):
            claims.claim("default", f"p{number}", 2, None, timezone.now())
            ends.rescue("default", f"p{number}", {ids[0]}, timezone.now())
        states = dict(Job.objects.values_list("pk", "state"))
        self.assertEqual(states, {ids[0]: State.DEAD, ids[1]: State.READY})

    def test_ahead(self) -> None:
        """A job whose process has died waits for no thread: it must not be blamed for another death."""
        ids = [add.enqueue(number, 0).id for number in range(4)]
        Job.objects.filter(pk__in=ids[2:3]).update(deaths=1)
        found = claims.claim("default", "x", claims.Room(1, ahead=3), None, timezone.now())
        self.assertEqual([row.pk for row in found], [ids[0], ids[1], ids[3]])

    def test_cancelled_with_its_process(self) -> None:
        """A job that ought to end does not run again because its process has died or stops."""
        result = add.enqueue(1, 1)
        (row,) = claims.claim("default", "dead", 1, None, timezone.now())
        self.assertEqual(store.cancel("default", Job.objects.all()), (0, 1))
        ends.rescue("default", "dead", {result.id}, timezone.now())
        self.assertEqual(Job.objects.get().state, State.CANCELLED)
        attempts = Attempts("default", 1)
        running = Running(row, "default", lambda *_: None)
        attempts.add(running)
        running.cancelled = True
        self.assertEqual([outcome.state for outcome in attempts.unfinished()], [State.CANCELLED])
        outcome = run(running)
        assert outcome is not None
        self.assertEqual((outcome.state, done), (State.CANCELLED, []))

    def test_own_cancellation(self) -> None:
        """A coroutine that ends as cancelled, though nobody has cancelled it, has failed; it is not run for ever."""
        cancels_itself.enqueue()
        self.assertEqual(len(run_jobs()), 1)
        self.assertEqual(Job.objects.get().state, State.DEAD)

    def test_transaction_that_cannot_begin(self) -> None:
        """An atomic job whose transaction cannot begin is put off; that is no failure."""
        atomically.enqueue(False)
        (row,) = claims.claim("default", "here", 1, None, timezone.now())
        with mock.patch("channelserver.jobs.runner.writing", side_effect=DatabaseError("database is locked")):
            outcome = run(Running(row, "default", lambda *_: None))
        assert outcome is not None
        self.assertEqual((outcome.state, outcome.refund, outcome.failed), (State.WAITING, True, False))

    def test_many(self) -> None:
        """What is done to thousands of jobs takes several transactions."""
        with mock.patch("channelserver.jobs.store.MANY_ROWS", 3):
            for _ in range(7):
                add.using(run_after=self.later).enqueue(1, 1)
            late = self.later + timedelta(days=1)
            self.assertEqual([store.promote("default", late) for _ in range(4)], [3, 3, 1, 0])
            self.assertEqual(store.cancel("default", Job.objects.all()), (7, 0))
            self.assertEqual(store.retry("default", Job.objects.all()), 7)

    def test_refund(self) -> None:
        """A job that is given back has not spent a try."""
        add.enqueue(1, 1)
        (row,) = claims.claim("default", "x", 1, None, timezone.now())
        ends.end("default", ends.Outcome(row, State.READY, refund=True))
        row = Job.objects.get()
        self.assertEqual((row.state, row.attempt, row.worker_ids), (State.READY, 0, ""))

    def test_transactions(self) -> None:
        """A job belongs to the transaction in which it is enqueued."""
        with self.assertRaises(LookupError), transaction.atomic():
            add.enqueue(1, 1)
            raise LookupError
        self.assertFalse(Job.objects.exists())

    def test_atomic(self) -> None:
        """What a failing atomic job has stored is gone, and the transaction of a test goes on."""
        results = [atomically.enqueue(True), atomically.enqueue(False)]
        self.assertEqual(len(run_jobs()), 3)
        self.assertEqual([result.task.get_result(result.id).status for result in results], ["READY", "SUCCESSFUL"])
        self.assertEqual(Job.objects.filter(task=f"{__name__}.add").count(), 1)

    def test_invalid(self) -> None:
        """What cannot be stored is an error at once."""
        self.assertRaises(TypeError, add.enqueue, object(), 1)
        self.assertRaises(InvalidTask, task, lambda: None)
        with self.assertRaises(ImproperlyConfigured) as caught:
            JobBackend("default", {"OPTIONS": {"data_base": "default"}})
        self.assertIn("data_base", str(caught.exception))
        with self.assertRaisesRegex(ImproperlyConfigured, "must be a list"):
            JobBackend("default", {"QUEUES": "default"})

    def test_tasks_that_no_server_finds(self) -> None:
        """A task that cannot be imported is refused when it is enqueued, not in the server."""
        self.assertRaisesRegex(InvalidTask, "decorate a function of a module", nameless.enqueue)
        with mock.patch.object(add.func, "__module__", "__main__"):
            self.assertRaisesRegex(InvalidTask, "__main__.add", add.using(priority=3).enqueue, 1, 1)
        self.assertFalse(Job.objects.exists())

    def test_errors_without_text(self) -> None:
        """An exception whose ``__str__`` raises is an error as others are, and readable in the log: in one line."""
        self.assertEqual(ends.words_of(DatabaseError("gone\n\tit has\n")), "gone it has")
        speechless.enqueue()
        with self.assertLogs("channelserver.jobs", "WARNING") as logs:
            run_jobs()
        self.assertIn("failed (Speechless: its text cannot be made: LookupError); try 2", logs.records[0].getMessage())
        self.assertEqual(Job.objects.get().state, State.WAITING)

    def test_arguments_that_are_no_json(self) -> None:
        """What no database takes as JSON is refused at once, with its name; a unique job is not tried for ever."""
        for wrong in (float("nan"), float("inf")):
            self.assertRaisesRegex(ValueError, "arguments of .*add", add.enqueue, wrong, 1)
            self.assertRaises(ValueError, one.enqueue, wrong)
        self.assertRaises(TypeError, add.enqueue, object(), 1)
        with mock.patch.object(store, "insert", side_effect=IntegrityError):
            self.assertRaises(IntegrityError, one.enqueue, 1)
        result = add.enqueue("\0 \ud800 ☃ \U0001f600", "x" * 1_000_000)
        self.assertEqual(Job.objects.get(pk=result.id).args["args"][0], "\0 \ud800 ☃ \U0001f600")

    def test_arguments_that_postgresql_refuses(self) -> None:
        """They are refused before it does, which would end the caller's transaction."""
        self.enterContext(mock.patch.object(connection, "vendor", "postgresql"))
        for wrong in ("\0", "\\\0", "a\ud800", "\udc00", "\ud83d\ud83d\ude00", "\ude00\ud83d", {"\ude00": 1}):
            self.assertRaisesRegex(ValueError, r"lone surrogate: .*\\u.*, for .*add", add.enqueue, [wrong], 1)
        for right in ("\\u0000", "\\\\u0000", "\\ud800", "\U0001f600\U0001f600", "☃\ue000"):
            self.assertIsNone(backend._not_in_jsonb(backend._encode([right])), right)

    def test_results_that_are_no_json(self) -> None:
        """A result that cannot be stored is a failure of the job."""
        result = odd.enqueue()
        with self.assertLogs(LOGGER, "ERROR"):
            run_jobs()
        result.refresh()
        self.assertEqual((result.status, result.errors[0].exception_class), ("FAILED", TypeError))

    def test_results_that_a_database_refuses(self) -> None:
        """So is one that the database does not take; the jobs that end beside it are stored."""
        results = [nan.enqueue(), add.enqueue(1, 2)]
        now = timezone.now()
        rows = claims.claim("default", "x", 2, None, now)
        outcomes = [
            ends.Outcome(row, State.DONE, result=value) for row, value in zip(rows, (float("nan"), 3), strict=True)
        ]
        self.assertEqual(ends.store_all("default", outcomes, list), ([True, True], []))
        self.assertEqual([result.task.get_result(result.id).status for result in results], ["FAILED", "SUCCESSFUL"])
        result = nan.enqueue()
        run_jobs()
        result.refresh()
        self.assertEqual(result.status, "FAILED")

    def test_ends_of_others(self) -> None:
        """Of several ends those are stored that are still this process's."""
        for number in range(3):
            add.enqueue(number, 0)
        rows = claims.claim("default", "x", 3, None, timezone.now())
        Job.objects.filter(pk=rows[1].pk).update(owner="other")
        outcomes = [None, *(ends.Outcome(row, State.DONE, result=1) for row in rows)]
        stored, then = ends.store_all("default", outcomes, lambda: Job.objects.filter(state=State.DONE).count())
        self.assertEqual((stored, then), ([True, True, False, True], 2))

    def test_missing_task(self) -> None:
        """A job whose task is gone is tried again, for another server may know it, and then dead."""
        add.enqueue(1, 1)
        Job.objects.update(task="tests.test_jobs.gone")
        with mock.patch("channelserver.jobs.testing.store.promote", wraps=store.promote):
            self.assertRaises(ImportError, run_jobs)
        row = Job.objects.get()
        self.assertEqual((row.state, JobError.objects.get().exception_class), (State.WAITING, "builtins.ImportError"))

    def test_captured(self) -> None:
        """What is enqueued is seen, also by a job."""
        with captured_jobs() as jobs:
            sends.enqueue()
            self.assertEqual(len(run_jobs()), 2)
        self.assertEqual([found.task.func for found in jobs], [sends.func, add.func])

    def test_taken_without_knowing_it(self) -> None:
        """A commit that is not confirmed, or an older copy of the database: the jobs are given back, and not blamed."""
        known, lost = add.enqueue(1, 1), add.enqueue(2, 2)
        self.assertEqual(len(claims.claim("default", "p1", 2, None, timezone.now())), 2)
        other = add.enqueue(3, 3)
        claims.claim("default", "p2", 1, None, timezone.now())
        self.assertEqual(ends.give_back("default", "p1", {known.id}), 1)
        rows = {row.pk: (row.state, row.owner, row.attempt) for row in Job.objects.all()}
        expected = {known.id: ("running", "p1", 1), lost.id: ("ready", "", 0), other.id: ("running", "p2", 1)}
        self.assertEqual(rows, expected)

    def test_stored_without_knowing_it(self) -> None:
        """An end whose commit was not confirmed is stored once; nobody says that another process has the job."""
        now = timezone.now()
        kinds: list[dict[str, Any]] = [
            {"state": State.DONE, "result": 3, "finished_at": now},
            {"state": State.DEAD, "error": OSError("x"), "failed": True, "finished_at": now},
            {"state": State.WAITING, "error": OSError("x"), "failed": True, "run_at": now + timedelta(seconds=15)},
            {"state": State.WAITING, "refund": True, "run_at": now + timedelta(seconds=1)},
        ]
        for kind in kinds:
            add.enqueue(1, 1)
            (row,) = claims.claim("default", "p", 1, None, now)
            outcome = ends.Outcome(row, **kind)
            self.assertEqual(ends.store_all("default", [outcome], list)[0], [True])
            before = Job.objects.filter(pk=row.pk).values().get(), JobError.objects.count()
            with self.assertLogs("channelserver.jobs", "WARNING") as logs:
                self.assertEqual(ends.store_all("default", [outcome], list)[0], [True])
            self.assertIn("was stored already", logs.output[0])
            self.assertEqual((Job.objects.filter(pk=row.pk).values().get(), JobError.objects.count()), before)
        for kind in kinds:  # what another process was given is not taken for an own end
            add.enqueue(1, 1)
            (row,) = claims.claim("default", "p", 1, None, now)
            ends.rescue("default", "p", None, timezone.now())
            claims.claim("default", "q", 1, None, now)
            self.assertEqual(ends.store_all("default", [ends.Outcome(row, **kind)], list)[0], [False])

    def test_cancelled_late(self) -> None:
        """A job that somebody cancels between its failure and the store of it does not run again."""
        for state in (State.WAITING, State.READY):
            pk = add.enqueue(1, 1).id
            (row,) = claims.claim("default", "p", 1, None, timezone.now())
            self.assertEqual(store.cancel("default", Job.objects.filter(pk=pk)), (0, 1))
            outcome = ends.Outcome(row, state, error=OSError("x"), text="x", run_at=timezone.now())
            self.assertEqual(ends.store_all("default", [outcome], list)[0], [True])
            self.assertEqual(Job.objects.get(pk=pk).state, State.CANCELLED)
            self.assertEqual(run_jobs(until=timezone.now() + timedelta(days=1)), [])
            self.assertEqual(ends.store_all("default", [outcome], list)[0], [False])

    def test_cancelled_as_it_begins(self) -> None:
        """A job that begins while it is cancelled is asked to end."""
        add.enqueue(1, 1)
        jobs = Job.objects.all()

        def update(*arguments: Any) -> int:
            claims.claim("default", "p", 1, None, timezone.now())
            return 0

        with mock.patch.object(store, "_update", side_effect=update):
            self.assertEqual(store.cancel("default", jobs), (0, 1))
        self.assertTrue(jobs.get().cancel_requested)

    def test_pause(self) -> None:
        """A paused queue starts nothing."""
        add.enqueue(1, 1)
        JobQueue.objects.create(name="default")
        self.assertEqual(run_jobs(), [])
        JobQueue.objects.all().delete()
        self.assertEqual(len(run_jobs()), 1)

    def test_one_query(self) -> None:
        """A look is one query."""
        add.using(run_after=self.later).enqueue(1, 1)
        with CaptureQueriesContext(connection) as queries:
            found = store.look("default", None)
        self.assertEqual(len(queries), 1)
        self.assertEqual(found, store.Look(self.later, False, set(), {}, None))

    def test_indexes(self) -> None:
        """What a server asks again and again reads neither ended rows nor more ready ones than it takes."""
        now = timezone.now()
        asked: list[tuple[str, Any]] = [claims._selection("default", None, kind) for kind in RunsOn]
        with CaptureQueriesContext(connection) as queries:
            store.promote("default", now)
            store.look("default", None)
            ends.rescue("default", "nobody", None, now)
            store.prune("default", now, now)
        asked += [(query["sql"], None) for query in queries.captured_queries]
        plans = []
        for sql, values in asked:
            if sql.startswith(("SELECT", "UPDATE", "WITH")):
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN QUERY PLAN {sql}", values)
                    plans += [row[3] for row in cursor.fetchall() if re.search(r"_job( |$)|ORDER BY", row[3])]
        self.assertTrue(plans)
        self.assertEqual([plan for plan in plans if "INDEX csjobs_" not in plan and "(id=?)" not in plan], [])
        for index in ("ready", "waiting", "running", "ended"):
            self.assertTrue(any(f"csjobs_{index}" in plan for plan in plans), index)

    def test_full_key(self) -> None:
        """Passing over the ready jobs of a full key reads the index alone, no rows: SQLite's program says so."""
        ready = claims.due("default", None, RunsOn.THREAD).exclude(concurrency_key__in=["full"])[:1]
        statement, parameters = ready.query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute("SELECT rootpage FROM sqlite_master WHERE name = 'csjobs_ready'")
            (root,) = cursor.fetchone()
            cursor.execute(f"EXPLAIN {statement}", parameters)
            program = [row[1:4] for row in cursor.fetchall()]
        (index,) = (first for name, first, second in program if name == "OpenRead" and second == root)
        self.assertIn(("Column", index, 3), program)

    def make_limited(self, key: str, count: int, **values: Any) -> None:
        values = {"runs_on": RunsOn.LIMITED_THREAD, "concurrency": 1, **values}
        Job.objects.bulk_create(Job(task="x", concurrency_key=key, **values) for _ in range(count))

    def test_many_of_a_full_key(self) -> None:
        """What a claim does does not grow with the jobs of full keys; it takes others in their order."""
        work = []
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        for count in (50, 2000):
            Job.objects.all().delete()
            for key in ("a", "c"):
                self.make_limited(key, 1, state=State.RUNNING, owner="other")
            self.make_limited("a", count, priority=7)
            self.make_limited("c", count, priority=6)
            self.make_limited("b", count)
            self.make_limited("d", count, priority=-1)
            ids = [add.using(priority=priority).enqueue(0, 0).id for priority in (0, -5)]
            connection.connection.set_progress_handler(step, 1)
            steps = 0
            found = claims.claim("default", "me", claims.Room(3, 0, 40), None, timezone.now())
            connection.connection.set_progress_handler(None, 1)
            work.append(steps)
            self.assertEqual([job.concurrency_key or job.pk for job in found], ["b", ids[0], "d"])
            found = claims.claim("default", "me", claims.Room(3, 0, 40), None, timezone.now())
            self.assertEqual([job.pk for job in found], ids[1:])
        self.assertLess(work[1], work[0] * 1.2)

    def test_many_places_beside_a_full_key(self) -> None:
        """Where one key is full, many jobs of another one are found in a few queries."""
        self.make_limited("a", 1, state=State.RUNNING, owner="other")
        self.make_limited("a", 100)
        self.make_limited("b", 100, concurrency=64)
        self.make_limited("c", 100, concurrency=3, priority=-1)
        for number in range(50):
            self.make_limited(f"d{number}", 1, priority=-2)
        with CaptureQueriesContext(connection) as queries:
            found = claims.claim("default", "me", claims.Room(66, 0, 0), None, timezone.now())
        self.assertEqual(Counter(job.concurrency_key for job in found), {"b": 64, "c": 2})
        self.assertLess(len(queries), 16)

    def test_many_keys(self) -> None:
        """Nor is anything forgotten if there are very many keys, or none but full ones."""
        for number in range(claims.MOST_KEYS + 5):
            self.make_limited(f"full{number:03}", 1, state=State.RUNNING, owner="other")
            self.make_limited(f"full{number:03}", 2)
            self.make_limited(f"key{number:03}", 1)
        room = claims.Room(10, 0, 10)
        found = [job.concurrency_key for job in claims.claim("default", "me", room, None, timezone.now())]
        self.assertEqual(found, [f"key{number:03}" for number in range(10)])
        Job.objects.filter(state=State.READY, concurrency_key__startswith="key").delete()
        self.assertEqual(claims.claim("default", "me", room, None, timezone.now()), [])

    def test_many_full_keys(self) -> None:
        """However many keys are full, one free place goes to the first job that may run, and without many queries."""
        for many in (0, claims.MOST_KEYS + 5):
            for number in range(claims.LOOK_AT + 50):
                self.make_limited(f"full{number:03}", 1, state=State.RUNNING, owner="other")
                self.make_limited(f"full{number:03}", 2, priority=1)
            for number in range(many):
                self.make_limited(f"a{number:03}", 1, priority=-1)
            self.make_limited("free", 1)
            with CaptureQueriesContext(connection) as queries:
                found = claims.claim("default", "me", claims.Room(1, 0, 0), None, timezone.now())
            self.assertEqual([job.concurrency_key for job in found], ["free"])
            self.assertLess(len(queries), 16)
            Job.objects.all().delete()

    def test_no_more(self) -> None:
        """Where all that may run is found, a claim with more places asks no second time."""
        self.make_limited("full", 1, state=State.RUNNING, owner="other")
        self.make_limited("full", 10)
        self.make_limited("free", 3, concurrency=2)
        with CaptureQueriesContext(connection) as queries:
            found = claims.claim("default", "me", claims.Room(9, 0, 0), None, timezone.now())
        self.assertEqual([row.concurrency_key for row in found], ["free"] * 2)
        self.assertEqual(sum("WITH RECURSIVE" in query["sql"] for query in queries.captured_queries), 1)

    def test_many_places_many_keys(self) -> None:
        """A statement has no more parameters than an SQLite as it comes takes."""
        self.make_limited("full", 1, state=State.RUNNING, owner="other")
        self.make_limited("full", 10)
        for number in range(claims.MOST_KEYS - 1):
            self.make_limited(f"key{number:02}", 5, concurrency=5)
        before = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
        self.addCleanup(connection.connection.setlimit, sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)
        found = claims.claim("default", "me", claims.Room(400, 0, 0), None, timezone.now())
        self.assertEqual([job.concurrency_key for job in found], [f"key{number // 5:02}" for number in range(400)])

    def test_model(self) -> None:
        """Any mix of jobs is claimed as if somebody went through all of them, by priority and age, within limits."""
        for seed in range(12):
            random = Random(seed)
            Job.objects.all().delete()
            limits = {f"key{number}": random.choice((1, 1, 2, 5)) for number in range(random.choice((1, 3, 8, 120)))}
            jobs: dict[str, Job] = {}
            for _ in range(20):
                keys = random.choices(
                    [*limits, *[""] * random.choice((0, 1, len(limits)))], k=random.choice((1, 9, 60))
                )
                new = [
                    Job(
                        task="x", concurrency_key=key, concurrency=limits.get(key, 0), queue=random.choice("aab"),
                        runs_on=random.choice((0, 1)) + (LIMITED if key else 0), priority=random.choice((0, 0, 5)),
                    )
                    for key in keys
                ]  # fmt: skip
                jobs.update((row.pk, row) for row in Job.objects.bulk_create(new))
                running = [row for row in jobs.values() if row.state == State.RUNNING]
                for row in random.sample(running, random.randint(0, len(running))):
                    row.state = random.choice((State.DONE, State.READY))
                    Job.objects.filter(pk=row.pk).update(state=row.state)
                queues = random.choice((None, ["a"], ["b", "c"]))
                room = claims.Room(random.choice((1, 2, 20)), random.choice((0, 3)), random.choice((0, 1, 40)))
                wanted = self._model(list(jobs.values()), limits, room, queues)
                found = {row.pk for row in claims.claim("default", "me", room, queues, timezone.now())}
                self.assertEqual(found, wanted, f"seed {seed}")
                for pk in found:
                    jobs[pk].state = State.RUNNING

    @staticmethod
    def _model(jobs: list[Job], limits: dict[str, int], room: claims.Room, queues: list[str] | None) -> set[str]:
        running = Counter(row.concurrency_key for row in jobs if row.state == State.RUNNING)
        found = set()
        for kind, count in ((RunsOn.THREAD, room.threads + room.ahead), (RunsOn.LOOP, room.loop)):
            for row in sorted(jobs, key=lambda row: (-row.priority, row.pk)):
                key = row.concurrency_key
                fits = row.state == State.READY and row.runs_on % LIMITED == kind
                fits = fits and (queues is None or row.queue in queues)
                if count and fits and not (key and running[key] >= limits[key]):
                    running[key] += 1
                    count -= 1
                    found.add(row.pk)
        return found

    def test_key_of_both(self) -> None:
        """Jobs in threads and on the event loop that share a key do not take its place both; wherever they stand."""
        by_hand = [(RunsOn.THREAD, RunsOn.LIMITED_LOOP), (RunsOn.THREAD, RunsOn.LIMITED_THREAD)]
        for kinds in [(RunsOn.LIMITED_THREAD, RunsOn.LIMITED_LOOP), *by_hand]:
            Job.objects.all().delete()
            for runs_on in kinds:
                self.make_limited("a", 2, runs_on=runs_on)
            found = claims.claim("default", "me", claims.Room(4, 0, 10), None, timezone.now())
            self.assertEqual([job.concurrency_key for job in found], ["a"])

    def test_behind_others(self) -> None:
        """A claim that other jobs fill does not ask which keys of the jobs behind them are full."""
        self.make_limited("full", 1, state=State.RUNNING, owner="other")
        self.make_limited("full", 10)
        ids = [add.using(priority=1).enqueue(0, 0).id for _ in range(3)]
        with CaptureQueriesContext(connection) as queries:
            found = claims.claim("default", "me", claims.Room(3, 0, 0), None, timezone.now())
        self.assertEqual([row.pk for row in found], ids)
        self.assertLess(len([query for query in queries.captured_queries if "SELECT" in query["sql"]]), 3)

    def test_usual_claim(self) -> None:
        """Without limited jobs, a claim that finds something asks nothing about them beside; nor does an enqueue."""
        for task_of_kind, arguments in ((add, (1, 1)), (slowly, (1,))):
            task_of_kind.enqueue(*arguments)
            with CaptureQueriesContext(connection) as queries:
                self.assertEqual(len(claims.claim("default", "p", claims.Room(4, 0, 40), None, timezone.now())), 1)
            found = [query["sql"].split(" ", 1)[0] for query in queries.captured_queries]
            self.assertEqual(
                [word for word in found if word in ("SELECT", "UPDATE", "WITH")], ["SELECT"] * 2 + ["UPDATE"]
            )

    def test_prune(self) -> None:
        """Old jobs are deleted with their errors; waiting ones never."""
        add.enqueue(1, 1)
        asks.enqueue(False)
        run_jobs()
        add.enqueue(2, 2)
        self.assertEqual(store.prune("default", timezone.now() - timedelta(days=1), timezone.now()), 0)
        self.assertEqual(store.prune("default", timezone.now() + timedelta(days=1), timezone.now()), 2)
        self.assertEqual((Job.objects.count(), JobError.objects.count()), (1, 0))

    def test_servers_that_have_gone(self) -> None:
        """The rows of servers that have ended are deleted with the old jobs; the one of a server that lives stays."""
        presence = Presence(Path(self.enterContext(TemporaryDirectory())) / "jobs")
        for name in (presence.id, "gone"):
            JobServer.objects.create(pk=name, host="here", pid=1)
        Owners("default", presence, None, Counter()).forget()
        self.assertEqual([row.pk for row in JobServer.objects.all()], [presence.id])
        presence.close()

    def test_once(self) -> None:
        """A key is used once; a transaction that could take it back is refused."""
        answers = []
        for _ in range(2):
            with once("key") as first:
                answers.append(first)
        self.assertEqual(answers, [True, False])
        self.assertRaises(RuntimeError, once().__enter__)
        with transaction.atomic():
            with self.assertRaises(RuntimeError) as caught:
                once("other").__enter__()
            self.assertIn("atomic", str(caught.exception))

    def test_keys_are_kept(self) -> None:
        """The key of a job that may run again is not forgotten, however old; nor another one before dead jobs are."""
        pk = add.enqueue(1, 1).id
        now = timezone.now()
        for key, days in ((pk, 90), ("young", 10), ("old", 40)):
            JobOnce.objects.create(key=key, at=now - timedelta(days=days))
        store.prune("default", now - timedelta(days=7), now - timedelta(days=30))
        self.assertEqual(set(JobOnce.objects.values_list("pk", flat=True)), {pk, "young"})

    def test_durable_without_consumer(self) -> None:
        """A durable message for which no consumer is routed is kept, and tried again."""
        self.assertRaises(ValueError, Channel("websocket.send!abc").send, {}, durable=True)
        Channel("nobody").send({"a": b"1"}, durable=True)
        run_jobs()
        self.assertEqual((Job.objects.get().state, Job.objects.get().failures), (State.WAITING, 1))

    def test_command(self) -> None:
        """``manage.py jobs`` lists, runs again, cancels, prunes, pauses."""

        def manage(*arguments: str) -> str:
            output = StringIO()
            call_command("jobs", *arguments, stdout=output)
            return output.getvalue()

        result = asks.enqueue(False)
        self.assertIn("1 ready", manage("list"))
        run_jobs()
        self.assertIn(result.id, manage("list", "--state", "cancelled"))
        self.assertEqual(manage("retry", result.id), "1 will run again\n")
        self.assertEqual(manage("cancel", "--state", "ready"), "1 cancelled\n")
        self.assertIn("paused", manage("pause", "default"))
        self.assertEqual(manage("resume", "default"), "queue default runs\n")
        self.assertEqual(manage("resume", "elsewhere"), "queue elsewhere was not paused\n")
        self.assertEqual(manage("prune", "--done-days", "0"), "1 deleted\n")
        for wrong in (
            ["retry"], ["cancel", "nothing"], ["--backend", "other", "list"], ["list", "--limit", "-1"],
            ["prune", "--done-days", "-1"], ["prune", "--done-days", "nan"], ["prune", "--dead-days", "1e99"],
            ["pause", "no such queue"], [], ["list", "--state", "lost"],
        ):  # fmt: skip
            with mock.patch.object(task_backends["default"], "queues", {"default"}):
                self.assertRaises(CommandError, manage, *wrong)

    def test_checks(self) -> None:
        """The system check names what is missing, and the cure."""
        backend = JobBackend("default", {"OPTIONS": {"database": "none"}})
        (message,) = backend.check()
        self.assertIn("none", message.msg)
        self.assertEqual(list(task_backends["default"].check()), [])
        for days in ("7", -1, True, float("nan"), 1e9):
            with self.assertRaisesRegex(ImproperlyConfigured, "keep_done_days"):
                JobBackend("default", {"OPTIONS": {"keep_done_days": days}})

    def test_wrong_backend(self) -> None:
        """``manage.py`` shows a wrong TASKS as a sentence: the error is its own, or our command makes it so."""
        for params, words in (
            ({"OPTIONS": {"keep": 1}}, "has no 'keep'"),
            ({"OPTIONS": {1: 1}}, "has no '1'"),
            ({"OPTIONS": None}, "must be a dict, not None"),
            ({"OPTIONS": {"database": ["x"]}}, "must be an alias in DATABASES"),
            ({"QUEUES": "mail"}, "list of names"),
            ({"QUEUES": 5}, "list of names"),
            ({"QUEUES": [5]}, "list of names"),
        ):
            with self.assertRaisesRegex(CommandError, words) as caught:
                JobBackend("default", params)
            self.assertIsInstance(caught.exception, ImproperlyConfigured)
        error = ImproperlyConfigured("no backend")
        with (
            mock.patch("django.core.management.base.BaseCommand.check", side_effect=error),
            self.assertRaisesRegex(CommandError, "no backend"),
        ):
            call_command("jobs", "list", skip_checks=False)

    def test_relative_file(self) -> None:
        """A job that changes the folder of its process does not take the database away from the others."""
        script = (
            "import os, django\nfrom django.conf import settings\nname = 'a.sqlite3'\n"
            "sqlite = {'ENGINE': 'django.db.backends.sqlite3'}\n"
            "settings.configure(INSTALLED_APPS=['channelserver.jobs'], DATABASES={\n"
            "    'default': {**sqlite, 'NAME': name}, 'b': {**sqlite, 'NAME': ':memory:'},\n"
            "    'c': {**sqlite, 'NAME': 'file:c?mode=memory'}, 'd': {**sqlite},\n"
            "    'e': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'name'},\n"
            "})\ndjango.setup()\nos.chdir('/')\nfrom django.db import connections\n"
            "print(*(connections[alias].settings_dict['NAME'] for alias in 'bcde'))\n"
            "with connections['default'].cursor() as cursor:\n    cursor.execute('PRAGMA database_list')\n"
            "    print(cursor.fetchone()[2])"
        )
        folder = os.path.realpath(self.enterContext(TemporaryDirectory()))
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))},
        )  # fmt: skip
        self.assertEqual(done.stdout, f":memory: file:c?mode=memory  name\n{folder}/a.sqlite3\n")

    def test_wrong_settings(self) -> None:
        """Settings that are wrong from the root are a sentence when the project or the server starts."""
        config = apps.get_app_config("channelserver_jobs")
        for wrong in (["x"], {"default": "channelserver.jobs.JobBackend"}):
            with override_settings(TASKS=wrong), self.assertRaisesRegex(ImproperlyConfigured, "dict of dicts"):
                config.ready()
        for wrong_one in ({}, {"BACKEND": None}):
            with override_settings(TASKS={"default": wrong_one}):
                with self.assertRaisesRegex(ImproperlyConfigured, "TASKS.'default'. needs a 'BACKEND', such as"):
                    config.ready()
        with mock.patch.object(apps, "is_installed", return_value=False):
            for name in ("once", "run_jobs"):
                with self.assertRaisesRegex(ImproperlyConfigured, f'{name} needs .* add "channelserver.jobs" to'):
                    jobs.__getattr__(name)
        with (
            mock.patch("channelserver.start.jobs.runs_jobs", return_value=True),
            mock.patch("channelserver.jobs.compat.task_backends", {}),
        ):
            with self.assertRaisesRegex(StartError, "TASKS.'default'. cannot be used: KeyError"):
                make_claimers(2, None, lambda *_: None, Context)


class DelayedTests(DatabaseTestCase):
    """Delayed messages as jobs."""

    def setUp(self) -> None:
        super().setUp()
        self.layer = InMemoryChannelLayer(capacity=2)
        old = channel_layers.set("default", ChannelLayerWrapper(self.layer, "default", []))
        self.addCleanup(channel_layers.set, "default", old)

    def received(self) -> list[dict[str, Any]]:
        taken = []
        while (content := self.layer.receive(["task"])[1]) is not None:
            taken.append(content)
        return taken

    def make_due(self) -> None:
        Job.objects.update(run_at=timezone.now())

    def test_sent(self) -> None:
        """It waits in the table of the jobs, and leaves no row when it was sent, to a channel or a group."""
        Channel("task").send({"data": b"\xff"}, delay=60)
        Group("all").send({"number": 1}, delay=60)
        Group("all").add("task")
        self.assertEqual(set(Job.objects.values_list("task", "state")), {
            ("delayed:task", State.WAITING), ("delayed-group:all", State.WAITING),
        })  # fmt: skip
        self.assertEqual((run_jobs(), self.received()), ([], []))
        self.make_due()
        self.assertEqual(len(run_jobs()), 2)
        self.assertEqual((self.received(), Job.objects.count()), ([{"data": b"\xff"}, {"number": 1}], 0))

    def test_transaction(self) -> None:
        """It belongs to the transaction in which it is sent."""
        with self.assertRaises(KeyError), transaction.atomic():
            Channel("task").send({"number": 1}, delay=5)
            raise KeyError
        self.assertFalse(Job.objects.exists())

    def test_channels_1(self) -> None:
        """The channel and the model of Channels 1 store jobs, too; what cannot be sent is set aside, as ever."""
        delays = Delays("default", self.layer)
        delays.store(Message({"channel": "task", "delay": 0, "content": {"n": 1}}, "asgi.delay", self.layer))
        with self.assertLogs("channelserver.delay", "ERROR"):
            delays.store(Message({"channel": "task", "delay": "soon", "content": {}}, "asgi.delay", self.layer))
        DelayedMessage(channel_name="task", content='{"n": 2}', delay=0).save()
        self.assertEqual([message.channel_name for message in DelayedMessage.objects.all()], ["task"])
        self.assertEqual(DelayedMessage.objects.set_aside().count(), 1)
        self.assertEqual(len(run_jobs()), 2)
        self.assertEqual(self.received(), [{"n": 1}, {"n": 2}])

    def test_full(self) -> None:
        """If the channel is full, the message waits a second, as often as it takes."""
        for number in range(3):
            Channel("task").send({"n": number}, delay=1)
        self.make_due()
        run_jobs()
        row = Job.objects.get()
        self.assertEqual((row.state, row.attempt, row.failures), (State.WAITING, 0, 0))
        self.assertEqual(len(self.received()), 2)
        self.make_due()
        run_jobs()
        self.assertEqual((self.received(), Job.objects.count()), ([{"n": 2}], 0))

    def test_invalid(self) -> None:
        """What can never be sent is a dead job, with the reason."""
        Channel("task").send({}, delay=1)
        Job.objects.update(task="delayed:no name", run_at=timezone.now())
        with self.assertLogs("channelserver.delay", "ERROR"):
            run_jobs()
        self.assertEqual((Job.objects.get().state, JobError.objects.count()), (State.DEAD, 1))

    def test_moved(self) -> None:
        """What waits in the other table becomes jobs, but for what is set aside."""
        keeper, keeping.keeper = keeping.keeper, None
        try:
            for problem in ("", "bad"):
                DelayedMessage(channel_name="task", content='{"n": 1}', delay=0, problem=problem).save()
            DelayedMessage(channel_name="task", content="{", delay=0).save()
        finally:
            keeping.keeper = keeper
        with self.assertLogs("channelserver.delay", "ERROR"):
            delayed.take_over("default")
        self.assertEqual((Job.objects.count(), DelayedMessage.objects.set_aside().count()), (1, 2))
        self.assertEqual(DelayedMessage.objects.count(), 2)

    def test_rundelay(self) -> None:
        """``rundelay`` sends what is due, and knows when the next message is."""
        for delay in (1, 60):
            Channel("task").send({"n": delay}, delay=delay)
        first, last = Job.objects.order_by("run_at")
        Job.objects.filter(pk=first.pk).update(run_at=timezone.now())
        self.assertEqual(Delays("default", self.layer).look(), last.run_at.timestamp())
        self.assertEqual((self.received(), Job.objects.count()), ([{"n": 1}], 1))


class ScheduleTests(DatabaseTestCase):
    """Schedules."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(planned.clear)
        planned.clear()

    def plan(self, cron: str, now: datetime, **kwargs: Any) -> None:
        schedule(cron, **kwargs)(context_of)
        schedules.store_planned("default", now=now)

    def fire(self, now: datetime) -> list[datetime]:
        """Make the jobs that are due, on two servers; return their times."""
        schedules.fire("default", now)
        schedules.fire("default", now)
        times = list(Job.objects.order_by("run_at").values_list("run_at", flat=True))
        Job.objects.all().delete()
        return times

    def test_rows_follow_the_code(self) -> None:
        """A schedule in the code is a row; it changes and goes with the code; enabled is the admin's."""
        now = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
        self.plan("0 * * * *", now)
        Schedule.objects.update(enabled=False)
        row = Schedule.objects.get()
        self.assertEqual((row.task, row.next_at), (f"{__name__}.context_of", datetime(2026, 1, 1, 13, tzinfo=UTC)))
        planned.clear()
        self.plan("15 * * * *", now)
        row.refresh_from_db()
        self.assertEqual((row.next_at, row.enabled), (datetime(2026, 1, 1, 13, 15, tzinfo=UTC), False))
        planned.clear()
        schedules.store_planned("default", now=now)
        self.assertFalse(Schedule.objects.exists())

    def test_in_tests(self) -> None:
        """``run_jobs(until=…)`` knows the schedules of the code, though no server has stored them."""
        schedule("0 * * * *", catch_up="all")(slowly_nothing)
        self.assertEqual(run_jobs(), [])
        ran = run_jobs(until=timezone.now() + timedelta(hours=3))
        self.assertEqual([result.task.func for result in ran], [slowly_nothing.func] * 3)
        self.assertEqual(run_jobs(until=timezone.now() + timedelta(hours=3)), [])

    def test_every_time_once(self) -> None:
        """Over 200 days with both changes of the clock, each planned time fires once."""
        begin = datetime(2026, 3, 1, tzinfo=UTC)
        self.plan("30 2 * * *", begin, tz="Europe/Vienna")
        fired: list[datetime] = []
        now = begin
        while now < begin + timedelta(days=260):
            now += timedelta(hours=8)
            fired += self.fire(now)
        days = [at.astimezone(ZoneInfo("Europe/Vienna")).date() for at in fired]
        self.assertEqual(len(days), len(set(days)))
        self.assertEqual(days, [begin.date() + timedelta(days=n) for n in range(len(days))])
        self.assertGreaterEqual(len(days), 259)

    def test_doubled_hour(self) -> None:
        """``*/20`` fires in both of the doubled hours."""
        zone = ZoneInfo("Europe/Vienna")
        now = datetime(2026, 10, 25, 1, 59, tzinfo=zone)
        self.plan("*/20 * * * *", now, tz="Europe/Vienna")
        fired = []
        for minute in range(1, 200):
            fired += self.fire((now + timedelta(0)).astimezone(UTC) + timedelta(minutes=minute))
        hours = [at.astimezone(zone).hour for at in fired]
        self.assertEqual(hours.count(2), 6)

    def test_catch_up(self) -> None:
        """After three hours without a server: once, three times, not at all."""
        begin = datetime(2026, 1, 1, 11, 59, tzinfo=UTC)
        for catch_up, expected in (("last", [15]), ("all", [12, 13, 14, 15]), ("none", [])):
            planned.clear()
            Schedule.objects.all().delete()
            self.plan("0 * * * *", begin, catch_up=catch_up)
            late = begin + timedelta(hours=3, minutes=31)
            self.assertEqual([at.hour for at in self.fire(late)], expected, catch_up)
            self.assertEqual(Schedule.objects.get().next_at, datetime(2026, 1, 1, 16, tzinfo=UTC))
            self.assertEqual(self.fire(late), [])
            self.assertEqual([at.hour for at in self.fire(datetime(2026, 1, 1, 16, 0, 1, tzinfo=UTC))], [16])

    def test_one_missed(self) -> None:
        """A time at which no server ran is missed also if it is the only one."""
        begin = datetime(2026, 1, 1, 5, tzinfo=UTC)
        for catch_up, expected in (("last", [6]), ("all", [6]), ("none", [])):
            planned.clear()
            Schedule.objects.all().delete()
            self.plan("0 6 * * *", begin, catch_up=catch_up, tz="UTC")
            self.assertEqual([at.hour for at in self.fire(begin + timedelta(hours=3))], expected, catch_up)

    def test_years_late(self) -> None:
        """A clock that was set years forward costs one step, not one for each minute."""
        self.plan("* * * * *", datetime(1970, 1, 1, tzinfo=UTC))
        now = datetime(2026, 10, 25, 1, 30, 30, tzinfo=UTC)
        with mock.patch("cronsim.CronSim.__next__", autospec=True, side_effect=CronSim.__next__) as steps:
            self.assertEqual(self.fire(now), [now.replace(second=0)])
        self.assertLess(steps.call_count, 10)

    def test_clock_set_back(self) -> None:
        """After the clock was wrong, a start brings a schedule back that had gone far ahead."""
        self.plan("0 * * * *", datetime(2040, 1, 1, tzinfo=UTC))
        schedules.store_planned("default", now=datetime(2026, 1, 1, tzinfo=UTC))
        self.assertEqual(Schedule.objects.get().next_at, datetime(2026, 1, 1, 1, tzinfo=UTC))

    def test_clock_set_back_while_running(self) -> None:
        """So does a server that notices it, also for those of the admin pages; a clock that differs changes none."""
        now = datetime(2026, 1, 1, 11, 59, 59, tzinfo=UTC)
        for name, cron, next_at in (
            ("far", "0 * * * *", datetime(2040, 1, 1, tzinfo=UTC)),
            ("fired", "0 * * * *", datetime(2026, 1, 1, 13, tzinfo=UTC)),
            ("broken", "x", datetime(2040, 1, 1, tzinfo=UTC)),
        ):
            Schedule.objects.create(name=name, task="x", cron=cron, next_at=next_at)
        schedules.set_back("default", now)
        times = dict(Schedule.objects.values_list("name", "next_at"))
        self.assertEqual((times["far"].hour, times["fired"].hour, times["broken"].year), (12, 13, 2040))
        self.plan("0 * * * *", now)
        Schedule.objects.filter(in_code=True).update(next_at=datetime(2026, 1, 1, 13, tzinfo=UTC))
        schedules.store_planned("default", now=now)
        self.assertEqual(Schedule.objects.get(in_code=True).next_at.hour, 13)

    def test_without_time_zones(self) -> None:
        """With ``USE_TZ = False``, each time fires once, and an hour that the clock shows twice ends."""
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Vienna"):
            at = datetime(2026, 10, 25, 1, 50)
            self.plan("*/20 * * * *", at)
            fired = []
            while at < datetime(2026, 10, 25, 4):
                at += timedelta(minutes=5)
                fired += self.fire(at)
            self.assertEqual(len(fired), len(set(fired)))
            self.assertEqual([time.minute for time in fired], [0, 20, 40, 0, 20, 40, 0])
            self.assertEqual({time.tzinfo for time in fired}, {None})

    def test_marks_of_a_task(self) -> None:
        """A schedule's job has the marks of its task; a key that cannot be computed stops no other schedule."""
        now = datetime(2026, 1, 1, 12, tzinfo=UTC)
        for number, task_of_row in enumerate((hourly, of_shop, context_of)):
            Schedule.objects.create(name=str(number), task=task_of_row.module_path, cron="0 * * * *", next_at=now)
        self.assertEqual(schedules.fire("default", now), 3)
        unique_until, *_ = Job.objects.filter(unique_key__isnull=False).values_list("unique_until", flat=True)
        self.assertIsNotNone(unique_until)
        schedules.fire("default", now + timedelta(hours=1))
        self.assertEqual(Job.objects.filter(task=hourly.module_path).count(), 1)

    def test_incomplete_code(self) -> None:
        """While a module of tasks cannot be imported, the rows of its schedules stay."""
        self.plan("0 * * * *", datetime(2026, 1, 1, tzinfo=UTC))
        planned.clear()
        schedules.store_planned("default", complete=False)
        self.assertEqual(Schedule.objects.count(), 1)
        with (
            mock.patch("channelserver.jobs.schedules.module_has_submodule", return_value=True),
            self.assertLogs("channelserver.jobs", "ERROR") as logs,
        ):
            self.assertFalse(schedules.discover())
        self.assertIn("tasks cannot be imported", logs.output[0])

    def test_other_database(self) -> None:
        """A schedule makes jobs in the database of its task's backend only."""
        schedule("0 * * * *")(context_of)
        with mock.patch.object(task_backends["default"], "database", "other"):
            schedules.store_planned("default")
        self.assertFalse(Schedule.objects.exists())

    def test_broken(self) -> None:
        """A row that somebody has broken by hand is turned off, and stops no other."""
        now = datetime(2026, 1, 1, 12, tzinfo=UTC)
        self.plan("0 * * * *", now)
        Schedule.objects.create(name="broken", task="x.y", cron="nonsense", next_at=now)
        self.assertEqual(len(self.fire(now + timedelta(hours=1))), 1)
        self.assertFalse(Schedule.objects.get(name="broken").enabled)
