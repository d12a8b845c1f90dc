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


class FanOuts:
    """The sends to groups that are under way; false if there are none."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._waiting: deque[tuple[dict[Socket, None], Send]] = deque()  # those that have still to get it

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, sockets: Sequence[Socket], frame: bytes, deflated: Deflated | None, content: Content) -> None:
        """Send a group's frame.

        :param sockets: the receivers; not altered.
        """

        if self._waiting or len(sockets) > SOCKETS_A_TURN:
            some = partial(self._send, frame=frame, deflated=deflated, content=content)
            self._waiting.append((dict.fromkeys(sockets), some))
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
            if socket in sockets:
                del sockets[socket]
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
            while sockets and most > 0:
                most -= 1
                send((sockets.popitem()[0],))
            if not sockets and self._waiting and self._waiting[0][0] is sockets:
                self._waiting.popleft()
