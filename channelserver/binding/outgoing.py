"""What bindings send: at the commit, and without an error for the code that has changed a model.

Runs in the thread that changes the model. Owns the last reason for which nothing could be sent.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from django.db import connections, transaction

from channelserver.channel import Group

logger = logging.getLogger("channelserver.binding")

#: The last reason why changes could not be sent; it is logged once.
_unreachable: list[str] = []


@contextmanager
def guarded(binding: type, instance: Any, using: str) -> Iterator[None]:
    """Log what the block raises. In a transaction, undo its queries: after an error PostgreSQL accepts no others."""
    try:
        with transaction.atomic(using=using) if connections[using].in_atomic_block else nullcontext():
            yield
    except Exception:
        logger.exception("%s: cannot send a change of %s %r", binding.__name__, instance._meta.label, instance.pk)


def send_later(group_names: Collection[str], content: dict[str, Any], using: str | None) -> None:
    """Send to groups as soon as the transaction is committed."""
    groups = [Group(name) for name in sorted(group_names)]
    if groups:
        transaction.on_commit(partial(_send, groups, content), using=using)


def _send(groups: list[Group], content: dict[str, Any]) -> None:
    """Send at the commit. The change is made: whatever happens here must not look as if it was not."""
    for group in groups:
        try:
            # Not held back in a consumer either: should that raise now, the change remains.
            group.send(content, immediately=True)
        except OSError as error:
            # No server is running: a command, a shell.
            if _unreachable != [str(error)]:
                _unreachable[:] = [str(error)]
                logger.warning("cannot send changes of models: %s", error)
        except Exception:
            logger.exception("cannot send a change to %s", group)
        else:
            _unreachable.clear()
