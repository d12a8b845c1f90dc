"""HTTP/2: the frames that the server reads and writes by itself mean what they mean to ``h2``, the oracle."""

from __future__ import annotations

from typing import Any

from hpack import Decoder, Encoder
from hpack.hpack import encode_integer
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import interfaces
from zope.interface import alsoProvides

from channelserver.server.http.base import LINGER
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http.ready import Ready
from channelserver.server.http2 import state
from channelserver.server.http2.connection import HTTP2Connection
from channelserver.server.http2.frames import PREFACE
from channelserver.server.http2.head import KnownFields, Malformed, read_head
from tests import examples
from tests.fakes import FakeServer, FakeTransport, StrictTestCase

Fields = list[tuple[bytes, bytes]]

#: Requests: pseudo-fields, then others.
PSEUDO: Fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"testserver"), (b":path", b"/")]
REQUESTS: list[Fields] = [
    PSEUDO,
    [*PSEUDO, (b"accept", b"text/html"), (b"cookie", b"a=b"), (b"cookie", b"c=d")],
    [*PSEUDO[:3], (b":path", b"/other?x=1"), (b"accept", b"text/html"), (b"cookie", b"a=b"), (b"cookie", b"c=d")],
    [*PSEUDO, (b"content-length", b"5")],
    [*PSEUDO, (b"Upper", b"x")],
    [(b"accept", b"x"), *PSEUDO],
    [(b":method", b"HEAD"), *PSEUDO[1:]],
    PSEUDO[1:],
]
#: Requests for files in memory: they are answered without a stream once they are known.
FILES = {"/empty": b"", "/small": b"f" * 100, "/frame": b"g" * 16_384, "/large": b"h" * 40_000}
FILE_REQUESTS: list[Fields] = [[*PSEUDO[:3], (b":path", path.encode())] for path in FILES]
FILE_REQUESTS.append([*FILE_REQUESTS[1], (b"range", b"bytes=0-1")])
#: Requests with bodies, and what may follow these.
BODY_REQUESTS: list[Fields] = [
    [(b":method", b"POST"), *PSEUDO[1:], *more]
    for more in ([], [(b"content-length", b"300")], [(b"content-length", b"0")], [(b"expect", b"100-continue")])
]
TRAILERS: list[Fields] = [[(b"x-checked", b"yes")], [(b":path", b"/")], [(b"content-length", b"1")], []]
#: Blocks that no encoder makes: of a field that is in no table, cut off, a change of the table's size.
WRONG = [b"\xfe", b"\x40", b"\x3f\xe1\x1f", b"\x20\x82\x87\x84", b"\x82\x87\x84\x3f\xe1\x1f", b"", b"\xff\x80\x80"]
#: Answers: fields and body.
ANSWERS: list[tuple[list[list[bytes]], bytes]] = [
    ([[b"Content-Type", b"text/plain"]], b"hello"),
    ([[b"Content-Type", b"text/plain"]], b""),
    ([[b"Content-Type", b"text/html"], [b"X-Long", b"x" * 20_000]], b"x" * 3000),
    ([], b"y" * 40_000),
]

_streams = st.sampled_from([1, 3, 5, 7, 9, 11, 2, 0])
_flags = st.sets(st.sampled_from(["END_STREAM", "END_HEADERS", "PRIORITY", "PADDED"]))
_usual = st.just({"END_STREAM", "END_HEADERS"})


