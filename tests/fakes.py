"""Stand-ins for the reactor, the network and the client, shared by the tests.

They run in the thread of the test; :meth:`FakeReactor.callFromThread` may be called from any other.
"""

from __future__ import annotations

import http.client
import io
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import error, interfaces
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.waiting import Delivery
from channelserver.server.common.access import AccessLog
from channelserver.server.common.options import resolve
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.site import Site
from channelserver.server.websocket import frames
from channelserver.server.websocket.origin import OriginPolicy

#: Seconds after which a test that waits for a thread gives up. It never takes so long.
PATIENCE = 60.0


class StrictTestCase(TestCase):
    """A test that fails if the server logs a warning or an error that the test does not expect."""

    def setUp(self) -> None:
        super().setUp()
        self.logged: list[str] = []
        handler = _Collector(self.logged)
        logger = logging.getLogger("channelserver")
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        self.addCleanup(setattr, logger, "propagate", propagate)
        self.addCleanup(logger.removeHandler, handler)
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)
        self.addCleanup(lambda: self.assertEqual(self.logged, [], "logged, and not expected"))

    def _observe(self, event: dict[str, Any]) -> None:
        level = event.get("log_level")
        namespace = event.get("log_namespace", "")
        if namespace == "channelserver.server.throttled_log":
            return  # about clients, whom these tests provoke; see test_logs
        if namespace.startswith("channelserver") and level is not None and level >= LogLevel.warn:
            self.logged.append(formatEvent(event))

    def make_server(self, **options: Any) -> FakeServer:
        """Return a server. At the end of the test its clients leave, after which nothing of them may be left."""
        server = FakeServer(**options)
        self.addCleanup(self._end_server, server)
        return server

    def _end_server(self, server: FakeServer) -> None:
        for client in server.clients:
            client.leave()
        self.assertEqual((server.site.connections, len(server.site.replies)), (set(), 0), "a connection left a trace")

    def expect_logged(self, *words: str) -> str:
        """Assert that a line with all of `words` was logged; return it, and forget it."""
        for line in self.logged:
            if all(word in line for word in words):
                self.logged.remove(line)
                return line
        self.fail(f"no line with {words} was logged, but {self.logged}")
        raise AssertionError


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += f" [{record.exc_info[0].__name__}: {record.exc_info[1]}]"
        self._lines.append(text)


class FakeReactor(Clock):
    """A reactor whose time stands still until the test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._from_threads: deque[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = deque()
        #: How often a thread has woken the reactor.
        self.wake_ups = 0

    def callFromThread(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """See ``IReactorFromThreads``."""
        self._from_threads.append((function, args, kwargs))
        self.wake_ups += 1

    def turn(self) -> None:
        """Do all that is due at this moment, and what follows from it at the same moment."""
        for _ in range(100_000):
            if self._from_threads:
                function, args, kwargs = self._from_threads.popleft()
                function(*args, **kwargs)
            elif self.calls and self.calls[0].getTime() <= self.seconds():
                self.advance(0)
            else:
                return
        raise AssertionError("the reactor does not come to rest")

    def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, in small steps."""
        self.turn()
        ends = self.seconds() + seconds
        while (left := ends - self.seconds()) > 1e-9:
            self.advance(min(step, left))
            self.turn()


