"""What other processes that share the in-memory layer need of it: messages that come back, and members elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twisted.internet.task import Clock

from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.groups import Groups
from channelserver.layers.waiting import Delivery
from tests.fakes import StrictTestCase
from tests.test_layers_memory import RECEIVE, FakeOutlet, QueueTestCase


class ReturnedTests(QueueTestCase):
    """Messages that another process has taken, and gives back."""

    def test_to_their_places(self) -> None:
        """Restored messages are taken again before all others, in their order, and the lane goes on behind them."""
        for number in range(3):
            self.put(RECEIVE, "r!1", number)
            self.put(RECEIVE, "r!2", 10 + number)
            self.put("a", None, 20 + number)
        taken = [self.take(), self.take(), self.take("a"), self.take("a")]
        before = self.queues.statistics("a")["messages_pending"]
        self.queues.restore(taken)
        self.assertEqual(self.queues.statistics("a")["messages_pending"], before + 2)
        self.assertEqual([self.take("a").content["n"] for _ in range(3)], [20, 21, 22])
        found = []
        while (delivery := self.queues.take([RECEIVE])) is not None:
            found.append(delivery.content["n"])
            self.queues.finish(delivery)
        self.assertEqual(found, [0, 10, 1, 11, 2, 12])

    def test_listeners_hear_of_it(self) -> None:
        """A listener is called once for all messages that return."""
        self.put("a", None, 1)
        self.put("a", None, 2)
        taken = [self.take("a"), self.take("a")]
        calls: list[int] = []
        self.queues.listen(["a"], lambda: calls.append(1))
        self.queues.restore(taken)
        self.assertEqual(calls, [1])
        self.queues.add(Delivery("a", {"n": 3}, 0.0, 1000.0))
        self.assertEqual(calls, [1, 1])

    def test_withdrawn(self) -> None:
        """What another process has sent here and wants back no longer waits; the rest does."""
        self.put("a", None, 1)
        self.put(RECEIVE, "r!1", 2)
        self.queues.add(Delivery("a", {"n": 3}, 0.0, 1000.0))
        self.queues.withdraw(lambda delivery: delivery.content["n"] in (2, 3))
        self.assertEqual(self.queues.statistics("a")["messages_pending"], 1)
        self.assertEqual(self.take("a").content["n"], 1)
        self.assertNothing("a")
        self.assertEqual(self.take().content["n"], 2)  # it is in a lane: of this process


class GroupsTests(StrictTestCase):
    """What is known of members."""

    def setUp(self) -> None:
        """Make groups in which the channels ``r!…`` are connections, of which one is open."""
        super().setUp()
        outlet = FakeOutlet("r!1")
        self.groups = Groups(100, Clock().seconds, lambda channel: outlet if channel.startswith("r!") else None)

    def test_add_tells_whether(self) -> None:
        """A closed connection is no member, and it is said."""
        self.assertIs(self.groups.add("g", "r!1"), True)
        self.assertIs(self.groups.add("g", "r!1"), True)
        self.assertIs(self.groups.add("g", "r!2"), False)
        self.assertIs(self.groups.add("g", "a"), True)
        self.assertEqual(self.groups.members("g"), ["r!1", "a"])

    def test_has(self) -> None:
        """Whether there are members, and a certain one."""
        self.assertIs(self.groups.has("g"), False)
        self.assertIs(self.groups.has("g", "a"), False)
        self.groups.add("g", "a")
        self.assertIs(self.groups.has("g"), True)
        self.assertIs(self.groups.has("g", "a"), True)
        self.assertIs(self.groups.has("g", "b"), False)
        self.groups.discard("g", "a")
        self.assertIs(self.groups.has("g"), False)

    def test_drop_tells_which(self) -> None:
        """All memberships of a channel end, also those since everything was forgotten, and only those."""
        self.groups.add("old", "a")
        self.groups.flush()
        for group in ("g", "h"):
            self.groups.add(group, "a")
        self.groups.add("h", "b")
        self.assertEqual(sorted(self.groups.drop("a")), ["g", "h"])
        self.assertEqual(self.groups.drop("a"), ())
        self.assertEqual(self.groups.counts(), {"h": 1})

    def test_drop_prefix(self) -> None:
        """The members in a process that has gone end, and nobody else's."""
        for channel in ("s!1", "s!2", "t!1", "s"):
            self.groups.add("g", channel)
        self.groups.add("h", "s!1")
        self.groups.drop_prefix("s!")
        self.assertEqual((self.groups.members("g"), self.groups.members("h")), (["t!1", "s"], []))


