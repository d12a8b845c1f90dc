"""The Redis layer on a real Redis: what every layer must do."""

from __future__ import annotations

import atexit
import time
from functools import cache
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from channelserver import layers
from channelserver.layers.names import local_prefix
from tests import examples
from tests.redis_server import RedisServer, pause
from tests.test_layers_model import (
    CAPACITY,
    EXPIRY,
    GROUP_EXPIRY,
    GROUPS,
    QUEUES,
    SMALL_CAPACITY,
    channels,
    groups,
)

REDIS_SETTINGS = settings(
    deadline=None,
    derandomize=True,
    max_examples=examples(15),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)


@cache
def shared_redis() -> RedisServer:
    """Return a server for all tests that do it no harm."""
    server = RedisServer()
    atexit.register(server.remove)
    return server


class RedisConformanceTests(layers.ConformanceTestCase, SynchronousTestCase):
    """The layer in a process without a reactor."""

    expiry_delay = 1.1
    capacity_limit = 5
    parameters: ClassVar[dict[str, Any]] = {}

    @property
    def expiry(self) -> int:
        """Redis measures it, so it is short only where the test waits for it: all else may take its time."""
        return 1 if self._testMethodName == "test_expiry" else 60

    def setUp(self) -> None:
        """Make the layer."""
        url = shared_redis().url
        self.channel_layer = layer = layers.RedisChannelLayer([url], capacity=5, expiry=self.expiry, **self.parameters)
        self.addCleanup(layer.close)
        layer.flush()


class EncryptedConformanceTests(RedisConformanceTests):
    """The same with encryption."""

    parameters = {"symmetric_encryption_keys": ["new", "old"]}


class ShardedConformanceTests(RedisConformanceTests):
    """The same on two databases, which share the names."""

    def setUp(self) -> None:
        """Make the layer."""
        url = shared_redis().url.removesuffix("/0")
        hosts = [f"{url}/1", f"{url}/2"]
        self.channel_layer = layer = layers.RedisChannelLayer(hosts, capacity=5, expiry=self.expiry, prefix="s:")
        self.addCleanup(layer.close)
        layer.flush()


#: A second of the model is so many of Redis, whose clock goes on meanwhile.
SCALE = 100


