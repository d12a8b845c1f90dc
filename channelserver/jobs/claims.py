"""Which ready jobs a process takes: by priority and age, as its room and the limits of their keys allow.

Runs in the claimer's thread, and in test helpers; owns nothing. A claim is one transaction or belongs to the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import connections
from django.db.models import Count, Exists

from channelserver.jobs.models import KINDS, LIMITED, Job, JobQueue, RunsOn, State
from channelserver.jobs.store import MANY_ROWS, writing

#: Candidates that a claim looks at where some are held back by their ``concurrency``.
LOOK_AT = 100
#: If so many keys at most have ready jobs, a claim looks for the first jobs of each, where one is full; else it passes
#: over the jobs of full keys.
MOST_KEYS = 100


def due(using: str, queues: Sequence[str] | None, runs_on: RunsOn | None = None) -> Any:
    """Return the ready jobs that may be claimed, the first one first.

    :param queues: names of queues; None: all.
    :param runs_on: only such jobs; None: all.
    """
    found = Job.objects.using(using).filter(state=State.READY)
    if runs_on is not None:
        found = found.filter(runs_on=runs_on)
    if queues is not None:
        found = found.filter(queue__in=queues)
    paused = JobQueue.objects.using(using).filter(paused=True).values("name")
    return found.exclude(queue__in=paused).order_by("-priority", "id")


@dataclass(frozen=True)
class Room:
    """How many jobs a process can take."""

    #: For free threads.
    threads: int = 0
    #: More that are going to wait for a thread. A job whose process has died is none of them: it would be blamed for
    #: the death of a process in which it has not begun.
    ahead: int = 0
    #: For the event loop.
    loop: int = 0


def claim(using: str, owner: str, room: Room | int, queues: Sequence[str] | None, now: datetime) -> list[Job]:
    """Take ready jobs for `owner`; those of threads and those of the event loop do not hold each other back.

    :param room: how many at most; a number: whatever runs them.
    :param queues: names of queues; None: all.
    """
    names = None if queues is None else tuple(queues)
    with writing(using):
        if not isinstance(room, Room):
            return _take(using, owner, _within_limits(using, names, None, _ready(using, names, None, room), room), now)
        most = {RunsOn.THREAD: room.threads and room.threads + room.ahead, RunsOn.LOOP: room.loop}
        ready = {kind: _ready(using, names, kind, most[kind]) for kind in KINDS if most[kind]}
        has_limited = _has_limited(using, [job for found in ready.values() for job in found[:1]])
        jobs = []
        for kind, found in ready.items():  # one after the other: both may have jobs of the same key
            found = _within_limits(using, names, kind, found, most[kind])  # should somebody have stored them by hand
            if has_limited:
                found = _with_limited(using, names, kind, found, most[kind])
            if kind == RunsOn.THREAD:
                found = found[: room.threads] + [job for job in found[room.threads :] if not job.deaths]
            jobs += _take(using, owner, found, now)
        return jobs


def _take(using: str, owner: str, jobs: list[Job], now: datetime) -> list[Job]:
    """Store that jobs run."""
    if not jobs:
        return []
    at = connections[using].ops.adapt_datetimefield_value(now)
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"UPDATE \"{Job._meta.db_table}\" SET state = '{State.RUNNING.value}', owner = %s, "
            "attempt = attempt + 1, worker_ids = worker_ids || %s, "
            "started_at = COALESCE(started_at, %s), last_attempted_at = %s, "
            f"cancel_requested = %s, overdue = %s WHERE id IN ({', '.join(['%s'] * len(jobs))})",
            [owner, f"{owner} ", at, at, False, False, *(job.pk for job in jobs)],
        )
    for job in jobs:
        job.state, job.owner, job.last_attempted_at = State.RUNNING, owner, now
        job.attempt += 1
        job.worker_ids += f"{owner} "
        job.started_at = job.started_at or now
    return jobs


def _has_limited(using: str, jobs: list[Job]) -> bool:
    """Whether limited jobs are ready, too.

    :param jobs: some that :func:`_ready` has read: they know.
    """
    if jobs:
        return bool(jobs[0].has_limited)  # type: ignore[attr-defined]
    with connections[using].cursor() as cursor:
        table = Job._meta.db_table
        cursor.execute(
            f"SELECT 1 FROM \"{table}\" WHERE state = '{State.READY.value}' AND runs_on >= {LIMITED} LIMIT 1"
        )
        return cursor.fetchone() is not None


def _with_limited(
    using: str, queues: tuple[str, ...] | None, runs_on: RunsOn, jobs: list[Job], count: int
) -> list[Job]:
    """Return the first ones of `jobs`, and of the limited ones that may run now."""
    kind = RunsOn(runs_on + LIMITED)
    limited = _ready(using, queues, kind, count)
    if not limited or (len(jobs) == count and _order(jobs[-1]) < _order(limited[0])):
        return jobs  # then it does not matter whose key is full
    limited = _within_limits(using, queues, kind, limited, count, jobs)
    return sorted(jobs + limited, key=_order)[:count]


def _locked(using: str, jobs: Any) -> Any:
    """Have a query lock its rows, where the database can; those that another server has locked are left out."""
    if connections[using].features.has_select_for_update_skip_locked:
        jobs = jobs.select_for_update(skip_locked=True)
    return jobs


def _order(job: Job) -> tuple[int, str]:
    """The order of :func:`due`."""
    return -job.priority, job.pk


#: Stands in a statement for the number of rows.
_LIMIT = 987654321


@lru_cache
def _selection(using: str, queues: tuple[str, ...] | None, runs_on: RunsOn | None) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that reads ready jobs, and its parameters; compiling it takes longer than running it."""
    ready = _locked(using, due(using, queues, runs_on))
    if runs_on in KINDS:
        limited = Job.objects.using(using).filter(state=State.READY, runs_on__gte=LIMITED)
        ready = ready.annotate(has_limited=Exists(limited))
    statement, parameters = ready[:_LIMIT].query.get_compiler(using).as_sql()
    return statement, tuple(parameters)


