"""Turns: how much of what one client has sent is dealt with before others come."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from channelserver import bridge as bridge_module
from channelserver.bridge import Bridge
from channelserver.server.common import continuations
from channelserver.server.common import reactor as reactor_module
from channelserver.server.common.continuations import Continuations
from channelserver.server.common.listening import ACCEPTS_A_TURN, limit_accepting
from channelserver.server.common.reactor import Reactor
from channelserver.server.common.unix import Listening
from channelserver.server.http.connection import CHATTER_BURST, READ_AHEAD, HTTPFactory
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.reader import CHUNKED_SLICE, MAX_EMPTY_LINES, RequestReader
from channelserver.server.websocket.websocket import SLICE
from tests.fakes import FakeReactor, FakeTransport, Files, StrictTestCase, get, request
from tests.lab import CLOSE, CONTINUATION, PING, PONG, TEXT, LabTestCase, RawClient, client_frame, close_code

UPGRADE = (
    "Upgrade: websocket",
    "Connection: upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class PipelineTests(StrictTestCase):
    """Requests that the reactor answers itself."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()
        self.server.site.static = self.files = Files({"status": 200, "content": b"file"})

    def test_one_a_turn(self) -> None:
        """One is answered in a turn, and in the end all are."""
        client = self.server.connect()
        client.transport.deliver(get("/") * 200)
        self.assertEqual(self.files.answered, 1)
        self.server.reactor.turn()
        self.assertEqual(self.files.answered, 200)
        self.assertEqual(len(client.responses()), 200)

    def test_no_more_is_read(self) -> None:
        """What waits for its turn is bounded: no more is read meanwhile."""
        client = self.server.connect()
        request, most = get("/"), 0
        client.transport.deliver(request * (10 * READ_AHEAD // len(request)))
        connection = client.transport.protocol
        while self.server.reactor._from_threads or self.server.reactor.calls:
            most = max(most, len(connection._reader.buffer))
            if not self._step():
                break
        self.assertLess(most, 3 * READ_AHEAD)
        self.assertEqual(self.files.answered, 10 * READ_AHEAD // len(request))

    def _step(self) -> bool:
        """Do one thing; return whether there was one."""
        reactor = self.server.reactor
        if reactor._from_threads:
            function, args, kwargs = reactor._from_threads.popleft()
            function(*args, **kwargs)
        elif reactor.calls and reactor.calls[0].getTime() <= reactor.seconds():
            reactor.advance(0)
        else:
            return False
        return True


class ReaderTests(StrictTestCase):
    """What is read in one go."""

    def setUp(self) -> None:
        super().setUp()
        self.site = self.make_server().site
        self.reader = RequestReader(self.site.options)

    def test_empty_lines(self) -> None:
        """The few empty lines that may come before a request are counted, however they come."""
        for _ in range(MAX_EMPTY_LINES):
            self.reader.buffer += b"\r\n"
            self.assertIsNone(self.reader.take_head())
        self.reader.buffer += b"\r\n"
        self.assertRaises(BadRequest, self.reader.take_head)

    def test_counted_anew(self) -> None:
        """For each request."""
        for _ in range(3):
            self.reader.buffer += b"\r\n" * MAX_EMPTY_LINES + get("/")
            self.assertIsNotNone(self.reader.take_head())

    def test_small_chunks(self) -> None:
        """Of a chunked body, a slice; of any other, all there is."""
        head = RequestHead()
        head.length = None
        self.reader.begin_body(head, 0.0, self.site.memory)
        self.reader.buffer = b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\nGET"
        begun = len(self.reader.buffer)
        self.assertIsNone(self.reader.read_body())
        self.assertEqual(len(self.reader.buffer), begun - CHUNKED_SLICE)
        body = None
        while body is None:
            body = self.reader.read_body()
        self.assertEqual((body, self.reader.buffer), ((b"x" * 10_000, None), b"GET"))


class ServerTests(LabTestCase):
    """On a real server."""

    def test_pipelined_health(self) -> None:
        """A client that asks for the health without end is disconnected; one that waits for each answer is not."""
        before = self.chatter()
        client = RawClient(self.server)
        self.addCleanup(client.close)
        client.send(HEALTH * 1000)
        answers = client.rest().count(b'"ready"')
        self.assertGreaterEqual(answers, CHATTER_BURST)
        self.assertLess(answers, 1000)
        self.assertEqual(self.chatter(), before + 1)
        patient = RawClient(self.server)
        self.addCleanup(patient.close)
        for _ in range(2 * CHATTER_BURST):
            patient.send(HEALTH)
            patient.read_until(b"}\n")

    def test_pings(self) -> None:
        """Of many pings that come together the latest is answered; who sends thousands is disconnected."""
        client = RawClient(self.server).open("/")
        self.addCleanup(client.close)
        client.send(b"".join(client_frame(PING, b"%d" % number) for number in range(1000)))
        answers = []
        while not answers or answers[-1] != b"999":
            frame = client.frame()
            assert frame is not None and frame[0] == PONG
            answers.append(frame[1])
        self.assertLess(len(answers), 500)
        client.send(client_frame(PING, b"") * 3000)
        self.assertEqual(self.last_frame(client, PONG), 1008)

    def test_pings_of_scripts(self) -> None:
        """The pings of the JavaScript client count as pings."""
        client = RawClient(self.server).open("/")
        self.addCleanup(client.close)
        client.send(client_frame(TEXT, b"\0ping") * 3000)
        self.assertEqual(self.last_frame(client, TEXT), 1008)

    def chatter(self) -> int:
        """Return how many clients were disconnected for chatter."""
        return int(self.server.get("/-/health").json()["refused"].get("chatter", 0))

    def last_frame(self, client: RawClient, opcode: int) -> int | None:
        """Return the code in the close frame that follows frames of one kind."""
        while (frame := client.frame()) is not None and frame[0] == opcode:
            pass
        assert frame is not None and frame[0] == CLOSE
        return close_code(frame[1])


class FrameTests(StrictTestCase):
    """WebSocket frames."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()
        self.client = self.server.connect()
        self.client.send(get("/", *UPGRADE))
        self.server.reply(self.server.message("websocket.connect"), accept=True)

    def test_tiny_frames(self) -> None:
        """A few hundred a turn, and no more is read meanwhile; in the end all have been read."""
        begin, part = (bytes([opcode]) + client_frame(opcode, b"")[1:] for opcode in (TEXT, CONTINUATION))
        self.client.transport.deliver(begin + part * 20_000 + client_frame(CONTINUATION, b"end"))
        self.assertGreater(len(self.client.protocol.websocket._unread), 65536 - 2 * SLICE)
        self.assertFalse(self.client.transport.reading)
        self.server.reactor.turn()
        self.assertEqual(self.server.message("websocket.receive")["text"], "end")
        self.assertTrue(self.client.transport.reading)

    def test_large_messages(self) -> None:
        """They are taken as they come."""
        self.client.transport.deliver(client_frame(TEXT, b"x" * 500_000))
        self.assertEqual(len(self.server.message("websocket.receive")["text"]), 500_000)


class BatchTests(StrictTestCase):
    """What threads have posted."""

    def test_long_calls(self) -> None:
        """One that takes long is the last of its turn; the order stays."""
        reactor = FakeReactor()
        done: list[int] = []
        bridge = Bridge(reactor)
        self.patch(bridge_module, "TURN", -1.0)

        def call(number: int) -> None:
            done.append(number)
            if number == 1:
                bridge.post(call, 10)

        for number in range(3):
            bridge.post(call, number)
        turns = []
        while reactor._from_threads:
            function, arguments, named = reactor._from_threads.popleft()
            function(*arguments, **named)
            turns.append(list(done))
        self.assertEqual(turns, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 10]])


class ContinuationTests(StrictTestCase):
    """What connections have still to do."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = FakeReactor()
        self.continuations = Continuations(Bridge(self.reactor))
        self.done: list[str] = []

    def turn(self) -> list[str]:
        """Do one turn; return what was done so far."""
        function, arguments, named = self.reactor._from_threads.popleft()
        function(*arguments, **named)
        return list(self.done)

    def test_addresses_in_turn(self) -> None:
        """A new address does not wait for those that have much to do; one call too long for a turn ends it."""
        self.patch(continuations, "SLICE", -1.0)
        for number in range(3):
            self.continuations.add("1.2.3.4", partial(self.done.append, f"a{number}"))
        self.assertEqual(self.turn(), ["a0"])
        self.continuations.add("2001:db8::1", partial(self.done.append, "b0"))
        self.continuations.add("2001:db8::2", partial(self.done.append, "b1"))  # the same by its first half
        self.assertEqual([self.turn()[-1] for _ in range(4)], ["a1", "b0", "a2", "b1"])
        self.assertFalse(self.reactor._from_threads)

    def test_once_a_turn(self) -> None:
        """What is added by a call waits for the next turn, and an error ends nothing."""
        self.patch(continuations, "SLICE", 60.0)

        def again() -> None:
            self.done.append("again")
            self.continuations.add(None, again)
            raise ValueError

        self.continuations.add(None, again)
        self.assertEqual(self.turn(), ["again"])
        self.assertEqual(self.turn(), ["again"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(len(self.logged), 2)
        self.logged.clear()

    def test_at_once_in_a_short_turn(self) -> None:
        """What may be done now is, unless the turn is long already, or others wait."""
        self.patch(continuations, "SLICE", 60.0)
        self.continuations.run(None, partial(self.done.append, "now"))
        self.assertEqual(self.done, ["now"])
        self.continuations.add(None, partial(self.done.append, "first"))
        self.continuations.run(None, partial(self.done.append, "second"))
        self.assertEqual(self.done, ["now"])
        self.assertEqual(self.turn(), ["now", "first", "second"])
        self.patch(continuations, "SLICE", -1.0)
        self.continuations.run(None, partial(self.done.append, "later"))
        self.assertEqual(self.done, ["now", "first", "second"])


class LongTurnTests(TestCase):
    """A turn of the reactor with many events."""

    def test_ended(self) -> None:
        """It ends after a while: what threads have posted comes before the rest, which comes before new events."""
        self.patch(reactor_module, "TURN", -1.0)
        self.patch(reactor_module, "LONG", -1.0)
        turning = Reactor()
        pairs = [socket.socketpair() for _ in range(4)]
        done: list[Any] = []

        class Reader(FileDescriptor):
            def __init__(self, number: int) -> None:
                super().__init__(turning)
                self.number = number

            def fileno(self) -> int:
                return pairs[self.number][0].fileno()

            def doRead(self) -> None:
                pairs[self.number][0].recv(1)
                done.append(self.number)

        readers = [Reader(number) for number in range(4)]
        for reader, (_, there) in zip(readers, pairs, strict=True):
            reader.startReading()
            there.send(b"xx")
        turning.doPoll(0)
        self.assertEqual(len(done), 1)
        turning.callFromThread(done.append, "posted")
        turning.runUntilCurrent()
        rest = [number for number in range(4) if number not in done]
        readers[rest[0]].stopReading()  # nothing is read of one that has paused
        for _ in range(3):
            turning.doPoll(0)
        self.assertEqual(done[1:], ["posted", rest[1], rest[2], done[0]])
        turning.removeAll()
        for pair in pairs:
            for each in pair:
                each.close()


class BulkTests(StrictTestCase):
    """Much that a client has sent at once, when a turn is long already."""

    def test_put_off(self) -> None:
        """A large part of a body, and of a message, waits for a later turn."""
        server = self.make_server()
        self.patch(continuations, "SLICE", -1.0)
        body, sockets = server.connect(), server.connect()
        sockets.transport.deliver(get("/", *UPGRADE))
        server.reply(server.message("websocket.connect"), accept=True)
        server.turn()
        body.transport.protocol.dataReceived(request("POST", "/", body=bytes(60_000)))
        sockets.transport.protocol.dataReceived(client_frame(TEXT, b"x" * 60_000))
        for channel in ("http.request", "websocket.receive"):
            self.assertFalse(server.layer.queues.has_work([channel]))
        server.turn()
        self.assertEqual(len(server.message("http.request")["body"]), 60_000)
        self.assertEqual(len(server.message("websocket.receive")["text"]), 60_000)


class AcceptTests(StrictTestCase):
    """New connections."""

    def test_so_many_a_turn(self) -> None:
        """A port does not accept more and more in one turn, however many wait."""

        class Port:
            numberAccepts = 100

            def doRead(self) -> None:
                accepted.append(self.numberAccepts)
                self.numberAccepts += 20

        accepted: list[int] = []
        port = Port()
        limit_accepting(port)
        for _ in range(3):
            port.doRead()
        self.assertEqual(accepted, [ACCEPTS_A_TURN] * 3)


class EndpointTests(StrictTestCase):
    """``ssl:`` endpoints, which Twisted makes."""

    def test_handshake(self) -> None:
        """A handshake waits for a later turn when this one is long already, as with ``--tls-cert``."""
        server = self.make_server()
        self.patch(continuations, "SLICE", -1.0)
        made: list[Any] = []

        class Inner:
            def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> None:
                made.append(factory)

        @implementer(IOpenSSLContextFactory)
        class Contexts:
            def getContext(self) -> SSL.Context:
                return SSL.Context(SSL.TLS_SERVER_METHOD)

        Listening(Inner()).listenSSL(0, HTTPFactory(server.site), Contexts())  # type: ignore[arg-type]
        transport = FakeTransport(server.reactor)
        transport.protocol = made[0].buildProtocol(None)
        transport.protocol.makeConnection(transport)
        transport.protocol.dataReceived(b"\x16\x03\x01\x00\x05hello")
        self.assertFalse(transport.reading or transport.received or transport.over)
        server.turn()
        self.assertTrue(transport.received)  # an alert
