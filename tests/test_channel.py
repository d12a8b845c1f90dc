"""What applications send with: ``Channel`` and ``Group``."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

from django.db import transaction
from twisted.trial.unittest import SynchronousTestCase

import channelserver
from channelserver import channel as module
from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.channel import DEFAULT_CHANNEL_LAYER, Channel, Group
from channelserver.layers import ChannelFull, InMemoryChannelLayer
from channelserver.workers import outbox
from tests import make_tables


def never(*_: Any) -> None:
    """Stands for the reactor where nothing should have to wait."""
    raise AssertionError("nothing should have to wait")


class ChannelTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.layer = InMemoryChannelLayer(capacity=3)

    def channel(self, name: str = "task") -> Channel:
        """Return a channel of this test's layer."""
        return Channel(name, channel_layer=self.layer)

    def group(self, name: str = "group") -> Group:
        """Return a group of this test's layer."""
        return Group(name, channel_layer=self.layer)

    def received(self, *channels: str) -> list[Any]:
        """Return the contents that wait in these channels (default: in ``task``)."""
        contents = []
        while (content := self.layer.receive(channels or ["task"])[1]) is not None:
            contents.append(content)
        return contents


class NameTests(ChannelTestCase):
    def test_names(self) -> None:
        """They can be imported from the package, too."""
        self.assertIs(channelserver.Channel, Channel)
        self.assertIs(channelserver.Group, Group)
        self.assertEqual((channelserver.DEFAULT_CHANNEL_LAYER, DEFAULT_CHANNEL_LAYER), ("default", "default"))

    def test_attributes(self) -> None:
        """A name, which is also the text, and a layer."""
        for kind in (Channel, Group):
            made = kind("name", channel_layer=self.layer)
            self.assertEqual((made.name, str(made)), ("name", "name"))
            self.assertIs(made.channel_layer, self.layer)
            self.assertEqual(repr(made), f"<{kind.__name__} name>")

    def test_bytes(self) -> None:
        """A name may be ASCII bytes."""
        for kind in (Channel, Group):
            self.assertEqual(kind(b"name", channel_layer=self.layer).name, "name")  # type: ignore[arg-type]
            self.assertRaises(UnicodeDecodeError, kind, b"n\xe4me", channel_layer=self.layer)

    def test_bad_names(self) -> None:
        """Any other name is an error."""
        for kind in (Channel, Group):
            for name in ("", "no name", "n\xe4me", "name\n", "x" * 100, None, 5, "a!b!c"):
                self.assertRaises(TypeError, kind, name, channel_layer=self.layer)
        self.assertEqual(self.channel("a!b").name, "a!b")
        self.assertRaises(TypeError, self.group, "a!b")

    def test_alias(self) -> None:
        """Without a layer it is the one of an alias, and by default the one called "default"."""
        other = InMemoryChannelLayer()
        for alias, layer in (("default", self.layer), ("other", other)):
            old = channel_layers.set(alias, ChannelLayerWrapper(layer, alias, []))
            self.addCleanup(channel_layers.set, alias, old)
        Channel("task").send({"to": "default"})
        Channel("task", alias="other").send({"to": "other"})
        Channel("task", "other").send({"to": "other, too"})
        self.assertEqual(self.received(), [{"to": "default"}])
        self.assertEqual(other.receive(["task"]), ("task", {"to": "other"}))
        Group("group", alias="other").add("member")
        self.assertEqual((other.group_channels("group"), self.layer.group_channels("group")), (["member"], []))

    def test_made_early(self) -> None:
        """One made when a module is imported uses the layer which its alias stands for when it is used."""
        task, group = Channel("task", alias="early"), Group("group", alias="early")
        self.addCleanup(channel_layers.set, "early", channel_layers.set("early", None))
        channel_layers.set("early", ChannelLayerWrapper(self.layer, "early", []))
        task.send({"number": 1})
        group.add("task")
        group.send({"number": 2})
        self.assertEqual(self.received(), [{"number": 1}, {"number": 2}])

    def test_equality(self) -> None:
        """Equal are those of one kind with one name in one layer."""
        self.assertEqual(self.channel(), self.channel())
        self.assertEqual(len({self.channel(), self.channel(), self.group("task"), self.channel("other")}), 3)
        self.assertNotEqual(self.channel(), self.channel("other"))
        self.assertNotEqual(self.channel("same"), self.group("same"))
        self.assertNotEqual(self.channel(), Channel("task", channel_layer=InMemoryChannelLayer()))
        self.assertNotEqual(self.channel(), "task")


