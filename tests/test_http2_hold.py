"""HTTP/2: requests wait while too much of earlier answers does."""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http.source import PIECE
from channelserver.server.http2.connection import HTTP2Connection
from channelserver.server.http2.queue import HOLD, RUNNING, TAKEN_BACK_SECONDS
from channelserver.server.http2.state import FIRST_WINDOW
from channelserver.server.http2.uploads import FILES, Uploads
from channelserver.server.site import Site
from tests.fakes import FakeTransport, StrictTestCase


class HoldTests(StrictTestCase):
    """A connection without a network, whose client opens its windows when the test wants it."""

    #: The client's window for each stream: large enough for all that these tests send.
    WINDOW = 2**30

    def setUp(self) -> None:
        """Connect a client."""
        super().setUp()
        self.server = self.make_server()
        self.transport = FakeTransport(self.server.reactor)
        connection = HTTP2Connection(self.server.site, None, Dispatcher(self.server.site))
        self.connection = self.transport.protocol = connection
        connection.makeConnection(self.transport)
        self.addCleanup(self.transport.client_leaves)
        self.state = H2Connection()
        self.state.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: self.WINDOW})
        self.state.local_settings.acknowledge()
        self.state.initiate_connection()
        self.read = 0
        self.flush()

    def flush(self) -> None:
        """Send what h2 has ready; let the server work; read what it has sent."""
        while data := self.state.data_to_send():
            self.transport.deliver(data)
            self.server.turn()
            received, self.read = self.transport.received[self.read :], len(self.transport.received)
            self.state.receive_data(received)

    def request(self) -> dict[str, Any] | None:
        """Send a request; return its message, or None if it waits."""
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "testserver"), (":path", "/")]
        self.state.send_headers(self.state.get_next_available_stream_id(), fields, end_stream=True)
        self.flush()
        return self.message()

    def message(self) -> dict[str, Any] | None:
        """Return the next request that the application gets."""
        delivery = self.server.take("http.request")
        return None if delivery is None else delivery.content

    def reply(self, message: dict[str, Any] | None, size: int, more: bool = False) -> None:
        """Answer with so many bytes."""
        assert message is not None
        self.server.reply(message, status=200, content=b"x" * size, more_content=more)

    def open_window(self, size: int) -> None:
        """Take so many bytes more."""
        self.state.increment_flow_control_window(size)
        self.flush()

    def fill(self, requests: int) -> list[dict[str, Any] | None]:
        """Have 1 MiB of answers wait, to the byte; return the messages of further requests, sent before that."""
        self.reply(self.request(), 65535)  # the window of the connection is used up: the rest waits
        messages = [self.request() for _ in range(8 + requests)]
        for message in messages[:8]:
            self.reply(message, PIECE)
        self.assertEqual(self.connection.waiting, HOLD)
        return messages[8:]

    def test_full(self) -> None:
        """With more than 1 MiB waiting, no further request reaches the application until the client has taken some."""
        (small,) = self.fill(1)
        self.assertIsNotNone(self.request())  # not a byte too much
        self.reply(small, 1)
        self.assertIsNone(self.request())
        self.assertIsNone(self.request())
        self.open_window(1)
        self.assertIsNotNone(self.message())
        self.assertIsNotNone(self.message())
        self.assertIsNone(self.message())

    def test_one_after_the_other(self) -> None:
        """Of those that wait, only as many go on as there is room for."""
        (small,) = self.fill(1)
        self.reply(small, 2)
        for _ in range(3):
            self.assertIsNone(self.request())
        answered: list[Any] = []

        def answer(exchange: Any) -> bool:
            answered.append(exchange)
            exchange.reply({"status": 200, "content": b"xx"})
            return True

        self.server.site.static = answer
        for size, number in ((1, 0), (1, 1), (1, 1), (1, 2), (2, 3)):
            self.open_window(size)
            self.assertEqual(len(answered), number)

    def test_whole_answers(self) -> None:
        """Of large answers all bytes count, but for the largest one."""
        messages = [self.request() for _ in range(3)]
        self.reply(messages[0], 20 * HOLD)
        messages.append(self.request())
        self.assertIsNotNone(messages[3])
        self.reply(messages[1], HOLD)
        self.assertIsNone(self.request())
        self.open_window(21 * HOLD)
        self.assertIsNotNone(self.message())
        self.assertEqual(self.connection.memory.answers.waiting, 0)

    def test_sixteen(self) -> None:
        """Only 16 requests are with consumers at a time; a request that is taken back keeps its place for a second."""
        messages = [self.request() for _ in range(RUNNING)]
        self.assertIsNone(self.request())
        self.assertIsNone(self.request())
        self.assertEqual(self.server.site.held_back, 2)
        self.reply(messages[0], 1)
        self.assertIsNotNone(self.message())
        self.assertIsNone(self.message())
        self.assertEqual(self.server.site.held_back, 1)
        self.state.reset_stream(3, ErrorCodes.CANCEL)
        self.flush()
        self.assertIsNone(self.message())
        self.server.pass_time(TAKEN_BACK_SECONDS + 1)
        self.assertIsNotNone(self.message())
        self.assertIsNone(self.message())
        self.assertIsNone(self.request())
        self.transport.client_leaves()
        self.assertEqual(self.server.site.held_back, 0)

    def test_a_transport_that_is_full(self) -> None:
        """The same while the kernel takes nothing more, though little waits in the streams."""
        self.open_window(self.WINDOW - 65535)
        first, second = self.request(), self.request()
        self.transport.slow = True
        self.reply(first, FakeTransport.FULL + 1)
        self.assertLess(self.connection.waiting, HOLD)
        self.assertIsNone(self.request())
        self.reply(second, 0)
        self.assertIsNone(self.message())
        self.transport.slow = False
        self.transport.client_reads()
        self.server.turn()
        self.assertIsNotNone(self.message())

    def test_who_leaves_is_forgotten(self) -> None:
        """A request that was reset while it waited never reaches the application."""
        (small,) = self.fill(1)
        self.reply(small, 1)
        number = self.state.get_next_available_stream_id()
        self.assertIsNone(self.request())
        self.state.reset_stream(number, ErrorCodes.CANCEL)
        self.flush()
        self.open_window(17 * HOLD)
        self.assertIsNone(self.message())
        self.assertIsNotNone(self.request())


