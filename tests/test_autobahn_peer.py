"""Autobahn's client, which shares no code with this server, talks to a real one."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, inlineCallbacks
from twisted.trial.unittest import TestCase

from tests.process import TIMEOUT, ServerTestCase, project


class Peer(WebSocketClientProtocol):
    """Puts what happens into queues."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: DeferredQueue[Any] = DeferredQueue()
        self.pongs: DeferredQueue[bytes] = DeferredQueue()
        self.opened: Deferred[Any] = Deferred()
        self.closed: Deferred[tuple[bool, int, str]] = Deferred()

    def onOpen(self) -> None:
        """The handshake is complete."""
        self.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A message has come."""
        self.messages.put(payload if isBinary else payload.decode())

    def onPong(self, payload: bytes) -> None:
        """An answer to a ping has come."""
        self.pongs.put(payload)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        """The connection is closed."""
        self.closed.callback((wasClean, code, reason))


class PeerTestCase(TestCase, ServerTestCase):
    """A server whose consumers send back what they get."""

    files = project("autobahn_peer")
    timeout = TIMEOUT

    def peer(self, path: str = "/", compressed: bool = False, **options: Any) -> Peer:
        """Return a client, which connects."""
        factory = WebSocketClientFactory(f"ws://127.0.0.1:{self.server.port}{path}", **options)
        factory.setProtocolOptions(autoPingInterval=0, openHandshakeTimeout=TIMEOUT, closeHandshakeTimeout=TIMEOUT)
        if compressed:
            factory.setProtocolOptions(
                perMessageCompressionOffers=[PerMessageDeflateOffer()],
                perMessageCompressionAccept=lambda response: (
                    PerMessageDeflateResponseAccept(response)
                    if isinstance(response, PerMessageDeflateResponse)
                    else None
                ),
            )
        peer = Peer()
        factory.buildProtocol = lambda address: peer
        peer.factory = factory
        self.connector = reactor.connectTCP("127.0.0.1", self.server.port, factory)
        return peer


class ConversationTests(PeerTestCase):
    """What goes to and fro."""

    def setUp(self) -> None:
        """Start the server."""
        super().setUp()
        self.server = self.start("--compression")

    @inlineCallbacks
    def converse(self, peer: Peer) -> Any:
        """Send messages of all kinds and sizes; each comes back."""
        yield peer.opened
        for message in (
            "", "snow ☃", b"", b"\x00\xff" * 10, "x" * 125, "x" * 126, b"y" * 65_535, b"y" * 65_536,
            "ü€😀" * 30_000, bytes(range(256)) * 3_000,
        ):  # fmt: skip
            peer.sendMessage(message if isinstance(message, bytes) else message.encode(), isinstance(message, bytes))
            answer = yield peer.messages.get()
            self.assertTrue(answer == message, len(message))
        for size in (1, 100, 5_000):  # in fragments
            peer.sendMessage(("é" * 9_000).encode(), False, fragmentSize=size)
            answer = yield peer.messages.get()
            self.assertEqual(answer, "é" * 9_000)
        peer.sendPing(b"are you there")
        answer = yield peer.pongs.get()
        self.assertEqual(answer, b"are you there")
        peer.sendClose(3456, "bye")
        clean, code, _ = yield peer.closed
        self.assertEqual((clean, code), (True, 3456))
        self.server.wait_for("disconnect 3456")

    def test_plain(self) -> Any:
        """Text, bytes, fragments, large messages, a ping, and the client's close code."""
        return self.converse(self.peer())

    def test_compressed(self) -> Any:
        """The same with permessage-deflate."""
        peer = self.peer(compressed=True)
        done = self.converse(peer)
        peer.opened.addCallback(lambda _: self.assertIsNotNone(peer._perMessageCompress))
        return done

    @inlineCallbacks
    def test_frame_in_chops(self) -> Any:
        """A frame whose bytes come one by one is a message; with bad text the server closes in the middle of it."""
        peer = self.peer()
        yield peer.opened
        text = "Grüße ☃".encode()
        for last in (text, b"\xf4\x90"):
            peer.beginMessage()
            peer.beginMessageFrame(len(last) + (0 if last is text else 10))
            for byte in last:
                peer.sendMessageFrameData(bytes([byte]))
            if last is text:
                peer.endMessage()
                answer = yield peer.messages.get()
                self.assertEqual(answer, text.decode())
        _, code, reason = yield peer.closed
        self.assertEqual((code, reason), (1007, "text is not UTF-8"))

    @inlineCallbacks
    def test_the_server_closes(self) -> Any:
        """The close code of the application arrives, and the closing is clean."""
        for sent in (1000, 4321):
            peer = self.peer()
            yield peer.opened
            peer.sendMessage(b"close %d" % sent)
            clean, code, _ = yield peer.closed
            self.assertEqual((clean, code), (True, sent))
            self.server.wait_for("disconnect 1000")  # what this client answers, whatever it got

    @inlineCallbacks
    def test_subprotocol(self) -> Any:
        """The client learns the chosen subprotocol."""
        peer = self.peer(protocols=["chat", "news"])
        yield peer.opened
        self.assertEqual(peer.websocket_protocol_in_use, "chat")
        peer.sendClose(1000)
        yield peer.closed

    @inlineCallbacks
    def test_refused(self) -> Any:
        """A refused handshake opens nothing."""
        peer = self.peer("/denied/")
        clean, _, _ = yield peer.closed
        self.assertFalse(clean)
        self.assertFalse(peer.opened.called)
