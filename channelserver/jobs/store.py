"""What happens to the rows: stored, promoted, cancelled, deleted. (:mod:`channelserver.jobs.claims` takes jobs,
:mod:`channelserver.jobs.ends` ends them.)

Runs in the claimer's thread, in test helpers, and in commands; owns nothing. Each function is one transaction or
belongs to the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Exists, Min, OuterRef, Q, TextField, Value
from django.db.models.functions import Now
from django.utils import timezone

from channelserver.jobs.marks import options_at
from channelserver.jobs.models import (
    ENDED,
    ORDERS,
    Job,
    JobError,
    JobOnce,
    JobServer,
    Schedule,
    State,
)

#: Rows that :func:`prune` deletes in one transaction: nobody waits for its lock for long.
PRUNE_ROWS = 250
#: Rows that other functions change in one transaction, so that nobody waits for the lock for long.
MANY_ROWS = 1000


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