def _ready(using: str, queues: tuple[str, ...] | None, runs_on: RunsOn | None, count: int) -> list[Job]:
    statement, parameters = _selection(using, queues, runs_on)
    return list(Job.objects.using(using).raw(statement.replace(str(_LIMIT), str(count)), parameters))


def _within_limits(
    using: str,
    queues: tuple[str, ...] | None,
    runs_on: RunsOn | None,
    jobs: list[Job],
    count: int,
    beside: Sequence[Job] = (),
) -> list[Job]:
    """Leave out the jobs whose key has as many running jobs as it may have; look further in their place.

    :param jobs: the first ready ones.
    :param beside: jobs that are going to run, too.
    """
    if not any(job.concurrency_key for job in jobs):
        return jobs
    if connections[using].vendor == "postgresql":
        # Two servers that count at the same time would both find room. One lock for all keys: with one for each, two
        # servers that come upon them in a different order would wait for each other.
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('channelserver_jobs limits'))")
    running = Counter(job.concurrency_key for job in beside)
    known: set[str] = set()
    chosen: dict[str, Job] = {}
    full: set[str] = set()
    more = len(jobs) == count
    by_key = runs_on is not None and runs_on >= LIMITED
    for _ in range(LOOK_AT):
        new = {job.concurrency_key for job in jobs if job.concurrency_key} - known
        if new:
            known.update(new)
            running.update(_running(using, concurrency_key__in=new))
        for job in jobs:
            key = job.concurrency_key
            if job.pk in chosen or len(chosen) == count:
                continue
            if key and running[key] >= job.concurrency:
                full.add(key)
                continue
            running[key] += 1
            chosen[job.pk] = job
        if len(chosen) == count or not more:
            break
        found, need = None, count - len(chosen)
        if by_key and runs_on is not None:
            taken = [*beside, *chosen.values()]
            found = _firsts(using, queues, runs_on, full, taken, need)
            by_key = found is not None
        if found is None:
            rest = due(using, queues, runs_on).exclude(concurrency_key__in=full).exclude(pk__in=list(chosen))
            found = list(_locked(using, rest)[:count])
            more = len(found) == count
        else:
            more = len(found) == need
        jobs = found
    return list(chosen.values())


