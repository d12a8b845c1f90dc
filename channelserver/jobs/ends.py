"""How attempts end: by themselves, or with their process.

Runs in the claimer's thread, and in those of atomic jobs; owns nothing. Every end says "where owner and attempt are
mine": what comes late from a process that was given up changes nothing.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db import DataError, IntegrityError, connections, transaction
from django.db.models import F, Q
from django.utils import timezone

from channelserver.jobs.models import ENDED, Job, JobError, State
from channelserver.jobs.store import writing

logger = logging.getLogger("channelserver.jobs")

#: Bytes of a traceback that are kept: its end, which names the error.
TRACEBACK_BYTES = 16 * 1024
#: A job that was running when so many processes died is dead: it may be what kills them.
MOST_DEATHS = 3
#: What a database, or its driver, says of a result that it cannot store.
_UNSTORABLE = (TypeError, ValueError, DataError, IntegrityError)

T = TypeVar("T")


class LostLeaseError(Exception):
    """A job was given to another process, because this one seemed dead."""


class _OneByOneError(Exception):
    """Another process has the job of one of the attempts."""


@dataclass
class Outcome:
    """How an attempt ended.

    :param state: of the job from now on.
    :param error: what it raised.
    :param text: the traceback.
    :param run_at: when a waiting job is to run.
    :param refund: give the attempt back: the job did not have its chance.
    """

    job: Job
    state: State
    result: Any = None
    error: BaseException | None = None
    text: str = ""
    run_at: datetime | None = None
    failed: bool = False
    refund: bool = False
    finished_at: datetime | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the job is done, and nothing of it stays: the most frequent end."""
        return self.state == State.DONE and self.job.unique_until is None


def store_all(using: str, outcomes: Sequence[Outcome | None], then: Callable[[], T]) -> tuple[list[bool], T]:
    """Store how attempts ended, and do something else in the same transaction.

    :param outcomes: None: one that is stored already.
    :returns: for each whether the job was still ours; and what `then` returns.
    """
    try:
        with writing(using, savepoint=True):
            return _at_once(using, outcomes), then()
    except (_OneByOneError, *_UNSTORABLE):
        with writing(using):
            return [
                outcome is None or _end_somehow(using, outcome) or _is_stored(using, outcome) for outcome in outcomes
            ], then()


def _at_once(using: str, outcomes: Sequence[Outcome | None]) -> list[bool]:
    plain = [outcome for outcome in outcomes if outcome is not None and outcome.is_plain]
    if plain and not end_plain(using, plain):
        raise _OneByOneError
    return [
        outcome is None or outcome.is_plain or end(using, outcome) or _is_stored(using, outcome) for outcome in outcomes
    ]


def _end_somehow(using: str, outcome: Outcome) -> bool:
    """A result that this database cannot store, such as NaN, is a failure of the job."""
    try:
        with transaction.atomic(using=using):
            return end(using, outcome)
    except _UNSTORABLE as error:
        text = f"{text_of(error)}\nThe job has run, but its result is nothing that the database can keep as JSON.\n"
        failed = Outcome(outcome.job, State.DEAD, error=error, text=text, failed=True)
        return end(using, failed)


def _is_stored(using: str, outcome: Outcome) -> bool:
    """Whether this end was stored by an earlier try: the connection broke before the database had confirmed that.

    Nobody but the attempt itself says that its job is done; the other ends are known by their time.
    """
    job = outcome.job
    ours = Q(state=State.DONE)
    if outcome.state in ENDED and outcome.finished_at is not None:
        ours |= Q(state=outcome.state, finished_at=outcome.finished_at)
    elif outcome.run_at is not None:
        ours |= Q(state=outcome.state, run_at=outcome.run_at)
    number = job.attempt - 1 if outcome.refund else job.attempt
    if not Job.objects.using(using).filter(ours, pk=job.pk, attempt=number).exists():
        return False
    logger.warning("the end of job %s was stored already, before the connection to its database broke", job.pk)
    return True


def mine(using: str, job: Job) -> Any:
    """Return the row of a job if this attempt still owns it: the fence of everything that ends one."""
    return Job.objects.using(using).filter(pk=job.pk, owner=job.owner, attempt=job.attempt, state=State.RUNNING)


