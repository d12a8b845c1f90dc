"""The connections of another process, as an outlet of this process's layer: while it runs, and afterwards.

The methods of the outlet run in any thread; the bridge takes their calls to the reactor thread. Owns nothing: the other
process has the connections, and knows which of them are in which groups.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from twisted.internet.interfaces import IReactorTime

from channelserver.bridge import Bridge
from channelserver.layers import MessageTooLarge, NotSendable
from channelserver.layers.base import SESSION
from channelserver.layers.content import Content
from channelserver.layers.losses import DropCounter, Reason
from channelserver.processes.link import Link, ask_within

#: Seconds that a message to a slow client of another process waits at most; that process has its own, shorter limits.
LONGEST_WAIT = 600.0


class RemoteProcess:
    """The outlet; a :class:`channelserver.layers.base.RemoteOutlet`.

    :param drops: counts the messages that do not fit into a frame.
    """

    def __init__(self, link: Link, bridge: Bridge, clock: IReactorTime, drops: DropCounter) -> None:
        self._link = link
        self._bridge = bridge
        self._clock = clock
        self._drops = drops

    def __contains__(self, channel: object) -> bool:
        """Always true: the other process answers ``group_added`` with ``forget`` when the connection is closed."""
        return True

    def client_of(self, channel: str) -> Any:
        return None

    def deliver(self, channel: str, content: Content) -> None:
        self._post(channel, content, "reply", channel, content)

    def deliver_group(self, channels: Collection[str], content: Content) -> None:
        for channel in channels:
            self.deliver(channel, content)

    def deliver_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        room: Future[bool] = Future()
        self._bridge.post_data(size_of(content), self.deliver_then, channel, content, room.set_result)
        try:
            return room.result(timeout)
        except TimeoutError:
            return False

    def deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        # Posted, although this is the reactor thread: earlier messages may still be in the bridge.
        self._bridge.post(self._deliver_then, channel, content, done)

    def _deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        asked = ask_within(LONGEST_WAIT, self._clock, self._link, "reply_waiting", channel, content)
        asked.addCallbacks(done, lambda failure: done(False))

    def group_added(self, group: str, channel: str) -> None:
        self._bridge.post(self._note, "group_added", group, channel)

    def group_discarded(self, group: str, channel: str) -> None:
        self._bridge.post(self._note, "group_discarded", group, channel)

    def send_group(self, group: str, content: Content) -> None:
        self._post(group, content, "send_group", group, content)

    def flushed(self) -> None:
        self._bridge.post(self._note, "flushed")

    def _post(self, name: str, content: Content, call: str, *arguments: Any) -> None:
        self._bridge.post_data(size_of(content), self._note_message, name, call, arguments)

    def _note_message(self, name: str, call: str, arguments: tuple[Any, ...]) -> None:
        if not self._link.connected:
            self._drops.record(Reason.PROCESS_GONE, name)
            return
        try:
            if not self._link.message(call, *arguments):
                self._drops.record(Reason.PROCESS_DEAF, name)
        except (MessageTooLarge, NotSendable) as problem:
            self._drops.record(problem.reason, name, hint=str(problem))

    def _note(self, call: str, *arguments: Any) -> None:
        if self._link.connected:
            self._link.note(call, *arguments)


class Gone:
    """An outlet in the place of the connections of a process that has ended: counts what is sent to them as lost."""

    def __init__(self, drops: DropCounter) -> None:
        self._drops = drops

    def __contains__(self, channel: object) -> bool:
        return False

    def client_of(self, channel: str) -> Any:
        return None

    def deliver(self, channel: str, content: Content) -> None:
        if SESSION not in content:
            self._drops.record(Reason.PROCESS_GONE, channel)

    def deliver_group(self, channels: Collection[str], content: Content) -> None:
        for channel in channels:
            self.deliver(channel, content)

    def deliver_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        self.deliver(channel, content)
        return False

    def deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        self.deliver(channel, content)
        done(False)


def size_of(content: Content) -> int:
    """Return the approximate size of a message, in bytes."""
    return sum(len(value) for value in content.values() if isinstance(value, (str, bytes)))
