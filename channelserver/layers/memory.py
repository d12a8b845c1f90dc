"""The in-memory channel layer: everything in one process, nothing serialized.

Safe from any thread: its parts (queues, groups) guard themselves, and outlets are attached before the first message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from channelserver.layers.base import BaseChannelLayer, ChannelFull, Outlet, RemoteOutlet
from channelserver.layers.content import Content, copy_content
from channelserver.layers.local import LocalLayer
from channelserver.layers.losses import Reason
from channelserver.layers.names import check_channel_name, check_group_name
from channelserver.layers.turns import Client

#: Messages that are known to have been sent, see :meth:`BaseChannelLayer.dispatch_once`.
REMEMBERED = 10_000

#: What applications ask of a layer.
_ASKED = (
    *("receive", "new_channel", "group_add", "group_discard", "group_channels", "flush", "channel_statistics"),
    *("global_statistics", "dispatch", "dispatch_unasked", "dispatch_group", "dispatch_waiting", "when_room", "forget"),
    *("session_stored", "dispatch_once"),
)


class InMemoryChannelLayer(LocalLayer):
    """Channels and groups of one process (Channels 1: ``asgiref.inmemory.ChannelLayer``).

    :param expiry: seconds a message waits for a reader before it is dropped.
    :param group_expiry: seconds a group membership lasts after the last ``group_add``, unless it is an open
        connection's: that lasts as long as the connection.
    :param capacity: messages which may wait in one channel.
    :param channel_capacity: other capacities, by glob; the first match counts.
    :param clock: returns seconds, monotonic; for tests.
    :param rng: source of new names; for tests.
    """

    sends_once = True

    @cached_property
    def _once(self) -> dict[str, None]:
        return {}

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
                ends = self._clock() + self.receive_seconds
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
        """Like ``BaseChannelLayer.receive_twisted``; no thread waits for the message."""
        from channelserver.layers.receive import receive_twisted

        return receive_twisted(self, channels)

    def group_add(self, group: str, channel: str) -> None:
        """Make `channel` a member of `group`, or renew its membership."""
        check_group_name(group)
        self.groups.add(group, check_channel_name(channel))
        remote = self.remote_outlet_of(channel)
        if remote is not None:
            remote.group_added(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of `channel` in `group`, if there is one."""
        check_group_name(group)
        self.groups.discard(group, check_channel_name(channel))
        remote = self.remote_outlet_of(channel)
        if remote is not None:
            remote.group_discarded(group, channel)

    def group_channels(self, group: str) -> list[str]:
        """Return the members of `group`."""
        return self.groups.members(check_group_name(group))

    def flush(self) -> None:
        """Forget all messages and all groups. Open connections stay open."""
        self.queues.flush()
        self.groups.flush()
        for remote in tuple(self._remote.values()):
            remote.flushed()

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return one channel's figures (asgiref 1, extension ``statistics``).

        :returns: ``messages_count``, ``channel_full_count`` and ``messages_pending`` in messages, ``messages_max_age``
            in seconds.
        """
        if self.gather is not None:
            return dict(self.gather("channel_statistics", channel))
        return self.own_channel_statistics(channel)

    def global_statistics(self) -> dict[str, Any]:
        """Return the layer's figures (asgiref 1, extension ``statistics``), and those of groups and lost messages."""
        return self.own_global_statistics() if self.gather is None else dict(self.gather("global_statistics"))

    # -- for the server and the workers --------------------------------------------------------------------------------

    def move_to(self, layer: BaseChannelLayer) -> None:
        """Have `layer` do from now on what applications ask of this one."""
        for name in _ASKED:
            setattr(self, name, getattr(layer, name))

    def attach_remote(self, prefix: str, outlet: RemoteOutlet) -> None:
        """Like ``attach``, for the connections of another process."""
        self._remote[outlet] = outlet
        self.attach(prefix, outlet)

    def detach(self, prefix: str) -> None:
        outlet = self._outlets.get(prefix)
        super().detach(prefix)
        if outlet in self._remote and outlet not in self._outlets.values():
            del self._remote[outlet]

    def close(self) -> Any:
        """Count what waits for consumers of this process, which ends."""
        for channel, number in self.queues.pending().items():
            self.drops.record(Reason.STOPPED, channel, number)
        self.drops.flush(due=True)

    def submit(
        self, channel: str, content: Content, attachment: Any = None, urgent: bool = False,
        client: Client = None, size: int | None = None,
    ) -> None:  # fmt: skip
        self.queues.put(channel, content, attachment, urgent, client, size)

    def forget(self, channel: str) -> None:
        self.groups.drop(channel)

    def dispatch(self, channel: str, content: Content) -> None:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, content)
        else:
            self.queues.put(channel, content)

    def dispatch_once(self, token: str, is_group: bool, name: str, content: Content) -> None:
        if token not in self._once:
            super().dispatch_once(token, is_group, name, content)
            self._once[token] = None
            if len(self._once) > REMEMBERED:
                del self._once[next(iter(self._once))]

    def dispatch_group(self, group: str, content: Content) -> None:
        self.broadcast(group, content)

    def broadcast(self, group: str, content: Content, origin: Outlet | None = None) -> None:
        """Like :meth:`dispatch_group`, except for the connections of one process.

        :param origin: the outlet of the process that sends; it has served its own connections.
        """
        by_outlet, ordinary = self.groups.targets(group)
        for outlet, channels in by_outlet:
            if outlet in self._remote:
                if outlet is not origin:
                    self._remote[outlet].send_group(group, content)
            else:
                outlet.deliver_group(channels, content)
        for channel in ordinary:
            try:
                self.queues.put(channel, copy_content(content))
            except ChannelFull as error:
                self.drops.record(Reason.FULL, channel, hint=f"{error}; it is a member of group {group!r}")

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
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
        return self.outlet_of(channel) is not None or self.queues.when_room(channel, content, callback)

    def remote_outlet_of(self, channel: str) -> RemoteOutlet | None:
        """Return the outlet of the other process that a reply channel belongs to; None: it does not."""
        outlet = self.outlet_of(channel) if self._remote else None
        return self._remote.get(outlet) if outlet is not None else None
