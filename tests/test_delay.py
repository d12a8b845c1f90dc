"""Messages that are sent later: the table, the timer, and real servers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver import Channel, Group, Message, channel_layers
from channelserver.asgi import ChannelLayerWrapper
from channelserver.delay import keeping
from channelserver.delay import timer as timer_module
from channelserver.delay.consumers import Delays
from channelserver.delay.models import DelayedMessage, due_in
from channelserver.delay.text import from_text, to_text
from channelserver.delay.timer import LOOK_SECONDS, OVERDUE_SECONDS, SHORTEST_PAUSE, DelayTimer
from channelserver.exceptions import ConsumeLater
from channelserver.layers import DeliveryUnknown, InMemoryChannelLayer
from channelserver.workers import outbox
from tests import DatabaseTestCase, examples, preloaded
from tests.lab import LabTestCase
from tests.process import TIMEOUT, project, wait_until

ATOMS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
KEYS = st.text() | st.sampled_from(["__bytes__", "__dict__"])
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


class TextTests(SynchronousTestCase):
    """Contents as text."""

    @settings(deadline=None, derandomize=True, max_examples=examples(30), suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(KEYS, VALUES))
    def test_there_and_back(self, content: dict[str, Any]) -> None:
        """Every content can be stored, and comes back as it was; the text is ASCII, which every database takes."""
        text = to_text(content)
        self.assertTrue(text.isascii())
        self.assertEqual(from_text(text), content)

    def test_plain_json(self) -> None:
        """What JSON can say is stored as such, as Channels 1 stored it."""
        self.assertEqual(to_text({"text": "hello", "list": [1, None]}), '{"text": "hello", "list": [1, null]}')

    def test_wrong(self) -> None:
        """What was not stored by us is an error."""
        for text in ("", "{", '{"a": {"__bytes__": "%"}}'):
            self.assertRaises(ValueError, from_text, text)


class TimerTests(SynchronousTestCase):
    """When the timer has the table looked at."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.looks: list[float] = []
        self.timer = DelayTimer("tests", self.look, self.clock.callLater, self.clock.seconds)
        self.addCleanup(self.timer.stop)

    def look(self) -> None:
        self.looks.append(self.clock.seconds())

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        ends = self.clock.seconds() + seconds
        while self.clock.seconds() < ends - 1e-9:
            self.clock.advance(0.01)

    def assertLooks(self, *times: float) -> None:
        self.assertEqual([round(look, 1) for look in self.looks], list(times))

    def started(self) -> None:
        """Start, and have the first look come back without a result."""
        self.timer.start()
        self.pass_time(0.1)
        self.assertLooks(0.0)
        self.timer.looked(None)

    def test_slow_looks(self) -> None:
        """Without messages: at the start, and then every few seconds."""
        self.started()
        for _ in range(3):
            self.pass_time(LOOK_SECONDS + 0.1)
            self.timer.looked(None)
        self.assertLooks(0.0, 5.1, 10.2, 15.3)

    def test_next_message(self) -> None:
        """When the next message is due, which a look has found."""
        self.started()
        self.pass_time(LOOK_SECONDS + 0.1)
        self.timer.looked(7.0)
        self.pass_time(3)
        self.assertLooks(0.0, 5.1, 7.0)

    def test_new_message(self) -> None:
        """When a message is due that has been stored meanwhile; a later one changes nothing."""
        self.started()
        for due in (3.0, 2.0, 4.0):
            self.timer.expect(due)
        self.pass_time(2.0)
        self.assertLooks(0.0, 2.0)
        self.timer.looked(3.0)
        self.pass_time(1.0)
        self.assertLooks(0.0, 2.0, 3.0)

    def test_new_message_during_a_look(self) -> None:
        """The look may have missed it: it is not forgotten."""
        self.started()
        self.timer.expect(1.0)
        self.pass_time(1.0)
        self.timer.expect(2.5)
        self.timer.expect(2.0)
        self.timer.looked(None)
        self.pass_time(3.0)
        self.assertLooks(0.0, 1.0, 2.0)

    def test_announced(self) -> None:
        """A message is announced to the timer of its layer, as long as that runs."""
        self.started()
        timer_module.announce("other", 1.0)
        timer_module.announce("tests", 2.0)
        self.pass_time(2.0)
        self.assertLooks(0.0, 2.0)
        self.timer.stop()
        timer_module.announce("tests", 3.0)
        self.pass_time(60)
        self.assertLooks(0.0, 2.0)

    def test_overdue_messages(self) -> None:
        """Messages that should have been sent long ago do not make it run in circles."""
        self.started()
        began = len(self.looks)
        for _ in range(50):
            self.timer.looked(0.0)
            self.clock.advance(SHORTEST_PAUSE / 2)
        self.assertEqual(len(self.looks) - began, 0)
        self.clock.advance(SHORTEST_PAUSE)
        self.assertEqual(len(self.looks) - began, 1)

    def test_lost_look(self) -> None:
        """A look that does not come back is waited for, but not for ever; meanwhile there is no second one."""
        self.timer.start()
        self.pass_time(OVERDUE_SECONDS - 1)
        self.assertLooks(0.0)
        self.pass_time(LOOK_SECONDS + 1)
        self.assertEqual(len(self.looks), 2)

    def test_error(self) -> None:
        """When the look cannot even begin, that is logged, and it goes on."""
        failing = mock.Mock(side_effect=[ValueError("no queue"), None])
        self.timer._look = failing
        with self.assertLogs("channelserver.delay", "ERROR") as logged:
            self.timer.start()
            self.pass_time(1)
        self.assertIn("no queue", logged.output[0])
        self.pass_time(OVERDUE_SECONDS + LOOK_SECONDS)
        self.assertEqual(failing.call_count, 2)


