"""The layer of other processes, against a server end in a thread with a reactor of its own."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import msgpack
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint, connectProtocol
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.bridge import Bridge
from channelserver.layers import ChannelFull, InMemoryChannelLayer, conformance
from channelserver.layers.base import MessageTooLarge
from channelserver.processes import local, wire
from channelserver.processes.link import Link
from channelserver.processes.local import LocalFactory
from channelserver.processes.local_client import LocalSocketLayer, NoServerError
from tests import examples
from tests import test_layers_model as model
from tests.process import TIMEOUT, wait_until


class ServerEnd:
    """A layer behind a Unix socket, served by a thread.

    :param layer: the layer.
    """

    def __init__(self, layer: InMemoryChannelLayer) -> None:
        self.layer = layer
        self.folder = tempfile.mkdtemp(prefix="channelserver-test-")
        self.path = os.path.join(self.folder, "layer.sock")
        self.reactor: Any = SelectReactor()
        self.bridge = Bridge(self.reactor)
        self.port: Any = None
        self._listen()
        self._thread = threading.Thread(target=self.reactor.run, kwargs={"installSignalHandlers": False})
        self._thread.start()

    def _listen(self) -> None:
        factory = LocalFactory(self.layer, "default", self.bridge, self.reactor)
        self.port = UNIXServerEndpoint(self.reactor, self.path, mode=0o600).listen(factory).result

    def in_reactor(self, function: Callable[[], Any]) -> Any:
        """Run a function in the reactor thread; return what it returns."""
        answers: list[Any] = []
        done = threading.Event()

        def call() -> None:
            try:
                answers.append(function())
            finally:
                done.set()

        self.reactor.callFromThread(call)
        assert done.wait(TIMEOUT)
        return answers[0]

    def client(self) -> LocalSocketLayer:
        """Return another process's layer."""
        return LocalSocketLayer(self.path, "default")

    def begin_anew(self) -> None:
        """Drop all connections and the socket, and listen again: what a client sees when the server is restarted."""

        def drop() -> None:
            for reader in list(self.reactor.getReaders()):
                if getattr(reader, "server", None) is self.port:
                    reader.abortConnection()
            self.port.stopListening()

        self.in_reactor(drop)
        wait_until(lambda: not os.path.exists(self.path))
        self.in_reactor(self._listen)

    def stop(self) -> None:
        """End the thread."""
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(TIMEOUT)
        shutil.rmtree(self.folder, ignore_errors=True)


class LocalSocketConformanceTests(conformance.ConformanceTestCase):
    """What every layer promises."""

    expiry_delay = 1.1
    capacity_limit = 5

    def setUp(self) -> None:
        """Start a server end. Messages expire only where a test waits for that."""
        expiry = 1 if self._testMethodName == "test_expiry" else 600
        end = ServerEnd(InMemoryChannelLayer(expiry=expiry, capacity=5))
        self.addCleanup(end.stop)
        client = self.channel_layer = end.client()
        self.addCleanup(client.close)