def _running(using: str, **of: Any) -> dict[str, int]:
    """Return how many jobs of each key run."""
    jobs = Job.objects.using(using).filter(state=State.RUNNING, **of)
    return dict(jobs.values_list("concurrency_key").annotate(Count("pk")).order_by())


def _firsts(
    using: str, queues: tuple[str, ...] | None, runs_on: RunsOn, full: set[str], taken: list[Job], count: int
) -> list[Job] | None:
    """Return the first ready jobs that may run, without passing over those of full keys.

    None: there are too many keys, or another server has locked jobs.

    :param full: keys to leave out; gets those that are full.
    :param taken: jobs that are going to run.
    :param count: how many at most.
    """
    table = Job._meta.db_table
    index = f"runs_on >= {LIMITED}"  # SQLite uses csjobs_limited for what says so
    ready = f"FROM \"{table}\" WHERE state = '{State.READY.value}' AND runs_on = {int(runs_on)} AND {index}"
    most = f"(SELECT concurrency {ready} AND concurrency_key = keys.name ORDER BY priority DESC, id LIMIT 1)"
    least = f"SELECT min(concurrency_key) {ready}"
    ours = Counter(job.concurrency_key for job in taken)
    running = Counter(_running(using, concurrency_key__gt="")) + ours
    with connections[using].cursor() as cursor:
        # What runs is little, and only its keys can be full.
        names = list(running.keys() - full)
        for begin in range(0, len(names), MANY_ROWS):
            some = names[begin : begin + MANY_ROWS]
            values = ", ".join(["(%s)"] * len(some))
            cursor.execute(f"WITH keys(name) AS (VALUES {values}) SELECT name, {most} FROM keys", some)
            full.update(name for name, limit in cursor.fetchall() if limit is not None and running[name] >= limit)
        without = f"keys.name NOT IN ({', '.join(['%s'] * len(full))})" if full else "TRUE"
        cursor.execute(
            f"WITH RECURSIVE keys(name) AS ({least} UNION ALL SELECT ({least} AND concurrency_key > keys.name) "
            f"FROM keys WHERE keys.name IS NOT NULL) "
            f"SELECT name, {most} FROM keys WHERE name IS NOT NULL AND {without} LIMIT {MOST_KEYS + 1}",
            list(full),
        )
        places = {name: max(0, limit - running[name]) for name, limit in cursor.fetchall()}
        if len(places) > MOST_KEYS:
            return None
        parts, values_of_parts = [], []
        jobs = due(using, queues, runs_on).extra(where=[index, "concurrency_key = %s"], params=[places])
        statement, parameters = jobs.values("id", "priority")[:_LIMIT].query.get_compiler(using).as_sql()
        for number, (name, free) in enumerate(places.items()):
            part = statement.replace(str(_LIMIT), str(ours[name] + min(free, count)))
            parts.append(f"SELECT * FROM ({part}) AS part{number}")
            values_of_parts += [name if value is places else value for value in parameters]
        if not parts:
            return []
        cursor.execute(
            f"SELECT id FROM ({' UNION ALL '.join(parts)}) AS parts "
            f"WHERE id NOT IN ({', '.join(['%s'] * len(taken)) or repr('')}) ORDER BY priority DESC, id LIMIT {count}",
            [*values_of_parts, *(job.pk for job in taken)],
        )
        ids = [pk for (pk,) in cursor.fetchall()]
    found = _locked(using, Job.objects.using(using).filter(pk__in=ids, state=State.READY).order_by())
    return sorted(found, key=_order) if len(found) == len(ids) else None
