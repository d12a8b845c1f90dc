"""The Redis layer on a real Redis: what every layer must do."""

from __future__ import annotations

import atexit
from functools import cache
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from channelserver import layers
from tests.redis_server import RedisServer


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

    def setUp(self) -> None:
        """Make the layer."""
        url = shared_redis().url
        self.channel_layer = layer = layers.RedisChannelLayer([url], capacity=5, expiry=1, **self.parameters)
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
        self.channel_layer = layer = layers.RedisChannelLayer(hosts, capacity=5, expiry=1, prefix="s:")
        self.addCleanup(layer.close)
        layer.flush()
