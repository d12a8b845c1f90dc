"""Rows as the results of ``django.tasks``, and the task of a row.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.utils.module_loading import import_string

from channelserver.jobs.compat import Task, TaskError, TaskResult, TaskResultStatus
from channelserver.jobs.models import STATUS, Job, State


def task_of(job: Job) -> Any:
    """Return the task of a row, with the queue, priority and time of that row.

    :raises ImportError: there is no such task any more.
    """
    task = _task(job.task, job.priority, job.queue, job.backend)
    return task if job.run_at == job.created_at else task.using(run_after=job.run_at)


@lru_cache(1000)
def _task(path: str, priority: int, queue: str, backend: str) -> Any:
    found = import_string(path)
    if not isinstance(found, Task):
        raise ImportError(f"{path!r} is no task, but {found!r}; decorate it with @task")
    return found.using(priority=priority, queue_name=queue, backend=backend)


def errors_of(job: Job) -> list[Any]:
    """Return the errors of all attempts of a row, the first one first."""
    rows = job.errors.all()  # type: ignore[attr-defined]
    return [TaskError(exception_class_path=row.exception_class, traceback=row.traceback) for row in rows]


def result_of(job: Job, task: Any = None, errors: Any = None) -> Any:
    """Return a row as a ``TaskResult``.

    :param task: its task, if that is known.
    :param errors: its errors, if they are known.
    :raises ImportError: there is no such task any more.
    """
    shown = errors_of(job) if errors is None else errors
    if job.state == State.CANCELLED and not shown:
        shown.append(TaskError(exception_class_path="channelserver.jobs.marks.Cancel", traceback="cancelled\n"))
    result = TaskResult(
        task=task if task is not None else task_of(job),
        id=job.pk,
        status=TaskResultStatus(STATUS[State(job.state)]),
        enqueued_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        last_attempted_at=job.last_attempted_at,
        args=job.args["args"],
        kwargs=job.args["kwargs"],
        backend=job.backend,
        errors=shown,
        worker_ids=job.worker_ids.split(),
    )
    if job.state == State.DONE:
        object.__setattr__(result, "_return_value", job.result)
    return result