class LocalLayerMachine(model.LayerMachine):
    """The machine of the in-memory layer, through a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.end = ServerEnd(model.in_memory(self.clock))
        client = self.end.client()
        client.sweep = self.end.layer.sweep  # type: ignore[method-assign]  # the server's business
        self.layer: Any = client

    def teardown(self) -> None:
        """Stop the server end."""
        self.layer.close()
        self.end.stop()


class ModelTests(SynchronousTestCase):
    """The machine, driven by Hypothesis."""

    def test_layer(self) -> None:
        """The layer agrees with its model."""
        run_state_machine_as_test(
            LocalLayerMachine,
            settings=settings(model.SETTINGS, max_examples=examples(15), stateful_step_count=30),
        )


class LocalSocketLayerTests(SynchronousTestCase):
    """What is special about a layer in another process."""

    def setUp(self) -> None:
        """Start a server end."""
        self.end = ServerEnd(InMemoryChannelLayer(capacity=2))
        self.addCleanup(self.end.stop)
        self.layer = self.end.client()
        self.addCleanup(self.layer.close)

    def in_thread(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Run a function in a thread; return a function that waits for its result."""
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(function()))
        thread.start()

        def result() -> Any:
            thread.join(TIMEOUT)
            self.assertFalse(thread.is_alive())
            return results[0]

        return result

    def test_blocking_receive_keeps_nobody_waiting(self) -> None:
        """While one thread waits for a message, another one sends it."""
        received = self.in_thread(lambda: self.layer.receive(["work"], block=True))
        wait_until(lambda: self.end.layer.queues._listeners)
        self.layer.send("work", {"value": 1})
        self.assertEqual(received(), ("work", {"value": 1}))
        wait_until(lambda: not self.end.layer.queues._listeners)

    def test_message_is_kept_when_its_reader_leaves(self) -> None:
        """A process that ends while it waits takes no message with it."""
        connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        connection.connect(self.end.path)
        connection.sendall(_frame([wire.VERSION, 1, "receive", ["default", ["work"], 60.0]]))
        wait_until(lambda: self.end.layer.queues._listeners)
        connection.close()
        wait_until(lambda: not self.end.layer.queues._listeners)
        self.layer.send("work", {"value": 1})
        self.assertEqual(self.layer.receive(["work"]), ("work", {"value": 1}))

    def test_wait_for_room(self) -> None:
        """dispatch_waiting() waits until there is room; if there is none in time, it says so."""
        for _ in range(2):
            self.layer.send("work", {})
        self.assertFalse(self.layer.dispatch_waiting("work", {"value": 1}, 0.01))
        put = self.in_thread(lambda: self.layer.dispatch_waiting("work", {"value": 2}, TIMEOUT))
        wait_until(lambda: self.end.layer.queues._queues["work"].wants_room)
        for _ in range(2):
            self.assertEqual(self.layer.receive(["work"]), ("work", {}))
        self.assertTrue(put())
        self.assertEqual(self.layer.receive(["work"]), ("work", {"value": 2}))

    def test_when_room(self) -> None:
        """when_room() calls back when there is room."""
        for _ in range(2):
            self.layer.send("work", {})
        called = threading.Event()
        self.assertFalse(self.layer.when_room("work", {}, called.set))
        self.assertFalse(called.is_set())
        for _ in range(2):
            self.layer.receive(["work"])
        self.assertTrue(called.wait(TIMEOUT))
        self.assertTrue(self.layer.when_room("work", {}, called.clear))
        self.assertTrue(called.is_set())

    def test_statistics(self) -> None:
        """The figures are those of the server's layer."""
        self.layer.send("work", {})
        self.layer.group_add("group", "work")
        self.assertEqual(self.layer.channel_statistics("work")["messages_pending"], 1)
        figures = self.layer.global_statistics()
        self.assertEqual((figures["messages_pending"], figures["group_members"]), (1, 1))

    def test_server_is_started_again(self) -> None:
        """Connections of before are replaced without an error."""
        self.layer.send("work", {"value": 1})
        self.end.begin_anew()
        self.layer.send("work", {"value": 2})
        self.assertEqual(self.layer.channel_statistics("work")["messages_pending"], 2)

    def test_child_process_has_its_own_connection(self) -> None:
        """After a fork, parent and child do not read each other's answers."""
        self.layer.send("work", {})
        self.layer._owner = -1  # as it looks in a child
        before = self.layer._free[0]
        self.layer.send("work", {})
        self.assertNotIn(before, self.layer._free)

    def test_too_large(self) -> None:
        """What does not fit into a frame is refused at once, in either direction."""
        with self.assertRaises(MessageTooLarge):
            self.layer.send("work", {"data": b"x" * wire.MAX_FRAME})
        self.end.layer.send("work", {"data": b"x" * wire.MAX_FRAME})
        with self.assertRaises(MessageTooLarge):
            self.layer.receive(["work"])
        self.assertEqual(self.layer.receive(["work"]), (None, None))

    def test_errors_travel(self) -> None:
        """Exceptions of the layer are raised in the process that asked."""
        for _ in range(2):
            self.layer.send("work", {})
        with self.assertRaises(ChannelFull) as caught:
            self.layer.send("work", {})
        self.assertIn("'work' is full", str(caught.exception))

    def test_another_alias(self) -> None:
        """The server serves one layer; a request for another one is refused."""
        other = LocalSocketLayer(self.end.path, "other")
        self.addCleanup(other.close)
        with self.assertRaises(ValueError) as caught:
            other.send("work", {})
        self.assertIn("serves the layer 'default', not 'other'", str(caught.exception))

    def test_what_is_no_server(self) -> None:
        """Whatever else listens there, or nothing, makes a NoServerError that names the path."""
        with self.assertRaises(NoServerError) as caught:
            LocalSocketLayer(self.end.folder + "/none.sock", "default").send("work", {})
        self.assertIn("none.sock", str(caught.exception))
        for answer in (b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x01"):
            path = f"{self.end.folder}/{answer.hex()}.sock"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()

                def serve(listener: Any = listener, answer: bytes = answer) -> None:
                    with listener.accept()[0] as connection:
                        connection.recv(100)
                        connection.sendall(answer)

                served = self.in_thread(serve)
                with self.assertRaises(NoServerError) as caught:
                    LocalSocketLayer(path, "default").send("work", {})
                served()
            self.assertIn("is not channelserver", str(caught.exception))


class LocalProtocolTests(SynchronousTestCase):
    """The server end, spoken to in raw frames."""

    def setUp(self) -> None:
        """Start a server end."""
        self.end = ServerEnd(InMemoryChannelLayer())
        self.addCleanup(self.end.stop)
        self.connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.connection.close)
        self.connection.settimeout(TIMEOUT)
        self.connection.connect(self.end.path)

    def ask(self, request: Any) -> Any:
        """Send a frame; return the answer."""
        self.connection.sendall(_frame(request))
        (size,) = struct.unpack(">I", self.connection.recv(4))
        data = b""
        while len(data) < size:
            data += self.connection.recv(size - len(data))
        return msgpack.unpackb(data)

    def test_flush(self) -> None:
        """What is flushed is in the other process's hands before this turn of the reactor ends."""
        folder = tempfile.mkdtemp(prefix="channelserver-test-")
        self.addCleanup(shutil.rmtree, folder)
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(os.path.join(folder, "raw.sock"))
        listener.listen()
        links: list[Link] = []
        self.end.in_reactor(
            lambda: connectProtocol(
                UNIXClientEndpoint(self.end.reactor, listener.getsockname()), Link(lambda name, arguments: None)
            ).addCallback(links.append)
        )
        other, _ = listener.accept()
        self.addCleanup(other.close)
        wait_until(lambda: links, "the link")

        def send() -> bytes:
            self.assertTrue(links[0].message("send", "default", "a", {}))
            links[0].flush()
            return other.recv(1000, socket.MSG_DONTWAIT)

        self.assertIn(b"default", self.end.in_reactor(send))
        self.end.in_reactor(lambda: links[0].transport.abortConnection())

    def test_bad_requests(self) -> None:
        """Each bad request gets an answer that says why; the connection goes on."""
        version = wire.VERSION
        for request, words in (
            ([version + 1, 1, "send", ["default", "a", {}]], f"speaks version {version}"),
            ([version, 1, "exit", []], "has no call 'exit'"),
            ([version, 1, "send", ["default", "a"]], "with these arguments"),
            ([version, 1, "send", "default"], "with these arguments"),
            ([version, 1, ["send"], []], "unhashable"),
            ([version, 1], "a request is a list"),
            ("send", "a request is a list"),
            (7, "a request is a list"),
        ):
            _, error, result = self.ask(request)
            self.assertIn(words, error[1])
            self.assertIsNone(result)
        self.assertEqual(self.ask([version, 5, "group_channels", ["default", "g"]]), [5, None, []])

    def test_no_msgpack(self) -> None:
        """Bytes that are no msgpack get an answer, too."""
        self.connection.sendall(b"\0\0\0\1\xc1")
        (size,) = struct.unpack(">I", self.connection.recv(4))
        self.assertIn("not msgpack", msgpack.unpackb(self.connection.recv(size))[1][1])

    def test_another_user(self) -> None:
        """A process of another user is turned away, whatever the file's mode lets it do."""
        self.patch(local, "peer_credentials", lambda transport: (1, os.getuid() + 1))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self.end.path)
            try:
                self.assertEqual(connection.recv(1), b"")
            except ConnectionResetError:
                pass

    def test_frame_too_large(self) -> None:
        """A frame over the limit ends the connection before it is read."""
        self.connection.sendall(struct.pack(">I", wire.MAX_FRAME + 1))
        try:
            self.assertEqual(self.connection.recv(1), b"")
        except ConnectionResetError:
            pass


def _frame(request: Any) -> bytes:
    data = msgpack.packb(request)
    return struct.pack(">I", len(data)) + data
