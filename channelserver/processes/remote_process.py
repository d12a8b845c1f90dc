"""The connections of another process, as an outlet of this one's layer.

The methods of an outlet run in any thread, and hand over to the reactor thread. Owns nothing: the connections are the
other process's, which also knows which of them are in which groups.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

from channelserver.bridge import Bridge
from channelserver.layers import MessageTooLarge
from channelserver.layers.content import Content
from channelserver.layers.throttled_log import DropCounter
from channelserver.processes.link import Link, ask


class ForeignConnections:
    """See the module's text; a :class:`channelserver.layers.base.RemoteOutlet`.

    :param link: the way to the other process.
    :param bridge: the way into the reactor thread.
    :param drops: where messages are counted that cannot be passed on.
    """

    def __init__(self, link: Link, bridge: Bridge, drops: DropCounter) -> None:
        self._link = link
        self._bridge = bridge
        self._drops = drops

    def __contains__(self, channel: object) -> bool:
        """Taken to be open: if it is not, its process says so; see ``group_added``."""
        return True

    def deliver(self, channel: str, content: Content) -> None:
        """See :class:`channelserver.layers.base.Outlet`."""
        self._post(channel, content, "reply", channel, content)

    def deliver_group(self, channels: Collection[str], content: Content) -> None:
        """See :class:`channelserver.layers.base.Outlet`."""
        for channel in channels:
            self.deliver(channel, content)

    def deliver_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """See :class:`channelserver.layers.base.Outlet`."""
        answered = threading.Event()
        answers: list[bool] = []

        def done(room: bool) -> None:
            answers.append(room)
            answered.set()

        self._bridge.post_data(size_of(content), self.deliver_then, channel, content, done)
        return answered.wait(timeout) and answers[0]

    def deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        """See :class:`channelserver.layers.base.Outlet`."""
        # By the bridge, although this is the reactor thread: what was sent before may still be on it.
        self._bridge.post(self._deliver_then, channel, content, done)

    def _deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        answer = ask(self._link, "reply_waiting", channel, content)
        answer.addCallbacks(done, lambda failure: done(False))

    def group_added(self, group: str, channel: str) -> None:
        """See :class:`channelserver.layers.base.RemoteOutlet`."""
        self._bridge.post(self._tell, "group_added", group, channel)

    def group_discarded(self, group: str, channel: str) -> None:
        """See :class:`channelserver.layers.base.RemoteOutlet`."""
        self._bridge.post(self._tell, "group_discarded", group, channel)

    def send_group(self, group: str, content: Content) -> None:
        """See :class:`channelserver.layers.base.RemoteOutlet`."""
        self._post(group, content, "send_group", group, content)

    def flushed(self) -> None:
        """See :class:`channelserver.layers.base.RemoteOutlet`."""
        self._bridge.post(self._tell, "flushed")

    def _post(self, name: str, content: Content, call: str, *arguments: Any) -> None:
        self._bridge.post_data(size_of(content), self._note, name, call, arguments)

    def _note(self, name: str, call: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._tell(call, *arguments)
        except MessageTooLarge as problem:
            self._drops.record("too large for another process", name, hint=str(problem))

    def _tell(self, call: str, *arguments: Any) -> None:
        if self._link.connected:
            self._link.note(call, *arguments)


def size_of(content: Content) -> int:
    """Return about how much memory a message takes."""
    return sum(len(value) for value in content.values() if isinstance(value, (str, bytes)))
