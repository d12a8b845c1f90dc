"""What happens to the rows: stored, claimed, promoted, cancelled, deleted. (:mod:`channelserver.jobs.ends`: the ends.)

Runs in the claimer's thread, in test helpers, and in commands; owns nothing. Each function is one transaction or
belongs to the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Count, Exists, Min, OuterRef, Q, TextField, Value
from django.db.models.functions import Now
from django.utils import timezone

from channelserver.jobs.marks import options_at
from channelserver.jobs.models import (
    ENDED,
    KINDS,
    LIMITED,
    ORDERS,
    Job,
    JobError,
    JobOnce,
    JobQueue,
    JobServer,
    RunsOn,
    Schedule,
    State,
)

#: Rows that :func:`prune` deletes in one transaction: nobody waits for its lock for long.
PRUNE_ROWS = 250
#: Rows that other functions change in one transaction, so that nobody waits for the lock for long.
MANY_ROWS = 1000
#: Candidates that a claim looks at where some are held back by their ``concurrency``.
LOOK_AT = 100
#: If so many keys at most have ready jobs, a claim looks for the first jobs of each, where one is full; else it passes
#: over the jobs of full keys.
MOST_KEYS = 100


@contextmanager
def writing(using: str, savepoint: bool = False) -> Iterator[None]:
    """A transaction that is going to write: on SQLite it takes the write lock at once.

    A SQLite transaction that reads first and writes later fails without waiting if another one has written in between.

    :param savepoint: inside a transaction, what fails here can be rolled back by itself.
    """
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic(using=using, savepoint=savepoint):
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


def _date(ops: Any, value: datetime) -> Any:
    return ops.adapt_datetimefield_value(value)


def _json(ops: Any, value: Any) -> Any:
    return ops.adapt_json_value(value, None)


#: By type of a field: what makes its value one for the database. Others need nothing.
_ADAPTERS = {"DateTimeField": _date, "JSONField": _json}


@lru_cache
def _insertion(using: str, names: tuple[str, ...]) -> tuple[str, list[Any], list[Any]]:
    """Return the statement that stores a job, what adapts each given value (None: nothing), and the defaults of other
    columns. Any thread may use it, so it keeps nothing of a connection.
    """
    connection = connections[using]
    fields = {field.attname: field for field in Job._meta.concrete_fields}
    given = [fields.pop(name) for name in names]
    defaults = [field.get_db_prep_save(field.get_default(), connection) for field in fields.values()]
    columns = ", ".join(f'"{field.column}"' for field in [*given, *fields.values()])
    values = ", ".join(["%s"] * (len(given) + len(defaults)))
    adapters = [_ADAPTERS.get(field.get_internal_type()) for field in given]
    return f'INSERT INTO "{Job._meta.db_table}" ({columns}) VALUES ({values})', adapters, defaults


def insert(using: str, values: dict[str, Any]) -> None:
    """Store a job; the other columns get their defaults. As ``Job(**values).save()``, in a fifth of the time.

    :raises IntegrityError: another job has its unique key.
    """
    statement, adapters, defaults = _insertion(using, tuple(values))
    connection: Any = connections[using]
    pairs = zip(adapters, values.values(), strict=True)
    parameters = [value if value is None or adapt is None else adapt(connection.ops, value) for adapt, value in pairs]
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.execute(statement, [*parameters, *defaults])


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
    limited = _within_limits(using, queues, kind, _ready(using, queues, kind, count), count, jobs)
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
        found = None
        if by_key and runs_on is not None:
            taken = [*beside, *chosen.values()]
            found = _firsts(using, queues, runs_on, full, taken, count - len(chosen))
            by_key = found is not None
        if found is None:
            rest = due(using, queues, runs_on).exclude(concurrency_key__in=full).exclude(pk__in=list(chosen))
            found = list(_locked(using, rest)[:count])
            more = len(found) == count
        else:
            more = bool(found)
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


def promote(using: str, now: datetime) -> int:
    """Make waiting jobs ready whose time has come, :data:`MANY_ROWS` at most; return how many."""
    waiting = Job.objects.using(using).filter(state=State.WAITING, run_at__lte=now)
    some = waiting.order_by("run_at").values("pk")[:MANY_ROWS]
    return int(waiting.filter(pk__in=some).update(state=State.READY))


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
    ready = jobs.filter(state=State.READY).order_by(*ORDERS[State.READY]).values_list(Value("r"), none, "run_at")[:1]
    owners = jobs.filter(state=State.RUNNING).values_list(Value("o"), "owner").annotate(Min("run_at"))
    plans = Schedule.objects.using(using).order_by("next_at").filter(enabled=True, next_at__isnull=False)
    parts = [first, ready, owners, plans.values_list(Value("s"), none, "next_at")[:1]]
    if beat is not None:
        # The database's clock, for those of the hosts may differ.
        servers = JobServer.objects.using(using).order_by()
        parts.insert(0, servers.filter(pk=beat).values_list(Value("n"), none, Now()))
        parts.append(servers.values_list(Value("b"), "id", "seen"))
    found = Look(None, False, set(), {}, None)
    now = timezone.now()
    for kind, owner, at in _union(using, parts, beat):
        if kind == "w":
            found.next_at = at
        elif kind == "r":
            found.ready = True
        elif kind == "o":
            found.owners.add(owner)
        elif kind == "s":
            found.next_schedule = at
        elif kind == "n":
            now = at
        else:
            found.silent[owner] = (now - at).total_seconds()
    return found


def _union(using: str, queries: list[Any], beat: str | None) -> Iterator[tuple[str, str, Any]]:
    """Run queries of the same columns as one: Django's own ``union`` takes no LIMIT on SQLite."""
    connection = connections[using]
    parts: list[str] = []
    parameters: list[Any] = []
    prefix = ""
    if beat is not None:
        prefix = f"WITH beat AS (UPDATE {JobServer._meta.db_table} SET seen = statement_timestamp() WHERE id = %s) "
        parameters.append(beat)
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


