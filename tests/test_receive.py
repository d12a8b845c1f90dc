"""Receiving in the reactor thread."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import defer
from twisted.trial.unittest import SynchronousTestCase, TestCase

from channelserver.layers import BaseChannelLayer, InMemoryChannelLayer, RedisChannelLayer
from channelserver.layers.receive import receive_twisted
from tests.fakes import FakeReactor
from tests.redis_server import RedisServer


class ReceiveTests(SynchronousTestCase):
    """With a reactor whose time the test moves."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.layer = InMemoryChannelLayer()

    def receive(self, *channels: str) -> defer.Deferred[Any]:
        """Ask for a message."""
        return receive_twisted(self.layer, channels or ("a", "b"), self.reactor)

    def assertNothingLeft(self) -> None:
        self.reactor.turn()
        self.assertEqual((self.reactor.getDelayedCalls(), self.layer.queues._listeners), ([], {}))

    def test_a_message_that_waits(self) -> None:
        self.layer.send("b", {"n": 1})
        self.assertEqual(self.successResultOf(self.receive()), ("b", {"n": 1}))
        self.assertNothingLeft()

    def test_a_message_that_comes_later_from_another_thread(self) -> None:
        asked = self.receive()
        sender = threading.Thread(target=self.layer.send, args=("a", {"n": 1}))
        sender.start()
        sender.join()
        self.assertNoResult(asked)
        self.reactor.turn()
        self.assertEqual(self.successResultOf(asked), ("a", {"n": 1}))
        self.assertNothingLeft()

    def test_no_message(self) -> None:
        asked = self.receive()
        self.reactor.pass_time(4.9)
        self.assertNoResult(asked)
        self.reactor.pass_time(0.2)
        self.assertEqual(self.successResultOf(asked), (None, None))
        self.assertNothingLeft()

    def test_two_requests_and_one_message(self) -> None:
        asked = [self.receive(), self.receive()]
        self.layer.send("a", {"n": 1})
        self.reactor.turn()
        self.assertEqual([request.called for request in asked], [True, False])
        self.layer.send("a", {"n": 2})
        self.reactor.turn()
        self.assertEqual(self.successResultOf(asked[1]), ("a", {"n": 2}))
        self.successResultOf(asked[0])
        self.assertNothingLeft()

    def test_cancelled(self) -> None:
        asked = self.receive()
        self.layer.send("a", {"n": 1})
        asked.cancel()
        self.failureResultOf(asked, defer.CancelledError)
        self.assertNothingLeft()
        self.assertEqual(self.layer.receive(["a"]), ("a", {"n": 1}))

    def test_process_specific_channels(self) -> None:
        asked = self.receive("local!")
        self.layer.send("local!x", {"n": 1})
        self.reactor.turn()
        self.assertEqual(self.successResultOf(asked), ("local!x", {"n": 1}))

    def test_wrong_names(self) -> None:
        with self.assertRaises(TypeError):
            self.receive("not a name")
        self.assertNothingLeft()


class Waiting(InMemoryChannelLayer):
    """A layer whose messages are elsewhere."""

    def receive_twisted(self, channels: Any) -> Any:
        """As the base has it."""
        return BaseChannelLayer.receive_twisted(self, channels)

    def receive(self, channels: Any, block: bool = False) -> Any:
        """It may wait, so it must not be called in the reactor thread."""
        assert threading.current_thread() is not threading.main_thread()
        return super().receive(channels, block)


class LayerTests(TestCase):
    """The method of the layer, with the reactor that runs the tests."""

    async def test_the_method(self) -> None:
        layer = InMemoryChannelLayer()
        self.assertIn("twisted", layer.extensions)
        asked = layer.receive_twisted(["a"])
        sender = threading.Thread(target=layer.send, args=("a", {"n": 1}))
        sender.start()
        self.assertEqual(await asked, ("a", {"n": 1}))
        sender.join()

    async def test_layers_that_wait_for_others(self) -> None:
        """A thread waits for them, so that the reactor does not."""
        for layer in (Waiting(), self.redis_layer()):
            layer.send("a", {"n": 1})
            self.assertIn("twisted", layer.extensions)
            self.assertEqual(await layer.receive_twisted(["a"]), ("a", {"n": 1}))
            self.assertRaises(TypeError, layer.receive_twisted, ["not a name"])

    def redis_layer(self) -> RedisChannelLayer:
        """Return a layer on a Redis of its own."""
        redis = RedisServer()
        self.addCleanup(redis.remove)
        layer = RedisChannelLayer(hosts=[redis.url])
        self.addCleanup(layer.close)
        return layer