class Pair:
    """The same connection twice: as it is, and with ``h2`` for all frames."""

    def __init__(self) -> None:
        self.sides = [Side(known) for known in (True, False)]
        self.encoder = Encoder()
        self.next = 1
        self.bodies: list[int] = []  # streams with a body

    def do(self, action: tuple[Any, ...]) -> bool:
        """Do something on both sides; return whether the connection goes on."""
        kind, *arguments = action
        getattr(self, kind)(*arguments)
        first, second = (side.news() for side in self.sides)
        assert first == second, (action, first, second)
        return not first[1]

    def send(self, data: bytes) -> None:
        """Send the same bytes to both."""
        for side in self.sides:
            side.receive(data)

    def request(self, place: int, flags: set[str], number: int | None, depends: int) -> None:
        """Send HEADERS: on the next stream, or on one that may be wrong."""
        if number is None:
            number = self.next
            self.next += 2
        self.block(self.encoder.encode(REQUESTS[place]), flags, number, depends)

    def file(self, place: int, flags: set[str]) -> None:
        """Ask for a file."""
        self.block(self.encoder.encode(FILE_REQUESTS[place]), flags, None, 0)

    def split(self, place: int, cut: int) -> None:
        """Send a request in two frames."""
        block = self.encoder.encode(REQUESTS[place])
        cut %= len(block) + 1
        first = HeadersFrame(self.next, block[:cut], flags=("END_STREAM",))
        self.send(first.serialize() + ContinuationFrame(self.next, block[cut:], flags=("END_HEADERS",)).serialize())
        self.next += 2

    def body(self, place: int) -> None:
        """Begin a request with a body."""
        self.bodies.append(self.next)
        self.block(self.encoder.encode(BODY_REQUESTS[place]), {"END_HEADERS"}, None, 0)

    def part(self, place: int, size: int, flags: set[str]) -> None:
        """Send a part of a body."""
        frame = DataFrame(self._body(place), b"x" * size, flags=tuple(flags))
        frame.pad_length = 3 if "PADDED" in flags else 0
        self.send(frame.serialize())

    def trailers(self, place: int, fields: int, flags: set[str]) -> None:
        """End a body."""
        self.block(self.encoder.encode(TRAILERS[fields]), flags, self._body(place), 0)

    def window(self, place: int, size: int) -> None:
        """Open the window of a stream with a body."""
        self.send(WindowUpdateFrame(self._body(place), size).serialize())

    def table(self, size: int) -> None:
        """With the next block, change the size of the client's table."""
        self.encoder.header_table_size = size

    def flip(self, place: int, byte: int, bit: int) -> None:
        """Send a request with a wrong bit."""
        frame = HeadersFrame(self.next, self.encoder.encode(REQUESTS[place]), flags=("END_STREAM", "END_HEADERS"))
        self.next += 2
        data = bytearray(frame.serialize())
        data[3 + byte % (len(data) - 3)] ^= 1 << bit
        self.send(bytes(data))

    def _body(self, place: int) -> int:
        return self.bodies[-1 - place % len(self.bodies)] if self.bodies else 1

    def block(self, block: bytes, flags: set[str], number: int | None, depends: int) -> None:
        """Send HEADERS with a block."""
        if number is None:
            number = self.next
            self.next += 2
        frame = HeadersFrame(number or 1, block, flags=tuple(flags))
        frame.stream_id = number
        frame.depends_on, frame.pad_length = depends, 3 if "PADDED" in flags else 0
        self.send(frame.serialize())

    def answer(self, place: int) -> None:
        """Answer the oldest request."""
        for side in self.sides:
            side.answer(*ANSWERS[place])

    def frame(self, frame: Any) -> None:
        """Send any other frame."""
        self.send(frame.serialize())


class InMemory:
    """Files."""

    def __init__(self) -> None:
        self.files = {path: Ready([[b"Content-Type", b"text/css"]], body) for path, body in FILES.items()}
        self.found = 0

    def __call__(self, exchange: Any) -> bool:
        file = self.files.get(exchange.head.path)
        if file is not None:
            exchange.reply(file.reply())
        return file is not None

    def ready(self, head: RequestHead, turn: float, now: Any) -> Ready | None:
        """See :class:`channelserver.server.edge.static.StaticFiles`."""
        file = None if b"range" in head.fields else self.files.get(head.path)
        self.found += file is not None
        return file


class PlainDecoder(Decoder):
    """As ``h2`` uses it."""

    weight = 0

    def decode(self, data: bytes, raw: bool = True) -> Any:
        """See :class:`Decoder`."""
        return super().decode(data, raw)


class PlainEncoder(state._Encoder):
    """It remembers no blocks."""

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """See :class:`Encoder`."""
        return Encoder.encode(self, headers, huffman)


