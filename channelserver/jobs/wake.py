"""Tells the claimers that a job was stored.

Runs in the thread that stored it; owns nothing.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from django.db import connections, transaction

from channelserver.jobs.listening import NOTIFY_CHANNEL
from channelserver.jobs.local import claimers
from channelserver.jobs.models import State
from channelserver.jobs.presence import folder_of, wake


def announce(using: str, state: str, run_at: datetime) -> None:
    """Wake who may run a stored job, when the transaction is committed."""
    connection = connections[using]
    at = run_at.timestamp() if state == State.WAITING else None
    if connection.vendor == "postgresql" and (using not in claimers or claimers[using].is_full):
        with connection.cursor() as cursor:  # PostgreSQL delivers it at the commit
            cursor.execute("SELECT pg_notify(%s, '')", [NOTIFY_CHANNEL])
    if connection.in_atomic_block:
        transaction.on_commit(partial(_wake, using, at), using=using)
    else:
        _wake(using, at)


def announce_change(using: str) -> None:
    """Wake the claimers, as something beside a new job has changed, when the transaction is committed."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [NOTIFY_CHANNEL])
    transaction.on_commit(partial(_changed, using), using=using)


def _wake(using: str, at: float | None) -> None:
    claimer = claimers.get(using)
    if claimer is None:
        wake(folder_of(connections[using]))
        return
    if at is not None:
        claimer.expect(at)
        return
    claimer.wake()
    if claimer.is_full:
        wake(folder_of(connections[using]), but=claimer.id)


def _changed(using: str) -> None:
    claimer = claimers.get(using)
    if claimer is not None:
        claimer.look_soon()
    wake(folder_of(connections[using]), but=claimer.id if claimer is not None else "")