class RemoteFakeOutlet(FakeOutlet):
    """The connections of another process."""

    def __init__(self, *channels: str) -> None:
        super().__init__(*channels)
        self.told: list[Any] = []

    def deliver_group(self, channels: Collection[str], content: dict[str, Any]) -> None:
        raise AssertionError("a process delivers group messages itself")

    def send_group(self, group: str, content: dict[str, Any]) -> None:
        self.told.append(("send", group, content))

    def group_added(self, group: str, channel: str) -> None:
        self.told.append(("added", group, channel))

    def group_discarded(self, group: str, channel: str) -> None:
        self.told.append(("discarded", group, channel))

    def flushed(self) -> None:
        self.told.append("flushed")


class RemoteTests(StrictTestCase):
    """Connections of other processes."""

    def setUp(self) -> None:
        """Make a layer with connections here and in two other processes."""
        super().setUp()
        self.layer = InMemoryChannelLayer()
        self.own, self.first, self.second = FakeOutlet("r!1"), RemoteFakeOutlet("s!1", "s!2"), RemoteFakeOutlet("t!1")
        self.layer.attach("r!", self.own)
        self.layer.attach_remote("s!", self.first)
        self.layer.attach_remote("t!", self.second)

    def join(self) -> None:
        """Make everybody a member of a group."""
        for channel in ("r!1", "s!1", "s!2", "t!1", "a"):
            self.layer.group_add("g", channel)
        self.first.told.clear()
        self.second.told.clear()

    def test_members_are_told_there(self) -> None:
        """The process of a connection is notified of its memberships, and when all end."""
        self.layer.group_add("g", "s!1")
        self.layer.group_add("g", "r!1")
        self.layer.group_add("g", "a")
        self.layer.group_discard("g", "s!1")
        self.layer.group_discard("g", "r!1")
        self.layer.flush()
        self.assertEqual(self.first.told, [("added", "g", "s!1"), ("discarded", "g", "s!1"), "flushed"])
        self.assertEqual(self.second.told, ["flushed"])

    def test_names_are_checked_first(self) -> None:
        """Invalid names are not passed on to any process."""
        self.assertRaises(TypeError, self.layer.group_add, "no name", "s!1")
        self.assertRaises(TypeError, self.layer.group_discard, "no name", "s!1")
        self.assertRaises(TypeError, self.layer.group_add, "g", "s!1 ")
        self.assertEqual(self.first.told, [])

    def test_a_send_goes_there_once(self) -> None:
        """However many members a process has, it gets a message once, and none that it has sent itself."""
        self.join()
        self.layer.send_group("g", {"n": 1})
        self.layer.broadcast("g", {"n": 2}, self.first)
        self.assertEqual(self.first.told, [("send", "g", {"n": 1})])
        self.assertEqual(self.second.told, [("send", "g", {"n": 1}), ("send", "g", {"n": 2})])
        self.assertEqual(self.own.delivered, [(["r!1"], {"n": 1}), (["r!1"], {"n": 2})])
        self.assertEqual([self.layer.receive(["a"])[1] for _ in range(3)], [{"n": 1}, {"n": 2}, None])

    def test_detached(self) -> None:
        """A process that has left gets no further messages; one that still has a second prefix does."""
        self.layer.attach_remote("u!", self.second)
        self.first.open.clear()
        self.layer.detach("s!")
        self.layer.detach("t!")
        self.layer.flush()
        self.assertEqual((self.first.told, self.second.told), ([], ["flushed"]))
        self.assertIs(self.layer.remote_outlet_of("u!1"), self.second)
        self.assertIsNone(self.layer.remote_outlet_of("t!1"))
        self.assertIsNone(self.layer.remote_outlet_of("r!1"))
        self.assertIsNone(self.layer.remote_outlet_of("a"))
