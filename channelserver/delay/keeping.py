"""Who keeps delayed messages: the table of this application, or the jobs of the project, if it has jobs.

Set when Django starts, read in any thread. Also sends a message that is due, for both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from channelserver.delay.text import from_text
from channelserver.layers.base import DeliveryUnknown
from channelserver.layers.content import Content, copy_content
from channelserver.layers.names import check_channel_name, check_group_name


class Keeper(Protocol):
    """Keeps delayed messages elsewhere than in the table of :mod:`channelserver.delay`."""

    def storing(self, layer: str, name: str, content: Content, due: datetime, to_group: bool) -> Callable[[], object]:
        """As :func:`channelserver.delay.models.storing`."""

    def send_due(self, layer: str, channel_layer: Any) -> datetime | None:
        """Send what is due on a layer, without a server that does; return when the next message is due."""


#: The jobs, if the project has a backend for them; :mod:`channelserver.jobs` sets it.
keeper: Keeper | None = None


def send_once(channel_layer: Any, token: str, to_group: bool, name: str, text: str) -> None:
    """Send a message that is due, inside the transaction that deletes its row.

    :param token: names the message: if that was sent, but the transaction failed, the layer does not send it again.
    :param text: its content (:mod:`channelserver.delay.text`).
    :raises TypeError, ValueError: it can never be sent.
    :raises ChannelFull, OSError: not now.
    """
    content = copy_content(from_text(text))
    (check_group_name if to_group else check_channel_name)(name)
    try:
        channel_layer.dispatch_once(token, to_group, name, content)
    except DeliveryUnknown as error:
        if channel_layer.sends_once:
            raise
        channel_layer.drops.record(error.reason, name, hint=str(error))
