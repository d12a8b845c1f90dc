"""What a task says about itself: :func:`job` and :func:`schedule`; and what it raises: :class:`Retry`, :class:`Cancel`.

Runs when the project's modules are imported; owns the list of schedules.

Other backends ignore the marks: a task that has them still works with Django's own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction, signature
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from django.utils.module_loading import import_string

#: Seconds before the first retry, doubled for each further one; and the most.
FIRST_RETRY, LONGEST_RETRY = 15.0, 3600.0
#: The longest pause that a task may ask for: ten years. A date has an end.
MOST_SECONDS = 10 * 365 * 86400.0
#: By how much a pause may be longer, so that jobs which failed together do not come back together.
JITTER = 0.25

logger = logging.getLogger("channelserver.jobs")

_MARK = "channelserver_job"

F = TypeVar("F", bound=Callable[..., Any])


class Retry(Exception):  # says what is wanted, as celery's and django.tasks' readers expect
    """Raised in a task: run this job again, after a pause. It spends one of the job's retries.

    :param in_: seconds, or a ``timedelta``; None: as the task's ``backoff`` says.
    """

    def __init__(self, message: str = "", *, in_: float | timedelta | None = None) -> None:
        super().__init__(message or "the job asked to be run again")
        self.seconds = in_.total_seconds() if isinstance(in_, timedelta) else in_


class Cancel(Exception):
    """Raised in a task: end this job now, without a retry. Its state is "cancelled", in Django's words FAILED."""


