""":class:`Channel` and :class:`Group`, with which applications send (Channels 1: ``channels.channel``).

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from channelserver.delay import keeping
from channelserver.delay.due import due_in
from channelserver.layers.base import BaseChannelLayer
from channelserver.layers.content import copy_content
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER, check_channel_name, check_group_name
from channelserver.layers.reply import check_data, check_reply, reason_of
from channelserver.registry import channel_layers
from channelserver.workers.outbox import at_end, hold_back


class _Destination:
    """A checked name and the layer it belongs to."""

    _is_group: bool

    def __init__(self, name: str, alias: str = DEFAULT_CHANNEL_LAYER, channel_layer: Any = None) -> None:
        self.name = self.check_name(name)
        self._alias = alias
        self._channel_layer = channel_layer

    @classmethod
    def of_checked(cls, name: str, channel_layer: Any) -> Self:
        """Return one whose name :meth:`check_name` has returned."""
        destination = cls.__new__(cls)
        destination.name, destination._alias, destination._channel_layer = name, DEFAULT_CHANNEL_LAYER, channel_layer
        return destination

    @classmethod
    def check_name(cls, name: str | bytes) -> str:
        """Return `name` as text, if it is a valid one.

        :raises TypeError: it is not.
        """
        if isinstance(name, bytes):
            name = name.decode("ascii")
        return check_group_name(name) if cls._is_group else check_channel_name(name)

    @property
    def channel_layer(self) -> BaseChannelLayer:
        """The given layer, else the one that the alias names now."""
        if self._channel_layer is not None:
            return self._channel_layer
        return channel_layers[self._alias]  # type: ignore[return-value]

    def _send(
        self, content: Any, immediately: bool, on_commit: bool | str, delay: float | None, durable: bool = False
    ) -> None:
        if durable:
            _call(partial(at_end, self._keeping(content, delay), immediately), on_commit)
            return
        if delay is not None and delay != 0:
            _call(partial(at_end, self._storing(content, delay), immediately), on_commit)
            return
        layer = self._channel_layer
        if layer is None:
            layer = self.channel_layer
        if on_commit:
            _call(partial(hold_back, layer, self._is_group, self.name, copy_content(content), immediately), on_commit)
        else:
            hold_back(layer, self._is_group, self.name, copy_content(content), immediately)

    def _keeping(self, content: dict[str, Any], delay: float | None) -> Callable[[], object]:
        """Return a function that stores a message as a job."""
        if not apps.is_installed("channelserver.jobs"):
            raise ImproperlyConfigured(
                f"{type(self).__name__}({self.name!r}).send(..., durable=True) needs "
                '"channelserver.jobs" in INSTALLED_APPS; add it, and run manage.py migrate'
            )
        if "!" in self.name or "?" in self.name:
            raise ValueError(
                f"{self.name!r} is the reply channel of one connection; a durable message needs one that outlives it"
            )
        from channelserver.jobs.durable import storing

        due = due_in(0 if delay is None else delay)
        return storing(self._layer_alias(), self.name, copy_content(content), due if delay else None)

    def _layer_alias(self) -> str:
        return self._alias if self._channel_layer is None else channel_layers.alias_of(self._channel_layer)

    def _storing(self, content: dict[str, Any], delay: float) -> Callable[[], object]:
        """Return a function that stores a message until it is due."""
        if keeping.keeper is not None:
            arguments = self._layer_alias(), self.name, copy_content(content), due_in(delay), self._is_group
            return keeping.keeper.storing(*arguments)
        if not apps.is_installed("channelserver.delay"):
            raise ImproperlyConfigured(
                f"{type(self).__name__}({self.name!r}).send(..., delay={delay!r}) needs "
                '"channelserver.delay" in INSTALLED_APPS; add it, and run manage.py migrate'
            )
        from channelserver.delay.models import storing

        return storing(self._layer_alias(), self.name, copy_content(content), due_in(delay), self._is_group)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.name, self.channel_layer) == (other.name, other.channel_layer)

    def __hash__(self) -> int:
        return hash((type(self), self.name))


class Channel(_Destination):
    """A named queue of messages, or the reply channel of one connection.

    :param name: text, or ASCII bytes; see :mod:`channelserver.layers.names`.
    :param alias: which of ``CHANNEL_LAYERS``.
    :param channel_layer: a layer to use instead.
    :raises TypeError: the name is invalid.
    """

    _is_group = False

    def send(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        on_commit: bool | str = False,
        delay: float | None = None,
        durable: bool = False,
    ) -> None:
        """Send a message.

        Inside a consumer or a view it is held back until that has ended normally, and dropped if it raised.

        :param content: a dict as :mod:`channelserver.layers.content` describes; it is copied.
        :param immediately: send at once, also inside a consumer.
        :param on_commit: inside a database transaction, wait for its commit; drop the message if it is rolled back. The
            alias of a database may be given instead of True.
        :param delay: keep the message in the database, and send it after so many seconds. Stored inside a database
            transaction, it is gone if that is rolled back. None or 0: no delay.
        :param durable: keep the message as a job (:mod:`channelserver.jobs`) until its consumer has ended normally: it
            survives the end of the server, is tried again if the consumer raises, and may be consumed twice after a
            crash. Not for reply channels.
        :raises TypeError: `content` is no dict, or holds what a message cannot carry, or what no socket can send; or
            `delay` is no number.
        :raises ValueError: `delay` is negative, or beyond the calendar; a reply channel with `durable`; or a reply to a
            socket with header fields, a status or a reason that cannot be sent.
        :raises ChannelFull: the message went out at once, and the channel is at its capacity.
        :raises ImproperlyConfigured: with `delay`: ``"channelserver.delay"`` is not in ``INSTALLED_APPS``; with
            `durable`: ``"channelserver.jobs"`` is not, or no backend in ``TASKS`` is its own.
        """
        if self.name.startswith("websocket.send.") and isinstance(content, dict):
            check_data(content, "a socket")
            if len(content) > 1:
                check_reply(content)
        self._send(content, immediately, on_commit, delay, durable)


class Group(_Destination):
    """A named set of channels.

    :param name: text, or ASCII bytes; see :mod:`channelserver.layers.names`.
    :param alias: which of ``CHANNEL_LAYERS``.
    :param channel_layer: a layer to use instead.
    :raises TypeError: the name is invalid.
    """

    _is_group = True

    def add(self, channel: Channel | str) -> None:
        """Make `channel` a member, at once; a member already: renew its membership."""
        self.channel_layer.group_add(self.name, _name_of(channel))

    def discard(self, channel: Channel | str) -> None:
        """End the membership of `channel`, at once; harmless if there is none."""
        self.channel_layer.group_discard(self.name, _name_of(channel))

    def send(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        on_commit: bool | str = False,
        delay: float | None = None,
    ) -> None:
        """Send a message to every member; with `delay`, to those that are members then. See :meth:`Channel.send`.

        :raises ValueError: `content` is no dict (a Channel raises ``TypeError``; so it was in Channels 1).
        :raises TypeError: `content` holds what a message cannot carry, or what no socket can send.
        :raises ValueError: the ``reason`` of a ``close`` is too long.
        """
        if not isinstance(content, dict):
            raise ValueError(f"You can only send dicts as content on channels, not {type(content).__name__}")
        check_data(content, f"group {self.name!r}")
        if "reason" in content:
            reason_of(content)
        self._send(content, immediately, on_commit, delay)


def _call(function: Callable[[], object], on_commit: bool | str) -> None:
    """Call `function` now, or when the transaction is committed; `on_commit` as for :meth:`Channel.send`."""
    if on_commit:
        transaction.on_commit(function, using=on_commit if isinstance(on_commit, str) else None)
    else:
        function()


def _name_of(channel: Channel | str) -> str:
    return channel.name if isinstance(channel, Channel) else channel
