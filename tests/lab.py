"""One server for all tests of a class, and what its project shares with them: a diary and gates.

The project's code writes down what happens (``lab.note``) and waits where the test wants it to (``lab.wait_for_gate``).
The test reads the diary and opens the gates, so that it decides the order of events, and nobody sleeps for luck::

    class HeldTests(LabTestCase):
        files = {"routing.py": '''
            import lab

            def connect(message):
                lab.wait_for_gate("connect")

            channel_routing = {"websocket.connect": connect}
        '''}

        def test_held(self):
            client = RawClient(self.server)
            client.handshake("/")
            self.wait_for_note("at gate", gate="connect")
            self.assertTrue(client.silent(self.server))
            self.open_gate("connect")
            self.assertEqual(client.head().status, 101)
"""

from __future__ import annotations

import atexit
import base64
import json
import re
import select
import socket
import struct
import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NamedTuple

from websockets.sync.client import ClientConnection

from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until

#: The path of requests which only tell that the server has dealt with all that came before. They leave no trace in
#: :meth:`LabTestCase.log`.
ROUND_TRIP = "/-/round-trip/"


class LabTestCase(ServerTestCase):
    """Tests which share one server: ``self.server``.

    It is started before the first of them, and stopped when another class needs one or the process ends. So each test
    uses paths, groups and gates of its own. A test that breaks the server, or needs another, calls :meth:`start`.
    """

    #: Options of the server.
    arguments: ClassVar[tuple[str, ...]] = ()

    def setUp(self) -> None:
        """Prepare; the server is started when it is first used."""
        self.files = {**project("lab"), **self.files}
        self._owner: _Owner | None = None
        self._mark = self._noted = self._settled = 0
        self.addCleanup(self._clean_up)
        running = _Owner.running(type(self))
        if running is not None:
            self._use(running)

    @property
    def server(self) -> Server:
        """The server of this class of tests, or the one that this test has started."""
        if self._owner is None:
            self._use(_Owner.of(type(self), self.files))
        assert self._owner is not None
        return self._owner.server

    def _use(self, owner: _Owner) -> None:
        self._owner = owner
        self.folder = owner.folder
        self._mark = len(owner.server.lines)
        self._noted = 0
        self._noted = len(self.diary())

    def _clean_up(self) -> None:
        if self._owner is None:
            return
        for entry in self.diary("at gate", all_tests=True):
            self.open_gate(entry["gate"])
        if self._failed:
            lines = "\n".join(self.server.lines[self._mark :])
            print(f"\n--- output of the server during this test ---\n{lines}")
        elif _Owner.running(type(self)) is self._owner:
            self._settle()

    def _settle(self) -> None:
        """Leave nothing behind for the next test: wait for the ends of this one's sockets."""

        def all_closed() -> bool:
            lines = self.server.output.splitlines()
            opened, closed = (sum(f"WebSocket {what} " in line for line in lines) for what in ("OPEN", "CLOSE"))
            return opened == closed

        wait_until(all_closed, "the end of all sockets of this test")
        self.log()  # what the server has said until now is of this test, not of the next one

    # -- the project ---------------------------------------------------------------------------------------------------

    def start(self, *arguments: str, port: int = 0, extra_settings: str = "", **files: str) -> Server:
        """Start a server of this test's own, in a folder of its own; the diary is that server's from now on.

        :param extra_settings: appended to the settings, after those of the class.
        :param files: modules of the project, by name without ``.py``; they replace the class's.
        """
        owner = _Owner(type(self), {**self.files, **{f"{name}.py": text for name, text in files.items()}})
        owner.extra_settings = textwrap.dedent(owner.extra_settings) + textwrap.dedent(extra_settings)
        owner.begin(arguments, port)
        self.addCleanup(owner.close)
        self._use(owner)
        self._mark = self._noted = 0
        return owner.server

    def diary(self, what: str | None = None, all_tests: bool = False, **details: Any) -> list[dict[str, Any]]:
        """Return what the project has noted during this test.

        :param what: only entries of this kind.
        :param details: only entries with these values.
        """
        if self._owner is None:
            return []
        try:
            lines = (self.folder / "diary").read_text().split("\n")[:-1]  # the last line may be half written
        except FileNotFoundError:
            return []
        entries = [json.loads(line) for line in lines[0 if all_tests else self._noted :]]
        return [
            entry
            for entry in entries
            if (what is None or entry["what"] == what) and all(entry.get(key) == details[key] for key in details)
        ]

    def wait_for_note(self, what: str, count: int = 1, **details: Any) -> list[dict[str, Any]]:
        """Wait until the project has noted something `count` times; return the entries."""

        def enough() -> list[dict[str, Any]] | None:
            entries = self.diary(what, **details)
            return entries if len(entries) >= count else None

        found: list[dict[str, Any]] = wait_until(enough, f"{count} x {what!r} {details or ''} in the diary")
        return found

    def open_gate(self, name: str) -> None:
        """Let those who wait at a gate, and all who come later, pass."""
        assert self.server  # it is started now, if it was not
        (self.folder / f"gate-{name}").touch()

    # -- the log -------------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """Return what the server has printed during this test, up to now."""
        self._settled += 1
        path = f"{ROUND_TRIP}{self.id()}-{self._settled}"
        self.server.get(path)
        self.server.wait_for(rf"HTTP GET {path} ")
        return "\n".join(line for line in self.server.lines[self._mark :] if ROUND_TRIP not in line)

    def assertLogged(self, pattern: str, count: int = 1) -> None:
        """Wait until the server has printed `count` lines like this during this test."""

        def enough() -> bool:
            return sum(re.search(pattern, line) is not None for line in self.server.lines[self._mark :]) >= count

        wait_until(enough, f"{count} line(s) like {pattern!r} in the log")

    def assertNoTraceback(self) -> None:
        """Assert that the server has logged no exception during this test."""
        self.assertNotIn("Traceback (most recent call last)", self.log())


