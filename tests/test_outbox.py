"""What a consumer sends, held back until it has ended."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async

from channelserver.bridge import Bridge
from channelserver.channel import Channel, Group
from channelserver.layers import ChannelFull, InMemoryChannelLayer
from channelserver.workers import outbox
from channelserver.workers.outbox import Outbox, hold_back
from tests.fakes import PATIENCE, FakeReactor, StrictTestCase


class OutboxTestCase(StrictTestCase):
    """A layer, and a reactor in which the rest of a flush goes on."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = FakeReactor()
        self.layer = InMemoryChannelLayer(capacity=2, expiry=1000, clock=self.reactor.seconds)
        self.call_later = Bridge(self.reactor).call_later
        self.done: list[str] = []

    def send(self, channel: str, number: int, immediately: bool = False) -> None:
        """Send as an application does."""
        Channel(channel, channel_layer=self.layer).send({"n": number}, immediately)

    def received(self, channel: str) -> list[int]:
        """Take all messages out of a channel."""
        found = []
        while (message := self.layer.receive([channel])[1]) is not None:
            found.append(message["n"])
        return found

    def fill(self, channel: str) -> None:
        """Fill a channel with two messages."""
        for number in (-1, -2):
            self.layer.send(channel, {"n": number})

    def outbox_with(self, *entries: tuple[str, int]) -> Outbox:
        """Return an outbox that holds sends to channels."""
        box = Outbox(self.call_later)
        for channel, number in entries:
            box.add(self.layer, False, channel, {"n": number})
        return box


class HoldingBackTests(OutboxTestCase):
    """Which sends are held back."""

    def test_until_the_flush(self) -> None:
        """Sends to channels and groups are held back, and sent by the flush in the order of the calls."""
        Group("g", channel_layer=self.layer).add("a")
        with Outbox(self.call_later) as box:
            self.send("a", 1)
            Group("g", channel_layer=self.layer).send({"n": 2})
            self.assertEqual(self.received("a"), [])
        self.assertEqual(self.received("a"), [])
        box.flush(lambda: self.done.append("done"))
        self.assertEqual(self.received("a"), [1, 2])
        self.assertEqual(self.done, ["done"])

    def test_released(self) -> None:
        """A release sends at once, and raises where a flush would wait."""
        Group("g", channel_layer=self.layer).add("a")
        with Outbox(self.call_later) as box:
            Group("g", channel_layer=self.layer).send({"n": 1})
            self.send("a", 2)
            self.send("a", 3)
        with self.assertRaises(ChannelFull):
            box.release()
        self.assertEqual(self.received("a"), [1, 2])
        box.release()
        self.assertEqual(self.received("a"), [])

    def test_flushed_once(self) -> None:
        """A second flush sends nothing again."""
        box = self.outbox_with(("a", 1))
        box.flush()
        box.flush()
        self.assertEqual(self.received("a"), [1])

    def test_dropped(self) -> None:
        """What was dropped is never sent."""
        box = self.outbox_with(("a", 1))
        box.drop()
        box.flush(lambda: self.done.append("done"))
        self.assertEqual((self.received("a"), self.done), ([], ["done"]))

    def test_immediately(self) -> None:
        """A send that asks for it goes at once, before those held back, and raises if there is no room."""
        with Outbox(self.call_later) as box:
            self.send("a", 1)
            self.send("a", 2, immediately=True)
            self.send("a", 3, immediately=True)
            self.assertRaises(ChannelFull, self.send, "a", 4, immediately=True)
        self.assertEqual(self.received("a"), [2, 3])
        box.flush()
        self.assertEqual(self.received("a"), [1])

    def test_outside(self) -> None:
        """Outside of a consumer, sends go at once, and raise if there is no room."""
        hold_back(self.layer, False, "a", {"n": 1}, False)
        self.send("a", 2)
        self.assertRaises(ChannelFull, self.send, "a", 3)
        self.assertEqual(self.received("a"), [1, 2])
        Group("g", channel_layer=self.layer).add("a")
        hold_back(self.layer, True, "g", {"n": 4}, False)
        self.assertEqual(self.received("a"), [4])

    def test_content_is_that_of_the_call(self) -> None:
        """Altering a content after its send alters nothing, though the send is held back."""
        content = {"n": [1]}
        with Outbox(self.call_later) as box:
            Channel("a", channel_layer=self.layer).send(content)
            content["n"].append(2)
        box.flush()
        self.assertEqual(self.received("a"), [[1]])

    def test_wrong_content_is_an_error_of_the_call(self) -> None:
        """What cannot be sent raises where it is sent, not later."""
        with Outbox(self.call_later):
            self.assertRaises(TypeError, self.send, "a", object())