class LayerTestCase(DatabaseTestCase):
    """Tests with the database, and with a layer ``self.layer`` whose channels hold two messages."""

    def setUp(self) -> None:
        self.layer = InMemoryChannelLayer(capacity=2)
        wrapper = ChannelLayerWrapper(self.layer, "default", [])
        old = channel_layers.set("default", wrapper)
        self.addCleanup(channel_layers.set, "default", old)
        self.delays = Delays("default", self.layer)
        without_jobs = mock.patch.object(keeping, "keeper", None)  # their own table
        without_jobs.start()
        self.addCleanup(without_jobs.stop)

    def received(self, channel: str = "task") -> list[dict[str, Any]]:
        """Take everything from a channel."""
        taken = []
        while (content := self.layer.receive([channel])[1]) is not None:
            taken.append(content)
        return taken

    def stored(self, seconds: float = -1, content: str = '{"number": 1}', **fields: Any) -> DelayedMessage:
        """Store a message which is due in `seconds`."""
        due = timezone.now() + timedelta(seconds=seconds)
        fields.setdefault("channel_name", "task")
        return DelayedMessage.objects.create(due_date=due, content=content, **fields)

    def assertDelay(self, message: DelayedMessage, seconds: float, since: datetime) -> None:
        """Assert that a message was given a delay of `seconds`, after the time `since`."""
        left = timedelta(milliseconds=message.delay)
        self.assertLessEqual(left, timedelta(seconds=seconds))
        self.assertLessEqual(since + timedelta(seconds=seconds), timezone.now() + left)