class SendTests(ChannelTestCase):
    def test_at_once(self) -> None:
        """Outside of consumers a message is sent at once."""
        self.channel().send({"text": "hello"})
        self.assertEqual(self.received(), [{"text": "hello"}])

    def test_copied(self) -> None:
        """What is sent is a copy."""
        content: dict[str, Any] = {"list": [1]}
        self.channel().send(content)
        content["list"].append(2)
        self.assertEqual(self.received(), [{"list": [1]}])

    def test_wrong_content(self) -> None:
        """What is no dict, or holds what a message cannot carry: an error, in a consumer at the place of the send."""
        wrong: list[Any] = [None, "text", ["list"], {"set": {1}}, {1: "key"}]
        for content in wrong:
            self.assertRaises(TypeError, self.channel().send, content)
            with outbox.Outbox(never):
                self.assertRaises(TypeError, self.channel().send, content)
                self.assertRaises(TypeError, self.channel().send, content, on_commit=True)
        self.assertEqual(self.received(), [])

    def test_full(self) -> None:
        """A message that finds no room raises the layer's error."""
        for _ in range(3):
            self.channel().send({})
        self.assertRaises(ChannelFull, self.channel().send, {})
        self.assertRaises(self.layer.ChannelFull, self.channel().send, {}, immediately=True)

    def test_held_back(self) -> None:
        """Inside of a consumer messages wait for its end, in the order of the calls, unless they are to go at once."""
        with outbox.Outbox(never) as collected:
            self.channel().send({"number": 1})
            self.channel("other").send({"number": 2})
            self.channel().send({"number": 3}, immediately=True)
            self.channel().send({"number": 4})
            self.assertEqual(self.received("task", "other"), [{"number": 3}])
        self.assertEqual(self.received("task", "other"), [])
        sent: list[int] = []
        with mock.patch.object(self.layer, "dispatch", lambda _, content: sent.append(content["number"])):
            collected.flush()
        self.assertEqual(sent, [1, 2, 4])

    def test_dropped(self) -> None:
        """What a failed consumer held back is forgotten."""
        with outbox.Outbox(never) as collected:
            self.channel().send({})
        collected.drop()
        collected.flush()
        self.assertEqual(self.received(), [])

    def test_other_thread(self) -> None:
        """A thread which a consumer starts is outside of it."""
        with outbox.Outbox(never):
            thread = threading.Thread(target=self.channel().send, args=[{"from": "a thread"}])
            thread.start()
            thread.join()
            self.assertEqual(self.received(), [{"from": "a thread"}])