class ContextTests(OutboxTestCase):
    """Whose sends are held back: those of the consumer, wherever they run."""

    def test_current(self) -> None:
        """The outbox is there inside the block, and not outside, whatever ends the block."""
        self.assertIsNone(outbox.current())
        with Outbox(self.call_later) as box:
            self.assertIs(outbox.current(), box)
        self.assertIsNone(outbox.current())
        with self.assertRaises(ZeroDivisionError), Outbox(self.call_later):
            raise ZeroDivisionError
        self.assertIsNone(outbox.current())

    def test_nested(self) -> None:
        """A consumer run inside another has its own outbox; afterwards the outer one counts again."""
        with Outbox(self.call_later) as outer:
            with Outbox(self.call_later) as inner:
                self.send("inner", 1)
            self.assertIs(outbox.current(), outer)
            self.send("outer", 2)
        inner.flush()
        self.assertEqual((self.received("inner"), self.received("outer")), ([1], []))

    def test_coroutines(self) -> None:
        """Sends of coroutines run for the consumer are held back, in order, and those of threads they use."""

        async def inner() -> None:
            self.send("a", 1)
            await sync_to_async(self.send)("a", 2)

        with Outbox(self.call_later) as box:
            async_to_sync(inner)()
            self.assertEqual(self.received("a"), [])
        box.flush()
        self.assertEqual(self.received("a"), [1, 2])

    def test_threads_of_their_own(self) -> None:
        """A thread that the consumer starts has no outbox, whatever context it gets: its sends go at once."""
        for context in (contextvars.Context, contextvars.copy_context):  # Python 3.14 may do the latter by itself
            with Outbox(self.call_later) as box:
                thread = threading.Thread(target=context().run, args=(self.send, "a", 1))
                thread.start()
                thread.join(PATIENCE)
                self.assertEqual(self.received("a"), [1])
            box.flush()
            self.assertEqual(self.received("a"), [])

    def test_executors(self) -> None:
        """What a consumer runs in an executor with its own context is a part of it."""
        with Outbox(self.call_later) as box, ThreadPoolExecutor(1) as executor:
            executor.submit(contextvars.copy_context().run, self.send, "a", 1).result(PATIENCE)
            executor.submit(self.send, "a", 2).result(PATIENCE)
            self.assertEqual(self.received("a"), [2])
        box.flush()
        self.assertEqual(self.received("a"), [1])

    def test_threads_in_parallel(self) -> None:
        """Consumers that run at the same time in different threads have different outboxes."""
        barrier = threading.Barrier(4)
        boxes: dict[int, Outbox] = {}

        def consume(number: int) -> None:
            with Outbox(self.call_later) as box:
                boxes[number] = box
                barrier.wait(PATIENCE)
                self.send(f"a{number}", number)
                barrier.wait(PATIENCE)

        threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        boxes[2].flush()
        self.assertEqual([self.received(f"a{number}") for number in range(4)], [[], [], [2], []])

    def test_after_the_end(self) -> None:
        """A send by something the consumer left behind, in its context, is outside of a consumer: it goes at once."""
        with Outbox(self.call_later) as box:
            left_behind = contextvars.copy_context()
        box.flush()
        left_behind.run(self.send, "a", 1)
        self.assertEqual(self.received("a"), [1])


