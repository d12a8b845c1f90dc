"""Helpers for tests: which jobs were enqueued, and running them in the test itself.

Runs in the test's thread and its transaction; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from asgiref.sync import async_to_sync
from django.utils import timezone

from channelserver.jobs import claims, schedules, store
from channelserver.jobs.compat import task_backends, task_enqueued
from channelserver.jobs.ends import Outcome, store_all
from channelserver.jobs.models import Job, Schedule
from channelserver.jobs.runner import Running, arun, run

#: The owner of jobs that a test runs.
_OWNER = "test"
#: Jobs that one call of :func:`run_jobs` runs at most: more is a job that enqueues itself for ever.
MOST = 10_000


@contextmanager
def captured_jobs() -> Iterator[list[Any]]:
    """Collect the results of the tasks that are enqueued in a ``with`` block, whatever their backend.

    :returns: a context manager whose value is the list of their ``TaskResult`` objects, in the order of the calls.
    """
    found: list[Any] = []

    def collect(sender: Any, task_result: Any, **_: Any) -> None:
        found.append(task_result)

    task_enqueued.connect(collect)
    try:
        yield found
    finally:
        task_enqueued.disconnect(collect)


def run_jobs(backend: str = "default", until: datetime | None = None) -> list[Any]:
    """Run the jobs that are ready, and what they enqueue, in this thread and its transaction, until none is left.

    :param backend: alias in ``TASKS``.
    :param until: run also what is due by then: retries, delayed jobs and schedules; default: now.
    :returns: the jobs' results, in the order in which they ran. A job that was tried twice is there twice.
    :raises RuntimeError: there is no end to it.
    """
    from channelserver.jobs.results import result_of

    using = task_backends[backend].database
    ran: list[Any] = []
    if until is not None and not Schedule.objects.using(using).filter(in_code=True).exists():
        schedules.store_planned(using, schedules.discover())  # no server has done it in this database
    while len(ran) < MOST:
        now = timezone.now() if until is None else until
        store.promote(using, now)
        schedules.fire(using, now)
        jobs = claims.claim(using, _OWNER, 1, None, now)
        if not jobs:
            return ran
        outcome = _run(Running(jobs[0], using, _call_later))
        if outcome is not None:
            store_all(using, [outcome], list)
        job = Job.objects.using(using).filter(pk=jobs[0].pk).first() or jobs[0]  # a sent message leaves no row
        ran.append(job if ":" in job.task else result_of(job))
    raise RuntimeError(f"{MOST} jobs have run, and there are still more: does a job enqueue itself?")


def _run(running: Running) -> Outcome | None:
    if not running.is_coroutine:
        return run(running)
    outcomes: list[Outcome | None] = []
    async_to_sync(arun)(running, outcomes.append)
    return outcomes[0]


def _call_later(seconds: float, function: Callable[..., object], *arguments: Any) -> None:
    """Messages to full channels are not tried again in a test."""