class GroupTests(ChannelTestCase):
    def test_members(self) -> None:
        """Members are channels or their names; adding twice and discarding a stranger do no harm."""
        group = self.group()
        group.add("one")
        group.add(self.channel("two"))
        group.add("two")
        self.assertEqual(sorted(self.layer.group_channels("group")), ["one", "two"])
        group.discard(self.channel("one"))
        group.discard("stranger")
        self.assertEqual(self.layer.group_channels("group"), ["two"])
        group.discard("two")
        self.assertEqual(self.layer.group_channels("group"), [])

    def test_wrong_members(self) -> None:
        """A member must be a channel."""
        for member in (None, 5, "no name", ["one"]):
            self.assertRaises(TypeError, self.group().add, member)
            self.assertRaises(TypeError, self.group().discard, member)

    def test_at_once(self) -> None:
        """Members come and go at once, inside of a consumer, too."""
        with outbox.Outbox(never):
            self.group().add("one")
            self.assertEqual(self.layer.group_channels("group"), ["one"])
            self.group().discard("one")
            self.assertEqual(self.layer.group_channels("group"), [])

    def test_send(self) -> None:
        """Every member gets a copy of its own."""
        for name in ("one", "two"):
            self.group().add(name)
        self.group().send({"list": [1]})
        first, second = self.received("one"), self.received("two")
        self.assertEqual((first, second), ([{"list": [1]}], [{"list": [1]}]))
        self.assertIsNot(first[0]["list"], second[0]["list"])
        self.group("empty").send({})

    def test_held_back(self) -> None:
        """Like a channel's, in one order with them."""
        self.group().add("task")
        with outbox.Outbox(never) as collected:
            self.channel().send({"number": 1})
            self.group().send({"number": 2})
            self.channel().send({"number": 3})
            self.assertEqual(self.received(), [])
            self.group().send({"number": 4}, immediately=True)
            self.assertEqual(self.received(), [{"number": 4}])
        collected.flush()
        self.assertEqual(self.received(), [{"number": 1}, {"number": 2}, {"number": 3}])

    def test_wrong_content(self) -> None:
        """As in Channels 1, what is no dict is a ``ValueError`` here."""
        wrong: list[Any] = [None, "text", ["list"]]
        for content in wrong:
            self.assertRaises(ValueError, self.group().send, content)
        self.assertRaises(TypeError, self.group().send, {"set": {1}})
        # No socket could send it; so the error is here, and not in the server's log.
        for content in ({"text": {"a": 1}}, {"text": b"a"}, {"bytes": "a"}, {"text": None, "bytes": ["a"]}):
            with self.assertRaises(TypeError) as raised:
                self.group().send(content)
            self.assertIn("must be", str(raised.exception))
        self.group().send({"text": None, "bytes": b"a"})

    def test_full(self) -> None:
        """A full member is passed over, counted and logged; nothing is raised."""
        self.group().add("task")
        self.group().add("other")
        for _ in range(3):
            self.channel().send({})
        with self.assertLogs("channelserver.layers", "WARNING") as logged:
            self.group().send({"number": 4})
        self.assertIn("'task'", logged.output[0])
        self.assertEqual(self.received("other"), [{"number": 4}])
        self.assertEqual(self.layer.drops.totals(), {"channel full": 1})


class OnCommitTests(ChannelTestCase):
    """Messages that wait for the end of a database transaction."""

    def setUp(self) -> None:
        super().setUp()
        make_tables()

    def test_committed(self) -> None:
        """Sent at the commit of the outermost block, in order."""
        self.group().add("task")
        with transaction.atomic():
            with transaction.atomic():
                self.channel().send({"number": 1}, on_commit=True)
                self.group().send({"number": 2}, on_commit=True)
            self.assertEqual(self.received(), [])
            self.channel().send({"number": 0})
        self.assertEqual(self.received(), [{"number": 0}, {"number": 1}, {"number": 2}])

    def test_rolled_back(self) -> None:
        """Dropped with the block, whether it is the outermost or not."""
        with transaction.atomic():
            self.channel().send({"number": 1}, on_commit=True)
            self.rolled_back({"number": 2})
        self.rolled_back({"number": 3})
        self.assertEqual(self.received(), [{"number": 1}])

    def rolled_back(self, content: dict[str, Any]) -> None:
        """Send inside a transaction that ends with an error."""
        try:
            with transaction.atomic():
                self.channel().send(content, on_commit=True)
                raise KeyError
        except KeyError:
            pass

    def test_no_transaction(self) -> None:
        """Without one, nothing is waited for."""
        self.channel().send({"number": 1}, on_commit=True)
        self.assertEqual(self.received(), [{"number": 1}])

    def test_content_of_the_call(self) -> None:
        """What is sent is the content at the time of the call."""
        content = {"list": [1]}
        with transaction.atomic():
            self.channel().send(content, on_commit=True)
            content["list"].append(2)
        self.assertEqual(self.received(), [{"list": [1]}])

    def test_in_a_consumer(self) -> None:
        """Committed, the message is held back like any other, unless it is to go at once."""
        with outbox.Outbox(never) as collected:
            with transaction.atomic():
                self.channel().send({"number": 1}, on_commit=True)
                self.channel().send({"number": 2}, on_commit=True, immediately=True)
                self.assertEqual(self.received(), [])
            self.assertEqual(self.received(), [{"number": 2}])
        collected.flush()
        self.assertEqual(self.received(), [{"number": 1}])

    def test_other_database(self) -> None:
        """The alias of a database may be given instead of True."""
        with mock.patch.object(module.transaction, "on_commit") as on_commit:
            self.channel().send({}, on_commit="replica")
            self.channel().send({}, on_commit=True)
        self.assertEqual([call.kwargs["using"] for call in on_commit.call_args_list], ["replica", None])
