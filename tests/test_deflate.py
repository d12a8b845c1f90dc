"""permessage-deflate (RFC 7692): what is agreed on, what is sent compressed, and what is refused when it arrives."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosedError

from channelserver.server.common import continuations
from channelserver.server.websocket import deflate, frames
from channelserver.server.websocket.deflate import Deflated, DeflateReader, negotiate, parse_extensions
from channelserver.server.websocket.frames import (
    FIN,
    RSV1,
    CloseCode,
    Event,
    FrameError,
    FrameReader,
    Opcode,
    Ping,
    encode_frame,
)
from channelserver.server.websocket.websocket import CLOSE_SECONDS
from tests import examples
from tests.fakes import Client, StrictTestCase, mask_frame
from tests.process import TIMEOUT, ServerTestCase, wait_until
from tests.test_websocket import handshake

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode

ALWAYS = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
LIMIT = 100_000


def client_frame(first: int, payload: bytes) -> bytes:
    """Return a frame as a client sends it.

    :param first: its first byte: bits and opcode.
    """
    return mask_frame(first & ~FIN, payload, bool(first & FIN))


def compress(data: bytes, window: int = 12) -> bytes:
    """Return the payload of a compressed message, made by zlib alone (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -window)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def read(data: bytes, reader: FrameReader | None = None) -> list[Event]:
    """Return what a reader makes of `data`."""
    events: list[Event] = []
    (reader or DeflateReader(LIMIT, 15)).feed(data, events)
    return events


class NegotiationTests(SynchronousTestCase):
    """RFC 7692 sections 5.1 and 7.1; RFC 6455 section 9.1."""

    def response(self, *values: bytes) -> bytes | None:
        """Return the answer to offers."""
        agreement = negotiate(values)
        return agreement.response if agreement is not None else None

    def test_offers_that_are_accepted(self) -> None:
        """Both sides keep nothing between messages; a client is told its window only if it says that it can be told."""
        for offer, rest in (
            (b"permessage-deflate", b"server_max_window_bits=12"),
            (b"permessage-deflate; client_max_window_bits", b"server_max_window_bits=12; client_max_window_bits=12"),
            (b"permessage-deflate;client_max_window_bits=15", b"server_max_window_bits=12; client_max_window_bits=12"),
            (b"permessage-deflate;client_max_window_bits=10", b"server_max_window_bits=12; client_max_window_bits=10"),
            (b"permessage-deflate;client_max_window_bits=8", b"server_max_window_bits=12; client_max_window_bits=8"),
            (b"permessage-deflate; server_max_window_bits=15", b"server_max_window_bits=12"),
            (b"permessage-deflate; server_max_window_bits=9", b"server_max_window_bits=9"),
            (b'permessage-deflate; server_max_window_bits="10"', b"server_max_window_bits=10"),
            (b'permessage-deflate ;\tserver_max_window_bits = "1\\0"', b"server_max_window_bits=10"),
            (b"permessage-deflate; server_no_context_takeover", b"server_max_window_bits=12"),
            (b"permessage-deflate; client_no_context_takeover", b"server_max_window_bits=12"),
        ):
            self.assertEqual(self.response(offer), ALWAYS + rest, offer)

    def test_offers_that_are_declined(self) -> None:
        """RFC 7692 section 7.1: unknown names, wrong values, names that come twice, a window we do not have."""
        for parameters in (
            b"server_max_window_bits",
            b"server_max_window_bits=7",
            b"server_max_window_bits=8",  # allowed, but more than zlib can do
            b"server_max_window_bits=16",
            b"server_max_window_bits=010",
            b"server_max_window_bits=+10",
            b"server_max_window_bits=1_0",
            b"client_max_window_bits=16",
            b"client_max_window_bits=09",
            b"client_max_window_bits=x",
            b"server_no_context_takeover=1",
            b"client_no_context_takeover=true",
            b"server_no_context_takeover; server_no_context_takeover",
            b"client_max_window_bits; client_max_window_bits=10",
            b"unknown",
            b"Server_Max_Window_Bits=10",
        ):
            self.assertIsNone(self.response(b"permessage-deflate; " + parameters), parameters)

    def test_the_first_acceptable_offer_wins(self) -> None:
        """Offers are in the client's order of preference, in one field or in several."""
        first = b"permessage-deflate; server_max_window_bits=8"
        second = b"permessage-deflate; server_max_window_bits=11"
        third = b"permessage-deflate; server_max_window_bits=9"
        expected = ALWAYS + b"server_max_window_bits=11"
        self.assertEqual(self.response(b", ".join((first, second, third))), expected)
        self.assertEqual(self.response(first, second + b" , " + third), expected)
        self.assertEqual(self.response(b"x-webkit-deflate-frame, " + first, b"", b",," + second), expected)
        self.assertIsNone(self.response(b"x-webkit-deflate-frame", b"permessage-bzip2"))
        self.assertIsNone(self.response())
        self.assertIsNone(self.response(b""))

    def test_malformed_lists(self) -> None:
        """RFC 6455 section 9.1: data that does not conform must fail the connection."""
        for value in (
            b"permessage-deflate;",
            b"permessage-deflate; =10",
            b"permessage-deflate; server_max_window_bits=",
            b'permessage-deflate; server_max_window_bits="10',
            b'permessage-deflate; server_max_window_bits=""',
            b'permessage-deflate; server_max_window_bits="1 0"',
            b"permessage deflate",
            b"; a=b",
            b"a, b c",
            b"a; b=c d",
            b"a/b",
        ):
            self.assertRaises(ValueError, parse_extensions, value)

    def test_a_long_malformed_list_takes_no_time(self) -> None:
        """The search cannot be made to start over and over again."""
        for value in (b"a" + b" " * 30_000 + b"(", b"a" + b";b=c " * 6_000 + b"(", b'a;b="' + b"\\a" * 15_000):
            self.assertRaises(ValueError, parse_extensions, value)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, value: bytes) -> None:
        """Whatever a header holds, it is accepted, declined or malformed."""
        for prefix in (b"", b"permessage-deflate;", b'permessage-deflate; server_max_window_bits="'):
            try:
                agreement = negotiate([prefix + value])
            except ValueError:
                continue
            if agreement is not None:
                self.assertIn(agreement.window, range(9, 13))

    def test_equal_agreements_are_one_object(self) -> None:
        """Ten thousand sockets do not keep ten thousand of them."""
        offer = [b"permessage-deflate; client_max_window_bits"]
        self.assertIs(negotiate(offer), negotiate(offer))


