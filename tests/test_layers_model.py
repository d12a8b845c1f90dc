"""The in-memory layer beside simple models of it: whatever is done, in whatever order, both must agree."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import ChannelFull, InMemoryChannelLayer
from channelserver.layers.losses import DropCounter
from channelserver.layers.names import local_prefix
from channelserver.layers.queues import WorkQueues
from channelserver.layers.waiting import Delivery
from tests import examples

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    max_examples=examples(40),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)

CAPACITY, SMALL_CAPACITY = 3, 2
EXPIRY, GROUP_EXPIRY = 10, 25
CHANNELS = ("a", "b", "small.c", "l!1", "l!2", "s?x")
QUEUES = ("a", "b", "small.c", "l!", "s?x")
GROUPS = ("g", "h")

channels = st.sampled_from(CHANNELS)
groups = st.sampled_from(GROUPS)


def in_memory(clock: Clock) -> InMemoryChannelLayer:
    """Return the layer that the model describes."""
    return InMemoryChannelLayer(EXPIRY, GROUP_EXPIRY, CAPACITY, {"small.*": SMALL_CAPACITY}, clock=clock.seconds)


class LayerMachine(RuleBasedStateMachine):
    """Sends, receives and groups. Time passes in leaps, after which the layer is swept."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.layer: Any = in_memory(self.clock)
        self.number = 0
        # The model: the (channel, number, end) of each queue's messages, the end of each group's memberships.
        self.queues: dict[str, list[tuple[str, int, float]]] = {name: [] for name in QUEUES}
        self.members: dict[str, dict[str, float]] = {name: {} for name in GROUPS}
        self.lost = {"channel full": 0, "expired": 0}

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def fits(self, channel: str) -> bool:
        capacity = SMALL_CAPACITY if channel.startswith("small.") else CAPACITY
        return len(self.queues[local_prefix(channel)]) < capacity

    def add(self, channel: str, number: int) -> None:
        self.queues[local_prefix(channel)].append((channel, number, self.clock.seconds() + EXPIRY))

    @rule(channel=channels)
    def send(self, channel: str) -> None:
        """A message goes in if it fits."""
        number = self.next_number()
        try:
            self.layer.send(channel, {"n": number})
        except ChannelFull:
            assert not self.fits(channel)
        else:
            assert self.fits(channel)
            self.add(channel, number)

    @rule(names=st.lists(st.sampled_from(QUEUES), min_size=1, unique=True))
    def receive(self, names: list[str]) -> None:
        """What comes out is the first message of one of the queues, or nothing if all are empty."""
        channel, message = self.layer.receive(names)
        firsts = {self.queues[name][0][:2] for name in names if self.queues[name]}
        if message is None:
            assert channel is None and not firsts
        else:
            assert channel is not None and (channel, message["n"]) in firsts
            self.queues[local_prefix(channel)].pop(0)

    @rule(group=groups, channel=channels)
    def join(self, group: str, channel: str) -> None:
        """A channel becomes a member, or renews its membership."""
        self.layer.group_add(group, channel)
        self.members[group][channel] = self.clock.seconds() + GROUP_EXPIRY

    @rule(group=groups, channel=channels)
    def leave(self, group: str, channel: str) -> None:
        """A channel is no member any more, if it was one."""
        self.layer.group_discard(group, channel)
        self.members[group].pop(channel, None)

    @rule(channel=channels)
    def forget(self, channel: str) -> None:
        """A channel is a member of nothing any more."""
        self.layer.forget(channel)
        for members in self.members.values():
            members.pop(channel, None)

    @rule(group=groups)
    def send_group(self, group: str) -> None:
        """Every member gets the message, or its loss is counted."""
        number = self.next_number()
        self.layer.send_group(group, {"n": number})
        for channel in self.layer.group_channels(group):
            if self.fits(channel):
                self.add(channel, number)
            else:
                self.lost["channel full"] += 1

    @rule(seconds=st.sampled_from([0.5, 1, 4, 9, 10, 15]))
    def pass_time(self, seconds: float) -> None:
        """Messages and memberships end when their time is over."""
        self.clock.advance(seconds)
        self.layer.sweep()
        now = self.clock.seconds()
        for name, queue in self.queues.items():
            kept = [entry for entry in queue if entry[2] > now]
            self.lost["expired"] += len(queue) - len(kept)
            self.queues[name] = kept
        for members in self.members.values():
            for channel in [channel for channel, ends in members.items() if ends <= now]:
                del members[channel]

    @rule()
    def flush(self) -> None:
        """Everything is forgotten."""
        self.layer.flush()
        for queue in (*self.queues.values(), *self.members.values()):
            queue.clear()

    @rule(channel=channels)
    def ask_for_room(self, channel: str) -> None:
        """The answer to a question for room is right."""
        assert self.layer.when_room(channel, {}, lambda: None) == self.fits(channel)

    @invariant()
    def same_members(self) -> None:
        """The groups have the members of the model."""
        for group, members in self.members.items():
            assert sorted(self.layer.group_channels(group)) == sorted(members)

    @invariant()
    def same_figures(self) -> None:
        """The figures are those of the model."""
        for name, queue in self.queues.items():
            assert self.layer.channel_statistics(name)["messages_pending"] == len(queue)
        figures = self.layer.global_statistics()
        assert figures["messages_pending"] == sum(map(len, self.queues.values()))
        assert figures["group_members"] == sum(map(len, self.members.values()))
        assert {**self.lost, **figures["lost"]} == self.lost


