"""The in-memory channel layer: queues, lanes, groups, losses."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import ChannelFull, InMemoryChannelLayer, conformance, room
from channelserver.layers.groups import Groups
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.past_counts import KEPT as PAST_KEPT
from channelserver.layers.queues import WorkQueues
from channelserver.layers.room import LANE_BYTES, SWEPT_AT_ONCE
from channelserver.layers.waiting import Delivery
from tests.fakes import PATIENCE, StrictTestCase

CONNECT, RECEIVE, DISCONNECT = "websocket.connect", "websocket.receive", "websocket.disconnect"


# The class itself is not imported by name: it would be taken for a test case of this module.
class DefaultConformanceTests(conformance.ConformanceTestCase):
    """The layer as a project gets it without any parameters."""

    capacity_limit = 1000
    expiry_delay = 60.1
    parameters: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.channel_layer = InMemoryChannelLayer(**self.parameters, clock=self.clock.seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)


class SmallConformanceTests(DefaultConformanceTests):
    """A layer that is soon full and forgets soon."""

    capacity_limit = 5
    expiry_delay = 1.1
    parameters = {"capacity": 5, "expiry": 1}


class LayerTestCase(StrictTestCase):
    """A layer whose time the test moves."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    def make(self, **parameters: Any) -> InMemoryChannelLayer:
        """Return a layer."""
        return InMemoryChannelLayer(**{"clock": self.clock.seconds, **parameters})

    def all_of(self, layer: InMemoryChannelLayer, channel: str) -> list[Any]:
        """Return the values under "n" of all messages in a channel."""
        found = []
        while (message := layer.receive([channel])[1]) is not None:
            found.append(message["n"])
        return found


class ParameterTests(LayerTestCase):
    """What a layer is made with."""

    def test_numbers_above_zero(self) -> None:
        """Expiry, group expiry and capacity are numbers above 0; the error names the one that is not."""
        for name in ("expiry", "group_expiry", "capacity"):
            for value in (0, -1, "60", None, True):
                with self.assertRaises(ValueError) as caught:
                    self.make(**{name: value})
                self.assertIn(name, str(caught.exception))
                self.assertIn(repr(value), str(caught.exception))

    def test_channel_capacities_are_whole_numbers(self) -> None:
        """A capacity of single channels is a whole number above 0."""
        for value in (0, -1, 1.5, "5", None, True):
            with self.assertRaises(ValueError) as caught:
                self.make(channel_capacity={"a.*": value})
            self.assertIn("'a.*'", str(caught.exception))
        self.assertEqual(self.make(channel_capacity={"a.*": 1}).get_capacity("a.b"), 1)

    def test_defaults(self) -> None:
        """A message waits a minute, a membership lasts a day, a channel holds a thousand messages."""
        layer = self.make()
        self.assertEqual((layer.expiry, layer.group_expiry, layer.capacity), (60, 86400, 1000))
        self.assertEqual(layer.extensions, ["groups", "flush", "statistics", "twisted"])

    def test_names_are_checked(self) -> None:
        """The checks of asgiref 1: of a name, of several, of a group's name."""
        layer = self.make()
        self.assertTrue(layer.valid_channel_name("a"))
        self.assertTrue(layer.valid_channel_names(["a", "b!"], receive=True))
        self.assertTrue(layer.valid_group_name("g"))
        self.assertEqual((layer.non_local_name("a!b"), layer.non_local_name("a")), ("a!", "a"))
        for call in (
            lambda: layer.valid_channel_name("a b"),
            lambda: layer.valid_channel_names(["a", "b!c"], receive=True),
            lambda: layer.valid_group_name("a!b"),
        ):
            self.assertRaises(TypeError, call)
        for names in ([], (), "a", None):
            self.assertRaises(AssertionError, layer.valid_channel_names, names)


class CapacityTests(LayerTestCase):
    """How many messages may wait."""

    def fill(self, layer: InMemoryChannelLayer, channel: str) -> int:
        """Send until the channel is full; return how many messages went in."""
        for number in range(10_000):
            try:
                layer.send(channel, {"n": number})
            except ChannelFull:
                return number
        raise AssertionError("it is never full")

    def test_by_glob(self) -> None:
        """Other capacities go by glob or regular expression; the first match counts, and a glob matches whole names."""
        layer = self.make(
            capacity=3,
            channel_capacity={"http.request": 5, "http.*": 7, re.compile(r"chat\.[0-9]"): 2, "chat.*": 4, "x?z": 6},
        )
        for channel, capacity in (
            ("http.request", 5), ("http.other", 7), ("other.http.request", 3), ("http.request2", 7), ("chat.1", 2),
            ("chat.one", 4), ("xyz", 6), ("xyyz", 3), ("other", 3),
        ):  # fmt: skip
            self.assertEqual((channel, self.fill(layer, channel)), (channel, capacity))

    def test_process_specific_channels_share_theirs(self) -> None:
        """The capacity of ``name!`` is looked up by the name up to ``!``."""
        layer = self.make(capacity=3, channel_capacity={"reply.*!": 2})
        layer.send("reply.x!1", {})
        layer.send("reply.x!2", {})
        self.assertRaises(ChannelFull, layer.send, "reply.x!3", {})
        layer.send("reply.y!3", {})

    def test_error_tells_why(self) -> None:
        """The error names the channel, and says so if nobody here listens to it."""
        layer = self.make(capacity=1)
        layer.send("busy", {})
        with self.assertRaises(ChannelFull) as caught:
            layer.send("busy", {})
        self.assertIn("'busy'", str(caught.exception))
        self.assertIn("no consumer", str(caught.exception))
        layer.queues.listen(["busy"], lambda: None)
        with self.assertRaises(ChannelFull) as caught:
            layer.send("busy", {})
        self.assertNotIn("no consumer", str(caught.exception))

    def test_class_attribute(self) -> None:
        """ChannelFull is an attribute of the layer, as in asgiref 1."""
        layer = self.make(capacity=1)
        layer.send("a", {})
        self.assertRaises(layer.ChannelFull, layer.send, "a", {})

    def test_urgent_messages_ignore_it(self) -> None:
        """Urgent messages go in whether there is room or not, and never expire."""
        layer = self.make(capacity=1, expiry=1)
        layer.submit("a", {"n": 1})
        for number in (2, 3):
            layer.submit("a", {"n": number}, urgent=True)
        self.assertRaises(ChannelFull, layer.submit, "a", {"n": 4})
        self.clock.advance(100_000)
        layer.sweep()
        self.assertEqual(self.all_of(layer, "a"), [2, 3])
        self.expect_logged("'a'", "expired")

    def test_submit_carries_an_attachment(self) -> None:
        """An object beside the content arrives with it, the content itself uncopied."""
        layer, attachment, content = self.make(), object(), {"n": 1}
        layer.submit("a", content, attachment)
        delivery = layer.queues.take(["a"])
        assert delivery is not None
        self.assertIs(delivery.attachment, attachment)
        self.assertIs(delivery.content, content)