class Side:
    """One of the connections."""

    def __init__(self, known: bool) -> None:
        self.known = known
        self.server = FakeServer()
        date = b"Date", b"now", b"Date: now\r\n"
        self.server.site.date_field = lambda: date  # type: ignore[method-assign]
        self.server.site.static = InMemory()
        self.transport = FakeTransport(self.server.reactor)
        alsoProvides(self.transport, interfaces.ISSLTransport)
        self.connection = HTTP2Connection(self.server.site, "192.0.2.7", Dispatcher(self.server.site))
        if not known:
            most = self.connection._h2.decoder.max_header_list_size
            self.connection._h2.encoder = PlainEncoder()
            self.connection._h2.decoder = PlainDecoder(most)
        self.transport.protocol = self.connection
        self.seen = 0
        self.waiting: list[str] = []
        self.connection.makeConnection(self.transport)  # type: ignore[arg-type]

    def receive(self, data: bytes) -> None:
        """Receive bytes."""
        self._do(lambda: self.transport.deliver(data))

    def answer(self, headers: list[list[bytes]], body: bytes) -> None:
        """Answer the oldest request."""
        if self.waiting:
            reply = {"status": 200, "headers": [pair.copy() for pair in headers], "content": body}
            self._do(lambda: self.server.layer.dispatch(self.waiting.pop(0), reply))

    def _do(self, function: Any) -> None:
        state._KNOWN = self.known
        try:
            function()
            for _ in range(3):
                self.server.turn()
        finally:
            state._KNOWN = True
        self.messages = self.server.messages("http.request")
        self.waiting += [message["reply_channel"] for message in self.messages]

    def news(self) -> Any:
        """Return what has come to the client, whether the connection is closing, and the new requests."""
        begin, self.seen = self.seen, len(self.transport.received)
        received = self.transport.received[begin:]
        messages = [{**message, "reply_channel": ""} for message in getattr(self, "messages", ())]
        return received, self.connection._state in ("closing", "closed"), messages


_ACTIONS = st.one_of(
    st.tuples(st.just("file"), st.integers(0, len(FILE_REQUESTS) - 1), _usual),
    st.tuples(st.just("file"), st.just(1), st.one_of(_usual, _flags)),
    st.tuples(st.just("split"), st.integers(0, len(REQUESTS) - 1), st.integers(0, 200)),
    st.tuples(st.just("body"), st.integers(0, len(BODY_REQUESTS) - 1)),
    st.tuples(
        st.just("part"), st.integers(0, 2), st.sampled_from([0, 1, 100, 300, 16_000, 16_384 - 4]),
        _flags.map(lambda flags: flags & {"END_STREAM", "PADDED"}),
    ),
    st.tuples(st.just("part"), st.just(0), st.sampled_from([150, 16_384]), st.just(set())),
    st.tuples(
        st.just("trailers"), st.integers(0, 2), st.integers(0, len(TRAILERS) - 1), st.one_of(_usual, _flags),
    ),
    st.tuples(st.just("window"), st.integers(0, 2), st.sampled_from([1, 70_000, 2**31 - 1])),
    st.tuples(st.just("table"), st.sampled_from([0, 60, 4096])),
    st.tuples(st.just("flip"), st.integers(0, 2), st.integers(0, 100), st.integers(0, 7)),
    st.tuples(st.just("request"), st.integers(0, 2), _usual, st.none(), st.just(0)),
    st.tuples(st.just("answer"), st.integers(0, len(ANSWERS) - 1)),
    st.tuples(
        st.just("request"), st.integers(0, len(REQUESTS) - 1), st.one_of(_usual, _flags),
        st.one_of(st.none(), _streams), st.sampled_from([0, 1, 3]),
    ),
    st.tuples(st.just("block"), st.sampled_from(WRONG), st.one_of(_usual, _flags), st.none(), st.just(0)),
    st.tuples(
        st.just("frame"),
        st.one_of(
            st.builds(lambda n, f: DataFrame(n, b"x" * 100, flags=tuple(f)), _streams.filter(bool), _flags.map(
                lambda flags: flags & {"END_STREAM"})),
            st.builds(lambda n: RstStreamFrame(n, 8), _streams.filter(bool)),
            st.builds(WindowUpdateFrame, _streams, st.sampled_from([1, 20_000, 2**31 - 1])),
            st.builds(lambda n, d: PriorityFrame(n, depends_on=d), _streams.filter(bool), st.just(0)),
            st.builds(lambda n: ContinuationFrame(n, b"\x82", flags=("END_HEADERS",)), _streams.filter(bool)),
            st.builds(
                lambda code, value: SettingsFrame(0, {code: value}), st.sampled_from([1, 2, 3, 4, 4, 6, 99]),
                st.sampled_from([0, 1, 100, 4096, 60_000, 2**31]),
            ),
            st.just(PingFrame(0, b"12345678")),
        ),
    ),
)  # fmt: skip