@implementer(interfaces.ITCPTransport, interfaces.IHalfCloseableDescriptor)
class FakeTransport:
    """A TCP connection, seen from the server.

    What the server writes reaches the client at the reactor's next turn, or, if the client is ``slow``, when it reads.
    More than :data:`FULL` bytes under way pause the server's producer, as in Twisted.
    """

    FULL = 65536

    def __init__(self, reactor: FakeReactor, peer: Any = None, host: Any = None) -> None:
        self._reactor = reactor
        self._peer = peer or IPv4Address("TCP", "192.0.2.7", 50123)
        self._host = host or IPv4Address("TCP", "192.0.2.1", 8000)
        self._under_way = b""
        self._incoming: deque[bytes] = deque()
        self._producer: Any = None
        self._producer_paused = False
        self._losing = self._losing_write = False
        self.protocol: Any = None
        #: What the client has read.
        self.received = b""
        #: What the server wrote after it had closed its side.
        self.too_late = b""
        self.slow = False
        self.reading = True
        #: The server's side is closed, and the client knows.
        self.write_ended = False
        self.aborted = False
        self.lost = False
        self.no_delay = False

    # -- the client's side ---------------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """Bytes of the client arrive; while the server does not read, they wait."""
        for start in range(0, len(data), 65536):
            self._incoming.append(data[start : start + 65536])
        self._hand_over()

    def client_reads(self) -> None:
        """The slow client reads all that is under way, once."""
        self._flush(True)

    def client_leaves(self) -> None:
        """The client closes its side, or its network fails."""
        self._lose(error.ConnectionDone())

    # -- what Twisted does ---------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        while self._incoming and self.reading and not self.lost:
            self.protocol.dataReceived(self._incoming.popleft())

    def _flush(self, even_if_slow: bool = False) -> None:
        if self.lost or (self.slow and not even_if_slow):
            return
        self.received += self._under_way
        self._under_way = b""
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()
        elif self._losing:
            self._lose(error.ConnectionDone())
        elif self._losing_write:
            self.write_ended = True

    def _lose(self, reason: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(reason))

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if not isinstance(data, bytes):
            raise TypeError(f"a transport writes bytes, not {type(data).__name__}")
        if self.lost or self.write_ended:
            self.too_late += data
            return
        self._under_way += data
        self._reactor.callLater(0, self._flush)
        if self._producer is not None and not self._producer_paused and len(self._under_way) > self.FULL:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """See ``ITransport``."""
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take note of who writes (Twisted: ``IConsumer``)."""
        if self._producer is not None:
            raise RuntimeError("a second producer")
        assert streaming
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Nobody writes any more."""
        self._producer = None
        self._producer_paused = False

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self.reading = False

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self.reading = True
        if self._incoming:
            self._reactor.callLater(0, self._hand_over)

    def stopProducing(self) -> None:
        """See ``IPushProducer``."""
        self.loseConnection()

    def loseConnection(self) -> None:
        """See ``ITransport``."""
        self._losing = True
        self._reactor.callLater(0, self._flush)

    def loseWriteConnection(self) -> None:
        """See ``IHalfCloseableDescriptor``."""
        self._losing_write = True
        self._reactor.callLater(0, self._flush)

    def abortConnection(self) -> None:
        """See ``IAbortableTransport``."""
        self.aborted = True
        self._under_way = b""
        self._reactor.callLater(0, self._lose, error.ConnectionAborted())

    def getPeer(self) -> Any:
        """See ``ITransport``."""
        return self._peer

    def getHost(self) -> Any:
        """See ``ITransport``."""
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""
        self.no_delay = enabled

    def getTcpNoDelay(self) -> bool:
        """See ``ITCPTransport``."""
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""

    def getTcpKeepAlive(self) -> bool:
        """See ``ITCPTransport``."""
        return False

    @property
    def over(self) -> bool:
        """Whether the server has ended the connection, one way or the other."""
        return self.lost or self.aborted or self.write_ended


class Response:
    """An HTTP response as a client sees it."""

    def __init__(self, raw: http.client.HTTPResponse, body: bytes, complete: bool) -> None:
        self.status = raw.status
        self.reason = raw.reason
        self.headers = [(name.lower(), value) for name, value in raw.getheaders()]
        self.body = body
        #: Whether the body came to its end.
        self.complete = complete

    def header(self, name: str) -> str | None:
        """Return the value of a header field, None if it is not there."""
        values = [value for key, value in self.headers if key == name]
        if len(values) > 1:
            raise AssertionError(f"{name} more than once: {values}")
        return values[0] if values else None


class _Stream(io.BytesIO):
    def makefile(self, mode: str) -> _Stream:
        return self

    def close(self) -> None:
        """Stay open: several responses follow each other."""


def parse_responses(data: bytes, *methods: str) -> list[Response]:
    """Return the responses in `data`.

    :param methods: those of the requests, which say whether there is a body; GET for the rest.
    """
    stream = _Stream(data)
    responses = []
    while stream.tell() < len(data):
        method = methods[len(responses)] if len(responses) < len(methods) else "GET"
        raw = http.client.HTTPResponse(stream, method=method)  # type: ignore[arg-type]
        raw.begin()
        try:
            body, complete = raw.read(), True
        except http.client.IncompleteRead as broken:
            body, complete = broken.partial, False
        responses.append(Response(raw, body, complete))
    return responses