class ExpiryTests(LayerTestCase):
    """Messages that nobody takes in time."""

    def test_until_then_it_is_there(self) -> None:
        """A message is there until its time is over, and gone from then on."""
        layer = self.make(expiry=10)
        layer.send("a", {"n": 1})
        self.clock.advance(9.9)
        layer.send("a", {"n": 2})
        self.clock.advance(0.1)
        self.assertEqual(self.all_of(layer, "a"), [2])
        self.assertIn("no consumer took it", self.expect_logged("'a'", "expired"))
        self.assertEqual(layer.drops.totals(), {"expired": 1})

    def test_sweep_makes_room(self) -> None:
        """A sweep drops what has expired, counts it, and leaves the rest in order."""
        layer = self.make(capacity=3, expiry=10)
        layer.send("a", {"n": 1})
        layer.send("a", {"n": 2})
        self.clock.advance(5)
        layer.send("a", {"n": 3})
        self.clock.advance(5)
        layer.sweep()
        layer.send("a", {"n": 4})
        layer.send("a", {"n": 5})
        self.assertRaises(ChannelFull, layer.send, "a", {"n": 6})
        self.assertEqual(self.all_of(layer, "a"), [3, 4, 5])
        self.assertEqual(layer.drops.totals(), {"expired": 2})
        self.expect_logged("expired")

    def test_sweep_calls_those_who_wait_for_room(self) -> None:
        """The room that a sweep makes is told to those who wait for it."""
        layer, told = self.make(capacity=1, expiry=10), []
        layer.send("a", {"n": 1})
        self.assertFalse(layer.when_room("a", {}, lambda: told.append(1)))
        self.clock.advance(10)
        self.assertEqual(told, [])
        layer.sweep()
        self.assertEqual(told, [1])
        self.expect_logged("expired")

    def test_expired_messages_take_no_room(self) -> None:
        """A channel full of expired messages has room for new ones, also where nobody sweeps."""
        layer = self.make(capacity=2, expiry=10)
        layer.send("a", {"n": 1})
        layer.send("a", {"n": 2})
        self.clock.advance(10)
        layer.send("a", {"n": 3})
        self.assertEqual(self.all_of(layer, "a"), [3])
        self.expect_logged("expired")

    def test_lane_goes_on(self) -> None:
        """Of a lane, expired messages are dropped and the others handed out."""
        layer = self.make(expiry=10)
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 1})
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 2})
        self.clock.advance(5)
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 3})
        layer.submit(DISCONNECT, {"reply_channel": "r!1", "n": 4}, urgent=True)
        self.clock.advance(5)
        self.assertEqual(self.all_of(layer, RECEIVE), [3])
        self.assertEqual(self.all_of(layer, DISCONNECT), [4])
        self.assertEqual(layer.drops.totals(), {"expired": 2})
        self.expect_logged("expired")

    def test_sweep_reaches_into_lanes(self) -> None:
        """A sweep drops expired messages of lanes too, however many."""
        layer = self.make(capacity=10, expiry=10)
        for number in range(9):
            layer.submit(RECEIVE, {"reply_channel": f"r!{number % 3}", "n": number})
        self.clock.advance(10)
        layer.submit(RECEIVE, {"reply_channel": "r!0", "n": 9})
        layer.sweep()
        self.assertEqual(layer.channel_statistics(RECEIVE)["messages_pending"], 1)
        self.assertEqual(self.all_of(layer, RECEIVE), [9])
        self.expect_logged("expired")

    def test_blocking_receive_is_not_ended_by_an_expired_message(self) -> None:
        """An expired message does not come out of a blocking receive; the next one does."""
        layer = self.make(expiry=1)
        layer.send("a", {"n": 1})
        self.clock.advance(1)
        answers: list[Any] = []
        reader = threading.Thread(target=lambda: answers.append(layer.receive(["a"], block=True)))
        reader.start()
        layer.send("a", {"n": 2})
        reader.join(PATIENCE)
        self.assertEqual(answers, [("a", {"n": 2})])
        self.expect_logged("expired")


class NewChannelTests(LayerTestCase):
    """Names for single readers."""

    def test_is_not_in_use(self) -> None:
        """A name that holds messages is not given out again."""
        letters = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=12))
        first = self.make(rng=random.Random(5)).new_channel("a?")
        self.assertEqual(first, "a?" + letters)
        layer = self.make(rng=random.Random(5))
        layer.send(first, {})
        self.assertNotEqual(layer.new_channel("a?"), first)

    def test_cannot_be_guessed_by_default(self) -> None:
        """Without a source of its own, a layer makes other names each time."""
        names = {self.make().new_channel("a?") for _ in range(20)}
        self.assertEqual(len(names), 20)

    def test_too_long(self) -> None:
        """A pattern whose completed name would be too long is refused."""
        self.assertRaises(TypeError, self.make().new_channel, "x" * 90 + "?")


class StatisticsTests(LayerTestCase):
    """The figures of a channel and of the layer."""

    def test_of_a_channel(self) -> None:
        """Messages so far, refused, waiting, and the age of the oldest."""
        layer = self.make(capacity=3)
        for number in range(3):
            layer.send("a", {"n": number})
            self.clock.advance(2)
        self.assertRaises(ChannelFull, layer.send, "a", {})
        layer.receive(["a"])
        self.assertEqual(
            layer.channel_statistics("a"),
            {"messages_count": 3, "channel_full_count": 1, "messages_pending": 2, "messages_max_age": 4.0},
        )

    def test_of_an_unknown_channel(self) -> None:
        """A channel that was never used has zeros."""
        self.assertEqual(set(self.make().channel_statistics("a").values()), {0})

    def test_of_a_process_specific_channel(self) -> None:
        """The figures of ``name!…`` are those of ``name!``."""
        layer = self.make()
        layer.send("a!1", {})
        layer.send("a!2", {})
        self.assertEqual(layer.channel_statistics("a!9")["messages_pending"], 2)

    def test_age_in_a_lane_at_work(self) -> None:
        """A message that waits for an earlier one of its lane is as old as any other."""
        layer = self.make()
        for number in (1, 2):
            layer.submit(RECEIVE, {"reply_channel": "r!1", "n": number})
        layer.queues.take([RECEIVE])
        self.clock.advance(5)
        figures = layer.channel_statistics(RECEIVE)
        self.assertEqual((figures["messages_pending"], figures["messages_max_age"]), (1, 5.0))

    def test_of_the_layer(self) -> None:
        """The layer's figures are sums over its channels, and count groups, members and losses."""
        layer = self.make(capacity=2, expiry=10)
        for channel in ("a", "a", "b"):
            layer.send(channel, {"n": 1})
        self.assertRaises(ChannelFull, layer.send, "a", {})
        for group, member in (("g", "a"), ("g", "c"), ("h", "a")):
            layer.group_add(group, member)
        layer.send_group("g", {"n": 2})
        self.expect_logged("'a'", "channel full")
        self.assertEqual(
            layer.global_statistics(),
            {
                "messages_count": 4, "channel_full_count": 2, "messages_pending": 4, "groups": 2, "group_members": 3,
                "lost": {"channel full": 1},
            },
        )  # fmt: skip

    def test_queues_are_forgotten(self) -> None:
        """A queue that stays empty is forgotten after two sweeps, so that names used once cost nothing."""
        layer = self.make()
        layer.send("once", {})
        layer.receive(["once"])
        layer.send("kept", {})
        layer.sweep()
        self.assertIn("once", layer.queues.names())
        layer.sweep()
        self.assertEqual(layer.queues.names(), ["kept"])

    def test_counters_are_kept(self) -> None:
        """No counter goes back when a queue is forgotten, or all are; they go on when the channel is used again."""
        layer = self.make(capacity=1)
        single = layer.new_channel("single?")
        for channel in ("once", single):
            layer.send(channel, {})
            self.assertRaises(ChannelFull, layer.send, channel, {})
            layer.receive([channel])
        before = layer.channel_statistics("once"), layer.global_statistics()
        for _ in range(3):
            layer.sweep()
        self.assertEqual(layer.queues.names(), [])
        self.assertEqual((layer.channel_statistics("once"), layer.global_statistics()), before)
        layer.send("once", {})
        layer.flush()
        figures = layer.channel_statistics("once")
        self.assertEqual((figures["messages_count"], figures["channel_full_count"]), (2, 1))
        figures = layer.global_statistics()
        self.assertEqual((figures["messages_count"], figures["channel_full_count"]), (3, 2))
        for number in range(PAST_KEPT + 10):  # its own memory is limited
            layer.queues._past.keep(f"name.{number}", 1, 0)
        self.assertLessEqual(len(layer.queues._past._messages), PAST_KEPT)

    def test_many_channels_are_swept_in_parts(self) -> None:
        """However many channels, messages or members expire together: a part at a time, and a line or two."""
        for names in (5000, 1):
            layer = self.make(capacity=10_000, expiry=10, group_expiry=10)
            for number in range(5000):
                layer.send(f"many.{number % names}", {})
                layer.group_add(f"group.{number % names}", f"many.{number}")
            self.clock.advance(11)
            lost = parts = 0
            more = True
            while more:
                more = layer.sweep()
                before, lost = lost, layer.drops.totals().get("expired", 0)
                parts += 1
                self.assertLessEqual(lost - before, 2 * SWEPT_AT_ONCE)
            self.assertGreaterEqual(parts, 5)
            self.assertEqual((lost, layer.global_statistics()["messages_pending"]), (5000, 0))
            self.assertEqual(layer.global_statistics()["group_members"], 0)
            self.expect_logged("1 message(s) to 'many.", "expired")
            self.clock.advance(60)
            layer.sweep()
            self.expect_logged("4999 message(s) to 'many.", "60 s: expired")

    def test_queues_in_use_are_not_forgotten(self) -> None:
        """A queue that was used between two sweeps is kept."""
        layer = self.make()
        for _ in range(3):
            layer.send("often", {})
            layer.receive(["often"])
            layer.sweep()
        self.assertEqual(layer.channel_statistics("often")["messages_count"], 3)


