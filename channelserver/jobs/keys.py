"""``once``: an effect outside the database that happens at most once, however often its job is run.

Runs in a job's thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction

from channelserver.jobs import runner
from channelserver.jobs.models import JobOnce


@contextmanager
def once(key: str | None = None) -> Iterator[bool]:
    """Tell whether a key is used for the first time::

        with once() as first:
            if first:
                send_the_invoice()

    The key is stored before the block runs. So after a crash in the block the effect may not have happened, but it
    never happens twice. Keys are kept as long as their job, and at least as long as dead jobs, 30 days by default.

    :param key: at most 255 characters; default: the identifier of the running job.
    :raises RuntimeError: no key is given and no job runs; or the transaction is open that the key must not belong to.
    """
    running = runner.current()
    if key is None:
        if running is None:
            raise RuntimeError("once() needs a key outside a job; write once('some key')")
        key = running.job.pk
    if len(key) > 255:
        raise ValueError(f"the key of once() must have at most 255 characters, not {len(key)}")
    using = running.using if running is not None else DEFAULT_DB_ALIAS
    connection = connections[using]
    blocks = getattr(connection, "atomic_blocks", [])
    if connection.in_atomic_block and not all(getattr(block, "_from_testcase", False) for block in blocks):
        raise RuntimeError(
            f"once({key!r}) is used inside a transaction, which would take the key back if it is rolled back; use it "
            "outside of atomic(), and not in a job with atomic=True"
        )
    try:
        with transaction.atomic(using=using):
            JobOnce(key=key).save(force_insert=True, using=using)
        first = True
    except IntegrityError:
        first = False
    yield first
