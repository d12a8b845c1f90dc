"""What the layers share that keep queues, groups and connections in this process.

Safe from any thread: queues and groups guard themselves, and outlets are attached before the first message.
"""

from __future__ import annotations

import random
import re
import string
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from channelserver.layers.base import FAILED, SESSION, SESSION_CHANNEL, BaseChannelLayer, Outlet, RemoteOutlet
from channelserver.layers.content import Content
from channelserver.layers.groups import Groups
from channelserver.layers.losses import Reason
from channelserver.layers.names import check_channel_name, local_prefix
from channelserver.layers.queues import WorkQueues
from channelserver.layers.turns import Client
from channelserver.layers.waiting import Delivery

#: Channels whose messages are consumed in order for each reply channel; see :mod:`channelserver.layers.queues`.
ORDERED_CHANNELS = ("websocket.connect", "websocket.receive", "websocket.disconnect", SESSION_CHANNEL)
#: The channels of the server's own messages, which come from the connections of one process.
SERVER_CHANNELS = (*ORDERED_CHANNELS, "http.request", "http.disconnect")


class LocalLayer(BaseChannelLayer):
    """A layer with queues, groups and connections of its own.

    The parameters are those of :class:`BaseChannelLayer`, and one more:

    :param rng: source of new names; for tests.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics", "twisted"]

    queues_class: ClassVar[type[WorkQueues]] = WorkQueues
    #: Asks all processes of the server for figures and adds them up; None: there is only this process.
    #: Called with the figures' name and arguments; waits, so it is not for the reactor thread.
    gather: Callable[..., dict[str, Any]] | None = None

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(expiry, group_expiry, capacity, channel_capacity, clock=clock)
        self._clock = clock
        self._random = rng or random.SystemRandom()
        self._outlets: dict[str, Outlet] = {}
        self._remote: dict[Outlet, RemoteOutlet] = {}  # those of the outlets that are other processes
        self.queues = self.queues_class(
            self.get_capacity, expiry, clock, self.drops, ORDERED_CHANNELS,
            in_turn=SERVER_CHANNELS, client_of=self._client_of, crowded_out=self._crowded_out,
        )  # fmt: skip
        self.groups = Groups(group_expiry, clock, self.outlet_of)

    def new_channel(self, pattern: str) -> str:
        """Return an unused single-reader name that starts with `pattern`.

        :raises TypeError: `pattern` is no valid name that ends in ``?``.
        """
        if not isinstance(pattern, str) or not pattern.endswith("?"):
            raise TypeError(f"new_channel() needs a pattern that ends in '?', not {pattern!r}")
        taken = self.queues.names()
        while True:
            name = check_channel_name(pattern + "".join(self._random.choices(string.ascii_letters, k=12)))
            if name not in taken:
                return name

    def own_channel_statistics(self, channel: str) -> dict[str, float]:
        """Return one channel's figures in this process, as :meth:`WorkQueues.statistics` does."""
        return self.queues.statistics(local_prefix(channel))

    def own_global_statistics(self) -> dict[str, Any]:
        """Return the figures of this process, with those of groups and lost messages."""
        groups = self.groups.counts()
        return {
            **self.queues.totals(),
            "groups": len(groups),
            "group_members": sum(groups.values()),
            "lost": self.drops.lost(),
        }

    def attach(self, prefix: str, outlet: Outlet) -> None:
        self._outlets[prefix] = outlet
        self.groups.regroup()

    def detach(self, prefix: str) -> None:
        self._outlets.pop(prefix, None)
        self.groups.regroup()

    def outlet_of(self, channel: str) -> Outlet | None:
        """Return the outlet of a connection's reply channel; None for any other channel. Any thread."""
        return self._outlets.get(channel[: channel.find("!") + 1])

    def _client_of(self, content: Content) -> Client:
        """Return the client of a message of the server's; it is in the message, or known by its connection."""
        client = content.get("client")
        if client is None:  # for each message of a socket, so without further calls
            reply = content.get("reply_channel")
            if not isinstance(reply, str):
                return None
            outlet = self._outlets.get(reply[: reply.find("!") + 1])
            client = None if outlet is None else outlet.client_of(reply)
            return None if client is None else (client[0], client[1])
        if type(client) is list and len(client) == 2 and type(client[0]) is str and type(client[1]) is int:
            return client[0], client[1]
        return None

    def _crowded_out(self, delivery: Delivery) -> None:
        """A message made room for another client's: answer 503."""
        self.drops.record(
            Reason.CROWDED_OUT, delivery.channel, hint="its client had more waiting than others; answered 503"
        )
        if delivery.attachment is not None:
            delivery.attachment.close()
        reply, outlet = self._outlet_of_reply(delivery.content)
        if outlet is not None:
            outlet.deliver(reply, {FAILED: 503})

    def _outlet_of_reply(self, content: Content) -> tuple[str, Outlet | None]:
        reply = content.get("reply_channel")
        return (reply, self.outlet_of(reply)) if isinstance(reply, str) else ("", None)

    def session_stored(self, channel: str) -> None:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, {SESSION: True})

    def sweep(self) -> bool:
        more = self.queues.sweep()
        more = self.groups.sweep() or more
        self.drops.flush()
        return more
