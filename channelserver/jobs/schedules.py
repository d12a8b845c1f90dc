"""Schedules: rows that follow the project's code, and the jobs that they make when they are due.

Runs in the claimer's thread; owns nothing. A schedule's job and its next time are stored in one transaction: two
servers cannot make it twice, and a crash cannot skip it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim
from django.apps import apps
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string, module_has_submodule

from channelserver.jobs import marks
from channelserver.jobs.compat import Task, task_backends
from channelserver.jobs.durable import backend_of_project
from channelserver.jobs.models import Job, Schedule, State
from channelserver.jobs.store import writing

logger = logging.getLogger("channelserver.jobs")

#: The most jobs that one schedule with ``catch_up="all"`` makes at a time; the rest follows at once.
MOST_AT_ONCE = 100
#: A time is missed if no server has made its job so many seconds later.
MISSED_SECONDS = 60.0


def discover() -> bool:
    """Import the modules named ``tasks`` of all applications, as Django's admin does with ``admin``.

    :returns: whether all could be imported.
    """
    complete = True
    for config in apps.get_app_configs():
        if module_has_submodule(config.module, "tasks"):
            try:
                import_module(f"{config.name}.tasks")
            except Exception:
                logger.exception("%s.tasks cannot be imported, so its new schedules do not run", config.name)
                complete = False
    return complete


def next_time(cron: str, tz: str, after: datetime) -> datetime:
    """Return the first time of a cron expression after `after`.

    A time that does not exist, because the clock goes forward, fires when the clock has gone forward. A time of the day
    that comes twice fires once; ``*/20`` fires at each. (cronsim, which follows Debian's cron.)
    """
    return next(_times(cron, tz, after))


def _times(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    """Yield the times after `after`, as the database keeps them: without ``USE_TZ`` by the clock on the wall."""
    zone = ZoneInfo(tz) if tz else timezone.get_default_timezone()
    for at in CronSim(cron, after.astimezone(zone)):
        kept = at if timezone.is_aware(after) else timezone.make_naive(at, timezone.get_default_timezone())
        if kept > after:  # a clock on the wall shows an hour twice
            yield kept


def _latest(row: Schedule, now: datetime) -> datetime:
    """Return the last time of a schedule that is due, in one step, however long ago the first one was."""
    zone = ZoneInfo(row.tz) if row.tz else timezone.get_default_timezone()
    local = now.astimezone(zone).replace(microsecond=1)  # then the search begins with this second
    at: datetime = next(CronSim(row.cron, local, reverse=True))
    if timezone.is_naive(now):
        at = timezone.make_naive(at, timezone.get_default_timezone())
    return min(max(at, row.next_at), now)


def store_planned(using: str, complete: bool = True, now: datetime | None = None) -> None:
    """Make the rows follow the code: new schedules, changed ones, and those that are gone.

    :param complete: whether the whole code is known; else no row is deleted.
    """
    now = timezone.now() if now is None else now
    schedules = Schedule.objects.using(using)
    with writing(using):
        rows = {row.name: row for row in schedules.filter(in_code=True)}
        for name, plan in marks.planned.items():
            if _database_of(plan.backend) != using:
                continue
            row = rows.pop(name, None)
            values = {"task": plan.path, "cron": plan.cron, "tz": plan.tz, "catch_up": plan.catch_up}
            next_at = next_time(plan.cron, plan.tz, now)
            if row is None:  # or another server is about to store it
                new = {"in_code": True, "next_at": next_at, **values}
                row, _ = schedules.get_or_create(name=name, defaults=new)
                if not row.in_code:
                    logger.error("the schedule %r stands in the code, and in the admin pages; the latter is used", name)
                continue
            if (row.cron, row.tz) != (plan.cron, plan.tz) or row.next_at is None:
                values["next_at"] = next_at  # type: ignore[assignment]
            if {key: getattr(row, key) for key in values} != values:
                schedules.filter(pk=row.pk).update(**values)
        if complete:
            for row in rows.values():
                row.delete(using=using)
        set_back(using, now)


def set_back(using: str, now: datetime | None = None) -> None:
    """Bring schedules back that have gone far ahead, because the clock was wrong.

    One whose next time is the second one from now stays: a server with a faster clock may have fired the first.
    """
    now = timezone.now() if now is None else now
    for row in Schedule.objects.using(using).filter(next_at__gt=now):
        try:
            first = next_time(row.cron, row.tz, now)
            second = next_time(row.cron, row.tz, first)
        except Exception as error:  # it is turned off when it is due
            logger.debug("schedule %r is broken: %s", row.name, error)
            continue
        if row.next_at > second:
            Schedule.objects.using(using).filter(pk=row.pk, next_at=row.next_at).update(next_at=first)


def _database_of(alias: str) -> Any:
    """Return the database in which schedules make jobs for a backend; if that keeps none, the project's first."""
    backend = task_backends[alias] if alias in settings.TASKS else None
    return getattr(backend, "database", None) or backend_of_project().database


def fire(using: str, now: datetime) -> int:
    """Make the jobs of the schedules that are due; return how many."""
    count = 0
    with writing(using):
        rows = Schedule.objects.using(using).filter(enabled=True, next_at__lte=now).order_by("next_at")
        if connections[using].features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        for row in rows[:MOST_AT_ONCE]:
            count += _fire_one(using, row, now)
    return count


def _fire_one(using: str, row: Schedule, now: datetime) -> int:
    try:
        planned, next_at = times_of(row, now)
    except Exception as error:
        logger.error("schedule %r is turned off: %s", row.name, error)
        Schedule.objects.using(using).filter(pk=row.pk).update(enabled=False)
        return 0
    moved = Schedule.objects.using(using).filter(pk=row.pk, next_at=row.next_at).update(next_at=next_at)
    if not moved:
        return 0
    for at in planned:
        enqueue(using, row.task, at)
    return len(planned)


def times_of(row: Schedule, now: datetime) -> tuple[list[datetime], datetime]:
    """Return the times of a schedule for which jobs are made now, and the next one.

    :param row: its ``next_at`` is due.
    """
    if row.catch_up == "all":
        due = [row.next_at]
        for at in islice(_times(row.cron, row.tz, row.next_at), MOST_AT_ONCE):
            if at > now:
                return due, at
            due.append(at)
        return due[:-1], due[-1]
    latest = _latest(row, now)
    if row.catch_up == "none" and (now - latest).total_seconds() > MISSED_SECONDS:
        return [], next_time(row.cron, row.tz, now)
    return [latest], next_time(row.cron, row.tz, now)


def check_task(path: str) -> None:
    """:raises ValueError: it is no task."""
    try:
        found: Any = import_string(path)
    except Exception as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error
    if not isinstance(found, Task):
        raise ValueError(f"{path!r} is no task; write for example shop.tasks.send_invoice")


def enqueue(using: str, path: str, at: datetime) -> None:
    """Store a job of a schedule; but not a second one of a unique task."""
    values: dict[str, Any] = {"task": path, "args": {"args": [], "kwargs": {}}}
    backend: Any = None
    try:
        task = import_string(path)
        backend = task_backends[task.backend]
        values = backend.values_of(task, [], {})
    except Exception as error:  # running it tells what is wrong
        logger.debug("%s cannot be used: %s", path, error)
    if values.get("unique_key") is None or backend.first_of(values["unique_key"]) is None:
        with suppress(IntegrityError), transaction.atomic(using=using):  # one was stored meanwhile
            Job.objects.using(using).create(**values | {"run_at": at, "state": State.READY})