@dataclass(frozen=True)
class JobOptions:
    """What :func:`job` was given."""

    retries: int = 0
    backoff: Any = "exponential"
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()
    timeout: float | None = None
    atomic: bool = False
    unique: Any = False
    unique_for: float | None = None
    concurrency: Any = None
    key: Callable[..., Any] | None = None

    def may_retry(self, error: BaseException, failures: int) -> bool:
        """Whether a job that has failed `failures` times, now by `error`, is to run again."""
        if failures > self.retries:
            return False
        if isinstance(error, Retry):
            return True
        return isinstance(error, self.retry_on) and not isinstance(error, self.give_up_on)

    def pause(self, failures: int, error: BaseException, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds until the next try.

        :param failures: how often it has failed, 1 or more.
        :param chance: returns a number from 0 to 1.
        """
        try:
            seconds = self._pause_as_given(failures, error)
        except Exception:  # of the project's function: the job has failed, whatever that does
            logger.exception("a task cannot tell after what pause it is to run again; it waits as by default")
            seconds = None
        if seconds is not None:
            return min(MOST_SECONDS, max(0.0, seconds))
        seconds = FIRST_RETRY * (failures if self.backoff == "linear" else 2.0 ** min(failures - 1, 30))
        return min(LONGEST_RETRY, min(seconds, LONGEST_RETRY) * (1 + JITTER * chance()))

    def _pause_as_given(self, failures: int, error: BaseException) -> float | None:
        """Return the seconds that the task says itself; None: it names a rule."""
        if isinstance(error, Retry) and error.seconds is not None:
            return float(error.seconds)
        if callable(self.backoff):
            return float(self.backoff(failures))
        if isinstance(self.backoff, tuple):
            return float(self.backoff[min(failures, len(self.backoff)) - 1])
        return None if isinstance(self.backoff, str) else float(self.backoff)

    def unique_key(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
        """Return what no other waiting or running job may have, None if the job is not unique."""
        if not self.unique:
            return None
        if callable(self.unique):
            return _key(path, self.unique(*args, **kwargs))
        if isinstance(self.unique, str):
            return _key(path, self.unique)
        return _key(path, self.key(*args, **kwargs) if self.key is not None else [list(args), kwargs])

    def concurrency_of(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, int]:
        """Return the key whose jobs count, and how many of them may run at once; ("", 0): no limit."""
        if not self.concurrency:
            return "", 0
        if isinstance(self.concurrency, tuple):
            key, limit = self.concurrency
            return _key("", key(*args, **kwargs) if callable(key) else key), limit
        return _key(path, self.key(*args, **kwargs) if self.key is not None else ""), self.concurrency


def _key(path: str, value: Any) -> str:
    """Return a text of at most 255 characters that names `value`."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    whole = f"{path}:{text}" if path else text or '""'  # an empty one would say that there is no key
    return whole if len(whole) <= 255 else f"{whole[:180]}:{hashlib.sha256(whole.encode()).hexdigest()}"


def job(
    *function: Any,
    retries: int = 5,
    backoff: str | float | Sequence[float] | Callable[[int], float] = "exponential",
    retry_on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
    give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
    timeout: float | timedelta | None = None,
    atomic: bool = False,
    unique: bool | str | Callable[..., Any] = False,
    unique_for: float | timedelta | None = None,
    concurrency: int | tuple[str | Callable[..., Any], int] | None = None,
    key: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Say how the server runs a task. Stands below ``@task``.

    :param retries: how often a job is run again after an exception; a task without :func:`job` is not. Jobs whose
        process died are counted apart.
    :param backoff: the pause before a retry: ``"exponential"`` (15 s, 30 s, 1 min … at most an hour, with up to a
        quarter more at random), ``"linear"`` (15 s, 30 s, 45 s …), seconds, a list of seconds, or a function of the
        number of failures.
    :param retry_on: the exceptions after which it is run again.
    :param give_up_on: those among them after which it is not.
    :param timeout: seconds, or a ``timedelta``. A coroutine is cancelled then. A thread cannot be: see
        ``context.cancelled``, and the page on jobs.
    :param atomic: run it in a transaction of the jobs' database, which its end belongs to: what it writes there
        happens exactly once.
    :param unique: while a job with the same key waits or runs, a second one is not stored; ``enqueue`` returns the
        first. True: the key is the arguments, or what `key` returns; a text; or a function of the arguments.
    :param unique_for: keep the key for so long after the job was enqueued, even when it has ended.
    :param concurrency: how many jobs of this task run at a time, on all servers together; with `key`, for each key. Or
        a pair of a key, which other tasks may share, and the number.
    :param key: a function of the arguments.
    :raises ValueError: a value makes no sense.
    :raises TypeError: it stands above ``@task``; or a coroutine function is to be atomic.
    """
    if function:
        raise TypeError("@job needs parentheses: write @job(), or for example @job(retries=3)")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number from 0 up, not {retries!r}")
    if isinstance(backoff, str) and backoff not in ("exponential", "linear"):
        raise ValueError(
            f'backoff must be "exponential", "linear", seconds, a list of them or a function, not {backoff!r}'
        )
    if isinstance(backoff, Sequence) and not isinstance(backoff, str):
        backoff = tuple(backoff)
        if not backoff:
            raise ValueError("backoff must not be an empty list")
    if not callable(backoff) and not isinstance(backoff, str):
        for pause in backoff if isinstance(backoff, tuple) else (backoff,):
            if isinstance(pause, bool) or not isinstance(pause, (int, float)) or not 0 <= pause < float("inf"):
                raise ValueError(f"backoff must be seconds from 0 up, or a list of them, not {pause!r}")
    if not (isinstance(unique, (bool, str)) or callable(unique)):
        raise ValueError(f"unique must be True, a text or a function of the arguments, not {unique!r}")
    if unique_for is not None and unique is False:
        raise ValueError("unique_for needs unique: write unique=True beside it")
    if key is not None and not callable(key):
        raise ValueError(f"key must be a function of the arguments, not {key!r}; a fixed one is unique={key!r}")
    limit = concurrency[1] if isinstance(concurrency, tuple) and len(concurrency) == 2 else concurrency
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f'concurrency must be a whole number from 1 up, or ("key", number), not {concurrency!r}')
    options = JobOptions(
        retries,
        backoff,
        _classes("retry_on", retry_on),
        _classes("give_up_on", give_up_on),
        _seconds("timeout", timeout),
        atomic,
        unique,
        _seconds("unique_for", unique_for),
        concurrency,
        key,
    )

    def mark(function: F) -> F:
        if not callable(function) or hasattr(function, "enqueue"):
            raise TypeError("@job stands below @task: write @task first, and @job(...) on the next line")
        if atomic and iscoroutinefunction(function):
            raise TypeError("atomic=True is for plain functions: Django has no transactions in coroutines")
        setattr(function, _MARK, options)
        return function

    return mark


def _classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    found = (value,) if isinstance(value, type) else tuple(value) if isinstance(value, Iterable) else (value,)
    for one in found:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ValueError(f"{name} must be a class of exceptions, or a list of them, not {one!r}")
    return found


def _seconds(name: str, value: float | timedelta | None) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ValueError(f"{name} must be a number of seconds, or a timedelta, above 0, not {value!r}")
    return float(seconds)


_DEFAULT = JobOptions()


def options_of(function: Any) -> JobOptions:
    """Return what :func:`job` was given for a task's function; without it, the job is not run again."""
    return getattr(function, _MARK, _DEFAULT)


def options_at(path: str) -> JobOptions:
    """As :func:`options_of`, for the path of a task; as without :func:`job` where there is no task."""
    try:
        return options_of(getattr(import_string(path), "func", None))
    except Exception:
        return _DEFAULT


# -- schedules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A task that :func:`schedule` registered."""

    path: str
    cron: str
    tz: str
    catch_up: str
    backend: str


#: The schedules of the project's code, by the name of their row.
planned: dict[str, Planned] = {}


def schedule(
    cron: str, *, tz: str | None = None, catch_up: Literal["last", "all", "none"] = "last", name: str | None = None
) -> Callable[[F], F]:
    """Run a task, which takes no arguments, at the times of a cron expression. Stands above ``@task``.

    :param cron: five fields, as in a crontab: minute, hour, day of the month, month, day of the week.
    :param tz: the name of a time zone, such as ``"Europe/Vienna"``; default: the setting ``TIME_ZONE``.
    :param catch_up: what happens to the times at which no server was running: ``"last"`` runs the task once, ``"all"``
        once for each, ``"none"`` not at all.
    :param name: of the schedule's row; default: the task's path. Needed if a task has several schedules.
    :raises ValueError: `cron`, `tz` or `catch_up` is invalid; or the task has a schedule of this name already.
    :raises TypeError: the task needs arguments.
    """
    check_cron(cron)
    if catch_up not in ("last", "all", "none"):
        raise ValueError(f'catch_up must be "last", "all" or "none", not {catch_up!r}')
    if tz is not None:
        check_tz(tz)

    def register(task: F) -> F:
        function = getattr(task, "func", task)
        path = f"{function.__module__}.{function.__qualname__}"
        if (name or path) in planned:
            raise ValueError(
                f"there is a schedule {name or path!r} already; give one of them a name: schedule(..., name=)"
            )
        try:
            signature(function).bind(*([None] if getattr(task, "takes_context", False) else []))
        except TypeError as error:
            raise TypeError(f"{path} cannot be scheduled: a schedule gives no arguments ({error})") from None
        planned[name or path] = Planned(path, cron, tz or "", catch_up, getattr(task, "backend", "default"))
        return task

    return register


def check_tz(tz: str) -> None:
    """:raises ValueError: it is no name of a time zone."""
    try:
        ZoneInfo(tz)
    except Exception as error:
        raise ValueError(f"tz must be the name of a time zone, such as Europe/Vienna, not {tz!r}") from error


def check_cron(cron: str) -> None:
    """:raises ValueError: it is no cron expression; the text says what is wrong with it."""
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, TypeError) as error:
        raise ValueError(f"{cron!r} is no cron expression ({error}); write for example '*/5 * * * *'") from None
    except StopIteration:
        raise ValueError(f"the cron expression {cron!r} names a day that never comes") from None
