"""What happens to the rows: claimed, ended, given back, taken from the dead, promoted.

Runs in the claimer's thread, in test helpers, and in commands; owns nothing. Each function is one transaction or
belongs to the caller's.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import connections, transaction
from django.db.models import Count, F, Min, Q, TextField, Value
from django.db.models.functions import Coalesce, Concat
from django.utils import timezone

from channelserver.jobs.models import ENDED, Job, JobError, JobOnce, JobQueue, JobServer, Schedule, State

#: Bytes of a traceback that are kept: its end, which names the error.
TRACEBACK_BYTES = 16 * 1024
#: A job that was running when so many processes died is dead: it may be what kills them.
MOST_DEATHS = 3
#: Rows that :func:`prune` deletes in one transaction.
PRUNE_ROWS = 1000
#: Candidates that a claim looks at where some are held back by their ``concurrency``.
LOOK_AT = 100


@contextmanager
def writing(using: str) -> Iterator[None]:
    """A transaction that is going to write: on SQLite it takes the write lock at once.

    A SQLite transaction that reads first and writes later fails without waiting if another one has written in between.
    """
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic(using=using, savepoint=False):
            yield
        return
    connection.ensure_connection()
    mode = connection.transaction_mode
    connection.transaction_mode = "IMMEDIATE"
    try:
        with transaction.atomic(using=using):
            yield
    finally:
        connection.transaction_mode = mode


@dataclass
class Outcome:
    """How an attempt ended.

    :param state: of the job from now on.
    :param error: what it raised.
    :param text: the traceback.
    :param run_at: when a waiting job is to run.
    :param refund: give the attempt back: the job did not have its chance.
    """

    job: Job
    state: State
    result: Any = None
    error: BaseException | None = None
    text: str = ""
    run_at: datetime | None = None
    failed: bool = False
    refund: bool = False
    finished_at: datetime | None = None


@lru_cache
def _insertion(using: str, names: tuple[str, ...]) -> tuple[str, list[Any], list[Any]]:
    """Return the statement that stores a job, the given fields, and the defaults of the other columns."""
    connection = connections[using]
    given = [field for field in Job._meta.concrete_fields if field.attname in names]
    others = [field for field in Job._meta.concrete_fields if field.attname not in names]
    defaults = [field.get_db_prep_save(field.get_default(), connection) for field in others]
    columns = ", ".join(f'"{field.column}"' for field in [*given, *others])
    values = ", ".join(["%s"] * (len(given) + len(others)))
    return f'INSERT INTO "{Job._meta.db_table}" ({columns}) VALUES ({values})', given, defaults


def insert(using: str, values: dict[str, Any]) -> None:
    """Store a job; the other columns get their defaults. As ``Job(**values).save()``, in a third of the time.

    :raises IntegrityError: another job has its unique key.
    """
    connection = connections[using]
    statement, given, defaults = _insertion(using, tuple(values))
    parameters = [field.get_db_prep_save(values[field.attname], connection) for field in given]
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.execute(statement, [*parameters, *defaults])


def due(using: str, queues: Sequence[str] | None) -> Any:
    """Return the ready jobs that may be claimed, the first one first.

    :param queues: names of queues; None: all.
    """
    found = Job.objects.using(using).filter(state=State.READY)
    if queues is not None:
        found = found.filter(queue__in=queues)
    paused = JobQueue.objects.using(using).filter(paused=True).values("name")
    return found.exclude(queue__in=paused).order_by("-priority", "id")


def claim(using: str, owner: str, count: int, queues: Sequence[str] | None, now: datetime, ahead: int = 0) -> list[Job]:
    """Take ready jobs for `owner`.

    :param count: how many at most.
    :param queues: names of queues; None: all.
    :param ahead: how many more, which are going to wait for a thread. A job whose process has died is none of them: it
        would be blamed for the death of a process in which it has not begun.
    """
    with writing(using):
        locks = connections[using].features.has_select_for_update_skip_locked
        ready = due(using, queues)
        if locks:
            ready = ready.select_for_update(skip_locked=True)
        jobs: list[Job] = list(ready[: count + ahead])
        if any(job.concurrency_key for job in jobs):
            jobs = _within_limits(using, ready, jobs, count + ahead)
        jobs = jobs[:count] + [job for job in jobs[count:] if not job.deaths]
        if not jobs:
            return []
        Job.objects.using(using).filter(pk__in=[job.pk for job in jobs]).update(
            state=State.RUNNING,
            owner=owner,
            attempt=F("attempt") + 1,
            worker_ids=Concat("worker_ids", Value(f"{owner} "), output_field=TextField()),
            started_at=Coalesce("started_at", now),
            last_attempted_at=now,
            cancel_requested=False,
            overdue=False,
        )
    for job in jobs:
        job.state, job.owner, job.last_attempted_at = State.RUNNING, owner, now
        job.attempt += 1
        job.worker_ids += f"{owner} "
        job.started_at = job.started_at or now
    return jobs


def _within_limits(using: str, ready: Any, jobs: list[Job], count: int) -> list[Job]:
    """Leave out the jobs whose key has as many running jobs as it may have; look further in their place."""
    connection = connections[using]
    running: Counter[str] = Counter()
    known: set[str] = set()
    chosen: dict[str, Job] = {}
    full: set[str] = set()
    for _ in range(LOOK_AT):
        new = sorted({job.concurrency_key for job in jobs if job.concurrency_key} - known)
        if new:
            known.update(new)
            if connection.vendor == "postgresql":
                # Two servers that count at the same time would both find room.
                with connection.cursor() as cursor:
                    for key in new:
                        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [key])
            counts = Job.objects.using(using).filter(state=State.RUNNING, concurrency_key__in=new)
            running.update(dict(counts.values_list("concurrency_key").annotate(Count("pk")).order_by()))
        for job in jobs:
            key = job.concurrency_key
            if job.pk in chosen or len(chosen) == count:
                continue
            if key and running[key] >= job.concurrency:
                full.add(key)
                continue
            running[key] += 1
            chosen[job.pk] = job
        if len(chosen) == count or len(jobs) < count:
            break
        rest = ready.exclude(concurrency_key__in=full).exclude(pk__in=list(chosen))
        jobs = list(rest[:count])
        if not jobs:
            break
    return list(chosen.values())


def mine(using: str, job: Job) -> Any:
    """Return the row of a job if this attempt still owns it: the fence of everything that ends one."""
    return Job.objects.using(using).filter(pk=job.pk, owner=job.owner, attempt=job.attempt, state=State.RUNNING)


def end(using: str, outcome: Outcome) -> bool:
    """Store how an attempt ended; return False if another process has the job meanwhile."""
    job, state = outcome.job, outcome.state
    if state == State.DONE and job.unique_until is None:
        return _done(using, outcome)
    values: dict[str, Any] = {"state": state, "owner": ""}
    if state in ENDED:
        values |= {"finished_at": outcome.finished_at or timezone.now(), "result": outcome.result}
        if job.unique_key is not None and (job.unique_until is None or job.unique_until <= timezone.now()):
            values["unique_key"] = None
    if outcome.run_at is not None:
        values["run_at"] = outcome.run_at
    if outcome.failed:
        values["failures"] = F("failures") + 1
    if outcome.refund:
        values["attempt"] = F("attempt") - 1
        values["worker_ids"] = job.worker_ids.removesuffix(f"{job.owner} ")
    if not mine(using, job).update(**values):
        return False
    if outcome.error is not None:
        JobError.objects.using(using).create(
            job_id=job.pk,
            attempt=job.attempt,
            exception_class=path_of(type(outcome.error)),
            traceback=outcome.text,
        )
    return True


def _done(using: str, outcome: Outcome) -> bool:
    """As :func:`end`, for the most frequent end, in a third of the time."""
    job, connection = outcome.job, connections[using]
    fields: dict[str, Any] = {name: Job._meta.get_field(name) for name in ("finished_at", "result")}
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.execute(
            f'UPDATE "{Job._meta.db_table}" SET state = %s, owner = %s, unique_key = NULL, finished_at = %s, '
            "result = %s WHERE id = %s AND owner = %s AND attempt = %s AND state = %s",
            [
                str(State.DONE),
                "",
                fields["finished_at"].get_db_prep_save(outcome.finished_at or timezone.now(), connection),
                fields["result"].get_db_prep_save(outcome.result, connection),
                job.pk,
                job.owner,
                job.attempt,
                str(State.RUNNING),
            ],
        )
        return bool(cursor.rowcount)


def promote(using: str, now: datetime) -> int:
    """Make the waiting jobs ready whose time has come; return how many."""
    waiting = Job.objects.using(using).filter(state=State.WAITING, run_at__lte=now)
    return int(waiting.update(state=State.READY))


@dataclass
class Look:
    """What one look at the tables tells the claimer."""

    #: When the next waiting job is due.
    next_at: datetime | None
    #: Whether a job is ready, in whatever queue.
    ready: bool
    #: The owners of running jobs.
    owners: set[str]
    #: For how many seconds servers have been silent, where they say that they are alive.
    silent: dict[str, float]
    #: When the next schedule is due.
    next_schedule: datetime | None


def look(using: str, beat: str | None) -> Look:
    """Look at the rows, in one query.

    Its parts ask partial indexes, so an idle server costs the database little, and once in a while only.

    :param beat: a server that says, on PostgreSQL, that it is alive.
    """
    jobs = Job.objects.using(using).order_by()
    none = Value("", output_field=TextField())
    first = jobs.filter(state=State.WAITING).order_by("run_at").values_list(Value("w"), none, "run_at")[:1]
    ready = jobs.filter(state=State.READY).order_by("-priority", "id").values_list(Value("r"), none, "run_at")[:1]
    owners = jobs.filter(state=State.RUNNING).values_list(Value("o"), "owner").annotate(Min("run_at"))
    plans = Schedule.objects.using(using).order_by("next_at").filter(enabled=True, next_at__isnull=False)
    parts = [first, ready, owners, plans.values_list(Value("s"), none, "next_at")[:1]]
    if beat is not None:
        servers = JobServer.objects.using(using).order_by()
        parts.append(servers.values_list(Value("b"), "id", "seen"))
    found = Look(None, False, set(), {}, None)
    now = timezone.now()
    for kind, owner, at in _union(using, parts, beat, now):
        if kind == "w":
            found.next_at = at
        elif kind == "r":
            found.ready = True
        elif kind == "o":
            found.owners.add(owner)
        elif kind == "s":
            found.next_schedule = at
        else:
            found.silent[owner] = (now - at).total_seconds()
    return found


def _union(using: str, queries: list[Any], beat: str | None, now: datetime) -> Iterator[tuple[str, str, Any]]:
    """Run queries of the same columns as one: Django's own ``union`` takes no LIMIT on SQLite."""
    connection = connections[using]
    parts: list[str] = []
    parameters: list[Any] = []
    prefix = ""
    if beat is not None:
        prefix = f"WITH beat AS (UPDATE {JobServer._meta.db_table} SET seen = %s WHERE id = %s) "
        parameters += [now, beat]
    for number, query in enumerate(queries):
        sql, values = query.query.get_compiler(using=using).as_sql()
        parts.append(f"SELECT * FROM ({sql}) AS part{number}")
        parameters.extend(values)
    field: Any = Job._meta.get_field("run_at")
    column = field.get_col(Job._meta.db_table)
    convert = [*connection.ops.get_db_converters(column), *field.get_db_converters(connection)]
    with connection.cursor() as cursor:
        cursor.execute(prefix + " UNION ALL ".join(parts), parameters)
        rows = cursor.fetchall()
    for kind, owner, at in rows:
        for converter in convert:
            at = converter(at, column, connection)
        yield kind, owner, at