class RedisMachine(RuleBasedStateMachine):
    """The layer beside a simple model, as the in-memory one; two processes send, receive and join in turn."""

    keys: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.hosts = [
            layers.RedisChannelLayer(
                [shared_redis().url], "m:", EXPIRY * SCALE, GROUP_EXPIRY * SCALE, CAPACITY,
                {"small.*": SMALL_CAPACITY}, self.keys,
            )
            for _ in range(2)
        ]  # fmt: skip
        self.hosts[0].flush()
        self.now = 0.0
        self.number = 0
        self.queues: dict[str, list[tuple[str, int, float]]] = {name: [] for name in QUEUES}
        self.members: dict[str, dict[str, float]] = {name: {} for name in GROUPS}

    def teardown(self) -> None:
        """End the connections."""
        for layer in self.hosts:
            layer.close()

    def fits(self, channel: str) -> bool:
        capacity = SMALL_CAPACITY if channel.startswith("small.") else CAPACITY
        return len(self.queues[local_prefix(channel)]) < capacity

    def add(self, channel: str) -> None:
        self.queues[local_prefix(channel)].append((channel, self.number, self.now + EXPIRY))

    @rule(host=st.integers(0, 1), channel=channels)
    def send(self, host: int, channel: str) -> None:
        """A message goes in if it fits."""
        self.number += 1
        try:
            self.hosts[host].send(channel, {"n": self.number})
        except layers.ChannelFull:
            assert not self.fits(channel)
        else:
            assert self.fits(channel)
            self.add(channel)

    @rule(host=st.integers(0, 1), names=st.lists(st.sampled_from(QUEUES), min_size=1, unique=True))
    def receive(self, host: int, names: list[str]) -> None:
        """What comes out is the first message of one of the queues, or nothing if all are empty."""
        channel, message = self.hosts[host].receive(names)
        firsts = {self.queues[name][0][:2] for name in names if self.queues[name]}
        if message is None:
            assert channel is None and not firsts
        else:
            assert channel is not None and (channel, message["n"]) in firsts
            self.queues[local_prefix(channel)].pop(0)

    @rule(host=st.integers(0, 1), group=groups, channel=channels, joins=st.booleans())
    def join(self, host: int, group: str, channel: str, joins: bool) -> None:
        """A channel becomes a member, or renews its membership, or ends it."""
        if joins:
            self.hosts[host].group_add(group, channel)
            self.members[group][channel] = self.now + GROUP_EXPIRY
        else:
            self.hosts[host].group_discard(group, channel)
            self.members[group].pop(channel, None)

    @rule(host=st.integers(0, 1), group=groups)
    def send_group(self, host: int, group: str) -> None:
        """Every member that has room gets the message."""
        self.number += 1
        self.hosts[host].send_group(group, {"n": self.number})
        for channel in self.hosts[host].group_channels(group):
            pending = self.hosts[host].channel_statistics(local_prefix(channel))["messages_pending"]
            if pending > len(self.queues[local_prefix(channel)]):
                self.add(channel)
            else:
                assert not self.fits(channel)

    @rule(seconds=st.sampled_from([0.5, 1, 4, 9, 10, 15]))
    def pass_time(self, seconds: float) -> None:
        """Messages and memberships end when their time is over."""
        self.now += seconds
        for layer in self.hosts:
            layer.time_offset = int(self.now * SCALE * 1000)
        for name, queue in self.queues.items():
            self.queues[name] = [entry for entry in queue if entry[2] > self.now]
        for members in self.members.values():
            for channel in [channel for channel, ends in members.items() if ends <= self.now]:
                del members[channel]

    @rule(host=st.integers(0, 1))
    def flush(self, host: int) -> None:
        """Everything is forgotten."""
        self.hosts[host].flush()
        for queue in (*self.queues.values(), *self.members.values()):
            queue.clear()

    @invariant()
    def same_members(self) -> None:
        """The groups have the members of the model, and the queues so many messages."""
        for group, members in self.members.items():
            assert sorted(self.hosts[0].group_channels(group)) == sorted(members)
        for name, queue in self.queues.items():
            assert self.hosts[1].channel_statistics(name)["messages_pending"] == len(queue)


class EncryptedMachine(RedisMachine):
    """The same with encryption."""

    keys = ["key"]


class ModelTests(SynchronousTestCase):
    """The machines, driven by Hypothesis."""

    def test_layer(self) -> None:
        """Two layers on one Redis agree with the model of one."""
        run_state_machine_as_test(RedisMachine, settings=REDIS_SETTINGS)

    def test_layer_encrypted(self) -> None:
        """The same with encryption."""
        run_state_machine_as_test(EncryptedMachine, settings=REDIS_SETTINGS)


class IdleTests(SynchronousTestCase):
    """A process that has nothing to do."""

    def test_few_commands(self) -> None:
        """It gives at most two commands a second."""
        redis = RedisServer()
        self.addCleanup(redis.remove)
        layer = layers.RedisChannelLayer([redis.url])
        self.addCleanup(layer.close)
        layer.attach("websocket.send.idle!", Nobody())
        layer.send("a", {})
        began, before = time.monotonic(), redis.calls()
        pause(6)
        more = redis.calls() - before
        asked = more["evalsha"] + more["ping"] + more["exists"]  # the others are part of scripts
        self.assertLessEqual(asked, 2 * (time.monotonic() - began))
        self.assertGreater(asked, 0)
        self.assertEqual(more["zrem"], 0)
        self.assertLessEqual(more.total(), 8 * (time.monotonic() - began))


class Nobody:
    """The connections of a process that has none."""

    def __contains__(self, channel: object) -> bool:
        return False
