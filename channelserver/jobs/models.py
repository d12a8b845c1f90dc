"""The tables of the jobs.

Runs in any thread that may use the database; owns those tables.

A job **waits** until its time, is **ready**, **runs**, and is then **done**, **dead** (it failed and will not be run
again) or **cancelled**. Django's four states are fewer: see :data:`STATUS`.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone


class State(models.TextChoices):
    """The state of a job."""

    WAITING = "waiting", "Waiting for its time"
    READY = "ready", "Ready"
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    DEAD = "dead", "Dead"
    CANCELLED = "cancelled", "Cancelled"


class RunsOn(models.IntegerChoices):
    """What runs a job; each has room for so many. Jobs whose number is limited stand apart: see ``claims.claim``."""

    THREAD = 0, "Thread"
    LOOP = 1, "Event loop"
    LIMITED_THREAD = 2, "Thread, limited"
    LIMITED_LOOP = 3, "Event loop, limited"


#: What has room for jobs; and by how much the value is higher for limited ones.
KINDS = (RunsOn.THREAD, RunsOn.LOOP)
LIMITED = len(KINDS)


#: The states in which nothing more happens to a job.
ENDED = (State.DONE, State.DEAD, State.CANCELLED)
#: The order of the jobs of each state in lists.
ORDERS: dict[Any, tuple[str, ...]] = {
    State.WAITING: ("run_at", "id"),
    State.READY: ("runs_on", "-priority", "id"),
    State.RUNNING: ("-last_attempted_at", "-id"),
    **dict.fromkeys(ENDED, ("-finished_at", "-id")),
}
#: What stands before a channel's name in the place of a task's path, for a durable message; no module is named so.
CHANNEL = "channel:"
#: The same for a delayed message to a channel, and to a group.
DELAYED, DELAYED_GROUP = "delayed:", "delayed-group:"
#: The state in the words of ``django.tasks``.
STATUS = {
    State.WAITING: "READY",
    State.READY: "READY",
    State.RUNNING: "RUNNING",
    State.DONE: "SUCCESSFUL",
    State.DEAD: "FAILED",
    State.CANCELLED: "FAILED",
}

_lock = threading.Lock()
_last = 0  # microseconds in the last identifier


def new_id() -> str:
    """Return a new identifier: 32 hexadecimal digits, the time first, so later ones sort behind (as UUID 7)."""
    global _last
    with _lock:
        _last = microseconds = max(time.time_ns() // 1000, _last + 1)
    return f"{microseconds:014x}{os.urandom(9).hex()}"


class Job(models.Model):
    """One job: a task, its arguments, and how far it is.

    ``attempt`` counts the starts, ``failures`` the exceptions, ``deaths`` the processes that died while it ran.
    ``owner`` is the server process that runs it. ``unique_key`` is None once another job may have the same.
    """

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=32, default=new_id, editable=False)
    backend: models.CharField[str, str] = models.CharField(max_length=64, default="default")
    queue: models.CharField[str, str] = models.CharField(max_length=64, default="default")
    task: models.CharField[str, str] = models.CharField(max_length=512)
    args: models.JSONField[Any, Any] = models.JSONField(default=dict)
    priority: models.SmallIntegerField[int, int] = models.SmallIntegerField(default=0)
    runs_on: models.SmallIntegerField[int, int] = models.SmallIntegerField(
        choices=RunsOn.choices, default=RunsOn.THREAD, editable=False
    )
    run_at: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now)
    state: models.CharField[str, str] = models.CharField(max_length=10, choices=State.choices, default=State.READY)
    attempt: models.IntegerField[int, int] = models.IntegerField(default=0)
    failures: models.IntegerField[int, int] = models.IntegerField(default=0)
    deaths: models.IntegerField[int, int] = models.IntegerField(default=0)
    owner: models.CharField[str, str] = models.CharField(max_length=32, blank=True, default="")
    worker_ids: models.TextField[str, str] = models.TextField(blank=True, default="")
    unique_key: models.CharField[Any, Any] = models.CharField(max_length=255, null=True, blank=True)
    unique_until: models.DateTimeField[Any, Any] = models.DateTimeField(null=True, blank=True)
    concurrency_key: models.CharField[str, str] = models.CharField(max_length=255, blank=True, default="")
    concurrency: models.IntegerField[int, int] = models.IntegerField(default=0)
    cancel_requested: models.BooleanField[bool, bool] = models.BooleanField(default=False)
    overdue: models.BooleanField[bool, bool] = models.BooleanField(default=False)
    result: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    created_at: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now)
    started_at: models.DateTimeField[Any, Any] = models.DateTimeField(null=True, blank=True)
    last_attempted_at: models.DateTimeField[Any, Any] = models.DateTimeField(null=True, blank=True)
    finished_at: models.DateTimeField[Any, Any] = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        permissions = (("manage_job", "Can run jobs again and cancel them"),)
        indexes = (
            # Each of rows in one state, so that no question takes longer the more jobs have ended, or wait. One that
            # begins with the state would be preferred by SQLite, which would then sort all ready jobs for each claim.
            # The key: so that passing over the jobs of a full key reads no rows.
            models.Index(
                fields=["runs_on", "-priority", "id", "concurrency_key"],
                condition=Q(state="ready"),
                name="csjobs_ready",
            ),
            # To find the first job of each key, however many jobs one of them has.
            models.Index(
                fields=["runs_on", "concurrency_key", "-priority", "id"],
                condition=Q(state="ready", runs_on__gte=2),
                name="csjobs_limited",
            ),
            models.Index(fields=["run_at", "id"], condition=Q(state="waiting"), name="csjobs_waiting"),
            models.Index(fields=["owner", "concurrency_key"], condition=Q(state="running"), name="csjobs_running"),
            models.Index(
                fields=["state", "finished_at", "id"], condition=Q(finished_at__isnull=False), name="csjobs_ended"
            ),
        )
        constraints = (
            # Of the rows that have a key, so that others do not pay for it.
            models.UniqueConstraint(fields=["unique_key"], condition=Q(unique_key__isnull=False), name="csjobs_unique"),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.id}"


def listed(jobs: Any, state: str) -> Any:
    """Return the jobs of a state for people to read, those first that come next or came last.

    The order is the one of an index, so a list takes as long however many jobs there are.

    :param jobs: a query set.
    """
    found = jobs.filter(state=state).order_by(*ORDERS[state])
    return found.filter(finished_at__isnull=False) if state in ENDED else found  # else SQLite would not use its index


class JobError(models.Model):
    """What went wrong in one attempt."""

    job: models.ForeignKey[Job, Job] = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="errors")
    attempt: models.IntegerField[int, int] = models.IntegerField()
    at: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now)
    exception_class: models.CharField[str, str] = models.CharField(max_length=512)
    traceback: models.TextField[str, str] = models.TextField()

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.exception_class} at attempt {self.attempt}"


class JobServer(models.Model):
    """A server process that runs jobs. For people to read; nothing depends on a row being here."""

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=32)
    host: models.CharField[str, str] = models.CharField(max_length=255)
    pid: models.IntegerField[int, int] = models.IntegerField()
    started: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now)
    seen: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Schedule(models.Model):
    """A task that runs at the times of a cron expression.

    ``in_code``: the row follows :func:`channelserver.jobs.schedule`; others are kept in the admin pages.
    """

    name: models.CharField[str, str] = models.CharField(max_length=512, unique=True)
    task: models.CharField[str, str] = models.CharField(max_length=512)
    cron: models.CharField[str, str] = models.CharField(max_length=255)
    tz: models.CharField[str, str] = models.CharField(max_length=64, blank=True, default="")
    catch_up: models.CharField[str, str] = models.CharField(
        max_length=4, default="last", choices=[(value, value) for value in ("last", "all", "none")]
    )
    enabled: models.BooleanField[bool, bool] = models.BooleanField(default=True)
    in_code: models.BooleanField[bool, bool] = models.BooleanField(default=False, editable=False)
    next_at: models.DateTimeField[Any, Any] = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return f"{self.name}: {self.cron}"


class JobQueue(models.Model):
    """A queue that somebody has paused. A queue without a row runs."""

    name: models.CharField[str, str] = models.CharField(primary_key=True, max_length=64)
    paused: models.BooleanField[bool, bool] = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.name


class JobOnce(models.Model):
    """A key of :func:`channelserver.jobs.once` that was used."""

    key: models.CharField[str, str] = models.CharField(primary_key=True, max_length=255)
    at: models.DateTimeField[Any, Any] = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return self.key