PLAIN, CONNECT, RECEIVE, DISCONNECT = "a", "websocket.connect", "websocket.receive", "websocket.disconnect"
WORK = (PLAIN, CONNECT, RECEIVE, DISCONNECT)
KEYS = ("r!1", "r!2", "r!3")
LANE_LIMIT = 3


class LaneMachine(RuleBasedStateMachine):
    """Lanes, with several messages at work at the same time."""

    def __init__(self) -> None:
        super().__init__()
        clock = Clock()
        drops = DropCounter(clock.seconds)
        self.queues = WorkQueues(lambda name: 1000, 60, clock.seconds, drops, WORK[1:], LANE_LIMIT)
        self.told = 0
        self.number = 0
        # The model: the (channel, number) of what waits.
        self.plain: list[int] = []
        self.lanes: dict[str, list[tuple[str, int]]] = {key: [] for key in KEYS}
        self.busy: set[str] = set()
        self.taken: list[Delivery] = []
        self.before: set[tuple[str, int]] = set()

    @initialize()
    def listen(self) -> None:
        """Listen to all channels."""
        self.queues.listen(WORK, self.tell)

    def tell(self) -> None:
        self.told += 1

    def available(self, names: Any = WORK) -> set[tuple[str, int]]:
        """Return what may be taken from these channels now."""
        firsts = {lane[0] for key, lane in self.lanes.items() if lane and key not in self.busy}
        if self.plain:
            firsts.add((PLAIN, self.plain[0]))
        return {first for first in firsts if first[0] in names}

    @rule(channel=st.sampled_from(WORK), key=st.sampled_from(KEYS))
    def put(self, channel: str, key: str) -> None:
        """A message goes in, unless its lane is full."""
        self.number += 1
        content = {"reply_channel": key, "n": self.number}
        full = channel != PLAIN and len(self.lanes[key]) >= LANE_LIMIT
        try:
            self.queues.put(channel, content)
        except ChannelFull:
            assert full
            return
        assert not full
        if channel == PLAIN:
            assert self.told
            self.plain.append(self.number)
        else:
            self.lanes[key].append((channel, self.number))

    @rule(names=st.lists(st.sampled_from(WORK), min_size=1, unique=True))
    def take(self, names: list[str]) -> None:
        """What is taken is the first of its lane, and no other of that lane is at work."""
        delivery = self.queues.take(names)
        available = self.available(names)
        if delivery is None:
            assert not available
            return
        entry = (delivery.channel, delivery.content["n"])
        assert entry in available
        self.taken.append(delivery)
        if delivery.channel == PLAIN:
            self.plain.pop(0)
        else:
            key = delivery.content["reply_channel"]
            self.lanes[key].pop(0)
            self.busy.add(key)

    @precondition(lambda self: self.taken)
    @rule(index=st.integers(0, 100), back=st.booleans(), twice=st.booleans())
    def end(self, index: int, back: bool, twice: bool) -> None:
        """A message at work is finished, once or twice, or put back."""
        delivery = self.taken.pop(index % len(self.taken))
        entry = (delivery.channel, delivery.content["n"])
        if delivery.channel != PLAIN:
            key = delivery.content["reply_channel"]
            self.busy.discard(key)
            if back:
                self.lanes[key].insert(0, entry)
        elif back:
            self.plain.append(entry[1])
        if back:
            self.queues.put_back(delivery)
        else:
            self.queues.finish(delivery)
            if twice:
                self.queues.finish(delivery)

    @rule()
    def flush(self) -> None:
        """All that waits is forgotten; what is at work stays at work."""
        self.queues.flush()
        self.plain.clear()
        for lane in self.lanes.values():
            lane.clear()

    @invariant()
    def same_work(self) -> None:
        """There is work if the model says so, and whenever some was added, the listener was told."""
        available = self.available()
        for name in WORK:
            assert self.queues.has_work([name]) == bool(self.available([name]))
        # Except for plain messages: each was announced when it was put in, though others were before it.
        if any(entry[0] != PLAIN for entry in available - self.before):
            assert self.told
        self.before, self.told = available, 0

    @invariant()
    def same_figures(self) -> None:
        """As many messages wait in each channel as in the model."""
        waiting = [entry[0] for lane in self.lanes.values() for entry in lane] + [PLAIN] * len(self.plain)
        for name in WORK:
            assert self.queues.statistics(name)["messages_pending"] == waiting.count(name)

    @invariant()
    def no_lanes_left_over(self) -> None:
        """A lane is kept only while it has messages, waiting or at work."""
        used = {key for key, lane in self.lanes.items() if lane} | self.busy
        assert set(self.queues._lanes) == used


class ModelTests(SynchronousTestCase):
    """The machines, driven by Hypothesis."""

    def test_layer(self) -> None:
        """The layer agrees with its model."""
        run_state_machine_as_test(LayerMachine, settings=SETTINGS)

    def test_lanes(self) -> None:
        """The queues agree with their model."""
        run_state_machine_as_test(LaneMachine, settings=SETTINGS)
