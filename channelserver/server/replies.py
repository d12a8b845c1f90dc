"""The open connections of this process, by reply channel: where replies and group sends arrive.

The methods of an outlet (see :class:`channelserver.layers.base.Outlet`) run in any thread; they hand over to the
reactor thread, which alone touches connections. Owns the table of connections, which is altered in the reactor thread
only.
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, cast

from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers.base import EVENTS, FILE, SESSION
from channelserver.layers.content import Content, size_of_reply
from channelserver.layers.events import encode_event
from channelserver.layers.groups import Members
from channelserver.layers.names import REPLY_CHARACTERS, new_host_name
from channelserver.server.fan_outs import FanOuts
from channelserver.server.http.flow import Flow
from channelserver.server.websocket import frames
from channelserver.server.websocket.deflate import Deflated

_log = Logger("channelserver.server.replies")
#: Seconds between two renewals of a channel session.
RENEW_SECONDS = 86400.0
#: Renewals at a time, of which each is some work for the database.
RENEWALS_A_LOOK = 100
#: Event streams that a turn of the reactor feeds at most; and how many sends may wait for their turn.
FEEDS_A_TURN, MAX_FEEDS = 50, 100

_debug = logging.getLogger("channelserver.server.replies").debug


def _random_tokens() -> Iterator[str]:
    """Yield texts of 9 random bytes. There is one for each request, so the system is asked for many at a time."""
    while True:
        text = secrets.token_urlsafe(9 * 256)
        yield from (text[begin : begin + REPLY_CHARACTERS] for begin in range(0, len(text), REPLY_CHARACTERS))


class Connection(Protocol):
    """What can be replied to: a WebSocket or a request. All methods run in the reactor thread."""

    name: str

    @property
    def client(self) -> Any:
        """[address, port] of the client, or None."""

    def reply(self, content: Content) -> None:
        """Act on one reply."""

    def group_reply(self, content: Content) -> None:
        """Act on a group's message."""

    def send_frame(self, frame: bytes, deflated: Deflated | None) -> bool:
        """Send a group's frame; return False if :meth:`group_reply` must act on the message."""


class Request(Connection, Protocol):
    """A request that is being answered."""

    #: Made by the thread that streams the answer.
    flow: Flow | None

    def feed(self, event: bytes) -> None:
        """Send a group's event, if the answer is an event stream."""