class Files:
    """Answers all requests alike, in the reactor."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.answered = 0

    def __call__(self, exchange: Any) -> bool:
        self.answered += 1
        exchange.reply(self._content)
        return True

    def ready(self, head: Any, turn: float, now: Any) -> None:
        """Nothing is in memory."""


class FakeServer:
    """A server without reactor, network and workers: the test takes the messages and replies to them.

    :param static: answers requests for static files.
    :param capacity, expiry: those of the layer.
    :param hosts: the names of the site.
    :param options: those of the server; all others have their defaults.
    """

    def __init__(
        self,
        static: Any = None,
        capacity: int = 1000,
        expiry: float = 60,
        hosts: tuple[str, ...] = ("testserver",),
        **options: Any,
    ) -> None:
        self.reactor = FakeReactor()
        self.clients: list[Client] = []
        self.layer = InMemoryChannelLayer(expiry, capacity=capacity, clock=self.reactor.seconds)
        self.options = resolve({}, options)
        #: The lines of the access log.
        self.access: list[str] = []
        origins = OriginPolicy(hosts, self.options.allowed_origin)
        log = AccessLog(self.access.append)
        log.line = lambda message: message  # type: ignore[method-assign]
        self.site = Site(self.layer, self.options, Bridge(self.reactor), self.reactor, origins, log, static)

    def connect(self, **addresses: Any) -> Client:
        """Open a connection."""
        return Client(self, **addresses)

    def take(self, channel: str) -> Delivery | None:
        """Take the next message from a channel, as a worker does, and finish it at once."""
        delivery = self.layer.queues.take([channel])
        if delivery is not None:
            self.layer.queues.finish(delivery)
        return delivery

    def message(self, channel: str) -> dict[str, Any]:
        """Return the next message of a channel, of which there must be one."""
        delivery = self.take(channel)
        if delivery is None:
            raise AssertionError(f"no message on {channel}")
        return delivery.content

    def messages(self, channel: str) -> list[dict[str, Any]]:
        """Return all messages of a channel."""
        found = []
        while (delivery := self.take(channel)) is not None:
            found.append(delivery.content)
        return found

    def reply(self, to: dict[str, Any] | str, **content: Any) -> None:
        """Reply to a message, as a consumer does."""
        self.layer.send(to if isinstance(to, str) else to["reply_channel"], content)
        self.reactor.turn()

    def turn(self) -> None:
        """See :meth:`FakeReactor.turn`."""
        self.reactor.turn()

    def pass_time(self, seconds: float) -> None:
        """See :meth:`FakeReactor.pass_time`."""
        self.reactor.pass_time(seconds)


class Client:
    """One connection to a :class:`FakeServer`."""

    def __init__(self, server: FakeServer, **addresses: Any) -> None:
        self.server = server
        server.clients.append(self)
        self.transport = FakeTransport(server.reactor, **addresses)
        self.protocol: Any = HTTPFactory(server.site).buildProtocol(None)
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        self._seen = 0

    def send(self, data: bytes) -> None:
        """Send bytes, and let the server work on them."""
        self.transport.deliver(data)
        self.server.turn()

    def request(self, data: bytes = b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n") -> dict[str, Any]:
        """Send a request; return its message."""
        self.send(data)
        return self.server.message("http.request")

    @property
    def received(self) -> bytes:
        """All bytes that have come from the server."""
        return self.transport.received

    def news(self) -> bytes:
        """Return what has come from the server since the last call."""
        start, self._seen = self._seen, len(self.transport.received)
        return self.transport.received[start:]

    def responses(self, *methods: str) -> list[Response]:
        """Return all responses; see :func:`parse_responses`."""
        return parse_responses(self.received, *methods)

    def response(self, method: str = "GET") -> Response:
        """Return the response, of which there must be exactly one."""
        responses = self.responses(method)
        if len(responses) != 1:
            raise AssertionError(f"{len(responses)} responses: {self.received!r}")
        return responses[0]

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self.transport.client_leaves()
        self.server.turn()


def get(path: str = "/", *lines: str, version: str = "1.1") -> bytes:
    """Return a GET request with a Host field and further header lines."""
    return request("GET", path, *lines, version=version)


def request(method: str, path: str, *lines: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """Return a request with a Host field, further header lines and, if there is a body, its length."""
    if body:
        lines += (f"Content-Length: {len(body)}",)
    head = "\r\n".join([f"{method} {path} HTTP/{version}", "Host: testserver", *lines, "", ""])
    return head.encode("latin-1") + body


def mask_frame(opcode: int, payload: bytes = b"", fin: bool = True, mask: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """Return a frame as clients send it (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + length + mask + masked


def read_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the (opcode, payload) of the unmasked, whole frames that a server sent."""
    found = []
    while data:
        first, size, start = data[0], data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if first & 0xF0 != 0x80 or data[1] & 0x80 or len(data) < start + size:
            raise AssertionError(f"no whole, unmasked frame: {data[:20]!r}")
        found.append((first & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return found


def text_frame(text: str) -> bytes:
    """Return a text frame of a client."""
    return mask_frame(frames.Opcode.TEXT, text.encode())
