"""The backend for ``django.tasks``: stores jobs, and reads their results.

Runs in any thread that may use the database; owns nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connections, transaction
from django.utils import timezone

from channelserver.jobs.compat import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
)
from channelserver.jobs.marks import options_of

#: What a project without the tables has to do.
NOT_INSTALLED = 'add "channelserver.jobs" to INSTALLED_APPS and run manage.py migrate'
_encode = json.JSONEncoder(allow_nan=False).encode
#: Finds a NUL, or half of a surrogate pair, in JSON that :data:`_encode` has made.
_not_in_jsonb = re.compile(
    r"""(?<!\\)(?:\\\\)*+  # the next backslash is none that stands for itself
        (?:\\u0000 | \\ud[89ab]..(?!\\ud[c-f]) | (?<!\\ud[89ab]..)\\ud[c-f])""",
    re.VERBOSE,
).search
#: The longest time for which ended jobs can be kept.
MOST_DAYS = 36_500
#: How often a unique job is stored that another one hinders which is gone then.
TRIES = 20
#: The options of a backend, and their defaults.
DEFAULTS: dict[str, Any] = {"database": "default", "keep_done_days": 7, "keep_dead_days": 30}


def wrong(text: str) -> ImproperlyConfigured:
    """Return the error for a wrong setting; ``manage.py`` shows one of this class as a sentence."""
    from django.core.management import CommandError

    return type("WrongSettingError", (ImproperlyConfigured, CommandError), {})(text)


def check_path(task: Any) -> None:
    """:raises InvalidTask: the server could not import the task."""
    function = task.func
    found = getattr(sys.modules.get(function.__module__), function.__qualname__, None)
    if function.__module__ == "__main__" or not isinstance(found, Task):
        raise InvalidTask(
            f"{task.module_path} is no task that the server can import: decorate a function of a module with @task, "
            "for example in shop/tasks.py; not a lambda, a method, or what is typed into a shell"
        )


class JobBackend(BaseTaskBackend):  # type: ignore[misc]
    """Jobs as rows of the site's database, which the server runs.

    ``OPTIONS``: ``database`` (alias, default ``"default"``), ``keep_done_days`` (7), ``keep_dead_days`` (30).

    :raises ImproperlyConfigured: an option is unknown, or has a wrong value.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        where = f"TASKS[{alias!r}]"
        queues, options = params.get("QUEUES", []), params.get("OPTIONS", {})
        if not isinstance(queues, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in queues):
            raise wrong(f"{where}['QUEUES'] must be a list of names, such as [\"default\"], not {queues!r}")
        if not isinstance(options, dict):
            raise wrong(f"{where}['OPTIONS'] must be a dict, not {options!r}")
        super().__init__(alias, params)
        unknown = sorted(map(str, options.keys() - DEFAULTS))
        if unknown:
            raise wrong(f"{where}['OPTIONS'] has no {unknown[0]!r}; it has {', '.join(sorted(DEFAULTS))}")
        values = DEFAULTS | options
        if not isinstance(values["database"], str):
            raise wrong(f"{where}['OPTIONS']['database'] must be an alias in DATABASES, not {values['database']!r}")
        for name in ("keep_done_days", "keep_dead_days"):
            days = values[name]
            if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 <= days <= MOST_DAYS:
                raise wrong(f"{where}['OPTIONS'][{name!r}] must be a number of days, 0 to {MOST_DAYS}, not {days!r}")
        self._valid: Any = None
        #: Alias of the database of the jobs.
        self.database: str = values["database"]
        self.keep_done_days: float = values["keep_done_days"]
        self.keep_dead_days: float = values["keep_dead_days"]

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Store a job.

        Inside a transaction of the jobs' database the job belongs to it: it runs when that is committed, and is gone if
        that is rolled back. If the jobs have a database of their own, the job is stored when the transaction is
        committed.

        :returns: the ``TaskResult``; for a unique task the one of the job that is there already.
        :raises InvalidTask, TypeError, ValueError: the task or its arguments cannot be stored.
        """
        if task is not self._valid:  # a task does not change
            self.validate_task(task)
            check_path(task)
            self._valid = task
        if not apps.is_installed("channelserver.jobs"):
            raise ImproperlyConfigured(f"tasks cannot be enqueued: {NOT_INSTALLED}")
        from channelserver.jobs.results import result_of

        args, kwargs = normalize_json(args), normalize_json(kwargs)
        values = self.values_of(task, args, kwargs)
        if values["unique_key"] is not None and (first := self.first_of(values["unique_key"])) is not None:
            return result_of(first, task)
        outside = self.foreign_transaction()
        if outside is not None:
            transaction.on_commit(partial(self._store, values), using=outside)
        elif (first := self._store(values)) is not None:
            return result_of(first, task)
        result = TaskResult(
            task=task,
            id=values["id"],
            status=TaskResultStatus.READY,
            enqueued_at=values["created_at"],
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

    def values_of(self, task: Any, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a job's row."""
        from channelserver.jobs.models import LIMITED, RunsOn, State, new_id

        options = options_of(task.func)
        try:
            text = _encode([args, kwargs])
        except ValueError as error:
            raise ValueError(f"the arguments of {task.module_path} are no JSON: {error}") from None
        if connections[self.database].vendor == "postgresql" and _not_in_jsonb(text):
            # As an error of the database it would end the caller's transaction.
            raise ValueError(f"PostgreSQL stores no NUL and no lone surrogate: {text[:100]}, for {task.module_path}")
        now = timezone.now()
        run_at: datetime = task.run_after or now
        if run_at is not now and timezone.is_aware(run_at) != timezone.is_aware(now):
            make = timezone.make_aware if timezone.is_aware(now) else timezone.make_naive
            run_at = make(run_at)
        path = task.module_path
        unique = options.unique_key(path, args, kwargs)
        key, limit = options.concurrency_of(path, args, kwargs)
        return {
            "id": new_id(),
            "backend": self.alias,
            "queue": task.queue_name,
            "task": path,
            "args": {"args": args, "kwargs": kwargs},
            "priority": task.priority,
            "runs_on": int(RunsOn.LOOP if iscoroutinefunction(task.func) else RunsOn.THREAD) + (LIMITED if key else 0),
            "run_at": run_at,
            "created_at": now,
            "state": str(State.WAITING if run_at > now else State.READY),
            "unique_key": unique,
            "unique_until": now + timedelta(seconds=options.unique_for) if unique and options.unique_for else None,
            "concurrency_key": key,
            "concurrency": limit,
        }

    def foreign_transaction(self) -> str | None:
        """Return the alias of another database whose transaction is open here."""
        if len(connections.settings) == 1 or connections[self.database].in_atomic_block:
            return None
        for connection in connections.all(initialized_only=True):
            if connection.alias != self.database and connection.in_atomic_block:
                return str(connection.alias)
        return None

    def _store(self, values: dict[str, Any]) -> Any:
        """Store a row, and wake who runs it; return None, or the job that has its unique key."""
        from channelserver.jobs.store import insert
        from channelserver.jobs.wake import announce

        key = values["unique_key"]
        if key is None:
            insert(self.database, values)
        else:
            for again in reversed(range(TRIES)):
                try:
                    with transaction.atomic(using=self.database):
                        insert(self.database, values)
                    break
                except IntegrityError:  # another one was stored meanwhile
                    if (first := self.first_of(key)) is not None:
                        return first
                    if not again:
                        raise
        announce(self.database, values["state"], values["run_at"])
        return None

    def first_of(self, key: str) -> Any:
        """Return the job that has a unique key, if there is one."""
        from channelserver.jobs.models import ENDED, Job

        jobs = Job.objects.using(self.database)
        first = jobs.filter(unique_key=key).first()
        if first is not None and first.state in ENDED and (first.unique_until or first.finished_at) <= timezone.now():
            jobs.filter(pk=first.pk, state=first.state).update(unique_key=None)  # its time is over
            return None
        return first

    def get_result(self, result_id: str) -> Any:
        """Return the ``TaskResult`` of a job.

        :raises TaskResultDoesNotExist: there is no such job, or it is older than the backend keeps them.
        """
        from channelserver.jobs.models import Job
        from channelserver.jobs.results import result_of

        try:
            return result_of(Job.objects.using(self.database).get(pk=result_id, backend=self.alias))
        except (Job.DoesNotExist, ValueError) as error:
            raise TaskResultDoesNotExist(result_id) from error

    def check(self, **kwargs: Any) -> Iterable[checks.CheckMessage]:
        """Check the settings (Django's system checks)."""
        from channelserver.jobs.checks import check_backend

        return check_backend(self)


__all__ = ["DEFAULTS", "NOT_INSTALLED", "InvalidTask", "JobBackend"]
