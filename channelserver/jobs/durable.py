"""Durable messages: stores a message to a channel as a job.

Runs in the sender's thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from channelserver.delay.text import to_text
from channelserver.jobs.backend import JobBackend
from channelserver.jobs.compat import task_backends
from channelserver.jobs.models import CHANNEL, State, new_id
from channelserver.jobs.store import insert
from channelserver.jobs.wake import announce
from channelserver.layers.content import Content


def storing(
    layer: str, channel: str, content: Content, due: datetime | None = None, kind: str = CHANNEL
) -> Callable[[], object]:
    """Return a function that stores a message as a job, in the transaction that is open then.

    :param layer: alias in ``CHANNEL_LAYERS``.
    :param content: checked, and copied.
    :param due: when it is to be consumed; None: now.
    :param kind: what stands before the name in the place of a task's path.
    :raises ImproperlyConfigured: the project has no :class:`~channelserver.jobs.JobBackend`.
    """
    backend = backend_of_project()
    now = timezone.now()
    values = {
        "id": new_id(),
        "backend": backend.alias,
        "queue": min(backend.queues, default="default"),
        "task": kind + channel,
        "args": {"args": [layer, to_text(content)], "kwargs": {}},
        "run_at": due or now,
        "created_at": now,
        "state": str(State.WAITING if due is not None else State.READY),
    }

    def store() -> None:
        outside = backend.foreign_transaction()
        if outside is not None:
            transaction.on_commit(put, using=outside)
        else:
            put()

    def put() -> None:
        insert(backend.database, values)
        announce(backend.database, values["state"], values["run_at"])

    return store


def backend_of_project() -> Any:
    """Return the project's first :class:`~channelserver.jobs.JobBackend`.

    :raises ImproperlyConfigured: it has none.
    """
    for alias in getattr(settings, "TASKS", {}):
        backend = task_backends[alias]
        if isinstance(backend, JobBackend):
            return backend
    raise ImproperlyConfigured(
        "a durable message is kept by the jobs of the project, which has none; set "
        'TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend"}}'
    )