def rescue(using: str, owner: str, under_way: set[str] | None, now: datetime) -> tuple[int, list[str]]:
    """Take the jobs of a dead process.

    :param under_way: the jobs that may be the cause; None: all of them may.
    :returns: how many are ready again, and the identifiers of those that are dead now.
    """
    with writing(using):
        running = Job.objects.using(using).filter(state=State.RUNNING, owner=owner)
        suspects = running if under_way is None else running.filter(pk__in=under_way)
        poison = list(suspects.filter(deaths__gte=MOST_DEATHS - 1))
        for job in poison:
            end(using, Outcome(job, State.DEAD, finished_at=now))
            JobError.objects.using(using).create(
                job_id=job.pk,
                attempt=job.attempt,
                exception_class="channelserver.jobs.runner.WorkerDied",
                traceback=f"the process that ran this job died {MOST_DEATHS} times, so the job may be the cause; "
                "run it again with manage.py jobs retry when that is mended\n",
            )
        Job.objects.using(using).filter(pk__in=[job.pk for job in poison]).update(deaths=F("deaths") + 1)
        again = {"state": State.READY, "owner": ""}
        count = suspects.update(**again, deaths=F("deaths") + 1) + running.update(**again)
    return int(count), [job.pk for job in poison]


def cancel(using: str, jobs: Any) -> tuple[int, int]:
    """Cancel jobs that wait, and ask those that run to end.

    :param jobs: a query set.
    :returns: how many were cancelled, and how many were asked.
    """
    with writing(using):
        waiting = jobs.filter(state__in=(State.WAITING, State.READY))
        cancelled = waiting.update(state=State.CANCELLED, finished_at=timezone.now(), unique_key=None)
        asked = jobs.filter(state=State.RUNNING).update(cancel_requested=True)
    return int(cancelled), int(asked)