class UploadTests(StrictTestCase):
    """The windows of request bodies, of which some need files."""

    def setUp(self) -> None:
        """As many bodies as there are files for, and one more."""
        super().setUp()
        self.site = self.make_server().site
        self.state = H2Connection(H2Configuration(client_side=False))
        self.state.initiate_connection()
        self.opened: dict[int, int] = {}
        self.patch(self.state, "increment_flow_control_window", self.open)
        self.uploads = Uploads(self.state)
        self.streams = [Body(self.site, number) for number in range(FILES + 1)]
        for stream in self.streams:
            self.uploads.open_window(stream, 0.0)

    def open(self, size: int, number: int) -> None:
        """A window is opened."""
        assert size > 0
        self.opened[number] = size

    def test_another_body_needs_no_file_any_more(self) -> None:
        """A body that has got its file as more of it came does not get it twice."""
        self.assertEqual(list(self.uploads.waiting), self.streams[-1:])
        self.uploads.ended(self.streams[0], None)
        self.uploads.open_window(self.streams[-1], 0.0)
        self.assertEqual(self.opened.keys(), set(range(FILES + 1)))
        self.uploads.ended(self.streams[1], None)
        self.uploads.go_on(0.0)
        self.assertFalse(self.uploads.waiting)

    def test_an_empty_frame(self) -> None:
        """The time of a blocked body runs on when it gets a file, for whatever reason it does."""
        last = self.streams[-1]
        last.body_size, last.window = FIRST_WINDOW, 0
        self.uploads.open_window(last, 0.0)
        self.assertTrue(last.blocked)
        self.uploads.ended(self.streams[0], None)
        self.uploads.open_window(last, 1.0)
        self.assertFalse(last.blocked)


class Body:
    """A body of more than its first window, as :class:`Uploads` sees it."""

    wants_body = True

    def __init__(self, site: Site, number: int) -> None:
        self.site = site
        self.number = number
        self.window, self.body_size = FIRST_WINDOW, 0
        self.head = RequestHead()
        self.head.length = FIRST_WINDOW + 1
        self.blocked = False

    @property
    def connection(self) -> Body:
        """To be looked at later."""
        return self

    def on_tick(self, now: float) -> None:
        """Look."""

    def block(self, now: float) -> None:
        """It may send nothing."""
        self.blocked = True

    def unblock(self, now: float) -> None:
        """It may."""
        self.blocked = False