class SendTests(LayerTestCase):
    """``Channel.send`` with a delay."""

    def only(self) -> DelayedMessage:
        """Return the one message that is stored."""
        (message,) = DelayedMessage.objects.all()
        return message

    def test_stored(self) -> None:
        """It is in the table, and not in the channel."""
        before = timezone.now()
        Channel("task").send({"data": b"\xff", "list": (1, 2)}, delay=60)
        message = self.only()
        self.assertEqual((message.layer, message.channel_name, message.problem), ("default", "task", ""))
        self.assertEqual(from_text(message.content), {"data": b"\xff", "list": [1, 2]})
        self.assertLessEqual(before + timedelta(seconds=60), message.due_date)
        self.assertLessEqual(message.due_date, timezone.now() + timedelta(seconds=60))
        self.assertDelay(message, 60, before)
        self.assertEqual(self.received(), [])

    def test_group(self) -> None:
        """A group is sent to those who are members when the message is due."""
        Group("all").send({"number": 1}, delay=60)
        message = self.only()
        self.assertEqual((message.channel_name, message.to_group), ("all", True))
        Group("all").add("task")
        DelayedMessage.objects.update(due_date=timezone.now())
        self.delays.look()
        self.assertEqual(self.received(), [{"number": 1}])
        self.assertFalse(DelayedMessage.objects.exists())

    def test_no_delay(self) -> None:
        """None and 0 are no delay."""
        for delay in (None, 0, 0.0):
            Channel("task").send({"number": 1}, delay=delay)
            self.assertEqual(self.received(), [{"number": 1}])

    def test_wrong(self) -> None:
        """A delay must be a number of seconds within the calendar; the content must be one, too."""
        wrong: list[tuple[Any, type[Exception]]] = [
            (-1, ValueError),
            (float("nan"), ValueError),
            (1e300, ValueError),
            ("5", TypeError),
            (True, TypeError),
        ]
        for delay, error in wrong:
            with self.assertRaises(error) as raised:
                Channel("task").send({}, delay=delay)
            self.assertIn(repr(delay), str(raised.exception))
        self.assertRaises(TypeError, Channel("task").send, "text", delay=5)
        self.assertRaises(TypeError, Channel("task").send, {"set": set()}, delay=5)
        self.assertFalse(DelayedMessage.objects.exists())

    def test_not_installed(self) -> None:
        """Without the application the error says what to do."""
        with self.modify_settings(INSTALLED_APPS={"remove": ["channelserver.delay", "channelserver.jobs"]}):
            with self.assertRaises(ImproperlyConfigured) as raised:
                Channel("task").send({}, delay=5)
        self.assertIn('"channelserver.delay"', str(raised.exception))

    def test_layers(self) -> None:
        """The layer is known by its alias, also for a reply channel, which has the layer itself."""
        other = ChannelLayerWrapper(InMemoryChannelLayer(), "other", [])
        self.addCleanup(channel_layers.set, "other", channel_layers.set("other", other))
        Channel("task", "other").send({}, delay=5)
        Channel("task", channel_layer=other).send({}, delay=5)
        message: Any = Message({"reply_channel": "x!y"}, "task", other.channel_layer)
        message.reply_channel.send({}, delay=5)
        self.assertEqual([message.layer for message in DelayedMessage.objects.all()], ["other"] * 3)
        self.assertRaises(ValueError, Channel("task", channel_layer=InMemoryChannelLayer()).send, {}, delay=5)

    def test_in_a_consumer(self) -> None:
        """It is stored when the consumer has ended, unless it is to be stored at once."""
        with outbox.Outbox(never) as collected:
            Channel("task").send({"number": 1}, delay=5)
            self.assertFalse(DelayedMessage.objects.exists())
            Channel("task").send({"number": 2}, delay=5, immediately=True)
            self.assertEqual(self.only().content, '{"number": 2}')
        collected.flush()
        self.assertEqual(DelayedMessage.objects.count(), 2)

    def test_in_a_test_of_a_consumer(self) -> None:
        """Where tests release what a consumer has sent, it is stored, too."""
        with outbox.Outbox(never) as collected:
            Channel("task").send({"number": 1}, delay=5)
        collected.release()
        collected.release()
        self.assertEqual(self.only().content, '{"number": 1}')

    def test_consumer_raised(self) -> None:
        """With the consumer it is dropped."""
        with outbox.Outbox(never) as collected:
            Channel("task").send({"number": 1}, delay=5)
        collected.drop()
        collected.flush()
        self.assertFalse(DelayedMessage.objects.exists())

    def test_no_database(self) -> None:
        """A consumer's end without database: that is logged, and all else is sent."""
        with outbox.Outbox(never) as collected:
            Channel("task").send({"number": 1}, delay=5)
            Channel("task").send({"number": 2})
        with mock.patch.object(DelayedMessage, "save_base", side_effect=OperationalError("gone")):
            with self.assertLogs("channelserver.outbox", "ERROR") as logged:
                collected.flush()
        self.assertIn("gone", logged.output[0])
        self.assertEqual(self.received(), [{"number": 2}])

    def test_transaction(self) -> None:
        """Stored in a transaction, it ends with that; ``on_commit`` waits for the commit."""
        with self.assertRaises(KeyError), transaction.atomic():
            Channel("task").send({"number": 1}, delay=5)
            raise KeyError
        self.assertFalse(DelayedMessage.objects.exists())
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                Channel("task").send({"number": 2}, delay=5, on_commit=True)
                self.assertFalse(DelayedMessage.objects.exists())
        self.assertEqual(self.only().content, '{"number": 2}')

    def test_announced_at_the_commit(self) -> None:
        """The timer hears of it when others can see it."""
        with mock.patch.object(timer_module, "announce") as announce:
            with self.captureOnCommitCallbacks() as calls:
                Channel("task").send({}, delay=5)
            announce.assert_not_called()
            for call in calls:
                call()
        announce.assert_called_once_with("default", self.only().due_date.timestamp())