class ReaderTests(SynchronousTestCase):
    """Compressed messages from a client."""

    def refused(self, code: int, data: bytes, reader: FrameReader | None = None) -> None:
        """Assert that `data` is refused with `code`."""
        error = self.assertRaises(FrameError, read, data, reader)
        self.assertEqual(error.code, code)

    def test_the_examples_of_the_rfc(self) -> None:
        """RFC 7692 section 7.2.3: one block, fragments, no compression, two blocks, a last block, an empty message."""
        hello = bytes.fromhex("f248cdc9c90700")
        self.assertEqual(read(client_frame(0xC1, hello)), ["Hello"])
        self.assertEqual(read(client_frame(0x41, hello[:3]) + client_frame(0x80, hello[3:])), ["Hello"])
        self.assertEqual(read(client_frame(0xC1, bytes.fromhex("000500faff48656c6c6f00"))), ["Hello"])
        self.assertEqual(read(client_frame(0xC1, bytes.fromhex("f24805000000ffffcac9c90700"))), ["Hello"])
        self.assertEqual(read(client_frame(0xC1, bytes.fromhex("f348cdc9c9070000"))), ["Hello"])
        self.assertEqual(read(client_frame(0xC2, b"\x00")), [b""])

    def test_the_octet_after_a_last_block_may_be_missing(self) -> None:
        """Some compressors end with a last block and cut nothing off."""
        self.assertEqual(read(client_frame(0xC1, bytes.fromhex("f348cdc9c90700"))), ["Hello"])

    def test_last_blocks_within_a_message(self) -> None:
        """Each fragment may end with one; there may not be so many that they cost more than they carry."""
        final = zlib.compressobj(9, zlib.DEFLATED, -12)
        block = final.compress(b"x" * 1000) + final.flush()
        data = client_frame(0x42, block) + client_frame(0x00, block) + client_frame(0x80, block + b"\x00")
        self.assertEqual(read(data), [b"x" * 3000])
        self.refused(CloseCode.INVALID_DATA, client_frame(0xC2, b"\x03\x00" * 1000 + b"\x00"))

    def test_each_message_begins_anew(self) -> None:
        """No window is kept: a message that refers to the one before is damaged data."""
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = os.urandom(500)
        first, second = (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(2))
        reader = DeflateReader(LIMIT, 15)
        self.assertEqual(read(client_frame(0xC2, first[:-4]), reader), [text])
        self.refused(CloseCode.INVALID_DATA, client_frame(0xC2, second[:-4]), reader)

    def test_plain_and_compressed_messages_mix(self) -> None:
        """The bit says which is which; control frames may come between fragments, and are never compressed."""
        packed = compress(b"compressed")
        data = (
            client_frame(0x81, b"plain")
            + client_frame(0x41, packed[:4])
            + client_frame(0x89, b"ping")
            + client_frame(0x80, packed[4:])
            + client_frame(0x01, b"in ")
            + client_frame(0x80, b"parts")
            + client_frame(0xC2, packed)
        )
        expected = [
            "plain", Ping(b"ping"), "compressed", "in parts", b"compressed"
        ]  # fmt: skip
        self.assertEqual(read(data), expected)
        reader = DeflateReader(LIMIT, 12)
        self.assertEqual([event for byte in data for event in read(bytes((byte,)), reader)], expected)

    def test_the_bit_where_it_must_not_be(self) -> None:
        """RFC 7692 section 6: only on the first frame of a data message; RSV2 and RSV3 mean nothing."""
        hello = compress(b"Hello")
        for data in (
            client_frame(0xC9, b""),
            client_frame(0xC8, b"\x03\xe8"),
            client_frame(0xCA, b""),
            client_frame(0x41, hello[:3]) + client_frame(0xC0, hello[3:]),
            client_frame(0x01, b"a") + client_frame(0xC0, b"b"),
            client_frame(0xC0, hello),
            client_frame(0xA1, b"a"),
            client_frame(0x91, b"a"),
            client_frame(0xE1, hello),
            client_frame(0xC3, hello),
            client_frame(0x41, hello) + client_frame(0xC1, hello),
        ):
            self.refused(CloseCode.PROTOCOL_ERROR, data)
        self.refused(CloseCode.PROTOCOL_ERROR, client_frame(0xC1, hello), FrameReader(LIMIT))

    def test_damaged_data(self) -> None:
        """Neither a wrong block, nor one that breaks off, nor text that is not UTF-8 once inflated gets through."""
        whole = compress(os.urandom(300) * 2)
        for payload in (b"\xff" * 8, b"\x07", whole[:-20], whole[:200], b"", whole + b"\x01"):
            self.refused(CloseCode.INVALID_DATA, client_frame(0xC2, payload))
        self.refused(CloseCode.INVALID_DATA, client_frame(0xC1, compress(b"\xff\xfe")))
        self.refused(CloseCode.INVALID_DATA, client_frame(0x41, compress(b"abc\xff") + b"\x00\x00\xff\xff"))
        cut = compress("ü".encode()[:1]) + b"\x00\x00\xff\xff"
        self.assertEqual(read(client_frame(0x41, cut) + client_frame(0x80, compress(b"\xbc"))), ["ü"])

    def test_the_largest_message(self) -> None:
        """What counts is the inflated size; data that grows by being compressed may still be as large as allowed."""
        self.assertEqual(read(client_frame(0xC2, compress(b"x" * LIMIT))), [b"x" * LIMIT])
        noise = os.urandom(LIMIT)
        packed = compress(noise)
        self.assertGreater(len(packed), LIMIT)
        self.assertEqual(read(client_frame(0xC2, packed)), [noise])
        self.refused(CloseCode.MESSAGE_TOO_BIG, client_frame(0xC2, compress(b"x" * (LIMIT + 1))))
        self.refused(CloseCode.MESSAGE_TOO_BIG, client_frame(0xC2, compress(noise + b"x")))
        self.refused(CloseCode.MESSAGE_TOO_BIG, client_frame(0x82, noise + b"x"))
        half = compress(b"x" * (LIMIT // 2 + 1)) + b"\x00\x00\xff\xff"
        self.refused(CloseCode.MESSAGE_TOO_BIG, client_frame(0x42, half) + client_frame(0x80, half[:-4]))
        self.refused(
            CloseCode.MESSAGE_TOO_BIG, client_frame(0xC2, b"")[:1] + b"\xff" + (2 * LIMIT).to_bytes(8, "big") + b"mask"
        )

    def test_a_bomb_is_not_inflated(self) -> None:
        """64 MiB of zeros in 64 KiB are refused after the first LIMIT bytes."""
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64))
        bomb += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        self.assertLess(len(bomb), LIMIT)
        data = client_frame(0xC2, bomb)
        read(client_frame(0x82, bytes(4096)))
        wait_until(lambda: frames._make_masker is not None, "the masker, which the first large frame has imported")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.refused(CloseCode.MESSAGE_TOO_BIG, data)
        self.assertLess(tracemalloc.get_traced_memory()[1], 8 * LIMIT)

    def test_whole_message(self) -> None:
        """A message in one frame is in memory twice while it is decompressed, not more often."""
        wait_until(lambda: frames._make_masker is not None or frames._begin_import(), "the masker")
        for opcode in (Opcode.TEXT, Opcode.BINARY):
            data = client_frame(FIN | RSV1 | opcode, compress(b"x" * LIMIT, 12))
            reader = DeflateReader(LIMIT, 12)
            tracemalloc.start()
            (message,) = read(data, reader)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertEqual(len(message), LIMIT)
            self.assertLess(peak, 2.5 * LIMIT, opcode)

    def test_blocks_without_data_take_no_memory(self) -> None:
        """An endless message of empty blocks or empty fragments is no message, but costs nothing either."""
        for first, payload in ((0x42, b"\x00\x00\x00\xff\xff"), (0x02, b"")):
            reader = DeflateReader(LIMIT, 15)
            read(client_frame(first, payload), reader)
            data = client_frame(0x00, payload) * 1000
            tracemalloc.start()
            for _ in range(50):
                self.assertEqual(read(data, reader), [])
            self.assertLess(tracemalloc.get_traced_memory()[0], 50_000)
            tracemalloc.stop()

    @settings(deadline=None, derandomize=True, max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.tuples(st.booleans(), st.binary(max_size=300), st.integers(0, 300)), max_size=5),
        st.integers(1, 400),
        st.sampled_from((9, 12, 15)),
    )
    def test_any_messages_in_any_pieces(self, messages: list[tuple[bool, bytes, int]], piece: int, window: int) -> None:
        """Compressed or not, in one frame or two, however the bytes arrive: each message comes out as it went in."""
        data = b""
        for compressed, payload, cut in messages:
            body = compress(payload, window) if compressed else payload
            bit = RSV1 if compressed else 0
            if cut < len(body):
                data += client_frame(bit | BINARY, body[:cut]) + client_frame(FIN, body[cut:])
            else:
                data += client_frame(FIN | bit | BINARY, body)
        reader = DeflateReader(LIMIT, window)
        found = [event for at in range(0, len(data), piece) for event in read(data[at : at + piece], reader)]
        self.assertEqual(found, [payload for _, payload, _ in messages])


