"""The message that a consumer receives (Channels 1: ``channels.message``).

A message belongs to the one thread that consumes it.
"""

from __future__ import annotations

import copy
from collections.abc import ItemsView, KeysView, ValuesView
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.utils.functional import cached_property

from channelserver.channel import Channel
from channelserver.layers.names import check_channel_name

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser, AnonymousUser
    from django.contrib.sessions.backends.base import SessionBase

#: There are few channels, but a reply channel for each request.
_check_channel = lru_cache(1000)(Channel.check_name)


class Message:
    """One message on its way through a consumer.

    :param content: the dict that was sent; it belongs to the message.
    :param channel_name: the channel it came from.
    :param channel_layer: the layer that channel is in; replies go there.

    ``content``, ``channel``, ``channel_name``, ``channel_layer`` and ``reply_channel`` (a :class:`Channel`, or None)
    are attributes. Decorators add others: ``channel_session``, ``http_session``, ``user``. A message gives access to
    its content: ``message["path"]``.

    :raises TypeError: the name of the channel, or the content's ``reply_channel``, is invalid.
    """

    #: The request body, if it came as a file beside the message (see :mod:`channelserver.handler`).
    body_file: Any = None
    #: If the view was looked up already: path, language, and what was found (Django's ``ResolverMatch``).
    resolver_match: Any = None

    if TYPE_CHECKING:  # the decorators of channelserver.sessions and channelserver.auth set these
        channel_session: SessionBase
        http_session: SessionBase | None
        user: AbstractUser | AnonymousUser

    def __init__(self, content: dict[str, Any], channel_name: str | None, channel_layer: Any) -> None:
        self.content = content
        self.channel_layer = channel_layer
        self.channel_name = _check_channel(channel_name) if channel_name else ""
        self._channel: Channel | None = None
        reply_channel = content.get("reply_channel")
        check = check_channel_name if type(reply_channel) is str else Channel.check_name
        self._reply_name = check(reply_channel) if reply_channel else None

    # Most views use neither channel, so both are made on first access.

    @property
    def channel(self) -> Any:
        """The channel the message came from; its name is None if the message was made without one, as in tests."""
        if self._channel is None:
            self._channel = Channel.of_checked(self.channel_name or None, self.channel_layer)  # type: ignore[arg-type]
        return self._channel

    @channel.setter
    def channel(self, channel: Channel | None) -> None:
        self._channel = channel
        self.channel_name = (channel.name or "") if channel is not None else ""

    @cached_property
    def reply_channel(self) -> Channel:
        """Where replies go. None if the content names no channel for them, as may be on channels of your own."""
        if self._reply_name is None:
            return None  # type: ignore[return-value]  # all messages from clients have one
        return Channel.of_checked(self._reply_name, self.channel_layer)

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.content[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self.content

    def keys(self) -> KeysView[str]:
        """The keys of the content."""
        return self.content.keys()

    def values(self) -> ValuesView[Any]:
        """The values of the content."""
        return self.content.values()

    def items(self) -> ItemsView[str, Any]:
        """The items of the content."""
        return self.content.items()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the content."""
        return self.content.get(key, default)

    def copy(self) -> Message:
        """Return a message with a deep copy of the content, without the attributes that decorators added."""
        return type(self)(copy.deepcopy(self.content), self.channel_name, self.channel_layer)

    def __repr__(self) -> str:
        return f"<Message from {self.channel_name or None}, keys {sorted(self.content)}>"
