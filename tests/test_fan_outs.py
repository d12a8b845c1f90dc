"""Sends to large groups of WebSockets, some in each turn of the reactor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.groups import Members
from channelserver.server.fan_outs import MAX_WAITING, SOCKETS_A_TURN
from channelserver.server.replies import Replies


class _Socket(SimpleNamespace):
    """A WebSocket."""

    __hash__ = object.__hash__


class FanOutTests(SynchronousTestCase):
    """A group's message on its way to many sockets."""

    def setUp(self) -> None:
        self.posted: list[Any] = []  # what the next turns of the reactor do
        self.replies = Replies(mock.Mock(post=self.posted.append))
        self.seen: dict[str, list[str]] = {}
        self.sockets = [self.add() for _ in range(2 * SOCKETS_A_TURN + 1)]

    def add(self) -> str:
        seen: list[str] = []

        def send_frame(frame: bytes, deflated: object) -> bool:
            seen.append(frame[2:].decode())
            return True

        def reply(content: dict[str, Any]) -> None:
            seen.append(content["text"])

        socket = _Socket(send_frame=send_frame, reply=reply, group_reply=reply)
        socket.name = self.replies.add(self.replies.websocket_prefix, socket)
        self.seen[socket.name] = seen
        return str(socket.name)

    def send(self, text: str) -> None:
        self.replies._fan_out(self.sockets, {"text": text})

    def sent(self) -> int:
        return sum(map(len, self.seen.values()))

    def test_part_by_part(self) -> None:
        """A turn sends to some sockets; all get it, and those that are no members wait for nothing."""
        self.send("a")
        self.assertEqual(self.sent(), SOCKETS_A_TURN)
        other = self.add()
        self.replies._deliver(other, {"text": "at once"})
        self.assertEqual(self.seen.pop(other), ["at once"])
        self.posted.pop(0)()
        self.assertEqual(self.sent(), 2 * SOCKETS_A_TURN)
        while self.posted:
            self.posted.pop(0)()
        self.assertEqual(list(self.seen.values()), [["a"]] * len(self.sockets))
        self.assertFalse(self.replies.fan_outs)

    def test_order(self) -> None:
        """Each socket gets everything in the order of the sends, whoever sends it."""
        self.send("a")
        first, last = self.sockets[0], self.sockets[-1]
        self.send("b")
        for name in (first, last):
            self.replies._deliver(name, {"text": "c"})
            self.assertEqual(self.seen[name], ["a", "b", "c"])
        self.replies._fan_out([first], {"text": "d"})
        self.replies._fan_out([first], {"text": "e", "close": True})  # no frame by itself
        self.assertEqual(self.seen[first], ["a", "b", "c", "d", "e"])
        while self.posted:
            self.posted.pop(0)()
        self.assertEqual(self.seen[last], ["a", "b", "c"])
        self.assertEqual(self.sent(), 2 * len(self.sockets) + 4)

    def test_caught_up_in_between(self) -> None:
        """One that has caught up gets nothing twice, nobody is left out; the list of members stays whole."""
        members = Members(self.sockets)
        for text in ("a", "b"):
            self.replies._fan_out(members, {"text": text})
            self.assertEqual(len(self.posted), 1)
            for name in (self.sockets[SOCKETS_A_TURN], self.sockets[-1], self.sockets[0]):
                self.replies._deliver(name, {"text": "c"})
            while self.posted:
                self.posted.pop(0)()
        self.assertEqual({tuple(seen) for seen in self.seen.values()}, {("a", "b"), ("a", "c", "b", "c")})
        self.assertEqual(self.sent(), 2 * len(self.sockets) + 6)
        self.assertEqual([socket.name for socket in members.cache], self.sockets)

    def test_bounded(self) -> None:
        """When many sends wait, a turn does all of them."""
        for number in range(MAX_WAITING):
            self.send(str(number))
        self.posted.pop(0)()
        self.assertEqual(self.sent(), MAX_WAITING * len(self.sockets))

    def test_small_groups(self) -> None:
        """A send to a small group is one step."""
        self.replies._fan_out(self.sockets[:SOCKETS_A_TURN], {"text": "a"})
        self.assertEqual(self.sent(), SOCKETS_A_TURN)
        self.assertFalse(self.posted)
