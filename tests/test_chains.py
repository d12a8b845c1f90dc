"""The order of messages on the application's own channels (rule 7)."""

from __future__ import annotations

import random
import threading
from typing import Any

from channelserver.layers.waiting import Delivery
from channelserver.processes.tickets import HandedOver
from tests.test_layers_memory import QueueTestCase


class ChainTests(QueueTestCase):
    """Messages on one channel with the same reply channel."""

    def fill(self, text: str, channel: str = "a") -> None:
        """Put in messages such as ``x1 y1 x2``: reply channel (``-``: none) and number."""
        for word in text.split():
            self.put(channel, None if word[0] == "-" else word[0], int(word[1:]))

    def word(self, delivery: Delivery) -> str:
        """Return a message as :meth:`fill` names it."""
        return f"{delivery.content.get('reply_channel', '-')}{delivery.content['n']}"

    def taken(self, channel: str = "a", limit: int = 100) -> list[Delivery]:
        """Take what can be taken now."""
        found: list[Delivery] = []
        while len(found) < limit and (delivery := self.queues.take([channel])) is not None:
            found.append(delivery)
        return found

    def words(self, deliveries: list[Delivery]) -> str:
        return " ".join(map(self.word, deliveries))

    def test_one_after_the_other(self) -> None:
        """A message waits until the one before it is finished; others of the channel do not wait."""
        self.fill("x1 x2 y1 -1 x3 y2 -2")
        taken = self.taken()
        self.assertEqual(self.words(taken), "x1 y1 -1 -2")
        self.assertFalse(self.queues.has_work(["a"]))
        self.assertEqual(self.queues.statistics("a")["messages_pending"], 3)
        self.queues.finish(taken[0])
        self.fill("x4")
        (second,) = self.taken()
        self.assertEqual(self.word(second), "x2")
        self.queues.finish(taken[1])
        self.queues.finish(second)
        self.assertEqual(self.words(self.taken()), "x3 y2")

    def test_one_worker_sees_the_order_of_the_sends(self) -> None:
        """Taken one at a time, messages come as they were sent, whatever their reply channels."""
        text = "x1 x2 y1 -1 x3 y2 -2 x4"
        self.fill(text)
        seen = []
        while (delivery := self.queues.take(["a"])) is not None:
            seen.append(self.word(delivery))
            self.queues.finish(delivery)
        self.assertEqual(" ".join(seen), text)
        self.assertEqual(len(self.queues.chains), 0)

    def test_channels_do_not_wait_for_each_other(self) -> None:
        """The same reply channel on another channel, or on a socket's, is another matter."""
        self.fill("x1", "a")
        self.fill("x2", "b")
        self.put("websocket.receive", "x", 3)
        self.assertEqual(self.words([*self.taken("a"), *self.taken("b"), self.take("websocket.receive")]), "x1 x2 x3")

    def test_given_up(self) -> None:
        """Requests have no order; nor has a channel whose routes give it up."""
        self.queues.chains.unordered |= {"a"}
        for channel in ("a", "http.request"):
            self.fill("x1 x2", channel)
            self.assertEqual(self.words(self.taken(channel)), "x1 x2")

    def test_seen_to_by_another_process(self) -> None:
        """What another process has handed over is in order already; finishing it is that process's business."""
        for number in (1, 2):
            self.queues.add(HandedOver("a", {"reply_channel": "x", "n": number}, 0.0, 1000.0))
        self.assertEqual(self.words(self.taken()), "x1 x2")

    def test_put_back(self) -> None:
        """A message that is put back comes before those that wait for it, and after no later one."""
        self.fill("x1 x2 y1 x3")
        first, other = self.taken()
        self.assertEqual(self.words([first, other]), "x1 y1")
        self.queues.put_back(first)
        again = self.taken()
        self.assertEqual(self.words(again), "x1")
        self.queues.restore(again)
        (again_,) = self.taken()
        self.queues.finish(again_)
        self.assertEqual(self.words(self.taken()), "x2")

    def test_shown_and_taken_by_name(self) -> None:
        """A message that must wait is not shown, and cannot be taken."""
        self.fill("x1 x2 y1 -1")
        self.assertEqual(self.words(self.queues.peek(["a"], 10)), "x1 y1 -1")
        first, second = list(self.queues._queues["a"].ready)[:2]
        self.assertFalse(self.queues.take_this(second))
        self.assertTrue(self.queues.take_this(first))
        self.assertEqual(self.words(self.queues.peek(["a"], 10)), "y1 -1")
        self.assertFalse(self.queues.take_this(second))
        self.queues.finish(first)
        self.assertEqual(self.words(self.queues.peek(["a"], 10)), "x2 y1 -1")
        self.assertTrue(self.queues.take_this(second))

    def test_expired(self) -> None:
        """What waits too long behind another message is dropped, counted, and takes no room."""
        self.queues = self.make(capacity=3)
        self.fill("x1 x2 x3")
        (first,) = self.taken()
        self.clock.advance(61)
        self.queues.sweep()
        self.fill("y1 y2 x4")
        self.assertEqual(self.drops.totals(), {"expired": 2})
        self.queues.finish(first)
        self.assertEqual(self.words(self.taken()), "y1 x4")
        self.expect_logged("expired")

    def test_expired_when_taken(self) -> None:
        """An expired message does not hold up the next one."""
        self.fill("x1 x2")
        self.clock.advance(30)
        self.fill("x3")
        self.clock.advance(31)
        self.assertEqual(self.words(self.taken()), "x3")
        self.expect_logged("expired")

    def test_age_and_flush(self) -> None:
        """A waiting message counts with its age; all are forgotten, but not the one that is being consumed."""
        self.fill("x1 x2")
        (first,) = self.taken()
        self.clock.advance(5)
        self.assertEqual(self.queues.statistics("a")["messages_max_age"], 5)
        self.queues.flush()
        self.fill("x3")
        self.assertEqual(self.taken(), [])
        self.queues.finish(first)
        self.assertEqual(self.words(self.taken()), "x3")

    def test_listeners_hear_of_the_next(self) -> None:
        """When a message has become free, who listens hears of it."""
        self.fill("x1 x2")
        (first,) = self.taken()
        calls: list[int] = []
        self.queues.listen(["a"], lambda: calls.append(1))
        self.queues.finish(first)
        self.assertEqual(calls, [1])

    def test_threads(self) -> None:
        """Many threads, messages put back now and then: each reply channel's come one at a time, in order."""
        keys, each = "uvwxyz", 80
        rng = random.Random(16)
        expected = {key: list(range(each)) for key in keys}
        seen: dict[str, list[int]] = {key: [] for key in keys}
        at_work: set[str] = set()
        problems: list[Any] = []
        left = threading.Semaphore(0)
        more = threading.Event()
        self.queues.listen(["a"], more.set)

        def work() -> None:
            while sum(map(len, seen.values())) < each * len(keys):
                delivery = self.queues.take(["a"])
                if delivery is None:
                    more.wait(0.01)
                    more.clear()
                    continue
                key = delivery.content["reply_channel"]
                if key in at_work:
                    problems.append(delivery.content)
                at_work.add(key)
                back = rng.random() < 0.1
                if not back:
                    seen[key].append(delivery.content["n"])
                at_work.discard(key)
                (self.queues.put_back if back else self.queues.finish)(delivery)
            left.release()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for number in range(each):
            for key in keys:
                self.put("a", key, number)
        for thread in threads:
            self.assertTrue(left.acquire(timeout=60))
            thread.join()
        self.assertEqual((seen, problems), (expected, []))
        self.assertEqual(len(self.queues.chains), 0)
