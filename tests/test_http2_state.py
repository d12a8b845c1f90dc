"""HTTP/2: the frames that the server reads and writes by itself mean what they mean to ``h2``, the oracle."""

from __future__ import annotations

from typing import Any

from hpack import Decoder, Encoder
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

from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http2 import state
from channelserver.server.http2.connection import HTTP2Connection
from channelserver.server.http2.frames import PREFACE
from channelserver.server.http2.head import KnownFields, Malformed, read_head
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


class PlainDecoder(Decoder):
    """As ``h2`` uses it."""

    def decode(self, data: bytes, raw: bool = True) -> Any:
        """See :class:`Decoder`."""
        return super().decode(data, raw)


class Side:
    """One of the connections."""

    def __init__(self, known: bool) -> None:
        self.known = known
        self.server = FakeServer()
        self.server.site.date_field = lambda: (b"Date", b"now", b"Date: now\r\n")  # type: ignore[method-assign]
        self.transport = FakeTransport(self.server.reactor)
        alsoProvides(self.transport, interfaces.ISSLTransport)
        self.connection = HTTP2Connection(self.server.site, "192.0.2.7", Dispatcher(self.server.site))
        if not known:
            most = self.connection._h2.decoder.max_header_list_size
            self.connection._h2.encoder = Encoder()
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
                lambda code, value: SettingsFrame(0, {code: value}), st.sampled_from([1, 4]),
                st.sampled_from([0, 100, 4096, 60_000]),
            ),
            st.just(PingFrame(0, b"12345678")),
        ),
    ),
)  # fmt: skip


class OracleTests(StrictTestCase):
    """What the server does with frames by itself, and what ``h2`` does."""

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
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
