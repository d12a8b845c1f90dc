"""The in-memory channel layer: everything in one process, nothing serialized.

Safe from any thread: its parts (queues, groups) guard themselves, and outlets are attached before the first message.
"""

from __future__ import annotations

import random
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from channelserver.layers.base import BaseChannelLayer, ChannelFull, ForeignOutlet, Outlet
from channelserver.layers.content import Content, copy_content
from channelserver.layers.groups import Groups
from channelserver.layers.names import check_channel_name, check_group_name, local_prefix
from channelserver.layers.queues import WorkQueues

#: Channels whose messages are consumed in order for each reply channel; see :mod:`channelserver.layers.queues`.
ORDERED_CHANNELS = ("websocket.connect", "websocket.receive", "websocket.disconnect", "websocket.refused")

#: Seconds for which a blocking receive waits (Channels 1: about five).
RECEIVE_SECONDS = 5.0


class InMemoryChannelLayer(BaseChannelLayer):
    """Channels and groups of one process (Channels 1: ``asgiref.inmemory.ChannelLayer``).

    :param expiry: seconds a message waits for a reader before it is dropped.
    :param group_expiry: seconds a group membership lasts after the last ``group_add``.
    :param capacity: messages which may wait in one channel.
    :param channel_capacity: other capacities, by glob; the first match counts.
    :param clock: returns seconds, monotonic; for tests.
    :param rng: source of new names; for tests.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics", "twisted"]

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
        self._random = rng or random.SystemRandom()
        self._clock = clock
        self._outlets: dict[str, Outlet] = {}
        #: Asks all processes which share the layer for figures, and adds them up, if there are such processes. Called
        #: with the figures' name and arguments; waits, so it is not for the reactor thread.
        self.gather: Callable[..., dict[str, Any]] | None = None
        self._foreign: dict[Outlet, ForeignOutlet] = {}  # those of the outlets that are other processes
        self.queues = WorkQueues(self.get_capacity, expiry, clock, self.losses, ORDERED_CHANNELS)
        self.groups = Groups(group_expiry, clock, self.outlet_of)

    # -- asgiref 1 -----------------------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        """Take the next message from any of `channels`; with `block`, wait up to five seconds for one.

        :returns: ``(channel, message)``, or ``(None, None)`` if there was none. For a channel given as ``name!`` the
            full name is returned.
        :raises TypeError: a name is invalid.
        """
        names = tuple(channels)
        self.valid_channel_names(names, receive=True)
        delivery = self.queues.take(names)
        if delivery is None and block:
            arrived = threading.Event()
            self.queues.listen(names, arrived.set)
            try:
                ends = self._clock() + RECEIVE_SECONDS
                while (delivery := self.queues.take(names)) is None and (left := ends - self._clock()) > 0:
                    arrived.wait(left)
                    arrived.clear()
            finally:
                self.queues.unlisten(names, arrived.set)
        if delivery is None:
            return None, None
        self.queues.finish(delivery)
        return delivery.channel, delivery.content

    def receive_twisted(self, channels: Iterable[str]) -> Any:
        """See :meth:`BaseChannelLayer.receive_twisted`; no thread waits for the message."""
        return import_module("channelserver.processes.receive").receive_twisted(self, channels)

    def new_channel(self, pattern: str) -> str:
        """Return an unused single-reader name that starts with `pattern`.

        :raises TypeError: `pattern` is no valid name that ends in ``?``.
        """
        if not isinstance(pattern, str) or not pattern.endswith("?"):
            raise TypeError(f"new_channel() needs a pattern that ends in '?', not {pattern!r}")
        taken = set(self.queues.names())
        while True:
            name = pattern + "".join(self._random.choices(string.ascii_letters, k=12))
            check_channel_name(name)
            if name not in taken:
                return name

    def group_add(self, group: str, channel: str) -> None:
        """Make `channel` a member of `group`, or renew its membership."""
        check_group_name(group)
        self.groups.add(group, check_channel_name(channel))
        foreign = self.foreign_outlet_of(channel)
        if foreign is not None:
            foreign.group_added(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of `channel` in `group`, if there is one."""
        check_group_name(group)
        self.groups.discard(group, check_channel_name(channel))
        foreign = self.foreign_outlet_of(channel)
        if foreign is not None:
            foreign.group_discarded(group, channel)

    def group_channels(self, group: str) -> list[str]:
        """Return the members of `group`."""
        return self.groups.members(check_group_name(group))

    def flush(self) -> None:
        """Forget all messages and all groups. Open connections stay open."""
        self.queues.flush()
        self.groups.flush()
        for foreign in tuple(self._foreign.values()):
            foreign.flushed()

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return one channel's figures (asgiref 1, extension ``statistics``).

        :returns: ``messages_count``, ``channel_full_count`` and ``messages_pending`` in messages, ``messages_max_age``
            in seconds.
        """
        if self.gather is not None:
            return dict(self.gather("channel_statistics", channel))
        return self.own_channel_statistics(channel)

    def global_statistics(self) -> dict[str, Any]:
        """Return the layer's figures (asgiref 1, extension ``statistics``), and those of groups and losses."""
        return self.own_global_statistics() if self.gather is None else dict(self.gather("global_statistics"))

    def own_channel_statistics(self, channel: str) -> dict[str, float]:
        """Like :meth:`channel_statistics`, of this process alone."""
        return self.queues.statistics(local_prefix(channel))

    def own_global_statistics(self) -> dict[str, Any]:
        """Like :meth:`global_statistics`, of this process alone."""
        figures = [self.queues.statistics(name) for name in self.queues.names()]
        groups = self.groups.counts()
        return {
            "messages_count": sum(figure["messages_count"] for figure in figures),
            "channel_full_count": sum(figure["channel_full_count"] for figure in figures),
            "messages_pending": sum(figure["messages_pending"] for figure in figures),
            "groups": len(groups),
            "group_members": sum(groups.values()),
            "lost": self.losses.totals(),
        }

    # -- for the server and the workers --------------------------------------------------------------------------------

    def attach(self, prefix: str, outlet: Outlet) -> None:
        """See :meth:`BaseChannelLayer.attach`."""
        self._outlets[prefix] = outlet
        self.groups.regroup()

    def attach_foreign(self, prefix: str, outlet: ForeignOutlet) -> None:
        """Like :meth:`attach`, for the connections of another process."""
        self._foreign[outlet] = outlet
        self.attach(prefix, outlet)

    def detach(self, prefix: str) -> None:
        """See :meth:`BaseChannelLayer.detach`."""
        outlet = self._outlets.pop(prefix, None)
        if outlet in self._foreign and outlet not in self._outlets.values():
            del self._foreign[outlet]
        self.groups.regroup()

    def submit(self, channel: str, content: Content, attachment: Any = None, urgent: bool = False) -> None:
        """See :meth:`BaseChannelLayer.submit`."""
        self.queues.put(channel, content, attachment, urgent)

    def forget(self, channel: str) -> None:
        """See :meth:`BaseChannelLayer.forget`."""
        self.groups.drop(channel)

    def dispatch(self, channel: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch`."""
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, content)
        else:
            self.queues.put(channel, content)

    def dispatch_group(self, group: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch_group`."""
        self.spread(group, content)

    def spread(self, group: str, content: Content, origin: Outlet | None = None) -> None:
        """Like :meth:`dispatch_group`, but not to the connections of one process.

        :param origin: that process: it sends, and has seen to its own connections.
        """
        by_outlet, ordinary = self.groups.targets(group)
        for outlet, channels in by_outlet:
            if outlet in self._foreign:
                if outlet is not origin:
                    self._foreign[outlet].send_group(group, content)
            else:
                outlet.deliver_group(channels, content)
        for channel in ordinary:
            try:
                self.queues.put(channel, copy_content(content))
            except ChannelFull as error:
                self.losses.count("channel full", channel, hint=f"{error}; it is a member of group {group!r}")

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """See :meth:`BaseChannelLayer.dispatch_waiting`."""
        outlet = self.outlet_of(channel)
        if outlet is not None:
            return outlet.deliver_waiting(channel, content, timeout)
        ends = self._clock() + timeout
        room = threading.Event()
        while True:
            try:
                self.queues.put(channel, content)
                return True
            except ChannelFull:
                if not self.queues.when_room(channel, content, room.set) and not room.wait(ends - self._clock()):
                    return False
                room.clear()

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        """See :meth:`BaseChannelLayer.when_room`."""
        return self.outlet_of(channel) is not None or self.queues.when_room(channel, content, callback)

    def sweep(self) -> None:
        """See :meth:`BaseChannelLayer.sweep`."""
        self.queues.sweep()
        self.groups.sweep()
        self.losses.flush()

    def outlet_of(self, channel: str) -> Outlet | None:
        """Return where messages to `channel` go if it is a connection's reply channel; None: into a queue."""
        mark = channel.find("!")
        return self._outlets.get(channel[: mark + 1]) if mark > 0 else None

    def foreign_outlet_of(self, channel: str) -> ForeignOutlet | None:
        """Return the process to which a reply channel belongs, if it is another one that shares this layer."""
        outlet = self.outlet_of(channel) if self._foreign else None
        return self._foreign.get(outlet) if outlet is not None else None
