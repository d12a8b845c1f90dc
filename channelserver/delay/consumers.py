"""Consumers that store delayed messages and send those that are due.

Runs in worker threads; owns nothing that changes, except the last problem of the database.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.db import Error as DatabaseProblem
from django.utils import timezone

from channelserver.delay import keeping
from channelserver.delay.timer import DelayTimer
from channelserver.exceptions import ConsumeLater
from channelserver.layers.content import copy_content
from channelserver.layers.losses import Reason
from channelserver.layers.names import check_channel_name
from channelserver.layers.queues import WorkQueues
from channelserver.message import Message
from channelserver.routing import Route

logger = logging.getLogger("channelserver.delay")

#: The channel for delayed messages (Channels 1), and the channel over which the timer starts a look.
DELAY_CHANNEL, LOOK_CHANNEL = "asgi.delay", "asgi.delay.look"

#: Messages sent in one look, so that it does not occupy a thread for long.
BATCH = 100

MISSING = 'add "channelserver.delay" to INSTALLED_APPS and run manage.py migrate'


class Delays:
    """The delayed messages of one channel layer."""

    def __init__(self, layer: str, channel_layer: Any) -> None:
        self.layer = layer
        self.channel_layer = channel_layer
        self._problem = ""
        self._timer: DelayTimer | None = None

    def make_timer(self, queues: WorkQueues, call_later: Callable[..., object]) -> DelayTimer:
        """Return the timer for this process, not started.

        :param queues: those of this process: a look does not cross the layer, because other processes have timers of
            their own.
        :param call_later: ``call_later(seconds, function, *arguments)`` runs the function in the reactor thread.
        """

        def look() -> None:
            queues.put(LOOK_CHANNEL, {}, urgent=True)

        self._timer = DelayTimer(self.layer, look, call_later)
        return self._timer

    def consume_look(self, message: Message) -> None:
        """Consumer of the timer's messages: :meth:`look`, then report to the timer."""
        due = None
        try:
            due = self.look()
        finally:
            if self._timer is not None:
                self._timer.looked(due)

    def store(self, message: Message, **kwargs: Any) -> None:
        """Consumer of ``asgi.delay``: store a message until it is due.

        The message has ``channel``, ``delay`` (milliseconds) and ``content``. An invalid message is logged, and stays
        in the table without being sent.

        :raises ConsumeLater: the database is not available.
        """
        from channelserver.delay.due import due_in
        from channelserver.delay.models import DelayedMessage, storing

        try:
            try:
                channel, content, delay = _parts(message.content)
                store: Callable[[], object] = storing(self.layer, channel, content, due_in(delay / 1000))
            except (TypeError, ValueError) as error:
                logger.error("a message from %r is set aside: %s", DELAY_CHANNEL, error)
                store = DelayedMessage(
                    layer=self.layer,
                    channel_name=str(message.get("channel", ""))[:512],
                    content=json.dumps(message.content, default=repr),
                    due_date=timezone.now(),
                    problem=str(error),
                ).save
            store()
        except DatabaseProblem as problem:
            self._log_once(f"cannot store a delayed message: {problem}")
            raise ConsumeLater from problem

    def look(self) -> float | None:
        """Send the messages that are due.

        :returns: when the next message is due (Unix time), or None.
        """
        try:
            due = self._send_due()
        except DatabaseProblem as problem:
            self._log_once(f"cannot look for delayed messages: {problem}")
        except OSError as problem:
            self._log_once(f"cannot send delayed messages: {problem}")
        else:
            self._problem = ""
            return due
        return None

    def _send_due(self) -> float | None:
        from channelserver.delay.models import DelayedMessage

        if keeping.keeper is not None:
            due = keeping.keeper.send_due(self.layer, self.channel_layer)
            return None if due is None else due.timestamp()
        mine = DelayedMessage.objects.filter(layer=self.layer)
        for message in mine.is_due().order_by("due_date", "pk")[:BATCH]:
            try:
                message.send(self.channel_layer)
            except (DatabaseProblem, OSError):
                raise
            except Exception as error:
                message.put_aside(f"{type(error).__name__}: {error}")
        first = mine.waiting().order_by("due_date").values_list("due_date", flat=True).first()
        return None if first is None else first.timestamp()

    def _log_once(self, problem: str) -> None:
        """Log a problem once, until it changes."""
        problem = " ".join(problem.split())
        if problem != self._problem:
            self._problem = problem
            hint = "; has manage.py migrate been run?" if "channelserver_delay" in problem else ""
            logger.error("%s%s; will be tried again", problem, hint)


def _parts(content: dict[str, Any]) -> tuple[str, dict[str, Any], float]:
    """Return the channel, content and delay of a message to ``asgi.delay``.

    :raises TypeError, ValueError: something is missing or wrong.
    """
    for key in ("channel", "delay", "content"):
        if key not in content:
            raise ValueError(f"a message to {DELAY_CHANNEL!r} must have a {key!r}")
    delay = content["delay"]
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(f"'delay' must be a number of milliseconds, not {delay!r}")
    return check_channel_name(content["channel"]), copy_content(content["content"]), delay


def refuse(message: Message, **kwargs: Any) -> None:
    """Consumer of ``asgi.delay`` in a project without the application."""
    logger.error("a message to %r from %r is dropped: %s", message.get("channel"), DELAY_CHANNEL, MISSING)
    message.channel_layer.drops.add(Reason.NO_ROUTE)


def add_delay(wrapper: Any) -> Delays | None:
    """Add the routes for delayed messages to a layer's routing, after those of the project.

    :param wrapper: the layer with its alias and its router.
    :returns: the delayed messages; None if the application is not installed.
    """
    if not apps.is_installed("channelserver.delay"):
        wrapper.router.add_route(Route(DELAY_CHANNEL, refuse))
        return None
    delays = Delays(wrapper.alias, wrapper.channel_layer)
    wrapper.router.add_route(Route(DELAY_CHANNEL, delays.store))
    wrapper.router.add_route(Route(LOOK_CHANNEL, delays.consume_look))
    return delays
