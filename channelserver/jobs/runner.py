"""Runs one attempt of a job, and says how it ended.

:func:`run` runs in a job's thread, :func:`arun` on the event loop; neither raises there. Owns the context variable that
names the running job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.db import Error as DatabaseProblem
from django.db import connections
from django.utils import timezone
from django.utils.module_loading import import_string

from channelserver.jobs.channels import consume
from channelserver.jobs.compat import (
    TaskContext,
    TaskError,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from channelserver.jobs.delayed import PAUSE, send
from channelserver.jobs.ends import LostLeaseError, Outcome, end, path_of, text_of, words_of
from channelserver.jobs.marks import Cancel, JobOptions, Retry, options_of
from channelserver.jobs.models import DELAYED, DELAYED_GROUP, Job, State
from channelserver.jobs.presence import Presence
from channelserver.jobs.results import errors_of, result_of, task_of
from channelserver.jobs.store import writing
from channelserver.workers.outbox import Outbox

logger = logging.getLogger("channelserver.jobs")

#: How often a job is run again whose task cannot be imported: another server may have newer code.
UNKNOWN_TASK = JobOptions(retries=5)


class WorkerDied(Exception):  # the name that results show
    """The processes that ran a job died."""


class Running:
    """An attempt that is under way.

    :param call_later: ``call_later(seconds, function)`` runs the function in the reactor thread; for what the job sends
        to full channels.
    :param presence: notes that the job is under way.
    """

    def __init__(
        self, job: Job, using: str, call_later: Callable[..., object], presence: Presence | None = None
    ) -> None:
        self.job = job
        self.using = using
        self.call_later = call_later
        self._presence = presence
        #: The task, None for a durable message; or what was raised where it should be.
        self.task_or_error: Any = None
        self.options = JobOptions(retries=5)
        if ":" not in job.task:  # else it is a message
            try:
                self.task_or_error = task_of(job)
                self.options = options_of(self.task_or_error.func)
            except Exception as error:
                self.task_or_error = error  # running it tells
        #: Whether its task is a coroutine function.
        self.is_coroutine = iscoroutinefunction(getattr(self.task_or_error, "func", None))
        #: Whether the job ought to end: its time is over, or somebody cancels it.
        self.cancelled = False
        #: When it is overdue, on the monotonic clock; None: never.
        self.deadline: float | None = None
        self.is_late = False
        self.late_since = 0.0
        #: The job was given to another process meanwhile.
        self.lost = False
        self.thread: threading.Thread | None = None
        self.task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        """The task's own code runs in a ``with`` block: a process that dies meanwhile may die of it."""
        if self._presence is not None:
            self._presence.began(self.job.pk)

    def __exit__(self, *_: object) -> None:
        if self._presence is not None:
            self._presence.ended(self.job.pk)


_running: ContextVar[Running | None] = ContextVar("channelserver_job", default=None)


def current() -> Running | None:
    """Return the job that is running here, None outside a job."""
    return _running.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext(TaskContext):  # type: ignore[misc]
    """The context of a task with ``takes_context=True``, as Django's, and beside it whether the job is to end."""

    running: Running

    @property
    def cancelled(self) -> bool:
        """Whether the job ought to end, because its time is over or somebody cancels it. For loops to ask."""
        return self.running.cancelled


def _sender(alias: str) -> Any:
    """Return the class of a backend: who sends Django's signals.

    ``task_backends`` would make another backend in the fresh context of each job.
    """
    return import_string(settings.TASKS[alias]["BACKEND"])


class _Attempt:
    """What both ways of running share."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.job = job = running.job
        self.result: Any = None
        self.options = running.options
        if isinstance(running.task_or_error, Exception):
            raise running.task_or_error
        self.task = running.task_or_error
        if self.task is None:
            self.function: Any = partial(consume, job)
        else:
            self.result = result_of(job, self.task, errors=[])
            self.function = self.task.func

    def check_cancelled(self) -> None:
        """:raises Cancel: somebody has cancelled the job before it began."""
        if self.running.cancelled:
            raise Cancel("cancelled before it began")

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        if self.task is None:
            return [], {}
        args = list(self.job.args["args"])
        if self.task.takes_context:
            args.insert(0, JobContext(task_result=self.result, running=self.running))
        return args, self.job.args["kwargs"]

    def started(self) -> None:
        """Send Django's signal; its receivers, and the task, see the errors of earlier attempts."""
        if self.result is not None:
            if self.job.attempt > 1:
                with suppress(DatabaseProblem):  # an attempt must not fail for want of them
                    self.result.errors.extend(errors_of(self.job))
            task_started.send(sender=_sender(self.job.backend), task_result=self.result)

    def done(self, value: Any) -> Outcome:
        outcome = Outcome(self.job, State.DONE, normalize_json(value), finished_at=timezone.now())
        return outcome

    def announced(self, outcome: Outcome) -> Outcome:
        """Send Django's signal that the job has finished, unless it will run again."""
        result = self.result
        if result is None or outcome.finished_at is None:
            return outcome
        object.__setattr__(result, "finished_at", outcome.finished_at)
        if outcome.state == State.DONE:
            object.__setattr__(result, "status", TaskResultStatus.SUCCESSFUL)
            object.__setattr__(result, "_return_value", outcome.result)
        else:
            object.__setattr__(result, "status", TaskResultStatus.FAILED)
            if outcome.error is not None:
                error = TaskError(exception_class_path=path_of(type(outcome.error)), traceback=outcome.text)
                result.errors.append(error)
        try:
            task_finished.send(_sender(self.job.backend), task_result=result)
        except Exception:
            logger.exception("error in a receiver of task_finished")
        return outcome

    def raised(self, error: BaseException) -> Outcome:
        return failed(self.job, self.options, error)


