"""Bytes that go straight to the kernel: nothing overtakes, and nothing is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from channelserver.server.sending import direct, send
from tests.process import ROOT, TIMEOUT


class DirectTests(SynchronousTestCase):
    """Which transports can be sent to without the reactor."""

    def test_others_are_written_to(self) -> None:
        """What is no plain socket, such as TLS, is written to as usual."""
        self.assertIsNone(direct(StringTransport()))


class SendTests(TestCase):
    """A real connection whose other end is read by the test."""

    timeout = TIMEOUT

    def connect(self, do: Any) -> tuple[Any, socket.socket]:
        """Return what `do`, called with the transport of a new connection, returns, and the other end."""
        called: Any = Deferred()

        class Server(Protocol):
            def connectionMade(self) -> None:
                called.callback(self.transport)

        port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = socket.create_connection(("127.0.0.1", port.getHost().port), TIMEOUT)
        self.addCleanup(client.close)
        return called.addCallback(do), client

    def test_at_once(self) -> Any:
        """What the kernel takes is on its way when ``send`` returns: the reactor need not run for it."""

        def do(transport: Any) -> None:
            assert direct(transport) is transport
            send(transport, b"at once")
            self.assertEqual(client.recv(100), b"at once")
            transport.loseConnection()

        done, client = self.connect(do)
        return done

    def test_more_than_the_kernel_takes(self) -> Any:
        """The rest waits in the transport, what is sent later waits behind it, and all of it arrives in order."""
        parts = [bytes([number]) * 3_000_000 for number in range(1, 5)] + [b"end"]

        def do(transport: Any) -> Any:
            for part in parts:
                send(transport, part)
            self.assertTrue(transport.dataBuffer or transport._tempDataLen)
            transport.loseConnection()
            return deferToThread(read).addCallback(lambda data: self.assertTrue(data == b"".join(parts)))

        def read() -> bytes:
            with client.makefile("rb") as stream:
                return stream.read()

        done, client = self.connect(do)
        return done


class ReactorTests(SynchronousTestCase):
    """The reactor of the commands."""

    def run_code(self, code: str) -> str:
        """Return what a program of its own prints."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_installed(self) -> None:
        """It is the reactor from then on; protocols' errors are logged, and close their own connection alone."""
        printed = self.run_code(
            """
            import socket, sys
            from channelserver.server.reactor import install
            install()
            from twisted.internet import reactor
            from twisted.internet.protocol import Factory, Protocol
            from twisted.python import log
            log.startLogging(sys.stdout)
            print(type(reactor).__module__)

            class Server(Protocol):
                def dataReceived(self, data):
                    if data == b"bad":
                        raise RuntimeError("as it must be")
                    self.transport.write(data)

            port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")

            def clients():
                bad, good = (socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(2))
                bad.sendall(b"bad")
                print("bad got", bad.recv(10))
                good.sendall(b"good")
                print("good got", good.recv(10))
                reactor.callFromThread(reactor.stop)

            reactor.callInThread(clients)
            reactor.run()
            """
        )
        self.assertIn("channelserver.server.reactor", printed)
        self.assertIn("bad got b''", printed)
        self.assertIn("good got b'good'", printed)
        self.assertIn("RuntimeError: as it must be", printed)

    def test_another_reactor_stays(self) -> None:
        """Who has asked for another reactor keeps it."""
        printed = self.run_code(
            """
            from twisted.internet import pollreactor
            pollreactor.install()
            from channelserver.server.reactor import install
            install()
            from twisted.internet import reactor
            print(type(reactor).__module__)
            """
        )
        self.assertEqual(printed, "twisted.internet.pollreactor\n")