class FullChannelTests(OutboxTestCase):
    """Held-back sends to channels without room."""

    def test_the_thread_does_not_wait(self) -> None:
        """The flush returns at once, and is not done; when there is room, the rest is sent, in order."""
        self.fill("full")
        box = self.outbox_with(("a", 1), ("full", 2), ("a", 3), ("full", 4))
        box.flush(lambda: self.done.append("done"))
        self.assertEqual((self.received("a"), self.done), ([1], []))
        self.reactor.pass_time(1)
        self.assertEqual((self.received("a"), self.done), ([], []))
        self.assertEqual(self.received("full"), [-1, -2])
        self.reactor.turn()
        self.assertEqual((self.received("full"), self.received("a"), self.done), ([2, 4], [3], ["done"]))
        self.reactor.pass_time(5)
        self.assertEqual(self.done, ["done"])
        self.assertEqual(self.layer.drops.totals(), {})

    def test_no_polling(self) -> None:
        """While there is no room, nothing is tried again."""
        self.fill("full")
        self.outbox_with(("full", 1)).flush()
        self.reactor.turn()
        tries = self.layer.channel_statistics("full")["channel_full_count"]
        self.reactor.pass_time(1.5)
        self.assertEqual(self.layer.channel_statistics("full")["channel_full_count"], tries)
        self.received("full")
        self.reactor.turn()
        self.assertEqual(self.received("full"), [1])

    def test_full_again_and_again(self) -> None:
        """Messages for several fillings of a channel are sent one filling after the other."""
        self.fill("full")
        self.outbox_with(*(("full", number) for number in range(7))).flush(lambda: self.done.append("done"))
        received = []
        for _ in range(6):
            self.reactor.pass_time(0.25)
            received += self.received("full")
        self.assertEqual(received, [-1, -2, *range(7)])
        self.assertEqual(self.done, ["done"])

    def test_given_up(self) -> None:
        """After two seconds, what does not fit is counted and logged, the other messages are sent, and it is done."""
        self.fill("full")
        self.fill("other")
        box = self.outbox_with(("full", 1), ("a", 2), ("other", 3), ("full", 4), ("a", 5))
        box.flush(lambda: self.done.append("done"))
        self.reactor.pass_time(1.75)
        self.assertEqual(self.done, [])
        self.reactor.pass_time(0.5)
        self.assertEqual(self.done, ["done"])
        self.assertEqual(self.received("a"), [2, 5])
        self.assertEqual(self.layer.drops.totals(), {"channel full": 3})
        self.assertIn("2 s", self.expect_logged("'full'", "channel full"))

    def test_nothing_is_sent_after_giving_up(self) -> None:
        """Room that comes after the two seconds brings nothing back, and it is not done twice."""
        self.fill("full")
        self.outbox_with(("full", 1)).flush(lambda: self.done.append("done"))
        self.reactor.pass_time(3)
        self.assertEqual(self.received("full"), [-1, -2])
        self.reactor.pass_time(3)
        self.assertEqual((self.received("full"), self.done), ([], ["done"]))
        self.expect_logged("'full'")

    def test_room_at_the_last_moment(self) -> None:
        """A message that fits when the two seconds are over is sent."""
        self.fill("full")
        self.outbox_with(("full", 1)).flush(lambda: self.done.append("done"))
        self.reactor.pass_time(1.9)
        self.layer.receive(["full"])  # one place: too little to be told of it
        self.reactor.pass_time(0.2)
        self.assertEqual((self.received("full"), self.done), ([-2, 1], ["done"]))
        self.assertEqual(self.layer.drops.totals(), {})

    def test_group_sends_do_not_wait(self) -> None:
        """A group send to a full member is a loss of that member, not a reason to wait."""
        self.fill("full")
        self.layer.group_add("g", "full")
        box = self.outbox_with(("a", 1))
        box.add(self.layer, True, "g", {"n": 2})
        box.add(self.layer, False, "a", {"n": 3})
        box.flush(lambda: self.done.append("done"))
        self.assertEqual((self.received("a"), self.done), ([1, 3], ["done"]))
        self.expect_logged("'full'", "'g'")

    def test_second_flush_keeps_the_order(self) -> None:
        """What is flushed later does not overtake what an earlier flush of the same consumer still holds."""
        self.fill("full")
        box = self.outbox_with(("full", 1), ("a", 2))
        box.flush()
        box.add(self.layer, False, "a", {"n": 3})
        box.flush(lambda: self.done.append("done"))
        self.assertEqual(self.done, [])
        self.received("full")
        self.reactor.turn()
        self.assertEqual((self.received("a"), self.done), ([2, 3], ["done"]))

    def test_other_errors(self) -> None:
        """A send that fails for another reason is logged; the others are sent, and it is done."""
        broken = InMemoryChannelLayer()
        self.patch(broken, "dispatch", lambda channel, content: 1 / 0)
        box = self.outbox_with(("a", 1))
        box.add(broken, False, "b", {})
        box.add(self.layer, False, "a", {"n": 2})
        box.flush(lambda: self.done.append("done"))
        self.assertEqual((self.received("a"), self.done), ([1, 2], ["done"]))
        self.expect_logged("'b'", "ZeroDivisionError")

    def test_many_at_once(self) -> None:
        """Many consumers wait for the same channel; all their messages arrive, each consumer's in order."""
        self.fill("full")
        for consumer in range(5):
            box = self.outbox_with(*(("full", 10 * consumer + number) for number in range(3)))
            box.flush(lambda: self.done.append("done"))
        received: list[Any] = []
        for _ in range(30):
            received += self.received("full")
            self.reactor.turn()
        self.assertEqual(sorted(received[2:]), sorted(10 * consumer + n for consumer in range(5) for n in range(3)))
        for consumer in range(5):
            self.assertEqual([n % 10 for n in received[2:] if n // 10 == consumer], [0, 1, 2])
        self.assertEqual(len(self.done), 5)