class Replies:
    """An outlet: passes messages to the connections of this process.

    :param now: returns seconds, monotonic.
    """

    def __init__(self, bridge: Bridge, now: Callable[[], float] = time.monotonic) -> None:
        self._bridge = bridge
        self._now = now
        self._tokens = _random_tokens()
        unique = new_host_name()
        self.http_prefix = f"http.response.{unique}!"
        self.websocket_prefix = f"websocket.send.{unique}!"
        self._connections: dict[str, Connection] = {}
        #: The sends to large groups of WebSockets.
        self.fan_outs = FanOuts(bridge)
        #: The names of event streams.
        self.events: set[str] = set()
        #: What they have still to get, in order: names, and an event for them or a reply.
        self._feeds: deque[tuple[list[str], bytes | Content]] = deque()
        #: Ends all memberships of a connection.
        self.forget: Callable[[str], object] = lambda name: None
        #: Has a worker renew the channel session of a connection (True), or delete it (False).
        self.settle_session: Callable[[str, bool], object] = lambda name, is_open: None
        #: The connections that have a channel session, and when to renew it; first those that are due first.
        self._sessions: dict[str, float] = {}
        #: Called with the name of a request whose client has left, or got 503, before the answer was complete.
        self.client_gone: list[Callable[[str], object]] = []

    # -- reactor thread ------------------------------------------------------------------------------------------------

    def add(self, prefix: str, connection: Connection) -> str:
        """Give a connection a name, under which it is found until :meth:`remove`.

        The name cannot be guessed: who knows it can reply, and the key of the channel session follows from it.
        """
        while True:
            name = prefix + next(self._tokens)
            if name not in self._connections:
                self._connections[name] = connection
                return name

    def remove(self, name: str) -> None:
        self._connections.pop(name, None)

    def end(self, name: str) -> None:
        """Remove a connection, and delete its channel session."""
        self._connections.pop(name, None)
        if self._sessions:
            self.end_session(name)

    def end_session(self, name: str) -> None:
        """Delete the channel session of a connection that has closed, after its last message."""
        if self._sessions.pop(name, None) is not None:
            self.settle_session(name, False)

    def renew_sessions(self, now: float) -> None:
        """Renew the channel sessions of connections that have been open for a day since the last time."""
        for _ in range(min(RENEWALS_A_LOOK, len(self._sessions))):
            name = next(iter(self._sessions))
            if self._sessions[name] > now:
                break
            del self._sessions[name]
            self._sessions[name] = now + RENEW_SECONDS
            self.settle_session(name, True)

    def _session_stored(self, name: str) -> None:
        if name not in self._connections:
            if name not in self._sessions:  # else the connection's last messages have still to come
                self.settle_session(name, False)
        elif name not in self._sessions:
            self._sessions[name] = self._now() + RENEW_SECONDS

    def __len__(self) -> int:
        return len(self._connections)

    def _deliver(self, channel: str, content: Content) -> None:
        connection = self._connections.get(channel)
        if SESSION in content:
            self._session_stored(channel)
        elif connection is None:
            _debug("reply to %s, which has closed", channel)
            if FILE in content:
                content[FILE].close()
            elif EVENTS in content:
                self.forget(channel)  # it may have joined its groups just before it closed
        elif self._feeds and channel in self.events:
            self._feeds.append(([channel], content))
        else:
            if self.fan_outs:
                self.fan_outs.catch_up(connection)
            connection.reply(content)

    def _fan_out(self, channels: Collection[str], content: Content) -> None:
        frame = frames.encode_reply(content)
        if frame is None:
            self.feed()
            self.fan_outs.finish()
            for connection in self._find(channels):
                try:
                    connection.group_reply(content)
                except Exception:  # one broken socket must not cost the others their message
                    _log.failure("cannot send to {channel}", channel=connection.name)
        else:
            self.fan_outs.send(self._websockets(channels), frame, Deflated.of(frame), content)
        if frame is not None and self.events and not self.events.isdisjoint(channels):
            self._feed(channels, encode_event(content))

    def _feed(self, channels: Collection[str], event: bytes) -> None:
        """Send an event to the event streams among the members of a group.

        Thousands would keep the reactor for tens of milliseconds. So each of its turns feeds some of them.
        """
        self._feeds.append((list(self.events.intersection(channels)), event))
        if len(self._feeds) == 1:
            self._feed_some()

    def _feed_some(self) -> None:
        self.feed(FEEDS_A_TURN if len(self._feeds) < MAX_FEEDS else sys.maxsize)
        if self._feeds:
            self._bridge.post(self._feed_some)

    def feed(self, most: int = sys.maxsize) -> None:
        """Send to event streams what waits for them.

        :param most: how many sends.
        """
        while self._feeds and most:
            channels, content = self._feeds[0]
            if not channels:
                self._feeds.popleft()
                continue
            channel = channels.pop()
            most -= 1
            request = cast("Request | None", self._connections.get(channel))
            try:
                if request is None:
                    pass
                elif isinstance(content, bytes):
                    request.feed(content)
                else:
                    request.reply(content)
            except Exception:
                _log.failure("cannot send to {channel}", channel=channel)

    def _find(self, channels: Collection[str]) -> list[Connection]:
        found = map(self._connections.get, channels)
        return [connection for connection in found if connection is not None]

    def _websockets(self, channels: Collection[str]) -> list[Connection]:
        """Return the connections among these names that take frames. Some may be closed, and ignore them.

        Those of a group are looked up once until it changes: looking up thousands takes as long as writing to some.
        Only WebSockets are kept: a request stays a member of its groups when it is over.
        """
        if not isinstance(channels, Members):
            return self._find(channels)
        if channels.cache is None:
            prefix = self.websocket_prefix
            channels.cache = self._find([channel for channel in channels if channel.startswith(prefix)])
        found: list[Connection] = channels.cache
        return found

    def deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        if channel not in self._connections:
            done(False)
            return
        # By the bridge, although this is the reactor thread: what was sent before may still be on it.
        self._bridge.post(self._deliver, channel, content)
        flow = self._flow(channel) if channel.startswith(self.http_prefix) else None
        if flow is None:
            done(True)
        else:
            flow.send_then(len(content.get("content") or b""), done)

    # -- any thread ----------------------------------------------------------------------------------------------------

    def __contains__(self, channel: object) -> bool:
        return channel in self._connections

    def client_of(self, channel: str) -> Any:
        connection = self._connections.get(channel)
        return None if connection is None else connection.client

    def deliver(self, channel: str, content: Content) -> None:
        self._bridge.reply(size_of_reply(content), self._deliver, channel, content)

    def deliver_group(self, channels: Collection[str], content: Content) -> None:
        self._bridge.reply(size_of_reply(content), self._fan_out, channels, content)

    def deliver_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        if channel.startswith(self.http_prefix):
            flow = self._flow(channel)
            if flow is None or not flow.send(len(content.get("content") or b""), timeout):
                return False
        elif channel not in self._connections:
            return False
        self._bridge.post_data(size_of_reply(content), self._deliver, channel, content)
        return True

    def deliver_async(self, channel: str, content: Content, done: Callable[[bool], object]) -> bool | None:
        """Pass one message to a request's connection without waiting; for coroutines.

        :returns: as :meth:`Flow.add`.
        """
        flow = self._flow(channel)
        if flow is None:
            return False
        self._bridge.post_data(size_of_reply(content), self._deliver, channel, content)
        return flow.add(len(content.get("content") or b""), done)

    def _flow(self, channel: str) -> Flow | None:
        """Return the flow of a request's answer; None: its connection has closed."""
        request = cast("Request | None", self._connections.get(channel))
        if request is None:
            return None
        if request.flow is None:
            request.flow = Flow()
            if channel not in self._connections:  # it went, and nobody will close the new flow
                return None
        return request.flow