class _Owner(ServerTestCase):
    """Keeps a project's folder and its server until it is closed."""

    _current: ClassVar[_Owner | None] = None
    server: Server

    def __init__(self, kind: type[LabTestCase], files: dict[str, str]) -> None:
        super().__init__()
        self.kind = kind
        self.files = files
        self.extra_settings = kind.extra_settings
        self.migrate = kind.migrate
        self._stack = ExitStack()

    @classmethod
    def of(cls, kind: type[LabTestCase], files: dict[str, str]) -> _Owner:
        """Return the owner with the running server of a class of tests; the one of another class is closed."""
        owner = cls.running(kind)
        if owner is None:
            cls.release()
            owner = cls(kind, files)
            owner.begin(kind.arguments)
            cls._current = owner
        return owner

    @classmethod
    def running(cls, kind: type[LabTestCase]) -> _Owner | None:
        """Return the owner with the running server of a class of tests, if there is one."""
        owner = cls._current
        return owner if owner is not None and owner.kind is kind and owner.server.process.poll() is None else None

    @classmethod
    def release(cls) -> None:
        """Close the running server, if there is one."""
        owner, cls._current = cls._current, None
        if owner is not None:
            owner.close()

    def begin(self, arguments: tuple[str, ...], port: int = 0) -> None:
        """Write the project and start the server."""
        try:
            self.setUp()
            self.server = self.start(*arguments, port=port)
        except BaseException:
            self._stack.close()
            raise

    def addCleanup(self, f: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Keep it for :meth:`close`."""
        self._stack.callback(f, *args, **kwargs)

    def close(self) -> None:
        """Stop the server and remove the folder."""
        server = self.server
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(5)  # in an orderly way, if it can; else it is killed below
            except subprocess.TimeoutExpired:
                pass
        self._stack.close()


atexit.register(_Owner.release)


# -- clients -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_sockets(server: Server, paths: Iterable[str]) -> Iterator[list[ClientConnection]]:
    """Open several WebSockets; closed at the end of the ``with`` block."""
    with ExitStack() as stack:
        yield [stack.enter_context(server.connect(path)) for path in paths]


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Head(NamedTuple):
    """The head of an answer: its status, and its fields by lower-case name (of repeated ones the last)."""

    status: int
    fields: dict[str, str]


class RawClient:
    """A client that sends and sees bytes: for what well-behaved clients do not do or show.

    :param server: where to connect to.
    :param receive_buffer: bytes which the operating system takes from the server before the client reads.
    :param address: the client's own.
    """

    def __init__(self, server: Server, receive_buffer: int = 0, address: str = "127.0.0.1") -> None:
        self._server = server
        self._buffer = b""
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((address, 0))
        try:
            self.socket.connect(("127.0.0.1", server.port))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, without a close frame."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def request(self, path: str = "/", method: str = "GET", body: bytes = b"", **fields: str) -> None:
        """Send an HTTP request; of the fields' names, ``_`` is sent as ``-``."""
        if body:
            fields.setdefault("content_length", str(len(body)))
        fields.setdefault("host", "127.0.0.1")
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {fields[name]}" for name in fields)]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def handshake(self, path: str = "/", **fields: str) -> None:
        """Send a WebSocket handshake."""
        fields = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec_websocket_version": "13",
            "sec_websocket_key": base64.b64encode(b"sixteen bytes...").decode(),
            **fields,
        }
        self.request(path, **fields)

    def open(self, path: str = "/", **fields: str) -> RawClient:
        """Do a whole WebSocket handshake."""
        self.handshake(path, **fields)
        head = self.head()
        if head.status != 101:
            raise AssertionError(f"{path}: the handshake was answered with {head.status}")
        return self

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a masked frame."""
        self.send(client_frame(opcode, payload))

    def read(self, number: int) -> bytes:
        """Read so many bytes; fewer if the server closes."""
        while len(self._buffer) < number:
            data = self._receive()
            if not data:
                break
            self._buffer += data
        data, self._buffer = self._buffer[:number], self._buffer[number:]
        return data

    def read_until(self, end: bytes) -> bytes:
        """Read up to and with `end`."""
        while end not in self._buffer:
            data = self._receive()
            if not data:
                raise AssertionError(f"the connection closed before {end!r}; read so far: {self._buffer!r}")
            self._buffer += data
        data, mark, self._buffer = self._buffer.partition(end)
        return data + mark

    def rest(self) -> bytes:
        """Read until the server closes."""
        return self.read(2**40)

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(64 * 1024)
        except ConnectionError:
            return b""

    def head(self) -> Head:
        """Read the head of an answer."""
        first, *lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        return Head(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields})

    def chunk(self) -> bytes:
        """Read one chunk of an answer; the last one is empty."""
        size = int(self.read_until(b"\r\n"), 16)
        data = self.read(size)
        self.read(2)
        return data

    def frame(self) -> tuple[int, bytes] | None:
        """Read one frame: its opcode and payload; None if the server has closed instead."""
        start = self.read(2)
        if len(start) < 2:
            return None
        length = start[1]
        if length == 126:
            (length,) = struct.unpack(">H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.read(8))
        return start[0] & 0x0F, self.read(length)

    def data(self) -> str | bytes:
        """Read the next text or binary frame."""
        while True:
            frame = self.frame()
            if frame is None:
                raise AssertionError("the connection has closed")
            opcode, payload = frame
            if opcode == TEXT:
                return payload.decode()
            if opcode == BINARY:
                return payload
            if opcode == CLOSE:
                raise AssertionError(f"closed with {close_code(payload)}")

    def waits(self, seconds: float) -> bool:
        """Whether the server sends nothing for so long."""
        return not self._buffer and not select.select([self.socket], [], [], seconds)[0]

    def silent(self) -> bool:
        """Whether the server has sent nothing more by the time it has answered a request on another connection."""
        self._server.get(ROUND_TRIP)
        return self.waits(0)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as clients send it."""
    mask = b"\x11\x22\x33\x44"
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + struct.pack(">H", size)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + struct.pack(">Q", size)
    pad = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def close_code(payload: bytes) -> int | None:
    """Return the code in a close frame."""
    return int.from_bytes(payload[:2], "big") if payload else None
