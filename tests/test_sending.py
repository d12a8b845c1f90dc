"""Bytes that go straight to the kernel: nothing overtakes, and nothing is lost."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from channelserver.layers.base import EVENTS
from channelserver.server.common.sending import (
    UNSENT,
    UNSENT_ALL,
    UNSENT_LONG,
    direct,
    limit_unsent,
    room_for_long,
    send,
    unsent,
)
from channelserver.server.edge.static import StaticFiles
from channelserver.server.http import source
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.http.source import PIECE, FileSource
from channelserver.server.websocket.websocket import WebSocket
from tests.fakes import FakeServer, get, parse_responses
from tests.process import ROOT, TIMEOUT, ServerTestCase, project
from tests.test_websocket import handshake

LARGE = bytes(range(251)) * 16_000  # more than the kernel takes


class DirectTests(SynchronousTestCase):
    """Which transports can be sent to without the reactor."""

    def test_others_are_written_to(self) -> None:
        """What is no plain socket, such as TLS, is written to as usual."""
        self.assertIsNone(direct(StringTransport()))


class RealTestCase(TestCase):
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


class SendTests(RealTestCase):
    """Bytes of any kind."""

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

    def test_no_overtaking(self) -> Any:
        """What waits in the transport is not overtaken if the kernel has room before the reactor has its turn."""
        parts: list[bytes] = []

        def do(transport: Any) -> Any:
            while not waits(transport):
                parts.append(bytes([len(parts) % 251]) * 16_000)
                send(transport, parts[-1])
            transport.doWrite()  # once: it waits in another place now
            self.assertTrue(waits(transport))
            make_room(transport, client, read)
            parts.append(b"later")
            send(transport, parts[-1])
            transport.loseConnection()
            return deferToThread(read_all, client, read).addCallback(self.assertEqual, b"".join(parts))

        read = bytearray()
        done, client = self.connect(do)
        return done


def waits(transport: Any) -> bool:
    """Whether the transport has bytes that the kernel has not taken."""
    return bool(transport.dataBuffer or transport._tempDataLen)


def make_room(transport: Any, client: socket.socket, read: bytearray) -> None:
    """Read until the kernel would take more from the transport, while the reactor has no turn."""
    while not select.select([], [transport], [], 0)[1]:
        read += client.recv(65536)


def read_all(client: socket.socket, read: bytearray) -> bytes:
    """Read until the end; return all that was read, `read` included."""
    while data := client.recv(65536):
        read += data
    return bytes(read)


class SocketTests(SendTests):
    """The same, through WebSockets whose connections are real: what a group is sent goes the shortest way."""

    def open(self, transport: Any) -> WebSocket:
        """Have a handshake accepted on a new connection."""
        self.server = server = FakeServer()
        connection: Any = HTTPFactory(server.site).buildProtocol(None)
        transport.protocol = connection
        connection.makeConnection(transport)
        connection.dataReceived(handshake())
        server.reply(server.message("websocket.connect"), accept=True)
        websocket: WebSocket = connection.websocket
        return websocket

    def test_at_once(self) -> Any:
        """See above."""

        def do(transport: Any) -> None:
            websocket = self.open(transport)
            for _ in range(2):
                self.assertTrue(websocket.send_frame(b"at once", None))
            self.assertTrue(client.recv(1000).endswith(b"at onceat once"))
            transport.abortConnection()

        done, client = self.connect(do)
        return done

    def test_more_than_the_kernel_takes(self) -> Any:
        """See above."""
        return self.send_much(room=False)

    def test_no_overtaking(self) -> Any:
        """See above."""
        return self.send_much(room=True)

    def send_much(self, room: bool) -> Any:
        """Send until something waits, and more; with `room`, after the kernel could take it."""
        parts: list[bytes] = []

        def do(transport: Any) -> Any:
            websocket = self.open(transport)
            client.recv(65536)  # the answer to the handshake
            while not waits(transport):
                parts.append(bytes([len(parts) % 251]) * 16_000)
                websocket.send_frame(parts[-1], None)
            self.assertFalse(websocket.paused)
            if room:
                make_room(transport, client, read)
            for part in (b"later", b"latest"):
                parts.append(part)
                websocket.send_frame(part, None)
            transport.unregisterProducer()
            transport.loseConnection()
            return deferToThread(read_all, client, read).addCallback(self.assertEqual, b"".join(parts))

        read = bytearray()
        done, client = self.connect(do)
        return done

    def test_kernel(self) -> Any:
        """The kernel takes little for a client that does not read; by default it is some megabytes."""

        def do(transport: Any) -> None:
            websocket = self.open(transport)
            size = 0
            while not waits(transport):
                websocket.send_frame(bytes(16_000), None)
                size += 16_000
            self.assertLess(size, 1_000_000)
            transport.abortConnection()

        done, _ = self.connect(do)
        return done

    def test_slow_for_a_while(self) -> Any:
        """After a pause the shortest way is taken again, and nothing has changed its place."""
        parts: list[bytes] = []

        def do(transport: Any) -> Any:
            websocket = self.open(transport)
            client.recv(65536)  # the answer to the handshake
            while not websocket.paused:
                parts.append(bytes([len(parts) % 251]) * 100_000)
                websocket.send_frame(parts[-1], None)
            parts.append(b"waits")
            websocket.send_frame(parts[-1], None)
            self.assertIsNone(websocket._socket_send)
            size = len(b"".join(parts))
            return deferToThread(read_exactly, size).addCallback(again, transport, websocket)

        def again(data: bytes, transport: Any, websocket: WebSocket) -> None:
            self.assertTrue(data == b"".join(parts))
            self.assertFalse(websocket.paused)
            websocket.send_frame(b"later", None)
            self.assertIsNotNone(websocket._socket_send)
            websocket.send_frame(b"latest", None)
            self.assertEqual(read_exactly(11), b"laterlatest")
            transport.abortConnection()

        def read_exactly(size: int) -> bytes:
            with client.makefile("rb") as stream:
                return stream.read(size)

        done, client = self.connect(do)
        return done

    def test_too_much_for_one_that_is_cut_off(self) -> Any:
        """Between the end of a connection and the news of it, a message that is too much for it does no harm."""

        def do(transport: Any) -> Any:
            websocket = self.open(transport)
            while not websocket.paused:
                websocket.send_frame(b"x" * 100_000, None)
            self.server.pass_time(61)  # without an answer to a ping
            self.assertTrue(transport._aborting)
            make_room(transport, client, bytearray())
            websocket.send_frame(b"x" * (websocket.site.options.send_buffer_bytes + 1), None)
            self.assertFalse(websocket._waiting)

        done, client = self.connect(do)
        return done

    def test_a_client_that_has_gone(self) -> Any:
        """What the kernel does not take any more is no error: the reactor finds out about it."""

        def do(transport: Any) -> None:
            websocket = self.open(transport)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            select.select([transport], [], [], TIMEOUT)
            self.assertTrue(websocket.send_frame(b"too late", None))
            transport.abortConnection()

        done, client = self.connect(do)
        return done


def room(transport: Any) -> int:
    """Return how many bytes the kernel keeps unsent."""
    option: int = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    return option


class LargeAnswerTests(RealTestCase):
    """Large answers and files, of which the kernel takes what it can at once."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "large.bin")
        self.file.write_bytes(LARGE)
        os.utime(self.file, (1, 1))
        self.server = FakeServer(static=StaticFiles(folder.name, "/static/"))
        self.server.site.continuations.add = self._put_off  # type: ignore[method-assign]
        self.put_off = 0
        self.paths = ("/static/large.bin", "/view")

    def _put_off(self, peer: str | None, function: Any) -> None:
        self.put_off += 1
        reactor.callLater(0, function)

    def begin(self, transport: Any, data: bytes) -> Any:
        """Send the server requests on a new connection; return its protocol."""
        connection: Any = HTTPFactory(self.server.site).buildProtocol(None)
        transport.protocol = connection
        connection.makeConnection(transport)
        connection.dataReceived(data)
        message = self.server.take("http.request")
        if message is not None:
            self.server.reply(message.content, status=200, content=LARGE)
        return connection

    def check(self, path: str, do: Any) -> Any:
        """Begin to answer a request for a path whose client does not read, call `do` with the protocol, then read."""
        self.server.access.clear()

        def begin(transport: Any) -> Any:
            connection = self.begin(transport, get(path, "Connection: close"))
            source = connection._exchange.source
            do(connection)
            return deferToThread(read_all, client, bytearray()).addCallback(compare, source)

        def compare(data: bytes, source: Any) -> None:
            self.assertTrue(source._file.closed if isinstance(source, FileSource) else not source.kept())
            head, _, body = data.partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % len(LARGE), head)
            self.assertTrue(body == LARGE, path)
            self.assertIn(f"GET {path} 200 {len(LARGE)} ", self.server.access[0])
            self.assertNotIn("broken off", self.server.access[0])

        done, client = self.connect(begin)
        return done

    def check_all(self, do: Any = lambda connection: None) -> Any:
        """Do so with both kinds of answers."""
        return self.check(self.paths[0], do).addCallback(lambda _: self.check(self.paths[1], do))

    def test_whole(self) -> Any:
        """All of it arrives, in order."""
        return self.check_all()

    def test_client_that_does_not_read(self) -> Any:
        """The kernel takes little more than the client's buffer, the connection one piece; the rest stays."""

        def do(connection: Any) -> None:
            self.assertTrue(connection._paused)
            self.assertLess(connection._exchange.size, len(LARGE) // 2)
            self.assertLessEqual(unsent(connection.transport), PIECE + 1024)
            self.assertGreater(connection._deadline, 0)

        return self.check_all(do)

    def test_room_in_the_kernel(self) -> Any:
        """It is for a client that reads fast, and the less the more connections there are."""
        self.assertEqual([room_for_long(number) for number in (0, 32, 100_000)], [UNSENT_LONG, UNSENT_LONG, UNSENT])
        others: Any = set(range(63))
        self.server.site.connections |= others

        def slow(connection: Any) -> None:
            self.assertEqual(room(connection.transport), UNSENT)

        def fast(connection: Any) -> None:
            self.assertEqual(room(connection.transport), UNSENT_ALL // len(self.server.site.connections))

        def again(_: object) -> Any:
            self.patch(source, "FAST", 10_000)
            return self.check_all(fast)

        return self.check_all(slow).addCallback(again)

    def test_room_for_what_follows(self) -> Any:
        """A WebSocket, or an event stream, has the usual room, also on a connection that has had a long answer."""

        def do(data: bytes, transport: Any) -> None:
            connection: Any = HTTPFactory(self.server.site).buildProtocol(None)
            connection.makeConnection(transport)
            limit_unsent(transport, UNSENT_LONG)
            connection.dataReceived(data)
            for message in self.server.messages("http.request"):
                self.server.reply(message, status=200, content=b"", more_content=True, **{EVENTS: None})
            self.assertEqual(room(transport), UNSENT)
            transport.abortConnection()

        done, _ = self.connect(partial(do, handshake()))
        return done.addCallback(lambda _: self.connect(partial(do, get("/events")))[0])

    def test_fast_client(self) -> Any:
        """A client that reads as fast as the server sends leaves others their turns."""
        self.patch(source, "TURN", 10_000)
        return self.check_all().addCallback(lambda _: self.assertGreater(self.put_off, 20))

    def test_next_request(self) -> Any:
        """The next answer follows the end of the one before."""

        def begin(transport: Any) -> Any:
            self.begin(transport, get(self.paths[0]) + get(self.paths[0], "Connection: close"))
            return deferToThread(read_all, client, bytearray()).addCallback(compare)

        def compare(data: bytes) -> None:
            self.assertTrue([each.body for each in parse_responses(data)] == [LARGE, LARGE])

        done, client = self.connect(begin)
        return done

    def test_file_that_shrinks(self) -> Any:
        """The connection breaks off, so that the client notices."""

        def begin(transport: Any) -> Any:
            self.begin(transport, get(self.paths[0]))
            os.truncate(self.file, 1000)
            return deferToThread(read).addCallback(lambda size: self.assertLess(size, len(LARGE)))

        def read() -> int:
            size = 0
            try:
                while data := client.recv(65536):
                    size += len(data)
            except ConnectionResetError:
                pass
            return size

        done, client = self.connect(begin)
        return done

    def test_client_that_leaves(self) -> Any:
        """A client may leave in the middle; the file is closed then."""

        def begin(transport: Any) -> Any:
            connection = self.begin(transport, get(self.paths[0]))
            file = connection._exchange.source._file
            self.assertFalse(file.closed)
            client.close()
            gone: Any = Deferred()
            self.server.site.when_empty = lambda: gone.callback(None)
            return gone.addCallback(lambda _: self.assertTrue(file.closed))

        done, client = self.connect(begin)
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
        printed = self.run_code(project("programs")["echo.py"])
        self.assertIn("channelserver.server.common.reactor", printed)
        self.assertIn("bad got b''", printed)
        self.assertIn("good got b'good'", printed)
        self.assertIn("RuntimeError: as it must be", printed)

    def test_another_reactor_stays(self) -> None:
        """Who has asked for another reactor keeps it."""
        printed = self.run_code(
            """
            from twisted.internet import pollreactor
            pollreactor.install()
            from channelserver.server.common.reactor import install
            install()
            from twisted.internet import reactor
            print(type(reactor).__module__)
            """
        )
        self.assertEqual(printed, "twisted.internet.pollreactor\n")

    def test_the_server_runs_in_it(self) -> None:
        """No module of the server imports a reactor before it is installed."""
        printed = self.run_code(
            """
            import sys
            import channelserver.start.twistd
            print("twisted.internet.reactor" in sys.modules)
            """
        )
        self.assertEqual(printed, "False\n")


class RenamedTests(ServerTestCase):
    """Without Twisted's private names the server works all the same, by the public ways."""

    files = {**project("sending"), "sitecustomize.py": project("programs")["rename_private_names.py"]}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of server processes: the siblings load the renamed Twisted, too."""
        usual = super().environment
        return {**usual, "PYTHONPATH": os.pathsep.join((str(self.folder), usual["PYTHONPATH"]))}

    def test_all_of_it(self) -> None:
        """Large answers, groups, further processes; the log says once what is slower."""
        path = self.folder / "web.sock"
        server = self.start("--processes", "2", "--endpoint", f"unix:{path}:mode=600")
        for line in (
            "no FileDescriptor._tempDataLen: bytes are sent through the reactor",
            "no EPollReactor._poller: events cost more",
            "no Port._fromListeningDescriptor: the kernel alone shares out connections",
            "process 2 serves",
        ):
            server.wait_for(line)
        for _ in range(4):
            self.assertEqual(len(server.get("/").content), 3_000_000)
        with server.connect("/") as one, server.connect("/") as other:
            for number in range(20):
                one.send(str(number))
                self.assertEqual(one.recv(TIMEOUT), other.recv(TIMEOUT))
            one.send("x" * 900_000)
            self.assertEqual(len(other.recv(TIMEOUT)), 900_000)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGTERM)
        server.wait_for("process 2 has ended")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600, "the file stays as it is when a sibling ends")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.output)