class OracleTests(StrictTestCase):
    """What the server does with frames by itself, and what ``h2`` does."""

    @settings(max_examples=examples(200), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_ACTIONS, min_size=1, max_size=25))
    def test_same(self, actions: list[tuple[Any, ...]]) -> None:
        """The same requests, and the same bytes to the client."""
        self.patch(state, "TIDY", 0)  # with some frames h2 does not give the same error for streams it remembers
        pair = Pair()
        pair.send(PREFACE + SettingsFrame(0, {}).serialize())
        pair.do(("request", 0, {"END_STREAM", "END_HEADERS"}, None, 0))
        for action in actions:
            if not pair.do(action):
                break

    def test_used(self) -> None:
        """Usual requests and answers are not given to h2 at all."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        encoder = Encoder()
        side.receive(HeadersFrame(1, encoder.encode(PSEUDO), flags=("END_STREAM", "END_HEADERS")).serialize())
        side.answer(*ANSWERS[0])
        for name in ("receive_data", "send_headers", "send_data"):
            self.patch(state.State, name, lambda *arguments, **named: self.fail("h2 is called"))
        for number, flags in ((3, ()), (5, ("PRIORITY",))):
            frame = HeadersFrame(number, encoder.encode(REQUESTS[1]), flags=("END_STREAM", "END_HEADERS", *flags))
            side.receive(frame.serialize())
            side.answer(*ANSWERS[0])
        self.assertEqual(side.transport.received.count(b"hello"), 3)

    def test_files_in_memory(self) -> None:
        """A file that is asked for again is sent without a stream, as long as the windows have room."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 100}).serialize())
        encoder = Encoder()
        for number in range(1, 13, 2):
            block = encoder.encode(FILE_REQUESTS[1])
            side.receive(HeadersFrame(number, block, flags=("END_STREAM", "END_HEADERS")).serialize())
        self.assertEqual(side.transport.received.count(FILES["/small"]), 6)
        self.assertEqual(side.server.site.static.found, 1)
        side.receive(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 99}).serialize())
        side.receive(HeadersFrame(13, block, flags=("END_STREAM", "END_HEADERS")).serialize())
        self.assertEqual(side.transport.received[-99:], FILES["/small"][:99])
        side.receive(WindowUpdateFrame(13, 1).serialize())
        self.assertEqual(side.transport.received[-10:], b"\0\0\1\0\1\0\0\0\x0df")

    def test_whole_answers(self) -> None:
        """A short answer waits for the connection's window, and for a client that does not read."""
        pair = Pair()
        pair.send(PREFACE + SettingsFrame(0, {}).serialize())
        usual = {"END_STREAM", "END_HEADERS"}
        for answer in (3, 3, 0):  # the second one fills the window
            pair.do(("request", 0, usual, None, 0))
            pair.do(("answer", answer))
        received = [side.transport for side in pair.sides]
        self.assertFalse(any(b"hello" in transport.received for transport in received))
        pair.do(("frame", WindowUpdateFrame(0, 500_000)))
        self.assertTrue(all(transport.received.endswith(b"hello") for transport in received))

        side = pair.sides[0]
        side.transport.slow = True
        for number in range(7, 17, 2):
            frame = HeadersFrame(number, pair.encoder.encode(PSEUDO), flags=tuple(usual))
            side.receive(frame.serialize())
        for answer in (3, 3, 0, 0, 0):
            side.answer(*ANSWERS[answer])
        self.assertTrue(side.connection._paused)
        self.assertEqual(side.connection.waiting, 15)
        side.transport.slow = False
        side.transport.client_reads()
        side.server.turn()
        self.assertTrue(side.transport.received.endswith(b"hello"))

    def test_windows_opened_for_whole_answers(self) -> None:
        """The client may open its window for each few kilobytes of short answers."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        encoder = Encoder()
        for number in range(1, 1600, 2):
            frame = HeadersFrame(number, encoder.encode(PSEUDO), flags=("END_STREAM", "END_HEADERS"))
            side.receive(frame.serialize())
            side.answer([], b"x" * 16_384)
            side.receive(WindowUpdateFrame(0, 2048).serialize() * 8)
            self.assertEqual(side.connection._state, "open", number)

    def test_parts_are_not_given_to_h2(self) -> None:
        """Usual bodies, and windows, are not given to h2."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        block = Encoder().encode(BODY_REQUESTS[0])
        side.receive(HeadersFrame(1, block, flags=("END_HEADERS",)).serialize())
        self.patch(state.State, "receive_data", lambda *arguments: self.fail("h2 is called"))
        for frame in (DataFrame(1, b"x" * 300), WindowUpdateFrame(0, 5), WindowUpdateFrame(1, 5)):
            side.receive(frame.serialize())
        side.receive(DataFrame(1, b"y", flags=("END_STREAM",)).serialize())
        self.assertEqual([message["body"] for message in side.messages], [b"x" * 300 + b"y"])

    def test_known_blocks_are_bounded(self) -> None:
        """What is remembered of a client's blocks has a limit, and is in the connection's account."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        encoder, decoder = Encoder(), side.connection._h2.decoder
        fields = [*PSEUDO, *[(b"x-%d" % number, b"x" * 20) for number in range(50)]]
        for number in range(1, 41, 2):
            block = encoder.encode([*fields, (b"x-49", b"x" * 20)][: 54 + number % 4 // 2 - number % 5])
            side.receive(HeadersFrame(number, block, flags=("END_STREAM", "END_HEADERS")).serialize())
            side.answer(*ANSWERS[0])
            kept = sum(state.FIELD_BYTES * (len(each.fields) + 1) for each in decoder._blocks.values())
            self.assertEqual(decoder.weight, kept)
            self.assertLessEqual(kept, state.KNOWN_WEIGHT)
            self.assertGreaterEqual(side.connection.kept(), kept)
        self.assertGreater(kept, 0)

    def test_sizes_of_the_table(self) -> None:
        """However often a client changes the size of its table, the next answer tells the smallest and the last size,
        no matter if one comes twice, and names nothing that the table has lost.
        """
        side, client = Pair().sides[0], Decoder()
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        number = 1
        for sizes, announced in (
            ((), []), ((4096, 60_000), []), ((100, 100), [100]), ((), []), ((0, 4096, 4096), [0, 4096]), ((), []),
            ((60, 0, 70, 0), [0]), ((5000, 200, 300) * 20, [200, 300]), ((300,), []),
        ):  # fmt: skip
            for size in sizes:
                side.receive(SettingsFrame(0, {SettingsFrame.HEADER_TABLE_SIZE: size}).serialize())
            if announced:
                client.max_allowed_table_size = announced[-1]
                client.header_table.maxsize = announced[0]  # what does not fit, the client has no more
            frame = HeadersFrame(number, Encoder().encode(PSEUDO), flags=("END_STREAM", "END_HEADERS"))
            side.receive(frame.serialize())
            side.news()
            side.answer(*ANSWERS[0])
            received = side.news()[0]
            block = received[9 : 9 + int.from_bytes(received[:3], "big")]
            begin = b""
            for size in announced:
                encoded = encode_integer(size, 5)
                encoded[0] |= 0x20
                begin += bytes(encoded)
            self.assertEqual(block[: len(begin)], begin)
            self.assertTrue(block[len(begin)] & 0xC0, "another size is announced")
            self.assertEqual(client.decode(block, raw=True)[1], (b"content-type", b"text/plain"), sizes)
            number += 2

    def test_unread(self) -> None:
        """When the server stops, a client has time to read answers that were complete before."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize() + WindowUpdateFrame(0, 100_000).serialize())
        side.transport.slow = True
        encoder = Encoder()
        for number in range(1, 5, 2):
            frame = HeadersFrame(number, encoder.encode(PSEUDO), flags=("END_STREAM", "END_HEADERS"))
            side.receive(frame.serialize())
            side.answer(*ANSWERS[3])
        self.assertEqual(side.connection._streams, {})
        side.server.site.draining = True
        side.connection.drain()
        side.server.pass_time(LINGER + 2)
        side.transport.slow = False
        side.transport.client_reads()
        side.server.turn()
        self.assertEqual(side.transport.received.count(b"y"), 2 * 40_000)
        self.assertFalse(side.transport.aborted)
        self.assertEqual(side.connection._state, "closed")

    def test_streams_end(self) -> None:
        """Of ended streams only a few are remembered."""
        side = Pair().sides[0]
        side.receive(PREFACE + SettingsFrame(0, {}).serialize())
        for number in range(1, 201, 2):
            frame = HeadersFrame(number, Encoder().encode(PSEUDO), flags=("END_STREAM", "END_HEADERS"))
            side.receive(frame.serialize())
            side.answer(*ANSWERS[0])
            self.assertLessEqual(len(side.connection._h2.streams), state.TIDY + 1)


class KnownFieldsTests(StrictTestCase):
    """The fields of the request before."""

    def test_heads_share_nothing_that_changes(self) -> None:
        """A head is the same with and without them, and changing one request does not change the next."""
        known = KnownFields()
        for fields in (*REQUESTS[:3], REQUESTS[1], *REQUESTS[:2]):
            alone = read_head(fields, True, b"https")
            head = read_head(fields, True, b"https", known=known)
            for name in ("method", "target", "headers", "fields", "size", "length"):
                self.assertEqual(getattr(head, name), getattr(alone, name))
        for fields in (REQUESTS[4], REQUESTS[5]):
            for _ in range(2):
                self.assertRaises(Malformed, read_head, fields, True, b"https", known=known)
