"""Delayed messages as jobs: rows of the same table, sent when they are due, and then deleted.

Storing runs in the sender's thread, sending in a job's; owns nothing. Where a project has no jobs,
:mod:`channelserver.delay` keeps such messages in a table of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import Error as DatabaseProblem
from django.db import connections
from django.db.models import Q
from django.utils import timezone

from channelserver.delay.keeping import send_once
from channelserver.jobs.durable import backend_of_project, storing
from channelserver.jobs.ends import LostLeaseError, Outcome, mine, text_of, words_of
from channelserver.jobs.models import DELAYED, DELAYED_GROUP, Job, State
from channelserver.jobs.store import writing
from channelserver.layers.base import ChannelFull
from channelserver.layers.content import Content
from channelserver.registry import channel_layers

logger = logging.getLogger("channelserver.delay")

#: The table of :mod:`channelserver.delay`.
TABLE = "channelserver_delay_delayedmessage"
#: Seconds before the next try when a message cannot be sent now.
PAUSE = timedelta(seconds=1)
#: Messages that one call of :meth:`Jobs.send_due` sends.
BATCH = 100


class Jobs:
    """Keeps delayed messages as jobs."""

    def storing(self, layer: str, name: str, content: Content, due: datetime, to_group: bool) -> Callable[[], object]:
        return storing(layer, name, content, due, DELAYED_GROUP if to_group else DELAYED)

    def send_due(self, layer: str, channel_layer: Any) -> datetime | None:
        using = backend_of_project().database
        waiting = Job.objects.using(using).filter(state__in=(State.WAITING, State.READY)).order_by("run_at")
        mine_of_layer = [
            job
            for job in waiting.filter(Q(task__startswith=DELAYED) | Q(task__startswith=DELAYED_GROUP))[: 10 * BATCH]
            if job.args["args"][0] == layer
        ]
        for job in mine_of_layer[:BATCH]:
            if job.run_at > timezone.now():
                return job.run_at
            try:
                _deliver(using, job, waiting.filter(pk=job.pk), channel_layer)
            except ChannelFull:
                waiting.filter(pk=job.pk).update(run_at=timezone.now() + PAUSE, state=State.WAITING)
        return timezone.now() if len(mine_of_layer) > BATCH else None


def send(using: str, job: Job) -> Outcome | None:
    """Send a message that is due, in a job's thread; return what is left to store, None if the row is gone.

    :raises LostLeaseError: another process has it meanwhile.
    """
    try:
        if not _deliver(using, job, mine(using, job), channel_layers[job.args["args"][0]]):
            raise LostLeaseError(job.pk)
    except (ChannelFull, OSError, DatabaseProblem) as problem:
        logger.info("delayed message %s put off: %s", job.pk, words_of(problem))
        return Outcome(job, State.WAITING, refund=True, run_at=timezone.now() + PAUSE)
    except LostLeaseError:
        raise
    except Exception as error:
        logger.error("delayed message %s to %r cannot be sent, and is a dead job: %s", job.pk, job.task, error)
        return Outcome(
            job, State.DEAD, error=error, text=text_of(error), failed=True, finished_at=timezone.now()
        )  # fmt: skip
    return None


def _deliver(using: str, job: Job, row: Any, channel_layer: Any) -> bool:
    """Delete a row and send its message, in one transaction; return False if another process has deleted it."""
    kind, _, name = job.task.partition(":")
    with writing(using, savepoint=True):
        if not row.delete()[0]:
            return False
        token = f"delayed {using} {job.pk}"
        send_once(channel_layer, token, f"{kind}:" == DELAYED_GROUP, name, job.args["args"][1])
    return True


def take_over(using: str) -> None:
    """Move what waits in the table of :mod:`channelserver.delay` into that of the jobs, in one transaction."""
    from django.apps import apps

    if not apps.is_installed("channelserver.delay") or TABLE not in connections[using].introspection.table_names():
        return
    messages: Any = (
        apps.get_model("channelserver_delay", "DelayedMessage")._base_manager.using(using).filter(problem="")
    )
    if not messages.exists():
        return
    from channelserver.delay.text import from_text

    with writing(using):
        for message in messages.order_by("due_date"):
            try:
                content = from_text(message.content)
            except ValueError as error:
                message.put_aside(str(error))
                continue
            kind = DELAYED_GROUP if message.to_group else DELAYED
            storing(message.layer, message.channel_name, content, message.due_date, kind)()
            message.delete(using=using)