def failed(job: Job, options: JobOptions, error: BaseException, now: datetime | None = None) -> Outcome:
    """Return how an attempt ends that raised `error`."""
    now = timezone.now() if now is None else now
    text = text_of(error)
    if isinstance(error, Cancel):
        return cancelled(job, error)
    failures = job.failures + 1
    if options.may_retry(error, failures):
        seconds = options.pause(failures, error)
        if not isinstance(error, Retry):
            logger.warning(
                "job %s of %s failed (%s: %s); try %d of %d in %.0f s",
                job.pk, job.task, type(error).__name__, words_of(error), failures + 1, options.retries + 1, seconds,
            )  # fmt: skip
        run_at = now + timedelta(seconds=seconds)
        return Outcome(job, State.WAITING, error=error, text=text, run_at=run_at, failed=True)
    return Outcome(job, State.DEAD, error=error, text=text, failed=True, finished_at=now)


def cancelled(job: Job, error: BaseException) -> Outcome:
    """Return how an attempt ends that somebody has cancelled."""
    return Outcome(job, State.CANCELLED, error=error, text=text_of(error), finished_at=timezone.now())


def run(running: Running) -> Outcome | None:
    """Run an attempt in this thread.

    :raises KeyboardInterrupt: in the main thread, where only tests run jobs.
    :returns: what is left to store; None: it was stored in the job's own transaction.
    """
    token = _running.set(running)
    attempt = None
    try:
        if running.job.task.startswith((DELAYED, DELAYED_GROUP)):
            return send(running.using, running.job)
        attempt = _Attempt(running)
        attempt.check_cancelled()
        attempt.started()
        args, kwargs = attempt.arguments()
        if attempt.options.atomic:
            return _run_atomic(running, attempt, args, kwargs)
        with Outbox(running.call_later) as outbox, running:
            value = _call(attempt, args, kwargs)
        outcome = attempt.done(value)
        outbox.flush()
        return attempt.announced(outcome)
    except LostLeaseError:
        raise
    except BaseException as error:  # also SystemExit: a task must not end the thread
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # somebody wants the tests to end that run this job
        try:
            return _announced_error(running, attempt, error)
        except BaseException as second:
            logger.exception("cannot tell how job %s ended", running.job.pk)
            return failed(running.job, UNKNOWN_TASK, second)
    finally:
        _running.reset(token)


def _call(attempt: _Attempt, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if attempt.task is not None:
        return attempt.task.call(*args, **kwargs)
    return attempt.function(*args, **kwargs)


def _run_atomic(running: Running, attempt: _Attempt, args: list[Any], kwargs: dict[str, Any]) -> Outcome | None:
    """Run it in one transaction with its end, so that both happen or neither does.

    :returns: what is left to store: the transaction could not begin; None: nothing.
    """
    begun = False
    try:
        with Outbox(running.call_later) as outbox:
            with writing(running.using, savepoint=True):  # a test's own transaction goes on
                begun = True
                with running:
                    value = _call(attempt, args, kwargs)
                outcome = attempt.done(value)
                if not end(running.using, outcome):
                    raise LostLeaseError(running.job.pk)
    except DatabaseProblem as problem:
        if begun:
            raise
        logger.info("job %s is put off: its transaction cannot begin: %s", running.job.pk, words_of(problem))
        return Outcome(running.job, State.WAITING, refund=True, run_at=timezone.now() + PAUSE)
    outbox.flush()
    attempt.announced(outcome)
    return None


def _announced_error(running: Running, attempt: _Attempt | None, error: BaseException) -> Outcome:
    if attempt is None:
        return failed(running.job, UNKNOWN_TASK, error)
    if running.cancelled and not running.is_late:
        return attempt.announced(cancelled(running.job, error))
    return attempt.announced(attempt.raised(error))


async def arun(running: Running, ended: Callable[[Outcome | None], object]) -> None:
    """Run an attempt on the event loop; its synchronous parts run in a thread of its own.

    :param ended: called with what :func:`run` would return.
    """
    _running.set(running)
    running.task = asyncio.current_task()
    attempt = None
    outcome: Outcome | None = None
    limit = None
    async with ThreadSensitiveContext():
        try:
            attempt = _Attempt(running)
            attempt.check_cancelled()
            await sync_to_async(attempt.started)()
            args, kwargs = attempt.arguments()
            with Outbox(running.call_later) as outbox, running:
                async with asyncio.timeout(attempt.options.timeout) as limit:
                    value = await attempt.function(*args, **kwargs)
            outcome = attempt.done(value)
            await sync_to_async(outbox.flush)()
            await sync_to_async(attempt.announced)(outcome)
        except asyncio.CancelledError as error:
            if running.cancelled:
                outcome = cancelled(running.job, error)
            elif running.task is not None and running.task.cancelling():  # the server stops
                outcome = Outcome(running.job, State.READY, refund=True)
            else:  # the job's own
                outcome = failed(running.job, running.options, error)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit is not None and limit.expired():
                running.is_late = True
            try:
                outcome = await sync_to_async(_announced_error)(running, attempt, error)
            except BaseException as second:
                logger.exception("cannot tell how job %s ended", running.job.pk)
                outcome = failed(running.job, UNKNOWN_TASK, second)
        finally:
            try:
                await asyncio.shield(sync_to_async(connections.close_all)())
            except BaseException:
                logger.debug("connections of job %s stay open", running.job.pk)
    _running.set(None)
    ended(outcome)