def end(using: str, outcome: Outcome) -> bool:
    """Store how an attempt ended; return False if another process has the job meanwhile."""
    job, state = outcome.job, outcome.state
    if outcome.is_plain:
        return end_plain(using, [outcome])
    found = mine(using, job)
    values: dict[str, Any] = {"state": state, "owner": ""}
    if state in ENDED:
        values |= {"finished_at": outcome.finished_at or timezone.now(), "result": outcome.result}
        if job.unique_key is not None and (job.unique_until is None or job.unique_until <= timezone.now()):
            values["unique_key"] = None
    if outcome.run_at is not None:
        values["run_at"] = outcome.run_at
    if outcome.failed:
        values["failures"] = F("failures") + 1
    if outcome.refund:
        values["attempt"] = F("attempt") - 1
        values["worker_ids"] = job.worker_ids.removesuffix(f"{job.owner} ")
    if state not in ENDED:
        found = found.filter(cancel_requested=False)
    if not found.update(**values):
        if state in ENDED or not mine(using, job).exists():
            return False
        # Somebody has cancelled it since it ended: it does not run again.
        return end(using, Outcome(job, State.CANCELLED, error=outcome.error, text=outcome.text))
    if outcome.error is not None:
        JobError.objects.using(using).create(
            job_id=job.pk,
            attempt=job.attempt,
            exception_class=path_of(type(outcome.error))[:512],
            traceback=outcome.text,
        )
    return True


def end_plain(using: str, outcomes: Sequence[Outcome]) -> bool:
    """Store ends of the most frequent kind (:attr:`Outcome.is_plain`) in one statement.

    :returns: whether all were this process's. If not: roll back, and store them one by one.
    """
    connection: Any = connections[using]
    adapt, to_json = connection.ops.adapt_datetimefield_value, connection.ops.adapt_json_value
    now = timezone.now()
    rows = [
        (
            adapt(outcome.finished_at or now),
            None if outcome.result is None else to_json(outcome.result, None),
            outcome.job.pk,
            outcome.job.owner,
            outcome.job.attempt,
        )
        for outcome in outcomes
    ]
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE \"{Job._meta.db_table}\" SET state = '{State.DONE.value}', owner = '', unique_key = NULL, "
            "finished_at = %s, result = %s "
            f"WHERE id = %s AND owner = %s AND attempt = %s AND state = '{State.RUNNING.value}'",
            rows,
        )
        return bool(cursor.rowcount == len(rows))


def give_back(using: str, owner: str, known: Collection[str]) -> int:
    """Make the jobs ready that `owner` has taken without knowing it; return how many.

    The connection broke while the transaction that took them was committed; or the database is an older copy.

    :param known: the jobs that run there.
    """
    running = Job.objects.using(using).filter(state=State.RUNNING, owner=owner).order_by()
    unknown = set(running.values_list("pk", flat=True)).difference(known)
    if not unknown:
        return 0
    with writing(using):
        return sum(end(using, Outcome(job, State.READY, refund=True)) for job in running.filter(pk__in=unknown))


def rescue(using: str, owner: str, under_way: set[str] | None, now: datetime) -> tuple[int, list[str]]:
    """Take the jobs of a dead process.

    :param under_way: the jobs that may be the cause; None: all of them may.
    :returns: how many are ready again, and the identifiers of those that are dead now.
    """
    with writing(using):
        running = Job.objects.using(using).filter(state=State.RUNNING, owner=owner).order_by()
        suspects = running if under_way is None else running.filter(pk__in=under_way)
        poison = list(suspects.filter(deaths__gte=MOST_DEATHS - 1))
        for job in poison:
            end(using, Outcome(job, State.DEAD, finished_at=now))
            JobError.objects.using(using).create(
                job_id=job.pk,
                attempt=job.attempt,
                exception_class="channelserver.jobs.runner.WorkerDied",
                traceback=f"the process that ran this job died {MOST_DEATHS} times, so the job may be the cause; "
                "run it again with manage.py jobs retry when that is mended\n",
            )
        Job.objects.using(using).filter(pk__in=[job.pk for job in poison]).update(deaths=F("deaths") + 1)
        gone = {"state": State.CANCELLED, "owner": "", "unique_key": None, "finished_at": now}
        running.filter(cancel_requested=True).update(**gone)
        again = {"state": State.READY, "owner": ""}
        count = suspects.update(**again, deaths=F("deaths") + 1) + running.update(**again)
    return int(count), [job.pk for job in poison]


def path_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def words_of(error: BaseException) -> str:
    """Return the text of an error in one line, also of one that cannot tell it."""
    try:
        return " ".join(str(error).split())
    except Exception as second:
        return f"its text cannot be made: {type(second).__name__}"


def text_of(error: BaseException) -> str:
    """Return the traceback of an error, its last :data:`TRACEBACK_BYTES` if it is longer."""
    text = "".join(traceback.format_exception(error)).replace("\0", "\\0")  # PostgreSQL's texts have none
    data = text.encode(errors="replace")
    if len(data) <= TRACEBACK_BYTES:
        return data.decode()
    return "… (cut)\n" + data[-TRACEBACK_BYTES:].decode(errors="ignore")