class FlushTests(LayerTestCase):
    """Forgetting everything."""

    def test_messages_and_groups(self) -> None:
        """All messages, lanes and memberships are gone; the layer can be used on."""
        layer = self.make()
        layer.send("a", {"n": 1})
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 1})
        layer.group_add("g", "a")
        layer.flush()
        self.assertEqual(layer.receive(["a", RECEIVE]), (None, None))
        self.assertEqual(layer.group_channels("g"), [])
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 2})
        self.assertEqual(self.all_of(layer, RECEIVE), [2])

    def test_lane_at_work(self) -> None:
        """A message that is being consumed keeps its lane; later ones wait for it as before."""
        layer = self.make()
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 1})
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 2})
        taken = layer.queues.take([RECEIVE])
        assert taken is not None
        layer.flush()
        layer.submit(RECEIVE, {"reply_channel": "r!1", "n": 3})
        self.assertIsNone(layer.queues.take([RECEIVE]))
        layer.queues.finish(taken)
        self.assertEqual(self.all_of(layer, RECEIVE), [3])

    def test_those_who_wait_for_room_are_called(self) -> None:
        """Flushing makes room."""
        layer, told = self.make(capacity=1), []
        layer.send("a", {})
        layer.when_room("a", {}, lambda: told.append(1))
        layer.flush()
        self.assertEqual(told, [1])


