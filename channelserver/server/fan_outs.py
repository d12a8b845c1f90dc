"""Frames for large groups of WebSockets, some in each turn of the reactor.

Runs in the reactor thread; owned by :class:`channelserver.server.replies.Replies`.

One send to 5000 sockets would keep the reactor for 60 ms. So beyond :data:`SOCKETS_A_TURN` the rest waits for the next
turn. What is sent to one of these sockets meanwhile does not overtake: the socket gets what it waits for first.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers.content import Content
from channelserver.server.websocket.deflate import Deflated

_log = Logger("channelserver.server.replies")

#: Sockets that get a frame in one turn; and how many sends may wait for their turns, each with a list of its sockets.
SOCKETS_A_TURN, MAX_WAITING = 500, 20


class Socket(Protocol):
    """A WebSocket."""

    name: str

    def group_reply(self, content: Content) -> None:
        """Act on a group's message."""

    def send_frame(self, frame: bytes, deflated: Deflated | None) -> bool:
        """Send a group's frame; return False if :meth:`group_reply` must act on the message."""


#: Sends to some sockets.
Send = Callable[[Iterable[Socket]], None]


class _Rest:
    """The sockets that have still to get something.

    :param sockets: not altered. A set of them, which takes a look at each, is only made when one is asked for.
    """

    __slots__ = ("_at", "_found", "_sockets")

    def __init__(self, sockets: Sequence[Socket]) -> None:
        self._sockets = sockets
        self._at = 0
        self._found: dict[Socket, None] | None = None

    def __bool__(self) -> bool:
        return self._at < len(self._sockets) if self._found is None else bool(self._found)

    def take(self, most: int) -> Sequence[Socket]:
        """Remove and return some."""
        if self._found is not None:
            return [self._found.popitem()[0] for _ in range(min(most, len(self._found)))]
        begin, self._at = self._at, min(self._at + most, len(self._sockets))
        return self._sockets[begin : self._at]

    def remove(self, socket: Any) -> bool:
        """Remove one; return whether it is one of them."""
        if self._found is None:
            self._found = dict.fromkeys(self._sockets[self._at :])
        found = socket in self._found
        self._found.pop(socket, None)
        return found


class FanOuts:
    """The sends to groups that are under way; false if there are none."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._waiting: deque[tuple[_Rest, Send]] = deque()  # those that have still to get it

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, sockets: Sequence[Socket], frame: bytes, deflated: Deflated | None, content: Content) -> None:
        """Send a group's frame.

        :param sockets: the receivers; not altered.
        """

        if self._waiting or len(sockets) > SOCKETS_A_TURN:
            some = partial(self._send, frame=frame, deflated=deflated, content=content)
            self._waiting.append((_Rest(sockets), some))
            if len(self._waiting) == 1:
                self._go_on()
        else:
            self._send(sockets, frame, deflated, content)

    @staticmethod
    def _send(sockets: Iterable[Socket], frame: bytes, deflated: Deflated | None, content: Content) -> None:
        for socket in sockets:
            try:
                if not socket.send_frame(frame, deflated):
                    socket.group_reply(content)
            except Exception:  # one broken socket must not cost the others their message
                _log.failure("cannot send to {channel}", channel=socket.name)

    def catch_up(self, socket: Any) -> None:
        """Send to one socket what it waits for."""
        for sockets, send in self._waiting:
            if sockets.remove(socket):
                send((socket,))

    def _go_on(self) -> None:
        self.finish(SOCKETS_A_TURN if len(self._waiting) < MAX_WAITING else sys.maxsize)
        if self._waiting:
            self._bridge.post(self._go_on)

    def finish(self, most: int = sys.maxsize) -> None:
        """Send what waits.

        :param most: to so many sockets.
        """
        while self._waiting and most > 0:
            sockets, send = self._waiting[0]
            some = sockets.take(most)
            most -= len(some)
            send(some)
            if not sockets and self._waiting and self._waiting[0][0] is sockets:
                self._waiting.popleft()
