"""Tests that every channel layer must pass (asgiref 1: ``asgiref.conformance``).

Derive from :class:`ConformanceTestCase`, set ``channel_layer`` to a fresh layer in ``setUp``, and run it with any test
runner.
"""

from __future__ import annotations

import threading
import time
import unittest
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from channelserver.layers.base import BaseChannelLayer


class ConformanceTestCase(unittest.TestCase):
    """What a channel layer promises, as tests.

    ``channel_layer``
        the layer under test; made anew for each test.
    ``expiry_delay``
        seconds after which a message is sure to have expired. None skips the test of expiry.
    ``capacity_limit``
        how many messages fit into a channel. None skips the tests of capacity.
    ``receive_tries``
        how often a receive may come back empty before a test gives up, for layers that may miss a message.
    """

    channel_layer: BaseChannelLayer
    expiry_delay: ClassVar[float | None] = None
    capacity_limit: ClassVar[int | None] = None
    receive_tries: ClassVar[int] = 1

    @classmethod
    def setUpClass(cls) -> None:
        if cls is ConformanceTestCase:
            raise unittest.SkipTest("the base class has no layer to test")
        super().setUpClass()

    def receive(self, channels: list[str]) -> tuple[str | None, dict[str, Any] | None]:
        """Receive one message, trying ``receive_tries`` times."""
        channel, message = None, None
        for _ in range(self.receive_tries):
            channel, message = self.channel_layer.receive(channels)
            if channel is not None:
                break
        return channel, message

    # -- channels ------------------------------------------------------------------------------------------------------

    def test_send_receive(self) -> None:
        """What is sent is received, with the name of its channel."""
        self.channel_layer.send("conf_a", {"value": "blue"})
        self.assertEqual(self.receive(["conf_a", "conf_b"]), ("conf_a", {"value": "blue"}))

    def test_empty(self) -> None:
        """A receive from empty channels gives (None, None)."""
        self.assertEqual(self.receive(["conf_empty"]), (None, None))

    def test_first_in_first_out(self) -> None:
        """One reader receives a channel's messages in the order of their sending."""
        for number in range(5):
            self.channel_layer.send("conf_order", {"number": number})
        numbers = [self.receive(["conf_order"])[1] for _ in range(5)]
        self.assertEqual(numbers, [{"number": number} for number in range(5)])

    def test_received_once(self) -> None:
        """No message is received twice."""
        self.channel_layer.send("conf_once", {"value": 1})
        self.receive(["conf_once"])
        self.assertEqual(self.receive(["conf_once"]), (None, None))

    def test_contents(self) -> None:
        """All types of content arrive as they were sent; tuples arrive as lists."""
        content = {
            "bytes": b"\x00\xff", "text": "snow ☃", "int": -(2**63), "float": 0.5, "true": True, "none": None,
            "list": [1, [2, {"three": b"3"}]], "dict": {"a": {"b": []}}, "tuple": (1, 2), "empty": "", "nothing": b"",
        }  # fmt: skip
        self.channel_layer.send("conf_types", content)
        _, received = self.receive(["conf_types"])
        self.assertEqual(received, {**content, "tuple": [1, 2]})
        self.assertIs(received and received["true"], True)

    def test_large_message(self) -> None:
        """A message of a megabyte is carried."""
        self.channel_layer.send("conf_large", {"data": b"x" * 1_000_000})
        _, received = self.receive(["conf_large"])
        self.assertEqual(len(received["data"]) if received else 0, 1_000_000)

    def test_message_is_copied(self) -> None:
        """Altering a message after its sending alters nothing."""
        content: dict[str, Any] = {"value": "before", "inner": {"list": [1]}}
        self.channel_layer.send("conf_copy", content)
        content["value"] = "after"
        content["inner"]["list"].append(2)
        self.assertEqual(self.receive(["conf_copy"])[1], {"value": "before", "inner": {"list": [1]}})

    def test_invalid_content(self) -> None:
        """What is no dict, or holds what cannot be carried, is refused."""
        for content in ("text", [1], None, {"value": object()}, {"value": {1, 2}}, {1: "key"}, {"value": 2**63}):
            with self.subTest(content=repr(content)[:40]), self.assertRaises(TypeError):
                self.channel_layer.send("conf_bad", content)  # type: ignore[arg-type]

    def test_blocking_receive(self) -> None:
        """A blocking receive is ended by a message, or returns (None, None) in the end."""
        answers: list[Any] = []
        reader = threading.Thread(target=lambda: answers.append(self.channel_layer.receive(["conf_block"], block=True)))
        reader.start()
        self.channel_layer.send("conf_block", {"value": 1})
        reader.join(60)
        self.assertFalse(reader.is_alive())
        if answers == [(None, None)]:  # a layer may ignore `block`
            answers = [self.receive(["conf_block"])]
        self.assertEqual(answers, [("conf_block", {"value": 1})])

    def test_receive_many_is_receive(self) -> None:
        """The older name of receive works."""
        self.channel_layer.send("conf_many", {"value": 1})
        self.assertEqual(self.channel_layer.receive_many(["conf_many"]), ("conf_many", {"value": 1}))

    # -- names ---------------------------------------------------------------------------------------------------------

    def test_invalid_channel_names(self) -> None:
        """Bad names are refused for sending and receiving."""
        for name in ("", "a b", "a/b", "é", "x" * 100, "a!b!c", "a?b?c", "a!b?c", "a\n", "a!\u0661", b"bytes", None, 7):
            with self.subTest(name=name):
                with self.assertRaises(TypeError):
                    self.channel_layer.send(name, {"value": 1})  # type: ignore[arg-type]
                with self.assertRaises(TypeError):
                    self.channel_layer.receive([name])  # type: ignore[list-item]

    def test_longest_name(self) -> None:
        """99 characters are allowed."""
        self.channel_layer.send("x" * 99, {"value": 1})
        self.assertEqual(self.receive(["x" * 99])[0], "x" * 99)

    def test_new_channel(self) -> None:
        """new_channel() completes a pattern that ends in ``?``, differently each time."""
        first, second = (self.channel_layer.new_channel("conf_new?") for _ in range(2))
        self.assertTrue(first.startswith("conf_new?") and len(first) > len("conf_new?"))
        self.assertNotEqual(first, second)
        self.channel_layer.send(first, {"value": 1})
        self.assertEqual(self.receive([second]), (None, None))
        self.assertEqual(self.receive([first]), (first, {"value": 1}))

    def test_new_channel_needs_pattern(self) -> None:
        """new_channel() refuses a pattern that does not end in ``?``."""
        for pattern in ("conf_new", "conf_new!", "a?b", "?"):
            with self.subTest(pattern=pattern), self.assertRaises(TypeError):
                self.channel_layer.new_channel(pattern)

    def test_process_specific(self) -> None:
        """Messages to ``name!a`` and ``name!b`` are received on ``name!``, in order, with their full names."""
        self.channel_layer.send("conf_local!a", {"value": 1})
        self.channel_layer.send("conf_local!b", {"value": 2})
        self.assertEqual(self.receive(["conf_local!"]), ("conf_local!a", {"value": 1}))
        self.assertEqual(self.receive(["conf_local!"]), ("conf_local!b", {"value": 2}))
        with self.assertRaises(TypeError):
            self.channel_layer.receive(["conf_local!a"])

    # -- capacity and expiry -------------------------------------------------------------------------------------------

    def test_capacity(self) -> None:
        """A full channel raises ChannelFull; after a receive there is room again; other channels are not concerned."""
        if self.capacity_limit is None:
            self.skipTest("no capacity_limit set")
        for number in range(self.capacity_limit):
            self.channel_layer.send("conf_full", {"number": number})
        with self.assertRaises(self.channel_layer.ChannelFull):
            self.channel_layer.send("conf_full", {"number": -1})
        self.channel_layer.send("conf_other", {"number": 0})
        self.receive(["conf_full"])
        self.channel_layer.send("conf_full", {"number": -2})

    def test_capacity_of_process_specific(self) -> None:
        """The channels ``name!…`` share one capacity."""
        if self.capacity_limit is None:
            self.skipTest("no capacity_limit set")
        for number in range(self.capacity_limit):
            self.channel_layer.send(f"conf_full!{number}", {"number": number})
        with self.assertRaises(self.channel_layer.ChannelFull):
            self.channel_layer.send("conf_full!more", {"number": -1})

    def test_group_send_never_raises_full(self) -> None:
        """A group send to a full member loses the message, without an exception."""
        if self.capacity_limit is None:
            self.skipTest("no capacity_limit set")
        self.channel_layer.group_add("conf_group", "conf_member")
        for number in range(self.capacity_limit + 1):
            self.channel_layer.send_group("conf_group", {"number": number})
        received = [self.receive(["conf_member"])[1] for _ in range(self.capacity_limit)]
        self.assertEqual(received, [{"number": number} for number in range(self.capacity_limit)])
        self.assertEqual(self.receive(["conf_member"]), (None, None))

    def test_expiry(self) -> None:
        """A message that nobody took in time is gone."""
        if self.expiry_delay is None:
            self.skipTest("no expiry_delay set")
        self.channel_layer.send("conf_expiry", {"value": 1})
        self.pass_time(self.expiry_delay)
        self.assertEqual(self.receive(["conf_expiry"]), (None, None))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; override it where the layer's clock can be set."""
        time.sleep(seconds)

    # -- groups --------------------------------------------------------------------------------------------------------

    def test_groups(self) -> None:
        """A group send reaches the members, each with its own copy, and nobody else."""
        for name in ("conf_g1", "conf_g2", "conf_g3"):
            self.channel_layer.group_add("conf_group", name)
        self.channel_layer.group_discard("conf_group", "conf_g3")
        self.channel_layer.send_group("conf_group", {"value": ["orange"]})
        _, first = self.receive(["conf_g1"])
        _, second = self.receive(["conf_g2"])
        self.assertEqual((first, second), ({"value": ["orange"]}, {"value": ["orange"]}))
        self.assertIsNot(first and first["value"], second and second["value"])
        self.assertEqual(self.receive(["conf_g3"]), (None, None))

    def test_group_channels(self) -> None:
        """group_channels() lists the members; joining twice and leaving a stranger's group do no harm."""
        self.channel_layer.group_add("conf_list", "conf_a")
        self.channel_layer.group_add("conf_list", "conf_a")
        self.channel_layer.group_add("conf_list", "conf_b!x")
        self.channel_layer.group_discard("conf_list", "conf_stranger")
        self.channel_layer.group_discard("conf_no_group", "conf_a")
        self.assertEqual(sorted(self.channel_layer.group_channels("conf_list")), ["conf_a", "conf_b!x"])
        self.assertEqual(list(self.channel_layer.group_channels("conf_no_group")), [])

    def test_process_specific_member(self) -> None:
        """A process-specific channel can be a member."""
        self.channel_layer.group_add("conf_local", "conf_pl!x")
        self.channel_layer.send_group("conf_local", {"value": 1})
        self.assertEqual(self.receive(["conf_pl!"]), ("conf_pl!x", {"value": 1}))

    def test_send_to_nobody(self) -> None:
        """A send to an empty group does nothing."""
        self.channel_layer.send_group("conf_nobody", {"value": 1})

    def test_invalid_group_names(self) -> None:
        """Bad group names are refused everywhere."""
        for name in ("", "a b", "a!b", "a?b", "é", "x" * 100, "a\n", b"bytes", None):
            with self.subTest(name=name):
                for call in (
                    lambda name=name: self.channel_layer.group_add(name, "conf_a"),
                    lambda name=name: self.channel_layer.group_discard(name, "conf_a"),
                    lambda name=name: self.channel_layer.send_group(name, {"value": 1}),
                    lambda name=name: self.channel_layer.group_channels(name),
                ):
                    with self.assertRaises(TypeError):
                        call()

    def test_flush(self) -> None:
        """flush() forgets messages and memberships."""
        if "flush" not in self.channel_layer.extensions:
            self.skipTest("the layer has no flush")
        self.channel_layer.send("conf_flush", {"value": 1})
        self.channel_layer.group_add("conf_flush", "conf_member")
        self.channel_layer.flush()
        self.channel_layer.send_group("conf_flush", {"value": 2})
        self.assertEqual(self.receive(["conf_flush"]), (None, None))
        self.assertEqual(self.receive(["conf_member"]), (None, None))

    def test_many_threads(self) -> None:
        """Senders and readers in several threads: every message is received once."""
        senders, each = 4, min(50, (self.capacity_limit or 1000) // 4)
        received: list[Any] = []
        done = threading.Event()

        def send(sender: int) -> None:
            for number in range(each):
                self.channel_layer.send("conf_threads", {"id": [sender, number]})

        def read() -> None:
            while True:
                finished = done.is_set()  # looked at first: what was sent before it was set is still received
                _, message = self.channel_layer.receive(["conf_threads"])
                if message is not None:
                    received.append(tuple(message["id"]))
                elif finished:
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        writers = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join(60)
        done.set()
        for thread in readers:
            thread.join(60)
        self.assertEqual(sorted(received), [(sender, number) for sender in range(senders) for number in range(each)])