class LossTests(StrictTestCase):
    """Counting losses, and logging them in few lines."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.drops = DropCounter(self.clock.seconds)

    def test_first_at_once(self) -> None:
        """The first loss is logged at once, with the number, the name, the reason and the hint."""
        self.drops.record(Reason.SLOW_READER, "a", 3, hint="do something")
        line = self.expect_logged("3 message(s)")
        self.assertEqual(line, "3 message(s) to 'a' lost: slow reader; do something")

    def test_further_ones_once_a_minute(self) -> None:
        """Further losses of a kind are counted, but logged only as a sum, a minute later."""
        self.drops.record(Reason.FULL, "a")
        self.expect_logged("1 message(s)")
        for _ in range(50):
            self.clock.advance(1)
            self.drops.record(Reason.FULL, "a")
        self.assertEqual(self.logged, [])
        self.clock.advance(10)
        self.drops.record(Reason.FULL, "a")
        self.expect_logged("51 message(s)", "60 s")
        self.drops.record(Reason.FULL, "a")
        self.assertEqual(self.logged, [])
        self.assertEqual(self.drops.totals(), {"channel full": 53})

    def test_the_kind_is_the_reason(self) -> None:
        """Another reason is logged at once; another channel's losses are part of the sum."""
        self.drops.record(Reason.FULL, "a")
        self.expect_logged("'a'", "full")
        self.drops.record(Reason.EXPIRED, "a")
        self.expect_logged("'a'", "expired")
        for number in range(5000):
            self.drops.record(Reason.FULL, f"reply.{number}")
        self.assertEqual(self.logged, [])
        self.clock.advance(60)
        self.drops.flush()
        line = self.expect_logged("5000 message(s)", "60 s")
        self.assertEqual(line, "5000 message(s) to 'reply.0', 'reply.1', 'reply.2', … lost in 60 s: channel full")
        self.assertEqual(self.drops.totals(), {"channel full": 5001, "expired": 1})

    def test_last_ones_are_logged_too(self) -> None:
        """DropCounter that no further one follows are logged with a later sweep, not forgotten."""
        layer = InMemoryChannelLayer(capacity=1, expiry=1000, clock=self.clock.seconds)
        layer.group_add("g", "a")
        layer.send("a", {})
        for _ in range(500):
            layer.send_group("g", {})
        self.expect_logged("1 message(s)", "'a'")
        self.clock.advance(59)
        layer.send_group("g", {})
        layer.sweep()
        self.assertEqual(self.logged, [])
        self.clock.advance(1)
        layer.sweep()
        self.expect_logged("500 message(s)", "'a'", "60 s")
        self.clock.advance(100)
        layer.sweep()
        self.assertEqual(self.logged, [], "logged twice")

    def test_one_line_a_minute(self) -> None:
        """After a sum, too, it takes a minute until the next one."""
        self.drops.record(Reason.FULL, "a")
        for _ in range(3):
            self.expect_logged("'a'")
            for _ in range(6):
                self.drops.record(Reason.FULL, "a")
                self.clock.advance(10)
                self.assertEqual(self.logged, [])
                self.drops.flush()
        self.expect_logged("6 message(s)", "60 s")

    def test_threads(self) -> None:
        """No count is lost, whichever threads count."""
        threads = [threading.Thread(target=self.hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(self.drops.totals(), {"channel full": 8000})
        self.expect_logged("'a'")

    def hammer(self) -> None:
        for _ in range(2000):
            self.drops.record(Reason.FULL, "a")


class QueueTestCase(StrictTestCase):
    """Work queues with ordered channels."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.drops = DropCounter(self.clock.seconds)
        self.queues = self.make()

    def make(self, capacity: int = 1000, lane_limit: int = 100) -> WorkQueues:
        """Return queues; connect, receive and disconnect are ordered."""
        ordered = (CONNECT, RECEIVE, DISCONNECT)
        return WorkQueues(lambda name: capacity, 60.0, self.clock.seconds, self.drops, ordered, lane_limit)

    def put(self, channel: str, key: str | None, number: int, urgent: bool = False) -> None:
        """Put in a message of a lane."""
        content: dict[str, Any] = {"n": number}
        if key is not None:
            content["reply_channel"] = key
        self.queues.put(channel, content, urgent=urgent)

    def take(self, *channels: str) -> Delivery:
        """Take a message, which must be there."""
        delivery = self.queues.take(channels or (CONNECT, RECEIVE, DISCONNECT))
        assert delivery is not None, "nothing to take"
        return delivery

    def assertNothing(self, *channels: str) -> None:
        """Assert that no message can be taken now."""
        self.assertIsNone(self.queues.take(channels or (CONNECT, RECEIVE, DISCONNECT)))
        self.assertFalse(self.queues.has_work(channels or (CONNECT, RECEIVE, DISCONNECT)))


class ByteTests(QueueTestCase):
    """Large texts and bytes count until their message is finished: for its lane, and for all queues."""

    def put_bytes(self, key: str | None, data: str | bytes, channel: str = RECEIVE) -> None:
        self.queues.put(channel, {"reply_channel": key, "text" if isinstance(data, str) else "bytes": data})

    def when_room(self, key: str, data: str | bytes, calls: list[str]) -> bool:
        content = {"reply_channel": key, "bytes": data}
        return self.queues.when_room(RECEIVE, content, lambda: calls.append(key))

    def test_real_size(self) -> None:
        """A character outside the Basic Multilingual Plane makes each of its text take four bytes."""
        self.put_bytes("r!1", "x" * 2000)
        self.put_bytes("r!2", "x" * 2000 + "\N{GRINNING FACE}")
        self.put_bytes("r!3", "x" * 1000)
        self.assertTrue(10_000 < self.queues.bytes < 10_300, self.queues.bytes)
        while (delivery := self.queues.take((RECEIVE,))) is not None:
            self.queues.finish(delivery)
            self.queues.finish(delivery)
        self.assertEqual(self.queues.bytes, 0)

    def test_lane_is_full(self) -> None:
        """A lane has room for LANE_BYTES; who did not fit is called when half of that is finished."""
        calls: list[str] = []
        part = bytes(LANE_BYTES // 4 - 100)
        for _ in range(4):
            self.put_bytes("r!1", part)
        self.assertRaises(ChannelFull, self.put_bytes, "r!1", part)
        self.put(RECEIVE, "r!1", 5)  # a small one fits
        self.put_bytes("r!2", part)
        self.assertFalse(self.when_room("r!1", part, calls))
        for expected in ([], ["r!1"]):
            delivery = self.take()
            while delivery.content["reply_channel"] != "r!1":
                self.queues.finish(delivery)
                delivery = self.take()
            self.assertEqual(calls, [])
            self.queues.finish(delivery)
            self.assertEqual(calls, expected)
        self.assertTrue(self.when_room("r!1", part, calls))

    def test_one_message_always_fits(self) -> None:
        """However large it is."""
        calls: list[str] = []
        self.put_bytes("r!1", bytes(2 * LANE_BYTES))
        self.assertRaises(ChannelFull, self.put_bytes, "r!1", bytes(2000))
        self.assertFalse(self.when_room("r!1", bytes(2000), calls))
        delivery = self.take()
        self.assertRaises(ChannelFull, self.put_bytes, "r!1", bytes(2000))  # it is in hand
        self.queues.finish(delivery)
        self.assertEqual(calls, ["r!1"])

    def test_all_are_full(self) -> None:
        """All queues have room for ``max_bytes``; small messages fit nevertheless."""
        calls: list[str] = []
        self.queues.max_bytes = 100_000
        for number in range(9):
            self.put_bytes(f"r!{number}", bytes(10_000))
        self.assertRaises(ChannelFull, self.put_bytes, "r!x", bytes(10_000))
        self.assertRaises(ChannelFull, self.put_bytes, None, bytes(10_000), "other")
        self.put(CONNECT, "r!x", 1)
        self.assertFalse(self.when_room("r!x", bytes(10_000), calls))
        for _ in range(2):
            self.assertEqual(calls, [])
            self.queues.finish(self.take(RECEIVE))
        self.assertEqual(calls, ["r!x"])
        self.put_bytes("r!x", bytes(10_000))

    def test_put_back(self) -> None:
        """A message that is put back, or waits to be, still counts."""
        self.put_bytes("r!1", bytes(5000))
        size = self.queues.bytes
        for _ in range(3):
            self.queues.put_back(self.take())
            self.assertEqual(self.queues.bytes, size)
        self.queues.finish(self.take())
        self.assertEqual(self.queues.bytes, 0)

    def test_expired_and_flushed(self) -> None:
        """What is dropped does not count any more; what is in hand does until it is finished."""
        self.put_bytes("r!1", bytes(5000))
        self.put_bytes(None, bytes(5000), "other")
        self.clock.advance(61)
        self.queues.sweep()
        self.assertEqual(self.queues.bytes, 0)
        for key in ("r!1", "r!1", "r!2", None):
            self.put_bytes(key, bytes(5000))
        delivery = self.take()
        self.queues.flush()
        self.assertTrue(5000 < self.queues.bytes < 6000)
        self.queues.finish(delivery)
        self.assertEqual(self.queues.bytes, 0)
        self.expect_logged("expired")

    def test_last_messages(self) -> None:
        """While many disconnect messages wait, no new socket is let in: they would have no other limit."""
        self.patch(room, "MOST_LAST", 3)
        for number in range(4):
            self.assertEqual(number == 3, self.is_full(CONNECT, f"r!new{number}"))
            self.put(DISCONNECT, f"r!{number}", number, urgent=True)
        self.assertFalse(self.is_full(RECEIVE, "r!new"))
        self.queues.finish(self.take(DISCONNECT))
        self.queues.finish(self.take(DISCONNECT))
        self.queues.finish(self.take(CONNECT))
        self.assertFalse(self.is_full(CONNECT, "r!new"))

    def is_full(self, channel: str, key: str) -> bool:
        try:
            self.put(channel, key, 0)
        except ChannelFull:
            return True
        return False


class LaneTests(QueueTestCase):
    """The messages of one socket, one at a time and in order."""

    def test_one_at_a_time(self) -> None:
        """The next message of a lane is handed out when the one before is finished."""
        for number in range(3):
            self.put(RECEIVE, "r!1", number)
        for number in range(3):
            delivery = self.take()
            self.assertEqual(delivery.content["n"], number)
            self.assertNothing()
            self.queues.finish(delivery)
        self.assertNothing()

    def test_across_channels(self) -> None:
        """Connect, receive and disconnect of one socket are one lane, in the order they were put in."""
        for number, channel in enumerate((CONNECT, RECEIVE, RECEIVE, DISCONNECT)):
            self.put(channel, "r!1", number)
        order = []
        for _ in range(4):
            delivery = self.take(DISCONNECT, RECEIVE, CONNECT)
            order.append((delivery.channel, delivery.content["n"]))
            self.assertNothing()
            self.queues.finish(delivery)
        self.assertEqual(order, [(CONNECT, 0), (RECEIVE, 1), (RECEIVE, 2), (DISCONNECT, 3)])

    def test_lanes_are_parallel(self) -> None:
        """Different lanes do not wait for each other."""
        for number in range(2):
            for key in ("r!1", "r!2", "r!3"):
                self.put(RECEIVE, key, number)
        taken = [self.take() for _ in range(3)]
        self.assertEqual([delivery.content["reply_channel"] for delivery in taken], ["r!1", "r!2", "r!3"])
        self.assertNothing()
        self.queues.finish(taken[1])
        delivery = self.take()
        self.assertEqual((delivery.content["reply_channel"], delivery.content["n"]), ("r!2", 1))
        self.assertNothing()

    def test_other_channels_have_no_lanes(self) -> None:
        """On all other channels, and without a reply channel, messages do not wait for each other."""
        for number in range(2):
            self.put("http.request", "r!1", number)
            self.put(RECEIVE, None, number)
        self.assertEqual([self.take("http.request").content["n"] for _ in range(2)], [0, 1])
        self.assertEqual([self.take(RECEIVE).content["n"] for _ in range(2)], [0, 1])

    def test_reply_channel_that_is_no_text(self) -> None:
        """A reply channel which is no text makes no lane, and no error."""
        for value in (None, 7, ["r!1"]):
            self.queues.put(RECEIVE, {"reply_channel": value})
        for _ in range(3):
            self.take(RECEIVE)

    def test_finish_twice(self) -> None:
        """Finishing a message twice does not let two messages of the lane run at once."""
        for number in range(3):
            self.put(RECEIVE, "r!1", number)
        first = self.take()
        self.queues.finish(first)
        self.take()
        self.queues.finish(first)
        self.assertNothing()

    def test_put_back_goes_to_the_front(self) -> None:
        """A message that is put back comes before the later ones of its lane."""
        for number in range(3):
            self.put(RECEIVE, "r!1", number)
        delivery = self.take()
        self.assertNothing()
        self.queues.put_back(delivery)
        order = []
        for _ in range(3):
            delivery = self.take()
            order.append(delivery.content["n"])
            self.assertNothing()
            self.queues.finish(delivery)
        self.assertEqual(order, [0, 1, 2])

    def test_put_back_keeps_the_channel(self) -> None:
        """A connect message that is put back holds the receive messages behind it."""
        self.put(CONNECT, "r!1", 0)
        delivery = self.take()
        self.put(RECEIVE, "r!1", 1)
        self.queues.put_back(delivery)
        self.assertNothing(RECEIVE)
        self.queues.finish(self.take(CONNECT))
        self.assertEqual(self.take(RECEIVE).content["n"], 1)

    def test_put_back_without_lane_goes_to_the_end(self) -> None:
        """Any other message that is put back goes to the end of its channel."""
        for number in range(3):
            self.put("a", None, number)
        self.queues.put_back(self.take("a"))
        self.assertEqual([self.take("a").content["n"] for _ in range(3)], [1, 2, 0])

    def test_put_back_needs_no_room(self) -> None:
        """A message that is put back has its place, though the channel has filled up meanwhile."""
        self.queues = self.make(capacity=2)
        self.put("a", None, 0)
        delivery = self.take("a")
        self.put("a", None, 1)
        self.put("a", None, 2)
        self.queues.put_back(delivery)
        self.assertEqual([self.take("a").content["n"] for _ in range(3)], [1, 2, 0])

    def test_put_back_of_a_process_specific_channel(self) -> None:
        """A message to ``name!x`` goes back into the queue of ``name!``."""
        self.put("a!x", None, 0)
        self.queues.put_back(self.take("a!"))
        self.assertEqual(self.take("a!").channel, "a!x")

    def test_limit(self) -> None:
        """So many messages of one lane may wait; those of other lanes, and urgent ones, still go in."""
        self.queues = self.make(lane_limit=3)
        for number in range(3):
            self.put(RECEIVE, "r!1", number)
        with self.assertRaises(ChannelFull) as caught:
            self.put(RECEIVE, "r!1", 3)
        self.assertIn("'r!1'", str(caught.exception))
        self.put(RECEIVE, "r!2", 0)
        self.put(DISCONNECT, "r!1", 4, urgent=True)
        self.assertEqual(self.queues.statistics(RECEIVE)["channel_full_count"], 1)

    def test_message_at_work_does_not_count(self) -> None:
        """The limit is for messages that wait, not for the one being consumed."""
        self.queues = self.make(lane_limit=1)
        self.put(RECEIVE, "r!1", 0)
        self.assertRaises(ChannelFull, self.put, RECEIVE, "r!1", 1)
        self.take()
        self.put(RECEIVE, "r!1", 1)

    def test_finished_lanes_leave_nothing_behind(self) -> None:
        """A lane without messages takes no memory."""
        for number in range(10):
            self.put(CONNECT, f"r!{number}", 0)
        for _ in range(10):
            self.queues.finish(self.take())
        self.assertEqual(self.queues._lanes, {})

    def test_refused_messages_leave_nothing_behind(self) -> None:
        """A message for which there was no room leaves no lane, and asking for room leaves none either."""
        self.queues = self.make(capacity=1)
        self.put(RECEIVE, "r!0", 0)
        for number in range(1, 10):
            self.assertRaises(ChannelFull, self.put, RECEIVE, f"r!{number}", 0)
        self.queues.finish(self.take())
        self.assertTrue(self.queues.when_room(RECEIVE, {"reply_channel": "r!1"}, lambda: None))
        self.assertEqual(self.queues._lanes, {})

    def test_threads(self) -> None:
        """With several threads, each lane is consumed in order and by one thread at a time."""
        lanes, each = 8, 60
        seen: dict[str, list[int]] = {f"r!{lane}": [] for lane in range(lanes)}
        at_work: set[str] = set()
        problems: list[str] = []
        left = threading.Semaphore(0)
        total = lanes * each

        def consume() -> None:
            while True:
                left.acquire()
                delivery = self.queues.take((CONNECT, RECEIVE, DISCONNECT))
                if delivery is None:
                    if len(finished) >= total:
                        return
                    continue
                key = delivery.content["reply_channel"]
                if key in at_work:
                    problems.append(key)
                at_work.add(key)
                seen[key].append(delivery.content["n"])
                at_work.discard(key)
                finished.append(1)
                self.queues.finish(delivery)
                if len(finished) >= total:
                    left.release(8)

        finished: list[int] = []
        self.queues.listen((CONNECT, RECEIVE, DISCONNECT), left.release)
        threads = [threading.Thread(target=consume, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(each):
            for key in seen:
                self.put((CONNECT, RECEIVE, DISCONNECT)[number % 3], key, number)
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(problems, [])
        self.assertEqual(seen, {key: list(range(each)) for key in seen})


class RoomTests(QueueTestCase):
    """Waiting for room."""

    def test_room_now(self) -> None:
        """If there is room, that is the answer, and nobody is called later."""
        told: list[int] = []
        self.assertTrue(self.queues.when_room("a", {}, lambda: told.append(1)))
        self.put("a", None, 1)
        self.take("a")
        self.assertEqual(told, [])

    def test_called_once(self) -> None:
        """If there is none, the callback is called once, when a quarter of the channel is free."""
        self.queues = self.make(capacity=8)
        told: list[int] = []
        for number in range(8):
            self.put("a", None, number)
        self.assertFalse(
            self.queues.when_room("a", {}, lambda: told.append(self.queues.statistics("a")["messages_pending"]))
        )
        for _ in range(8):
            self.take("a")
        self.assertEqual(told, [6])

    def test_smallest_channel(self) -> None:
        """Also in a channel for one message the callback comes."""
        for capacity in (1, 2, 3):
            self.queues = self.make(capacity=capacity)
            told: list[int] = []
            for number in range(capacity):
                self.put("a", None, number)
            self.assertFalse(self.queues.when_room("a", {}, lambda told=told: told.append(1)))
            for _ in range(capacity):
                self.take("a")
            self.assertEqual(told, [1], capacity)

    def test_process_specific(self) -> None:
        """For ``name!x`` the room of ``name!`` counts."""
        self.queues = self.make(capacity=1)
        told: list[int] = []
        self.put("a!x", None, 0)
        self.assertFalse(self.queues.when_room("a!y", {}, lambda: told.append(1)))
        self.take("a!")
        self.assertEqual(told, [1])

    def test_full_lane(self) -> None:
        """If the lane is full, the callback comes when half of it is free."""
        self.queues = self.make(lane_limit=4)
        told: list[int] = []
        for number in range(4):
            self.put(RECEIVE, "r!1", number)
        content = {"reply_channel": "r!1"}
        self.assertTrue(self.queues.when_room(RECEIVE, {"reply_channel": "r!2"}, lambda: None))
        self.assertFalse(self.queues.when_room(RECEIVE, content, lambda: told.append(1)))
        self.queues.finish(self.take())
        self.assertEqual(told, [])
        self.queues.finish(self.take())
        self.assertEqual(told, [1])
        self.queues.finish(self.take())
        self.queues.finish(self.take())
        self.assertEqual(told, [1])
        self.assertNotIn("r!1", self.queues._lanes)

    def test_few_beside_many(self) -> None:
        """A full channel takes a message of a socket that has none waiting, so that others do not keep it out."""
        self.queues = self.make(capacity=8, lane_limit=100)
        for number in range(8):
            self.put(RECEIVE, "r!1", number)
        self.assertRaises(ChannelFull, self.put, RECEIVE, "r!1", 8)
        self.assertTrue(self.queues.when_room(RECEIVE, {"reply_channel": "r!2"}, lambda: None))
        self.put(RECEIVE, "r!2", 9)
        self.assertRaises(ChannelFull, self.put, RECEIVE, "r!2", 10)
        for number in range(3, 5):
            self.put(RECEIVE, f"r!{number}", number)
        self.assertRaises(ChannelFull, self.put, RECEIVE, "r!5", 11)  # there are many such sockets

    def test_everything_forgotten(self) -> None:
        """Who waits for room in a channel or in a lane is called when all messages are forgotten."""
        queues = self.queues = self.make(capacity=3, lane_limit=2)
        called: list[str] = []
        for number in range(2):
            self.put(RECEIVE, "r!1", number)
        self.assertFalse(queues.when_room(RECEIVE, {"reply_channel": "r!1"}, lambda: called.append("lane")))
        self.put(RECEIVE, "r!2", 2)
        self.assertFalse(queues.when_room(RECEIVE, {"reply_channel": "r!3"}, lambda: called.append("channel")))
        queues.flush()
        self.assertEqual(sorted(called), ["channel", "lane"])
        queues.flush()
        self.assertEqual(len(called), 2)

    def test_callback_may_use_the_queues(self) -> None:
        """Callbacks and listeners are called without the lock, so they may put and take."""
        self.queues = self.make(capacity=1)
        self.put("a", None, 0)
        self.queues.when_room("a", {}, lambda: self.put("a", None, 1))
        heard: list[bool] = []
        self.queues.listen(["a"], lambda: heard.append(self.queues.has_work(["a"])))
        self.take("a")
        self.assertEqual(heard, [True])
        self.assertEqual(self.take("a").content["n"], 1)

    def test_no_sender_waits_for_ever(self) -> None:
        """Senders that wait for room, whatever the threads do, all get it in the end."""
        self.queues = self.make(capacity=5)
        received: list[int] = []

        def send(first: int) -> None:
            for number in range(first, first + 100):
                room = threading.Event()
                while True:
                    try:
                        self.put("a", None, number)
                        break
                    except ChannelFull:
                        if not self.queues.when_room("a", {}, room.set):
                            assert room.wait(PATIENCE)
                        room.clear()

        work = threading.Semaphore(0)
        self.queues.listen(["a"], work.release)
        senders = [threading.Thread(target=send, args=(first,)) for first in (0, 100, 200)]
        for sender in senders:
            sender.start()
        while len(received) < 300:
            self.assertTrue(work.acquire(timeout=PATIENCE))
            received.append(self.take("a").content["n"])
        for sender in senders:
            sender.join(PATIENCE)
        self.assertEqual(sorted(received), list(range(300)))


class WaitingSenderTests(LayerTestCase):
    """Sends whose thread waits for room."""

    def test_room_in_time(self) -> None:
        """The send goes on when there is room."""
        layer = self.make(capacity=1)
        layer.send("a", {"n": 0})
        asked = threading.Event()
        when_room = layer.queues.when_room

        def watched(*arguments: Any) -> bool:
            answer = when_room(*arguments)
            asked.set()
            return answer

        self.patch(layer.queues, "when_room", watched)
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(layer.dispatch_waiting("a", {"n": 1}, PATIENCE)))
        thread.start()
        self.assertTrue(asked.wait(PATIENCE))
        layer.receive(["a"])
        thread.join(PATIENCE)
        self.assertEqual(results, [True])
        self.assertEqual(self.all_of(layer, "a"), [1])

    def test_no_room_in_time(self) -> None:
        """Without room in time, the answer is no, and nothing was sent."""
        layer = self.make(capacity=1)
        layer.send("a", {"n": 0})
        self.assertFalse(layer.dispatch_waiting("a", {"n": 1}, 0.0))
        self.assertEqual(self.all_of(layer, "a"), [0])

    def test_connection(self) -> None:
        """A message to a connection goes to its outlet, whose answer counts."""
        layer, outlet = self.make(), FakeOutlet("r!1")
        layer.attach("r!", outlet)
        self.assertTrue(layer.dispatch_waiting("r!1", {"n": 1}, 5.0))
        self.assertFalse(layer.dispatch_waiting("r!2", {"n": 1}, 5.0))
        self.assertEqual(outlet.delivered, [("r!1", {"n": 1})])


class ListenTests(QueueTestCase):
    """Being told of work."""

    def listening(self, *channels: str) -> list[str]:
        """Return a list which grows with each call of a listener."""
        told: list[str] = []
        self.queues.listen(channels, lambda: told.append("work"))
        return told

    def test_each_message(self) -> None:
        """A listener is called for each message that can be taken, of its channels alone."""
        told = self.listening("a", "b")
        for channel in ("a", "b", "c", "a"):
            self.put(channel, None, 0)
        self.assertEqual(len(told), 3)

    def test_lanes(self) -> None:
        """For a message behind another of its lane it is called when that one is finished."""
        told = self.listening(RECEIVE)
        self.put(RECEIVE, "r!1", 0)
        self.put(RECEIVE, "r!1", 1)
        self.assertEqual(len(told), 1)
        delivery = self.take()
        self.put(RECEIVE, "r!1", 2)
        self.assertEqual(len(told), 1)
        self.queues.finish(delivery)
        self.assertEqual(len(told), 2)

    def test_lane_that_goes_on_elsewhere(self) -> None:
        """If the lane goes on in another channel, the listeners of that one are called."""
        self.put(CONNECT, "r!1", 0)
        self.put(RECEIVE, "r!1", 1)
        told = self.listening(RECEIVE)
        self.queues.finish(self.take())
        self.assertEqual(len(told), 1)

    def test_put_back(self) -> None:
        """A message that is put back is work again."""
        self.put("a", None, 0)
        self.put(RECEIVE, "r!1", 0)
        taken = [self.take("a"), self.take(RECEIVE)]
        told = self.listening("a", RECEIVE)
        for delivery in taken:
            self.queues.put_back(delivery)
        self.assertEqual(len(told), 2)

    def test_process_specific(self) -> None:
        """A listener to ``name!`` hears of messages to ``name!x``."""
        told = self.listening("a!")
        self.put("a!x", None, 0)
        self.assertEqual(len(told), 1)

    def test_several_listeners(self) -> None:
        """All listeners of a channel are called, until they listen no more."""
        calls: list[str] = []

        def first() -> None:
            calls.append("first")

        def second() -> None:
            calls.append("second")

        self.queues.listen(["a", "b"], first)
        self.queues.listen(["a"], second)
        self.put("a", None, 0)
        self.queues.unlisten(["a"], first)
        self.put("a", None, 1)
        self.put("b", None, 2)
        self.queues.unlisten(["a", "b"], second)
        self.queues.unlisten(["never.listened"], second)
        self.put("a", None, 3)
        self.assertEqual(calls, ["first", "second", "second", "first"])

    def test_refused_message(self) -> None:
        """A message that does not go in is no work."""
        self.queues = self.make(capacity=1)
        self.put("a", None, 0)
        told = self.listening("a")
        self.assertRaises(ChannelFull, self.put, "a", None, 1)
        self.assertEqual(told, [])


class FairnessTests(QueueTestCase):
    """Busy channels beside quiet ones."""

    def test_quiet_channel(self) -> None:
        """Among several channels, a message in a quiet one waits for no more messages than there are channels."""
        channels = ("a", "b", "c", "quiet")
        for number in range(50):
            for channel in channels[:3]:
                self.put(channel, None, number)
        self.put("quiet", None, 0)
        first = [self.take(*channels).channel for _ in range(4)]
        self.assertIn("quiet", first)

    def test_each_gets_its_share(self) -> None:
        """Busy channels are served in turn."""
        for number in range(50):
            self.put("a", None, number)
            self.put("b", None, number)
        taken = [self.take("a", "b").channel for _ in range(20)]
        self.assertEqual((taken.count("a"), taken.count("b")), (10, 10))

    def test_other_takers_do_not_disturb(self) -> None:
        """Who takes from other channels in between does not turn the turns into nothing."""
        for number in range(200):
            for channel in ("a", "b"):
                self.put(channel, None, number)
        for others in (("c",), ("c", "d"), ("c", "d", "e")):
            taken = []
            for _ in range(24):
                taken.append(self.take("a", "b").channel)
                self.queues.take(others)
            self.assertGreaterEqual(taken.count("a"), 4, others)
            self.assertGreaterEqual(taken.count("b"), 4, others)

    def test_lanes_share_a_channel(self) -> None:
        """A socket that floods its channel does not keep another one waiting."""
        for number in range(50):
            self.put(RECEIVE, "r!busy", number)
        self.put(RECEIVE, "r!quiet", 0)
        first = self.take()
        self.queues.finish(first)
        self.assertEqual(self.take().content["reply_channel"], "r!quiet")


class FakeOutlet:
    """The open connections of a process."""

    def __init__(self, *channels: str) -> None:
        self.open = set(channels)
        self.delivered: list[Any] = []

    def __contains__(self, channel: object) -> bool:
        return channel in self.open

    def client_of(self, channel: str) -> Any:
        return None

    def deliver(self, channel: str, content: dict[str, Any]) -> None:
        self.delivered.append((channel, content))

    def deliver_group(self, channels: Collection[str], content: dict[str, Any]) -> None:
        self.delivered.append((sorted(channels), content))

    def deliver_waiting(self, channel: str, content: dict[str, Any], timeout: float) -> bool:
        if channel in self.open:
            self.delivered.append((channel, content))
        return channel in self.open


class OutletTests(LayerTestCase):
    """Messages to the connections of this process."""

    def test_not_queued(self) -> None:
        """A message to an outlet's channel is passed to it at once; others are queued."""
        layer, outlet = self.make(capacity=1), FakeOutlet("r!1")
        layer.attach("r!", outlet)
        for number in range(5):
            layer.send("r!1", {"n": number})
        layer.send("other!1", {"n": 9})
        self.assertEqual([content["n"] for _, content in outlet.delivered], [0, 1, 2, 3, 4])
        self.assertEqual(layer.receive(["r!"]), (None, None))
        self.assertEqual(layer.receive(["other!"])[1], {"n": 9})

    def test_there_is_always_room(self) -> None:
        """A connection has its own buffer, so its channel always has room."""
        layer = self.make(capacity=1)
        layer.attach("r!", FakeOutlet("r!1"))
        self.assertTrue(layer.when_room("r!1", {}, lambda: None))

    def test_group_goes_as_one(self) -> None:
        """A group send reaches each outlet as one call with all its members, and ordinary members each by a copy."""
        layer, first, second = self.make(), FakeOutlet("r!1", "r!2"), FakeOutlet("s!1")
        layer.attach("r!", first)
        layer.attach("s!", second)
        for channel in ("r!1", "s!1", "a", "r!2", "b"):
            layer.group_add("g", channel)
        layer.send_group("g", {"n": [1]})
        self.assertEqual(first.delivered, [(["r!1", "r!2"], {"n": [1]})])
        self.assertEqual(second.delivered, [(["s!1"], {"n": [1]})])
        contents = [layer.receive([channel])[1] for channel in ("a", "b")]
        self.assertEqual(contents, [{"n": [1]}, {"n": [1]}])
        assert contents[0] and contents[1]
        self.assertIsNot(contents[0]["n"], contents[1]["n"])

    def test_detached(self) -> None:
        """After detaching, its channels are ordinary ones, also for groups that were sent to before."""
        layer, outlet = self.make(), FakeOutlet("r!1")
        layer.attach("r!", outlet)
        layer.group_add("g", "r!1")
        layer.send_group("g", {"n": 1})
        layer.detach("r!")
        layer.send_group("g", {"n": 2})
        layer.send("r!1", {"n": 3})
        self.assertEqual(len(outlet.delivered), 1)
        self.assertEqual(self.all_of(layer, "r!"), [2, 3])

    def test_attached_later(self) -> None:
        """An outlet that is attached later gets what is sent from then on, also through groups sent to before."""
        layer, outlet = self.make(), FakeOutlet("r!1")
        layer.group_add("g", "r!1")
        layer.send_group("g", {"n": 1})
        layer.attach("r!", outlet)
        layer.send_group("g", {"n": 2})
        self.assertEqual(outlet.delivered, [(["r!1"], {"n": 2})])


class GroupTests(LayerTestCase):
    """Memberships."""

    def test_expiry(self) -> None:
        """A membership ends so many seconds after it began."""
        layer = self.make(group_expiry=100)
        layer.group_add("g", "a")
        self.clock.advance(50)
        layer.group_add("g", "b")
        self.clock.advance(49.9)
        self.assertEqual(layer.group_channels("g"), ["a", "b"])
        self.clock.advance(0.1)
        self.assertEqual(layer.group_channels("g"), ["b"])
        layer.send_group("g", {"n": 1})
        self.assertEqual((self.all_of(layer, "a"), self.all_of(layer, "b")), ([], [1]))
        self.clock.advance(50)
        layer.send_group("g", {"n": 2})
        self.assertEqual(self.all_of(layer, "b"), [])
        self.assertEqual(layer.group_channels("g"), [])

    def test_renewal(self) -> None:
        """Adding a member again renews its membership; it is still one member."""
        layer = self.make(group_expiry=100)
        for _ in range(5):
            layer.group_add("g", "a")
            layer.group_add("g", "b")
            self.clock.advance(60)
            layer.group_discard("g", "b")
        layer.send_group("g", {"n": 1})
        self.assertEqual(self.all_of(layer, "a"), [1])
        self.clock.advance(40)
        self.assertEqual(layer.group_channels("g"), [])

    def test_sweep(self) -> None:
        """A sweep ends memberships in groups that nobody looks at."""
        layer = self.make(group_expiry=100)
        layer.group_add("g", "a")
        layer.group_add("h", "a")
        self.clock.advance(100)
        self.assertEqual(layer.global_statistics()["groups"], 2)
        layer.sweep()
        self.assertEqual(layer.global_statistics()["groups"], 0)
        self.assertEqual(layer.groups._groups_of, {})

    def test_forget(self) -> None:
        """When a connection closes, all its memberships end, and nobody else's."""
        layer = self.make()
        for group in ("g", "h"):
            layer.group_add(group, "r!1")
            layer.group_add(group, "a")
        layer.forget("r!1")
        layer.forget("r!unknown")
        self.assertEqual((layer.group_channels("g"), layer.group_channels("h")), (["a"], ["a"]))

    def test_closed_connection_cannot_join(self) -> None:
        """The reply channel of a closed connection is not added, and is not a member through an old list."""
        layer, outlet = self.make(), FakeOutlet("r!1", "r!2")
        layer.attach("r!", outlet)
        layer.group_add("g", "r!1")
        layer.send_group("g", {"n": 1})
        outlet.open.discard("r!1")
        layer.forget("r!1")
        layer.group_add("g", "r!1")
        layer.group_add("g", "r!2")
        layer.send_group("g", {"n": 2})
        self.assertEqual(layer.group_channels("g"), ["r!2"])
        self.assertEqual(outlet.delivered[1:], [(["r!2"], {"n": 2})])

    def test_connection_of_another_process(self) -> None:
        """A reply channel without an outlet here is added: it is another process's business."""
        layer = self.make()
        layer.group_add("g", "elsewhere!1")
        self.assertEqual(layer.group_channels("g"), ["elsewhere!1"])

    def test_lists_are_made_once(self) -> None:
        """The targets of a send are kept until the members change."""
        groups = Groups(100, self.clock.seconds, lambda channel: None)
        groups.add("g", "a")
        first = groups.targets("g")
        self.assertIs(groups.targets("g"), first)
        groups.add("g", "a")
        self.assertIs(groups.targets("g"), first)
        groups.add("g", "b")
        self.assertEqual(groups.targets("g"), ((), ("a", "b")))
        self.assertEqual(first, ((), ("a",)))
        groups.discard("g", "a")
        self.assertEqual(groups.targets("g"), ((), ("b",)))

    def test_losses_name_channel_and_group(self) -> None:
        """A group send to a full member is counted, logged with both names, and reaches the others."""
        layer = self.make(capacity=1)
        layer.group_add("g", "full")
        layer.group_add("g", "free")
        layer.send("full", {"n": 0})
        layer.send_group("g", {"n": 1})
        self.expect_logged("'full'", "'g'", "channel full")
        self.assertEqual(layer.drops.totals(), {"channel full": 1})
        self.assertEqual(self.all_of(layer, "free"), [1])

    def test_members_come_and_go_in_other_threads(self) -> None:
        """While members come and go, a group send raises nothing and loses nothing for those who stay."""
        layer = self.make(capacity=100_000)
        for number in range(5):
            layer.group_add("g", f"stays.{number}")
        problems: list[BaseException] = []
        stop = threading.Event()

        def guarded(function: Callable[[], None]) -> None:
            try:
                function()
            except BaseException as problem:
                problems.append(problem)

        def come_and_go(name: str) -> None:
            chooser = random.Random(name)
            while not stop.is_set():
                channel = f"{name}.{chooser.randrange(30)}"
                chooser.choice((layer.group_add, layer.group_discard))("g", channel)
                if chooser.random() < 0.1:
                    layer.forget(channel)

        def send(sender: int) -> None:
            for number in range(300):
                layer.send_group("g", {"n": [sender, number]})
                layer.group_channels("g")

        movers = [
            threading.Thread(target=guarded, args=(lambda name=name: come_and_go(name),)) for name in ("x", "y", "z")
        ]
        senders = [threading.Thread(target=guarded, args=(lambda number=number: send(number),)) for number in range(3)]
        for thread in movers + senders:
            thread.start()
        for thread in senders:
            thread.join(PATIENCE)
        stop.set()
        for thread in movers:
            thread.join(PATIENCE)
        self.assertEqual(problems, [])
        expected = sorted([sender, number] for sender in range(3) for number in range(300))
        for number in range(5):
            received = self.all_of(layer, f"stays.{number}")
            self.assertEqual(sorted(received), expected)
            for sender in range(3):
                self.assertEqual([n for s, n in received if s == sender], list(range(300)))


class BlockingReceiveTests(SynchronousTestCase):
    """Waiting for a message in a receive."""

    def test_gives_up(self) -> None:
        """Without a message, a blocking receive comes back when its time is over, and listens no more."""
        times = iter([0.0, 0.0, 0.0, 4.999, 5.0, 5.0, 5.0])
        layer = InMemoryChannelLayer(clock=lambda: next(times, 6.0))
        self.assertEqual(layer.receive(["a"], block=True), (None, None))
        layer.queues._listeners and self.fail("still listening")