def cancel(using: str, jobs: Any) -> tuple[int, int]:
    """Cancel jobs that wait, and ask those that run to end.

    :param jobs: a query set.
    :returns: how many were cancelled, and how many were asked.
    """
    running = jobs.filter(state=State.RUNNING)
    asked = running.update(cancel_requested=True)
    values = {"state": State.CANCELLED, "finished_at": timezone.now(), "unique_key": None}
    cancelled = _update(using, jobs, (State.WAITING, State.READY), values)
    late = running.filter(cancel_requested=False).update(cancel_requested=True)  # these have begun meanwhile
    return cancelled, int(asked + late)


def retry(using: str, jobs: Any) -> int:
    """Make jobs that have ended, or wait for a retry, ready now; return how many.

    A unique job takes its key again; it does not run if another job has that now.
    """
    values = {"state": State.READY, "run_at": timezone.now(), "finished_at": None, "failures": 0, "deaths": 0}
    count = 0
    ended = jobs.filter(state__in=ENDED).order_by()
    for path in ended.values_list("task", flat=True).distinct():
        if options_at(path).unique:
            keyless = ended.filter(task=path, unique_key=None)
            for pk in list(keyless.order_by("pk").values_list("pk", flat=True)):
                count += _retry_unique(using, keyless.filter(pk=pk), values)
            jobs = jobs.exclude(task=path, unique_key=None)
    return count + _update(using, jobs, (*ENDED, State.WAITING), values)


def _retry_unique(using: str, one: Any, values: dict[str, Any]) -> int:
    job = one.first()
    if job is None:
        return 0
    try:
        key = options_at(job.task).unique_key(job.task, job.args["args"], job.args["kwargs"])
        with writing(using, savepoint=True):
            return int(one.update(**values, unique_key=key))
    except IntegrityError:  # another job has the key
        return 0


def run_now(using: str, jobs: Any) -> int:
    """Make waiting jobs ready; return how many."""
    return _update(using, jobs, (State.WAITING,), {"state": State.READY, "run_at": timezone.now()})


def _update(using: str, jobs: Any, states: tuple[State, ...], values: dict[str, Any]) -> int:
    """Change the jobs that are in one of `states` now, :data:`MANY_ROWS` in a transaction; return how many."""
    ids = list(jobs.filter(state__in=states).order_by("pk").values_list("pk", flat=True))
    count = 0
    for begin in range(0, len(ids), MANY_ROWS):
        some = Job.objects.using(using).filter(pk__in=ids[begin : begin + MANY_ROWS], state__in=states)
        with writing(using):
            count += some.update(**values)
    return count


def prune(using: str, done_before: datetime, dead_before: datetime) -> int:
    """Delete up to :data:`PRUNE_ROWS` ended jobs, and used keys that no job may need; return how many jobs."""
    jobs = Job.objects.using(using)
    # A job that has ended may still have its unique key: then it is kept for as long as the key.
    free = jobs.filter(Q(unique_key__isnull=True) | Q(unique_until__isnull=True) | Q(unique_until__lte=timezone.now()))
    ids: list[str] = []
    for state, before in ((State.DONE, done_before), (State.CANCELLED, done_before), (State.DEAD, dead_before)):
        old = free.filter(state=state, finished_at__lt=before).order_by("finished_at").values_list("pk", flat=True)
        ids += old[: PRUNE_ROWS - len(ids)]
    if ids:
        errors = JobError.objects.using(using).filter(job_id__in=ids)
        with writing(using):  # two statements: Django's delete() would read all rows while it holds the lock
            errors._raw_delete(using)
            jobs.filter(pk__in=ids)._raw_delete(using)
    # A job that is not deleted may run again, and then needs its keys.
    used = JobOnce.objects.using(using).filter(at__lt=min(done_before, dead_before))
    used = used.exclude(Exists(jobs.filter(pk=OuterRef("pk"))))
    keys = list(used.values_list("pk", flat=True)[:PRUNE_ROWS])
    if keys:
        JobOnce.objects.using(using).filter(pk__in=keys).delete()
    return len(ids)
