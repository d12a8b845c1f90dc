"""TLS on a transport: what goes to the protocol, to OpenSSL and to the kernel, and when."""

from __future__ import annotations

import contextlib
import os
import socket
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from channelserver.server.common.reactor import Reactor
from channelserver.server.common.records import (
    FIRST_PIECE,
    GROWN_BYTES,
    PIECE,
    RECORD,
    RECORDS,
    QuickTLS,
    clock_for_writes,
)
from channelserver.server.common.sending import unsent
from channelserver.server.tls.contexts import Contexts


class Received(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.pieces.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        """Keep the reason."""
        self.lost = reason


class OneContext(Contexts):
    """No hello is read."""

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return a connection with a certificate."""
        return SSL.Connection(self.context_for("localhost"), None)


class RecordTests(TestCase):
    """A server's connection on a socket, its reactor turned by the test; the client is OpenSSL without a network."""

    def setUp(self) -> None:
        """Shake hands."""
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        theirs.setblocking(False)
        self.addCleanup(self.ours.close)
        self.addCleanup(theirs.close)
        self.reactor = Reactor()
        self.addCleanup(self.reactor.removeAll)
        contexts = OneContext([b"http/1.1"])
        contexts.expect(["localhost"])
        self.protocol = Received()
        factory = TLSMemoryBIOFactory(contexts, False, Factory(), clock_for_writes(self.reactor))
        self.tls = QuickTLS(factory, self.protocol)
        self.transport = Connection(theirs, self.tls, self.reactor)
        self.transport.connected = 1
        self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.client.set_connect_state()
        self.tls.makeConnection(self.transport)
        self.transport.startReading()
        for _ in range(3):
            with contextlib.suppress(SSL.WantReadError):
                self.client.do_handshake()
            self.send()
            self.read()

    def send(self) -> None:
        """Send what the client has ready; let the server work."""
        data = b""
        while True:
            try:
                data += self.client.bio_read(2**20)
            except SSL.WantReadError:
                break
        while data:
            data = data[self.ours.send(data) :]
            self.turn()
        self.turn()

    def turn(self) -> None:
        """One turn of the reactor."""
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(0)

    def read(self) -> bytes:
        """Return what has come to the client."""
        data = b""
        try:
            self.client.bio_write(self.ours.recv(2**20))
        except BlockingIOError:
            return data
        try:
            while True:
                data += self.client.recv(2**20)
        except SSL.WantReadError:
            return data

    def read_all(self, size: int) -> bytes:
        """Read so many bytes."""
        data = b""
        for _ in range(1000):
            data += self.read()
            self.turn()
            if len(data) >= size:
                break
        return data

    def test_one_read_one_call(self) -> None:
        """Records that come together go to the protocol together; OpenSSL gets them in pieces."""
        written: list[int] = []
        grown: list[int] = []
        self.tls.grew = grown.append  # type: ignore[method-assign]
        connection = self.tls._tlsConnection
        real = connection.bio_write
        connection.bio_write = lambda data: written.append(len(data)) or real(data)
        data = os.urandom(2 * RECORD + 1)
        for begin in range(0, len(data), 1000):
            self.client.sendall(data[begin : begin + 1000])
        self.send()
        self.assertEqual(self.protocol.pieces, [data])
        self.assertEqual(max(written), PIECE)
        self.assertEqual(grown, [GROWN_BYTES])
        self.tls._handshakeDone = False  # as at the beginning
        del written[:]
        self.client.sendall(data)
        self.send()
        self.assertEqual(written[0], FIRST_PIECE)

    def test_many_records(self) -> None:
        """Of many small records some are decrypted at a time. Meanwhile nothing more is read, and the rest counts."""
        later: list[Any] = []
        self.tls.later = later.append  # type: ignore[method-assign]
        data = os.urandom(1000)
        for begin in range(len(data)):
            self.client.sendall(data[begin : begin + 1])
        self.send()
        self.assertEqual(self.protocol.pieces, [data[:RECORDS]])
        self.assertGreater(unsent(self.tls), 1000)
        self.tls.resumeProducing()
        self.assertNotIn(self.transport, self.reactor.getReaders())
        self.tls.pauseProducing()
        while later:
            later.pop()()
        self.assertEqual(b"".join(self.protocol.pieces), data)
        self.assertEqual(max(map(len, self.protocol.pieces)), RECORDS)
        self.assertEqual(unsent(self.tls), 0)
        self.assertNotIn(self.transport, self.reactor.getReaders())
        self.tls.resumeProducing()
        self.assertIn(self.transport, self.reactor.getReaders())

    def test_many_records_of_a_lost_client(self) -> None:
        """What has not been decrypted when the connection is lost is dropped."""
        later: list[Any] = []
        self.tls.later = later.append  # type: ignore[method-assign]
        for _ in range(1000):
            self.client.sendall(b"x")
        self.send()
        self.transport.connectionLost(Failure(ConnectionLost()))
        before = len(self.protocol.pieces)
        later.pop()()
        self.assertEqual((len(self.protocol.pieces), later, unsent(self.tls)), (before, [], 0))

    def test_written_at_the_end_of_the_turn(self) -> None:
        """Small writes go out together, in order, in the turn in which they were made."""
        for number in range(10):
            self.tls.write(b"%d" % number)
        self.assertEqual(self.read(), b"")
        self.reactor._call_at_end()
        self.assertEqual(self.read(), b"0123456789")
        self.assertFalse(self.reactor.getWriters())

    def test_more_than_the_kernel_takes(self) -> None:
        """What the kernel does not take waits in the transport; nothing overtakes it."""
        paused: list[bool] = []
        producer = SimpleNamespace(
            pauseProducing=lambda: paused.append(True), resumeProducing=lambda: paused.append(False),
            stopProducing=lambda: None,
        )  # fmt: skip
        self.tls.registerProducer(producer, True)
        data = os.urandom(2**21)
        self.tls.write(data)
        self.tls.write(b"end")
        self.turn()
        self.assertEqual(paused, [True])
        self.assertTrue(self.transport.dataBuffer or self.transport._tempDataLen)
        self.assertTrue(self.read_all(len(data) + 3) == data + b"end")
        self.assertEqual(paused, [True, False])

    def test_small_records(self) -> None:
        """OpenSSL may take less than a record at a time: the client wants small ones (RFC 6066 section 4)."""
        connection = self.tls._tlsConnection
        real = connection.send
        connection.send = lambda data: real(data[:999])
        data = os.urandom(2 * RECORD)
        self.tls.write(data)
        self.assertEqual(self.read_all(len(data)), data)

    def test_the_end_of_what_comes(self) -> None:
        """What comes with the client's good-bye is received before."""
        self.client.sendall(b"last words")
        self.client.shutdown()
        self.send()
        self.turn()
        self.assertEqual(self.protocol.pieces, [b"last words"])
        self.assertIsNotNone(self.protocol.lost)

    def test_garbage(self) -> None:
        """What comes before a broken record is received; the connection ends."""
        self.client.sendall(b"good")
        self.client.sendall(b"bad")
        data = bytearray(self.client.bio_read(2**20))
        data[-1] ^= 1
        self.ours.send(data)
        for _ in range(3):
            self.turn()
        self.assertEqual(self.protocol.pieces, [b"good"])
        self.assertIsNotNone(self.protocol.lost)

    def test_lost(self) -> None:
        """What is written when the connection is lost goes nowhere, and nothing is raised."""
        self.tls.write(b"late")
        self.ours.close()
        for _ in range(3):
            self.turn()
        self.assertIsNotNone(self.protocol.lost)
        self.tls.write(b"later")
        self.turn()
