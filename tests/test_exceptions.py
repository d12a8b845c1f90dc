"""What the exceptions for consumers do."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from channelserver import exceptions
from channelserver.exceptions import ChannelSocketException, DenyConnection, WebsocketCloseException
from channelserver.layers import InMemoryChannelLayer
from channelserver.message import Message
from channelserver.workers.outbox import Outbox

REPLY = "websocket.send.abc!1"


class WebsocketCloseExceptionTests(TestCase):
    def closing(self, exception: WebsocketCloseException, channel: str = "websocket.receive") -> Any:
        """Return what `exception` sends to the socket."""
        layer = InMemoryChannelLayer()
        exception.run(Message({"reply_channel": REPLY}, channel, layer))
        return layer.receive([REPLY.partition("!")[0] + "!"])[1]

    def test_sends_its_code(self) -> None:
        for code in (1000, 3000, 4999):
            self.assertEqual(self.closing(WebsocketCloseException(code)), {"close": code})

    def test_without_code_sends_true(self) -> None:
        self.assertIs(self.closing(WebsocketCloseException())["close"], True)

    def test_refuses_codes_which_applications_may_not_send(self) -> None:
        for code in (-1, 0, 1, 999, 1001, 1005, 1006, 2999, 5000, True, False, "1000", 1000.0):
            with self.assertRaises(ValueError) as caught:
                WebsocketCloseException(code)
            self.assertIn(repr(code), str(caught.exception))

    def test_works_whatever_the_channel_and_the_reply_channel_are_called(self) -> None:
        layer = InMemoryChannelLayer()
        WebsocketCloseException(3001).run(Message({"reply_channel": "daphne.response.x!y"}, "my-channel", layer))
        self.assertEqual(layer.receive(["daphne.response.x!"]), ("daphne.response.x!y", {"close": 3001}))

    def test_sends_at_once_also_while_sends_are_held_back(self) -> None:
        with Outbox(lambda seconds, function: None) as outbox:
            closing = self.closing(WebsocketCloseException(4000))
            outbox.drop()
        self.assertEqual(closing, {"close": 4000})

    def test_needs_a_reply_channel(self) -> None:
        with self.assertRaises(ValueError) as caught:
            WebsocketCloseException().run(Message({}, "my-channel", InMemoryChannelLayer()))
        self.assertIn("reply_channel", str(caught.exception))

    def test_the_worker_treats_it_as_socket_exception(self) -> None:
        self.assertIsInstance(WebsocketCloseException(), ChannelSocketException)


class OtherExceptionTests(TestCase):
    def test_deny_connection_does_nothing_by_itself(self) -> None:
        # Outside websocket.connect it is only logged.
        self.assertFalse(issubclass(DenyConnection, ChannelSocketException))

    def test_a_socket_exception_without_run_says_so(self) -> None:
        class Mute(ChannelSocketException):
            pass

        with self.assertRaises(NotImplementedError) as caught:
            Mute().run(Message({}, "my-channel", InMemoryChannelLayer()))
        self.assertIn("Mute", str(caught.exception))

    def test_all_names_of_channels_1_are_exceptions(self) -> None:
        for name in (
            "ConsumeLater", "ResponseLater", "RequestTimeout", "RequestAborted", "DenyConnection",
            "ChannelSocketException", "WebsocketCloseException", "SendNotAvailableOnDemultiplexer",
        ):  # fmt: skip
            self.assertTrue(issubclass(getattr(exceptions, name), Exception), name)