class WriterTests(SynchronousTestCase):
    """Compressed messages to clients."""

    def test_only_what_is_large_enough(self) -> None:
        """A message over 1 KiB is compressed, a smaller one is not."""
        self.assertIsNone(Deflated.of(None))
        self.assertIsNone(Deflated.of(encode_frame(TEXT, b"x" * 1024)))
        self.assertIsNotNone(Deflated.of(encode_frame(TEXT, b"x" * 1025)))

    def test_only_what_gets_smaller(self) -> None:
        """Noise is sent as it is."""
        frame = encode_frame(BINARY, os.urandom(5000))
        self.assertIs(Deflated(frame).form(12), frame)

    def test_what_zlib_makes_of_it(self) -> None:
        """A compressed frame can be inflated with a window of the size agreed on, whatever its length."""
        for size in (1025, 65_535, 65_536, 1_000_000):
            payload = (b"%d," * 200_000 % tuple(range(200_000)))[:size]
            for window in (9, 11, 12):
                for opcode in (TEXT, BINARY):
                    form = deflate.deflate(encode_frame(opcode, payload), window)
                    self.assertEqual(form[0], FIN | RSV1 | opcode)
                    data = form[2 if form[1] < 126 else 4 if form[1] == 126 else 10 :]
                    inflater = zlib.decompressobj(-window)
                    self.assertEqual(inflater.decompress(data + b"\x00\x00\xff\xff"), payload)
                    self.assertLess(len(form), size)

    def test_a_long_one_in_pieces(self) -> None:
        """It is there when all its pieces are, and what one compressor makes of it; for each window by itself."""
        payload = b"%d," * 60_000 % tuple(range(60_000))
        frame = encode_frame(TEXT, payload)
        deflated = Deflated(frame)
        for window in (12, 9):
            pieces = 0
            while (form := deflated.form(window)) is None:
                deflated.go_on(window)
                pieces += 1
            self.assertEqual(pieces, -(-len(payload) // deflate.PIECE))
            with patch("channelserver.server.websocket.deflate.PIECE", len(frame)):
                self.assertEqual(form, Deflated(frame).form(window))
            deflated.go_on(window)
            self.assertIs(deflated.form(window), form)

    def test_each_form_is_made_once(self) -> None:
        """The same window gets the same bytes."""
        deflated = Deflated(encode_frame(TEXT, b"abc" * 1000))
        self.assertIs(deflated.form(12), deflated.form(12))
        self.assertIsNot(deflated.form(12), deflated.form(10))


class SocketTests(StrictTestCase):
    """WebSockets without a network."""

    OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server(compression=True)

    def shake_hands(self, *lines: str) -> Client:
        """Begin a handshake with more header lines."""
        client = self.server.connect()
        client.send(handshake("/", *lines))
        return client

    def open(self, *lines: str) -> tuple[Client, str, bytes]:
        """Open a socket; return the client, the reply channel, and the answer to the handshake."""
        client = self.shake_hands(*lines)
        channel = self.server.message("websocket.connect")["reply_channel"]
        self.server.reply(channel, accept=True)
        return client, channel, client.news()

    def test_only_if_asked_for(self) -> None:
        """The extension is agreed on if the option is on and the client offers it."""
        self.assertIn(b"\r\nSec-WebSocket-Extensions: " + ALWAYS, self.open(self.OFFER)[2])
        self.assertNotIn(b"Extensions", self.open()[2])
        self.assertNotIn(b"Extensions", self.open(self.OFFER + "; x")[2])
        self.server = self.make_server()
        self.assertNotIn(b"Extensions", self.open(self.OFFER)[2])
        # Without the option nobody looks at what is offered.
        self.assertNotIn(b"Extensions", self.open(self.OFFER + ";")[2])

    def test_malformed_offers(self) -> None:
        """A list of extensions that cannot be read ends the handshake."""
        client = self.shake_hands(self.OFFER + ";")
        self.assertEqual(client.response().status, 400)
        self.assertEqual(self.server.messages("websocket.connect"), [])

    def test_a_group_message_is_compressed_once_for_each_window(self) -> None:
        """However many members share it; the others get it as it is; a small one is sent to all as it is."""
        nine = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9"
        members = [self.open(*lines) for lines in (*[(self.OFFER,)] * 5, (nine,), (), ())]
        for _, channel, _ in members:
            self.server.layer.group_add("all", channel)
        with patch("channelserver.server.websocket.deflate.zlib.compressobj", wraps=zlib.compressobj) as made:
            self.server.layer.send_group("all", {"text": "large " * 1000})
            self.server.turn()
            self.assertEqual(made.call_count, 2)
            self.server.layer.send_group("all", {"text": "small"})
            self.server.turn()
            self.assertEqual(made.call_count, 2)
        large, small = encode_frame(TEXT, b"large " * 1000), encode_frame(TEXT, b"small")
        for (client, _, _), window in zip(members, [12] * 5 + [9, 0, 0], strict=True):
            self.assertEqual(client.news(), (deflate.deflate(large, window) if window else large) + small)

    def test_nobody_asks_nobody_compresses(self) -> None:
        """A group without compressing members costs no compression."""
        for _ in range(3):
            self.server.layer.group_add("all", self.open()[1])
        with patch("channelserver.server.websocket.deflate.zlib.compressobj") as made:
            self.server.layer.send_group("all", {"text": "large " * 1000})
            self.server.turn()
        made.assert_not_called()

    def test_a_reply_to_one(self) -> None:
        """A reply is compressed as a group message is."""
        client, channel, _ = self.open(self.OFFER)
        self.server.reply(channel, bytes=b"y" * 3000)
        self.assertEqual(client.news(), deflate.deflate(encode_frame(BINARY, b"y" * 3000), 12))

    def test_a_long_message_takes_turns(self) -> None:
        """It is compressed piece by piece. Others are served in between; on its own socket only a pong overtakes it."""
        self.patch(continuations, "SLICE", -1.0)  # one piece in each turn
        client, channel, _ = self.open(self.OFFER)
        other, its, _ = self.open(self.OFFER)
        order: list[Client] = []
        for each in (client, other):
            write = each.transport.write
            self.patch(each.transport, "write", lambda data, e=each, w=write: (order.append(e), w(data)))
        text = "large " * 35_000
        self.server.layer.group_add("all", channel)
        self.server.layer.send(channel, {"text": text})
        self.server.layer.send(channel, {"text": "next"})
        self.server.layer.send_group("all", {"text": text})
        self.server.layer.send_group("all", {"text": "last"})
        self.server.layer.send(its, {"text": "other"})
        self.server.reactor.callFromThread(client.transport.deliver, client_frame(FIN | PING, b"?"))
        self.server.turn()
        self.assertIs(order[0], other)
        long = deflate.deflate(encode_frame(TEXT, text.encode()), 12)
        wanted = encode_frame(PONG, b"?"), long, encode_frame(TEXT, b"next"), long, encode_frame(TEXT, b"last")
        self.assertEqual(client.news(), b"".join(wanted))
        self.assertEqual(client.protocol.account.shared, 0)

    def test_the_pieces_of_a_group_message_are_compressed_once(self) -> None:
        """However many members wait for it; one leaves meanwhile, one does not compress."""
        members = [self.open(*lines) for lines in ((self.OFFER,), (self.OFFER,), (), (self.OFFER,))]
        for _, channel, _ in members:
            self.server.layer.group_add("all", channel)
        frame = encode_frame(TEXT, b"large " * 50_000)
        long = deflate.deflate(frame, 12)
        with patch("channelserver.server.websocket.deflate.zlib.compressobj", wraps=zlib.compressobj) as made:
            self.server.layer.send_group("all", {"text": "large " * 50_000})
            self.server.reactor.callFromThread(members[0][0].transport.client_leaves)
            self.server.turn()
        made.assert_called_once()
        self.assertEqual([client.news() for client, _, _ in members[1:]], [long, frame, long])
        self.assertEqual(self.server.site.memory._frames, {})

    def test_a_close_frame_comes_behind_a_long_message(self) -> None:
        """But if the client closes, nothing comes behind the answer to its close frame."""
        long = deflate.deflate(encode_frame(TEXT, b"large " * 50_000), 12)
        client, channel, _ = self.open(self.OFFER)
        self.server.reply(channel, text="large " * 50_000, close=True)
        self.assertEqual(client.news(), long + encode_frame(CLOSE, (1000).to_bytes(2, "big")))
        client, channel, _ = self.open(self.OFFER)
        self.server.layer.send(channel, {"text": "large " * 50_000})
        self.server.reactor.callFromThread(client.transport.deliver, client_frame(FIN | CLOSE, b""))
        self.server.turn()
        self.assertEqual(client.news(), encode_frame(CLOSE, b""))
        client.leave()
        self.assertEqual(self.server.message("websocket.disconnect")["code"], 1005)
        client, channel, _ = self.open(self.OFFER)
        self.server.layer.send(channel, {"text": "large " * 50_000, "close": 4001})
        self.server.reactor.callFromThread(client.transport.deliver, client_frame(FIN | CLOSE, b""))
        self.server.turn()
        self.assertEqual(client.news(), encode_frame(CLOSE, (4001).to_bytes(2, "big")))

    def test_the_time_to_compress_is_not_the_clients(self) -> None:
        """The seconds in which it has to answer our close frame begin when that can be sent."""
        client, channel, _ = self.open(self.OFFER)
        clock, go_on = self.server.reactor, Deflated.go_on

        def slowly(deflated: Deflated, window: int) -> None:
            clock.rightNow += CLOSE_SECONDS / 2
            go_on(deflated, window)

        self.patch(Deflated, "go_on", slowly)
        self.server.reply(channel, text="large " * 50_000, close=True)
        long = deflate.deflate(encode_frame(TEXT, b"large " * 50_000), 12)
        self.assertEqual(client.news(), long + encode_frame(CLOSE, (1000).to_bytes(2, "big")))
        self.assertFalse(client.transport.aborted)
        self.server.pass_time(CLOSE_SECONDS + 1)
        self.assertTrue(client.transport.aborted)

    def test_what_waits_does_not_fill_the_memory(self) -> None:
        """If messages come faster than they can be compressed in turns, no client is closed; the order stays."""
        self.server = self.make_server(compression=True, client_memory=8 << 20)
        clients = [self.open(self.OFFER)[:2] for _ in range(40)]
        texts = ["large " * 50_000, "next", "large " * 40_000]
        for text in texts:
            for number, (_, channel) in enumerate(clients):
                self.server.layer.send(channel, {"text": f"{text} {number}"})
        self.server.turn()
        for number, (client, _) in enumerate(clients):
            frames = [encode_frame(TEXT, f"{text} {number}".encode()) for text in texts]
            wanted = [deflate.deflate(frame, 12) if len(frame) > 1024 else frame for frame in frames]
            self.assertEqual(client.news(), b"".join(wanted))

    def test_nothing_is_sent_to_one_that_is_given_up(self) -> None:
        """A close frame that waited behind a long message waits no more when memory is short."""
        client, channel, _ = self.open(self.OFFER)
        written: list[bytes] = []
        self.patch(client.transport, "write", written.append)
        self.server.layer.send(channel, {"text": "large " * 50_000, "close": True})
        self.server.reactor.callFromThread(client.protocol.evict, 1)
        self.server.turn()
        self.assertEqual((written, client.transport.aborted), ([], True))

    def test_what_has_still_to_be_compressed_does_not_make_a_client_slow(self) -> None:
        """Many long messages at once are no reason to close with 1013, nor is their size before compression."""
        self.server = self.make_server(compression=True, send_buffer_bytes=100_000)
        for slow in (False, True):
            client, channel, _ = self.open(self.OFFER)
            client.transport.slow = slow
            wanted = b""
            for number in range(20):
                text = f"{number}" + "large " * 50_000
                wanted += deflate.deflate(encode_frame(TEXT, text.encode()), 12)
                self.server.layer.send(channel, {"text": text})
            self.server.turn()
            self.assertLess(len(wanted), 100_000)
            client.transport.client_reads()
            self.server.turn()
            self.assertEqual(client.news(), wanted)
            self.assertEqual(client.protocol.account.shared, 0)

    def test_a_slow_client_of_long_messages(self) -> None:
        """One that reads nothing is closed with 1013; what has begun reaches it whole."""
        self.server = self.make_server(compression=True, send_buffer_bytes=500_000)
        client, channel, _ = self.open(self.OFFER)
        client.transport.slow = True
        texts = [os.urandom(50_000).hex() for _ in range(12)]
        for text in texts:
            self.server.reply(channel, text=text)
        self.expect_logged("slow reader")
        self.assertEqual(client.news(), b"")
        for _ in range(20):
            client.transport.client_reads()
            self.server.turn()
        begun = b"".join(deflate.deflate(encode_frame(TEXT, text.encode()), 12) for text in texts[:2])
        rest = client.news().removeprefix(begun)
        self.assertEqual(rest[:1] + rest[2:4], b"\x88" + (1013).to_bytes(2, "big"))

    def test_what_expands_takes_turns(self) -> None:
        """Of bombs that come together only some are inflated in a turn; in a long turn, none."""
        self.server = self.make_server(compression=True, max_message_bytes=1 << 20)
        client, _, _ = self.open(self.OFFER)
        for first, payload in ((0xC1, b"x" * 60_000), (0xC2, bytes(60_000))):
            bomb = client_frame(first, compress(payload))
            number = 64 * 1024 // len(bomb)
            client.transport.deliver(bomb * number)
            found = len(self.server.messages("websocket.receive"))
            self.assertLess(found, 20)
            while more := (self.server.turn(), len(self.server.messages("websocket.receive")))[1]:
                found += more
            self.assertEqual(found, number)
        self.patch(continuations, "SLICE", -1.0)
        client.transport.deliver(client_frame(0xC1, compress(b"x" * 300_000)))
        self.assertFalse(self.server.messages("websocket.receive"))
        self.server.turn()
        self.assertEqual(len(self.server.message("websocket.receive")["text"]), 300_000)
        client.transport.deliver(client_frame(0x81, b"hello"))
        self.assertEqual(self.server.message("websocket.receive")["text"], "hello")

    def test_bombs_wait_unread_while_there_is_no_room(self) -> None:
        """What a client has sent is inflated a little at a time, and not at all while its messages find no room."""
        self.server = self.make_server(capacity=2, compression=True, max_message_bytes=1 << 20)
        client, _, _ = self.open(self.OFFER)
        bomb = client_frame(0xC2, compress(bytes(1 << 20)))
        number = 64 * 1024 // len(bomb)
        self.assertGreater(number, 40)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        client.send(bomb * number)
        self.assertLess(tracemalloc.get_traced_memory()[1], 12 << 20)
        self.assertFalse(client.transport.reading)
        for order in range(1, number + 1):
            message = self.server.message("websocket.receive")
            self.server.turn()
            self.assertEqual((message["order"], len(message["bytes"])), (order, 1 << 20))
        self.assertTrue(client.transport.reading)
        self.assertEqual(self.server.messages("websocket.receive"), [])

    def test_a_broken_message_closes(self) -> None:
        """1007, 1009 or 1002 reaches the client and the application."""
        for data, code in (
            (client_frame(0xC1, b"\xff" * 8), 1007),
            (client_frame(0xC2, compress(bytes(2 << 20))), 1009),
            (client_frame(0xC9, b""), 1002),
        ):
            client, _, _ = self.open(self.OFFER)
            client.send(data)
            self.assertEqual(client.news()[2:4], code.to_bytes(2, "big"))
            client.leave()
            self.assertEqual(self.server.message("websocket.disconnect")["code"], code)


ECHO = """
    from channelserver import Group

    def connect(message):
        Group("all").add(message.reply_channel)

    def receive(message):
        Group("all").send({"text": message["text"]} if message.get("text") is not None else {"bytes": message["bytes"]})

    channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
"""


class ServerTests(ServerTestCase):
    """The whole server, with a client that shares no code with it."""

    files = {"routing.py": ECHO}

    def test_a_client_that_compresses_and_one_that_does_not(self) -> None:
        """Both get the same messages, small and large, text and bytes."""
        server = self.start("--compression")
        messages: list[str | bytes] = [
            "small", "grüße " * 5000, b"\x00\xff" * 40_000, os.urandom(70_000), "", "x" * 1024, "x" * 1025,
            os.urandom(200_000).hex(), "after a long one",
        ]  # fmt: skip
        with server.connect("/", compression="deflate") as one, server.connect("/") as other:
            self.assertEqual([extension.name for extension in one.protocol.extensions], ["permessage-deflate"])
            self.assertEqual(other.protocol.extensions, [])
            for message in messages:
                one.send(message)
                self.assertEqual(one.recv(TIMEOUT), message)
                self.assertEqual(other.recv(TIMEOUT), message)
                other.send(message)
                self.assertEqual(one.recv(TIMEOUT), message)
                self.assertEqual(other.recv(TIMEOUT), message)

    def test_a_bomb(self) -> None:
        """A message that inflates to more than is allowed: 1009, and the others go on."""
        server = self.start("--compression", "--max-message-bytes", "100000")
        with server.connect("/") as other, server.connect("/", compression="deflate") as one:
            one.send(b"x" * 100_000)
            self.assertEqual(len(one.recv(TIMEOUT)), 100_000)
            one.send(b"x" * 100_001)
            self.assertRaises(ConnectionClosedError, one.recv, TIMEOUT)
            assert one.protocol.close_rcvd is not None
            self.assertEqual(one.protocol.close_rcvd.code, 1009)
            self.assertEqual(len(other.recv(TIMEOUT)), 100_000)

    def test_off_unless_asked_for(self) -> None:
        """Without the option no extension is agreed on."""
        with self.start().connect("/", compression="deflate") as socket:
            self.assertEqual(socket.protocol.extensions, [])
