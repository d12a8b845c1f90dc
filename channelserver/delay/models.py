"""The table of delayed messages.

Runs in any thread that may use the database; owns that table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from platform import node
from typing import Any, ClassVar
from zlib import crc32

from django.db import connections, models, router, transaction
from django.utils import timezone

from channelserver.delay import keeping, timer
from channelserver.delay.due import due_in
from channelserver.delay.text import from_text, to_text
from channelserver.layers.base import ChannelFull
from channelserver.layers.content import Content
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.registry import channel_layers

logger = logging.getLogger("channelserver.delay")

#: Milliseconds before the next try when the channel is full (Channels 1).
REQUEUE_DELAY = 1000


class DelayedMessageQuerySet(models.QuerySet["DelayedMessage"]):
    """Delayed messages by their state."""

    def waiting(self) -> DelayedMessageQuerySet:
        """Messages that will be sent."""
        return self.filter(problem="")

    def is_due(self) -> DelayedMessageQuerySet:
        """Messages that are due (Channels 1)."""
        return self.waiting().filter(due_date__lte=timezone.now())

    def set_aside(self) -> DelayedMessageQuerySet:
        """Messages that cannot be sent; ``problem`` says why. ``update(problem="")`` has the server try again."""
        return self.exclude(problem="")


class DelayedMessage(models.Model):
    """One delayed message.

    ``due_date``: when to send it; ``layer``: alias in ``CHANNEL_LAYERS``; ``channel_name``, or the group's name
    if ``to_group``; ``content``: JSON text in the format of :mod:`channelserver.delay.text`; ``problem``: why it cannot
    be sent, empty if it can.
    ``DelayedMessage(delay=1500, …)`` sets ``due_date`` to 1500 milliseconds from now (Channels 1).
    """

    due_date: models.DateTimeField[Any, Any] = models.DateTimeField(db_index=True)
    layer: models.CharField[Any, Any] = models.CharField(max_length=100, default=DEFAULT_CHANNEL_LAYER)
    channel_name: models.CharField[Any, Any] = models.CharField(max_length=512)
    to_group: models.BooleanField[Any, Any] = models.BooleanField(default=False)
    content: models.TextField[Any, Any] = models.TextField()
    problem: models.TextField[Any, Any] = models.TextField(blank=True, default="")

    objects: ClassVar[Any] = DelayedMessageQuerySet.as_manager()

    def __str__(self) -> str:
        return f"to {self.channel_name!r} at {self.due_date}"

    @property
    def delay(self) -> float:
        """Milliseconds until it is due; assignment sets ``due_date`` (Channels 1)."""
        return (self.due_date - timezone.now()) / timedelta(milliseconds=1)

    @delay.setter
    def delay(self, milliseconds: float) -> None:
        self.due_date = due_in(milliseconds / 1000)

    def save(self, **kwargs: Any) -> None:
        """Store it; after the commit, notify the timer of a server in this process.

        In a project with jobs a new message is stored as one, and is not in this table.
        """
        if keeping.keeper is not None and self._state.adding and not self.problem:
            content = from_text(self.content)
            keeping.keeper.storing(self.layer, self.channel_name, content, self.due_date, self.to_group)()
            return
        super().save(**kwargs)
        if not self.problem:
            due = partial(timer.announce, self.layer, self.due_date.timestamp())
            transaction.on_commit(due, using=self._state.db)

    def send(self, channel_layer: Any = None, requeue_delay: float = REQUEUE_DELAY) -> bool:
        """Send and delete it, unless another process does. If its channel is full, postpone it.

        One transaction deletes and sends it: if the process or the database fails in between, the message stays in the
        table, and the next look sends it, or, if it had left already, learns that from the layer.

        :param channel_layer: default: the layer that ``layer`` names.
        :param requeue_delay: milliseconds to postpone it.
        :returns: whether this call has sent it.
        :raises TypeError, ValueError: it can never be sent.
        """
        if channel_layer is None:
            channel_layer = channel_layers[self.layer]
        using = router.db_for_write(DelayedMessage, instance=self)
        try:
            with transaction.atomic(using=using):
                if not self._claim(using):
                    return False
                # Sites with databases of their own may share a layer.
                where = node() if connections[using].vendor == "sqlite" else ""
                token = f"delayed {using} {self.pk} {crc32(f'{where}{self.content}'.encode())}"
                keeping.send_once(channel_layer, token, self.to_group, self.channel_name, self.content)
        except ChannelFull as error:
            logger.info("delayed message %s put off: %s", self.pk, error)
            self.delay = requeue_delay
            DelayedMessage.objects.using(using).filter(pk=self.pk).waiting().update(due_date=self.due_date)
            return False
        logger.debug("delayed message %s sent to %r", self.pk, self.channel_name)
        return True

    def _claim(self, using: str) -> bool:
        """Delete the row, inside a transaction; return False if another process has locked or deleted it."""
        # Another process may have postponed it in the meantime.
        latest = max(self.due_date, timezone.now())
        row = DelayedMessage.objects.using(using).filter(pk=self.pk, due_date__lte=latest).waiting()
        if connections[using].features.has_select_for_update_skip_locked:
            if not row.select_for_update(skip_locked=True).values_list("pk").first():
                return False
        # Without such locks (SQLite) only one of several processes deletes the row.
        deleted, _ = row.delete()
        return bool(deleted)

    def put_aside(self, problem: str) -> None:
        """Keep it, but do not try to send it again."""
        using = router.db_for_write(DelayedMessage, instance=self)
        if DelayedMessage.objects.using(using).filter(pk=self.pk).waiting().update(problem=problem):
            logger.error(
                "delayed message %s to %r cannot be sent and is set aside: %s", self.pk, self.channel_name, problem
            )


def storing(layer: str, name: str, content: Content, due: datetime, to_group: bool = False) -> Callable[[], object]:
    """Return a function that stores a message due at `due`. `content` is checked, and must not be changed later.

    :param name: of a channel, or of a group if `to_group`.
    """
    if keeping.keeper is not None:
        return keeping.keeper.storing(layer, name, content, due, to_group)
    row = DelayedMessage(layer=layer, channel_name=name, to_group=to_group, content=to_text(content), due_date=due)
    return row.save