def retry(using: str, jobs: Any) -> int:
    """Make jobs that have ended, or wait for a retry, ready now; return how many."""
    with writing(using):
        ended = jobs.filter(Q(state__in=ENDED) | Q(state=State.WAITING))
        return int(ended.update(state=State.READY, run_at=timezone.now(), finished_at=None, failures=0, deaths=0))


def run_now(using: str, jobs: Any) -> int:
    """Make waiting jobs ready; return how many."""
    with writing(using):
        return int(jobs.filter(state=State.WAITING).update(state=State.READY, run_at=timezone.now()))


def prune(using: str, done_before: datetime, dead_before: datetime) -> int:
    """Delete up to :data:`PRUNE_ROWS` ended jobs, and used keys of the same age; return how many jobs."""
    old = Q(state__in=(State.DONE, State.CANCELLED), finished_at__lt=done_before)
    old |= Q(state=State.DEAD, finished_at__lt=dead_before)
    jobs = Job.objects.using(using)
    ids = list(jobs.filter(old).order_by().values_list("pk", flat=True)[:PRUNE_ROWS])
    if ids:
        with writing(using):
            jobs.filter(pk__in=ids).delete()
    keys = list(JobOnce.objects.using(using).filter(at__lt=done_before).values_list("pk", flat=True)[:PRUNE_ROWS])
    if keys:
        JobOnce.objects.using(using).filter(pk__in=keys).delete()
    return len(ids)


def path_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def text_of(error: BaseException) -> str:
    """Return the traceback of an error, its last :data:`TRACEBACK_BYTES` if it is longer."""
    text = "".join(traceback.format_exception(error))
    data = text.encode(errors="replace")
    if len(data) <= TRACEBACK_BYTES:
        return data.decode()
    return "… (cut)\n" + data[-TRACEBACK_BYTES:].decode(errors="ignore")
