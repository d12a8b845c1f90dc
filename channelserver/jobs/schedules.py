"""Schedules: rows that follow the project's code, and the jobs that they make when they are due.

Runs in the claimer's thread; owns nothing. A schedule's job and its next time are stored in one transaction: two
servers cannot make it twice, and a crash cannot skip it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim
from django.db import connections
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from channelserver.jobs import marks
from channelserver.jobs.models import Job, Schedule, State
from channelserver.jobs.store import writing

logger = logging.getLogger("channelserver.jobs")

#: The most jobs that one schedule with ``catch_up="all"`` makes at a time; the rest follows at once.
MOST_AT_ONCE = 100


def discover() -> None:
    """Import the modules named ``tasks`` of all applications, as Django's admin does with ``admin``."""
    autodiscover_modules("tasks")


def next_time(cron: str, tz: str, after: datetime) -> datetime:
    """Return the first time of a cron expression after `after`.

    A time that does not exist, because the clock goes forward, fires when the clock has gone forward. A time of the day
    that comes twice fires once; ``*/20`` fires at each. (cronsim, which follows Debian's cron.)
    """
    zone = ZoneInfo(tz) if tz else timezone.get_default_timezone()
    found: datetime = next(CronSim(cron, after.astimezone(zone)))
    return found


def store_planned(using: str, now: datetime | None = None) -> None:
    """Make the rows follow the code: new schedules, changed ones, and those that are gone."""
    now = timezone.now() if now is None else now
    with writing(using):
        rows = {row.name: row for row in Schedule.objects.using(using).filter(in_code=True)}
        for name, plan in marks.planned.items():
            row = rows.pop(name, None)
            values = {"task": plan.path, "cron": plan.cron, "tz": plan.tz, "catch_up": plan.catch_up}
            if row is None:
                next_at = next_time(plan.cron, plan.tz, now)
                if Schedule.objects.using(using).filter(name=name).exists():
                    logger.error("the schedule %r stands in the code, and in the admin pages; the latter is used", name)
                    continue
                Schedule.objects.using(using).create(name=name, in_code=True, next_at=next_at, **values)
            elif {key: getattr(row, key) for key in values} != values:
                if (row.cron, row.tz) != (plan.cron, plan.tz):
                    values["next_at"] = next_time(plan.cron, plan.tz, now)  # type: ignore[assignment]
                Schedule.objects.using(using).filter(pk=row.pk).update(**values)
        for row in rows.values():
            row.delete(using=using)


def fire(using: str, now: datetime) -> tuple[int, datetime | None]:
    """Make the jobs of the schedules that are due.

    :returns: how many, and when the next schedule is due.
    """
    count = 0
    with writing(using):
        rows = Schedule.objects.using(using).filter(enabled=True, next_at__lte=now).order_by("next_at")
        if connections[using].features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        for row in rows[:MOST_AT_ONCE]:
            count += _fire_one(using, row, now)
    following = Schedule.objects.using(using).filter(enabled=True, next_at__isnull=False).order_by("next_at")
    return count, following.values_list("next_at", flat=True).first()


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
    zone = ZoneInfo(row.tz) if row.tz else timezone.get_default_timezone()
    after = CronSim(row.cron, row.next_at.astimezone(zone))
    if row.catch_up == "all":
        missed = [row.next_at]
        for at in islice(after, MOST_AT_ONCE):
            if at > now:
                return missed, at
            missed.append(at)
        return missed[:-1], missed[-1]
    last, before = row.next_at, None
    at = last
    for at in after:
        if at > now:
            break
        before, last = last, at
    # One that is late by less than the time to the next one was not missed.
    if row.catch_up == "none" and before is not None and (now - last).total_seconds() > 60:
        return [], at
    return [last], at


def enqueue(using: str, path: str, at: datetime) -> None:
    """Store a job of a schedule."""
    from django.utils.module_loading import import_string

    values: dict[str, Any] = {}
    try:
        task = import_string(path)
        values = {"queue": task.queue_name, "priority": task.priority, "backend": task.backend}
        key, limit = marks.options_of(task.func).concurrency_of(path, [], {})
        values |= {"concurrency_key": key, "concurrency": limit}
        unique = marks.options_of(task.func).unique_key(path, [], {})
        if unique is not None and Job.objects.using(using).filter(unique_key=unique).exists():
            return
        values["unique_key"] = unique
    except (ImportError, AttributeError):
        pass  # running it tells what is wrong
    Job.objects.using(using).create(task=path, args={"args": [], "kwargs": {}}, run_at=at, state=State.READY, **values)