class TableTests(LayerTestCase):
    """What becomes of the messages in the table."""

    def test_due(self) -> None:
        """Those which are due are sent, the earliest first; the others wait."""
        later = self.stored(3600)
        for number, seconds in enumerate((-1, -3, -2)):
            self.stored(seconds, f'{{"number": {number}}}')
        self.layer.capacity = 10
        self.assertEqual(self.delays.look(), later.due_date.timestamp())
        self.assertEqual([content["number"] for content in self.received()], [1, 2, 0])
        self.assertEqual(list(DelayedMessage.objects.all()), [later])

    def test_nothing(self) -> None:
        """Without messages there is no next time."""
        self.assertIsNone(self.delays.look())

    def test_other_layer(self) -> None:
        """Those of other layers are left alone."""
        self.stored(layer="other")
        self.assertIsNone(self.delays.look())
        self.assertEqual((self.received(), DelayedMessage.objects.count()), ([], 1))

    def test_full(self) -> None:
        """What finds no room is put off, and tried again; the others are sent."""
        for _ in range(3):
            self.stored()
        self.stored(channel_name="other")
        before = time.time()
        due = self.delays.look()
        assert due is not None
        self.assertTrue(before < due <= time.time() + 1)
        self.assertEqual((len(self.received()), len(self.received("other"))), (2, 1))
        (message,) = DelayedMessage.objects.all()
        self.assertEqual((message.due_date.timestamp(), message.problem), (due, ""))
        DelayedMessage.objects.update(due_date=timezone.now())
        self.delays.look()
        self.assertEqual((len(self.received()), DelayedMessage.objects.count()), (1, 0))

    def test_nobody_knows(self) -> None:
        """A message that may have arrived: a layer that knows what it has got is asked again, and sends it once; with
        another one it counts as lost.
        """

        def unknown(channel: str, content: Any) -> None:
            raise DeliveryUnknown("the connection broke")

        def look() -> None:
            DelayedMessage.objects.update(due_date=timezone.now())
            self.delays.look()

        self.stored()
        with mock.patch.object(self.layer, "dispatch", unknown):
            look()
        row = DelayedMessage.objects.get()
        look()
        row.save(force_insert=True)  # the process died before it could delete it
        look()
        self.assertEqual((len(self.received()), DelayedMessage.objects.count()), (1, 0))
        self.stored()
        with mock.patch.object(self.layer, "dispatch", unknown), mock.patch.object(self.layer, "sends_once", False):
            look()
        self.assertEqual((DelayedMessage.objects.count(), self.layer.drops.totals()), (0, {"unknown": 1}))

    def test_invalid(self) -> None:
        """What cannot be sent is logged and set aside, is not tried again, and keeps nobody else."""
        wrong = [
            self.stored(channel_name="no name"),
            self.stored(content="{"),
            self.stored(content='["list"]'),
            self.stored(content='{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
        ]
        self.stored(content='{"good": true}')
        with self.assertLogs("channelserver.delay", "ERROR") as logged:
            self.assertIsNone(self.delays.look())
        self.assertEqual(len(logged.output), 4)
        self.assertIn("'no name'", logged.output[0])
        self.assertEqual(self.received(), [{"good": True}])
        self.assertEqual(set(DelayedMessage.objects.set_aside()), set(wrong))
        self.assertTrue(all(message.problem for message in DelayedMessage.objects.all()))
        self.assertEqual(DelayedMessage.objects.count(), 4)
        with self.assertNoLogs("channelserver.delay", "ERROR"):
            self.delays.look()
        wrong[0].refresh_from_db()
        DelayedMessage.objects.filter(pk=wrong[0].pk).update(channel_name="task", problem="")
        self.delays.look()
        self.assertEqual(self.received(), [{"number": 1}])

    def test_taken_by_another(self) -> None:
        """What another process has sent, put off or set aside since the look is not sent."""
        for change in (
            lambda row: row.delete(),
            lambda row: row.update(due_date=due_in(60)),
            lambda row: row.update(problem="wrong"),
        ):
            message = self.stored()
            change(DelayedMessage.objects.filter(pk=message.pk))
            self.assertFalse(message.send(self.layer))
            self.assertEqual(self.received(), [])

    def test_broken_layer(self) -> None:
        """A layer out of reach is no fault of the message: it waits. There is one complaint, not one at each look."""
        self.stored()
        with mock.patch.object(self.layer, "dispatch", side_effect=ConnectionError("nobody there")):
            with self.assertLogs("channelserver.delay", "ERROR") as logged:
                for _ in range(3):
                    self.assertIsNone(self.delays.look())
        self.assertEqual(len(logged.output), 1)
        self.assertIn("nobody there", logged.output[0])
        self.delays.look()
        self.assertEqual((self.received(), DelayedMessage.objects.count()), ([{"number": 1}], 0))

    def test_broken_database(self) -> None:
        """A database out of reach: likewise; when it has been back, the next time is news again."""
        self.stored()
        broken = mock.patch.object(
            DelayedMessage, "_claim", side_effect=OperationalError("no table channelserver_delay")
        )
        for _ in range(2):
            with broken, self.assertLogs("channelserver.delay", "ERROR") as logged:
                for _ in range(3):
                    self.delays.look()
            self.assertEqual(len(logged.output), 1)
            self.assertIn("migrate", logged.output[0])
            self.delays.look()
            self.assertEqual(self.received(), [{"number": 1}])
            self.stored()

    def test_send_of_channels_1(self) -> None:
        """``send()`` as in Channels 1: with the layer of the alias, and a pause in milliseconds."""
        self.assertTrue(self.stored().send())
        self.assertTrue(DelayedMessage(channel_name="task", content="{}", delay=0).due_date <= timezone.now())
        self.stored().send(channel_layer=self.layer)
        message, before = self.stored(), timezone.now()
        self.assertFalse(message.send(requeue_delay=50_000))
        self.assertDelay(message, 50, before)
        message.refresh_from_db()
        self.assertDelay(message, 50, before)
        self.assertEqual(str(message), f"to 'task' at {message.due_date}")


class ConsumerTests(LayerTestCase):
    """Messages to ``asgi.delay``."""

    def store(self, content: dict[str, Any]) -> None:
        """Consume one."""
        self.delays.store(Message(content, "asgi.delay", self.layer))

    def test_good(self) -> None:
        """It is stored, to be sent after so many milliseconds."""
        before = timezone.now()
        self.store({"channel": "task", "delay": 30_000, "content": {"number": 1}})
        (message,) = DelayedMessage.objects.all()
        self.assertEqual((message.channel_name, message.content, message.problem), ("task", '{"number": 1}', ""))
        self.assertDelay(message, 30, before)

    def test_bad(self) -> None:
        """It is logged and set aside, with all that was in it."""
        good = {"channel": "task", "delay": 10, "content": {}}
        bad: list[dict[str, Any]] = [
            *({key: value for key, value in good.items() if key != missing} for missing in good),
            {**good, "channel": "no name"},
            {**good, "channel": ["x" * 1000]},
            {**good, "delay": -1},
            {**good, "delay": 2**62},
            {**good, "delay": "10"},
            {**good, "delay": True},
            {**good, "content": b"\xff"},
            {},
        ]
        with self.assertLogs("channelserver.delay", "ERROR") as logged:
            for content in bad:
                self.store(content)
        self.assertEqual(len(logged.output), len(bad))
        self.assertEqual(DelayedMessage.objects.set_aside().count(), len(bad))
        self.assertEqual(DelayedMessage.objects.waiting().count(), 0)
        self.delays.look()
        self.assertEqual(self.received(), [])

    def test_no_database(self) -> None:
        """Without database it is tried again later."""
        with mock.patch.object(DelayedMessage, "save_base", side_effect=OperationalError("gone")):
            with self.assertLogs("channelserver.delay", "ERROR"):
                self.assertRaises(ConsumeLater, self.store, {"channel": "task", "delay": 10, "content": {}})


def never(seconds: float, function: Callable[..., object], *arguments: Any) -> None:
    """Stand for the reactor's ``callLater`` where nothing may need it."""
    raise AssertionError("the reactor was asked for")


class DelayLabTestCase(LabTestCase):
    """Tests on a server with the application."""

    files = project("delay")
    extra_settings = 'INSTALLED_APPS += ["channelserver.delay"]\n'
    migrate = True

    def send(self, channel: str, content: dict[str, Any], delay: float | None = None) -> int:
        """Have a view send a message; return the answer's status."""
        return self.server.post("/send", json={"channel": channel, "content": content, "delay": delay}).status_code

    def store(self, count: int, seconds: float = 0, **fields: Any) -> None:
        """Store messages to ``task``, numbered, in another process."""
        code = (
            "from channelserver.delay.models import *; import json; "
            f"DelayedMessage.objects.bulk_create(DelayedMessage(channel_name='task', due_date=due_in({seconds}), "
            f"content=json.dumps(dict(number=n, key={self.id()!r}))) for n in range({count}))"
        )
        self.manage("shell", "--no-imports", "-c", code)

    def numbers(self) -> list[int]:
        """The numbers of the messages that have been consumed, of those in :meth:`store`."""
        return sorted(entry["number"] for entry in self.diary("task", key=self.id()))


class ServerTests(DelayLabTestCase):
    """What the server does with them."""

    def test_later(self) -> None:
        """A message is sent after its delay, and not before; messages with different delays in their order."""
        self.start("--threads", "1")  # so that they are consumed in the order of their sending
        began = float(self.server.post("/send-together", json=[1.0, 0.3, 0.6]).text)
        entries = self.wait_for_note("task", 3)
        self.assertEqual([entry["delay"] for entry in entries], [0.3, 0.6, 1.0])
        for entry in entries:
            self.assertLessEqual(began + entry["delay"], entry["at"])
        self.assertNoTraceback()

    def test_reply(self) -> None:
        """A socket can be sent something later, and so can a group."""
        with self.server.connect("/later/") as socket:
            self.assertEqual([socket.recv(TIMEOUT) for _ in range(2)], ["later", "to all of us"])

    def test_bug_g_invalid_message(self) -> None:
        """An invalid message to ``asgi.delay`` ended the process that sent delayed messages."""
        self.send("asgi.delay", {"channel": "task", "delay": "soon", "content": {}})
        self.send("asgi.delay", {"channel": "task", "delay": 50, "content": {"key": self.id()}})
        self.wait_for_note("task", key=self.id())
        self.assertLogged("set aside: 'delay' must be a number")

    def test_failed_consumer(self) -> None:
        """What a consumer sent that raised is dropped, delayed or not, unless it was sent at once."""
        self.send("failing", {"key": self.id()})
        entries = self.wait_for_note("task", key=self.id())
        self.assertEqual([entry["of"] for entry in entries], ["ended"])

    def test_another_process(self) -> None:
        """What another process stores is found, too, without a word to the server."""
        self.assertEqual(self.server.get("/nothing").status_code, 404)
        self.store(3)
        self.wait_for_note("task", 3, key=self.id())
        self.assertEqual(self.numbers(), [0, 1, 2])


class RestartTests(DelayLabTestCase):
    """Messages outlive the server."""

    def test_killed(self) -> None:
        """What was stored is sent by the next server, however the first one ended."""
        server = self.start()
        self.assertEqual(self.send("task", {"key": self.id()}, 3600), 200)
        server.kill()
        self.assertEqual(self.diary("task"), [])
        an_hour_later = "from channelserver.delay.models import *; DelayedMessage.objects.update(due_date=due_in(0))"
        self.manage("shell", "--no-imports", "-c", an_hour_later)
        self.run_process(self.twistd("--settings", "settings", "--port", "0")).wait_until_up()
        self.wait_for_note("task", key=self.id())

    def test_many_processes(self) -> None:
        """A server and three ``rundelay`` look at the same table: each message is sent once."""
        self.start(extra_settings="CHANNEL_LAYERS['default']['CONFIG'] = {'capacity': 10_000}")
        number = 240
        self.store(number, 0.0)
        command = [sys.executable, "manage.py", "rundelay", "--sleep", "0.01"]
        helpers = [self.run_process(command) for _ in range(3)]
        for helper in helpers:
            helper.wait_for("Sending the delayed messages")
        self.store(number, 0.0)
        wait_until(lambda: len(self.numbers()) >= 2 * number, "all messages")
        for helper in helpers:
            self.assertEqual(helper.stop(), 0)
            self.assertNotIn("Traceback", helper.output)
        self.assertNoTraceback()
        self.assertEqual(self.numbers(), sorted([*range(number)] * 2))

    def test_not_installed(self) -> None:
        """Without the application: a clear error for who sends, whichever way."""
        self.start(extra_settings="INSTALLED_APPS.remove('channelserver.delay')")
        self.assertEqual(self.send("task", {}, 5), 500)
        self.assertLogged(r'ImproperlyConfigured: Channel\(.task.\).*"channelserver.delay" in INSTALLED_APPS')
        self.send("asgi.delay", {"channel": "task", "delay": 5, "content": {}})
        self.assertLogged('to .task. from .asgi.delay. is dropped: add "channelserver.delay" to INSTALLED_APPS')
        done = self.failing("rundelay")
        self.assertIn('add "channelserver.delay" to INSTALLED_APPS', done)

    def failing(self, *arguments: str) -> str:
        """Run a management command that must fail; return what it says."""
        done = preloaded.run([sys.executable, "manage.py", *arguments], self.folder, self.environment, 2 * TIMEOUT)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertNotIn("Traceback", done.stderr)
        return done.stderr

    def test_rundelay(self) -> None:
        """``rundelay`` alone: it waits for a server, and sends as soon as there is one; what is wrong it says."""
        server = self.start("--threads", "0")
        self.assertIn("--sleep", self.failing("rundelay", "--sleep", "0"))
        self.assertIn("CHANNEL_LAYERS['other'] is not set", self.failing("rundelay", "--layer", "other"))
        server.stop()
        self.store(1)
        helper = self.run_process([sys.executable, "manage.py", "rundelay", "--sleep", "0.05", "-v", "2"])
        helper.wait_for("cannot send delayed messages: no server of this project answers")
        self.run_process(self.twistd("--settings", "settings", "--port", "0")).wait_until_up()
        self.wait_for_note("task", key=self.id())
        self.assertEqual(helper.stop(), 0)
        self.assertNotIn("Traceback", helper.output)


class MigrationTests(DelayLabTestCase):
    """The migrations."""

    migrate = False

    def test_not_migrated(self) -> None:
        """Without the table one line says so, and the server serves. Once there is one, all is well: what
        waits in the table of Channels 1 is taken over. The models and the migrations say the same.
        """
        self.start()
        self.assertLogged("channelserver_delay.*has manage.py migrate been run")
        self.assertEqual(self.server.get("/nothing").status_code, 404)
        self.assertNoTraceback()
        code = (
            "from django.db import connection as c; cursor = c.cursor(); "
            'cursor.execute(\'create table "channels.delay_delayedmessage" (id integer primary key, '
            "due_date datetime, channel_name varchar(512), content text)'); "
            "cursor.execute('insert into \"channels.delay_delayedmessage\" values (7, %s, %s, %s)', "
            f"['2017-01-01 10:00:00.5', 'task', '{{\"key\": \"{self.id()}\"}}'])"
        )
        self.manage("shell", "--no-imports", "-c", code)
        self.manage("migrate", "--verbosity", "0")
        self.wait_for_note("task", key=self.id())
        self.assertEqual(self.log().count("has manage.py migrate been run"), 1)
        self.manage("makemigrations", "--check", "--dry-run")
        self.manage("migrate", "channelserver_delay", "zero", "--verbosity", "0")
