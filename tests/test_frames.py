"""WebSocket frames. The sections are those of RFC 6455."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from typing import Any

from autobahn.websocket.utf8validator import Utf8Validator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.websocket import frames
from channelserver.server.websocket.frames import (
    Close,
    CloseCode,
    FrameError,
    FrameReader,
    Opcode,
    Ping,
    Pong,
    encode_close,
    encode_frame,
    encode_reply,
    unmask,
)
from tests import examples
from tests.fakes import mask_frame, read_frames
from tests.process import ROOT, TIMEOUT

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode

SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow]
)

LIMIT = 1024 * 1024


def feed(*pieces: bytes, limit: int = LIMIT) -> tuple[list[Any], int | None]:
    """Feed a reader piece by piece; return its events, and the code of the error, if there was one."""
    reader, events = FrameReader(limit), []
    for piece in pieces:
        try:
            text = reader.short_text(piece)
            if text is None:
                reader.feed(piece, events)
            else:
                events.append(text)
        except FrameError as error:
            assert str(error) == error.reason and error.reason.isascii() and len(error.reason) < 124
            return events, error.code
    return events, None


class ReadTestCase(SynchronousTestCase):
    """Reads frames."""

    def assertEvents(self, data: bytes, *events: Any, limit: int = LIMIT) -> None:
        """Assert what is read, from the whole and from single bytes."""
        self.assertEqual(feed(data, limit=limit), (list(events), None))
        self.assertEqual(feed(*(bytes([byte]) for byte in data), limit=limit), (list(events), None))

    def assertError(self, code: int, data: bytes, *before: Any, limit: int = LIMIT) -> None:
        """Assert an error with this code, and what was read before it, from the whole and from single bytes."""
        self.assertEqual(feed(data, limit=limit), (list(before), code))
        self.assertEqual(feed(*(bytes([byte]) for byte in data), limit=limit), (list(before), code))


class MessageTests(ReadTestCase):
    """Section 5.6: whole messages."""

    def test_text_and_bytes(self) -> None:
        """Text arrives as text, bytes as bytes."""
        self.assertEvents(
            mask_frame(TEXT, "snow ☃".encode()) + mask_frame(BINARY, b"\x00\xff"),
            "snow ☃",
            b"\x00\xff",
        )

    def test_types(self) -> None:
        """What arrives is exactly str and bytes, nothing that shares memory with the buffer."""
        for size in (0, 5, 5000):
            for piece in (1, 7, 100_000):
                data = (
                    mask_frame(TEXT, b"x" * size)
                    + mask_frame(BINARY, b"x" * size)
                    + mask_frame(PING, b"x" * min(size, 125))
                )
                events, _ = feed(*(data[start : start + piece] for start in range(0, len(data), piece)))
                self.assertEqual([type(event) for event in events], [str, bytes, Ping])
                self.assertIs(type(events[2].data), bytes)

    def test_empty(self) -> None:
        """Messages may be empty."""
        self.assertEvents(mask_frame(TEXT) + mask_frame(BINARY), "", b"")

    def test_lengths(self) -> None:
        """Section 5.2: all three ways to write a length are read, around their limits."""
        for size in (0, 1, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 200_000):
            payload = bytes(range(256)) * (size // 256 + 1)
            data = mask_frame(BINARY, payload[:size]) + mask_frame(TEXT, b"next")
            for piece in (len(data), 1000, 3):
                pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
                self.assertEqual(feed(*pieces), ([payload[:size], "next"], None), size)

    def test_masks(self) -> None:
        """Section 5.3: each frame has its own mask, any four bytes."""
        for mask in (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04", b"\x80\x00\x00\x00"):
            self.assertEvents(mask_frame(TEXT, b"hello", mask=mask), "hello")

    def test_fragments(self) -> None:
        """Section 5.4: fragments are put together, empty ones too."""
        self.assertEvents(
            mask_frame(TEXT, b"he", fin=False)
            + mask_frame(CONTINUATION, b"", fin=False)
            + mask_frame(CONTINUATION, b"l", fin=False)
            + mask_frame(CONTINUATION, b"lo")
            + mask_frame(BINARY, b"a", fin=False)
            + mask_frame(CONTINUATION, b"b")
            + mask_frame(TEXT, b"", fin=False)
            + mask_frame(CONTINUATION, b""),
            "hello",
            b"ab",
            "",
        )

    def test_characters_across_fragments(self) -> None:
        """Section 5.6: a character may be divided between fragments."""
        for cut in (1, 2):
            snow = "☃".encode()
            data = mask_frame(TEXT, snow[:cut], fin=False) + mask_frame(CONTINUATION, snow[cut:])
            self.assertEvents(data, "☃")

    def test_empty_fragments_take_no_memory(self) -> None:
        """A client that sends empty fragments without end does not fill the memory."""
        reader = FrameReader(LIMIT)
        many = mask_frame(CONTINUATION, b"", fin=False) * 1000
        reader.feed(mask_frame(BINARY, b"a", fin=False) + many, [])
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(15):
                reader.feed(many, [])
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.assertLess(grown, 50_000)
        events: list[Any] = []
        reader.feed(mask_frame(CONTINUATION, b"b"), events)
        self.assertEqual(events, [b"ab"])


class ControlTests(ReadTestCase):
    """Section 5.5: control frames."""

    def test_ping_and_pong(self) -> None:
        """Pings and pongs arrive with their data, up to 125 bytes."""
        self.assertEvents(
            mask_frame(PING, b"a") + mask_frame(PONG, b"x" * 125) + mask_frame(PING),
            Ping(b"a"),
            Pong(b"x" * 125),
            Ping(b""),
        )

    def test_between_fragments(self) -> None:
        """Section 5.4: they may come between the fragments of a message, and arrive before it."""
        self.assertEvents(
            mask_frame(TEXT, b"he", fin=False) + mask_frame(PING, b"p") + mask_frame(CONTINUATION, b"llo"),
            Ping(b"p"),
            "hello",
        )

    def test_close(self) -> None:
        """Section 5.5.1: a close frame has a code and a reason, or nothing."""
        self.assertEvents(mask_frame(CLOSE), Close(1005, ""))
        self.assertEvents(mask_frame(CLOSE, b"\x03\xe8"), Close(1000, ""))
        self.assertEvents(mask_frame(CLOSE, b"\x0b\xb9" + "ciao ☃".encode()), Close(3001, "ciao ☃"))
        self.assertEvents(mask_frame(CLOSE, b"\x03\xe8" + b"x" * 123), Close(1000, "x" * 123))

    def test_close_within_a_message(self) -> None:
        """A close frame may come in the middle of a message, which is then lost."""
        self.assertEvents(mask_frame(TEXT, b"he", fin=False) + mask_frame(CLOSE), Close(1005, ""))

    def test_nothing_after_a_close(self) -> None:
        """What follows a close frame is not read, be it right or wrong."""
        for more in (mask_frame(TEXT, b"x"), b"\xff\xff\xff", mask_frame(CLOSE)):
            self.assertEqual(feed(mask_frame(CLOSE) + more), ([Close(1005, "")], None))

    def test_close_codes(self) -> None:
        """Section 7.4: codes for applications and those of the registry are read, all others are an error."""
        good = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
        bad = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535]
        for code in good:
            self.assertEvents(mask_frame(CLOSE, code.to_bytes(2, "big")), Close(code, ""))
        for code in bad:
            self.assertError(1002, mask_frame(CLOSE, code.to_bytes(2, "big")))

    def test_malformed_close(self) -> None:
        """A close frame of one byte is an error; so is a reason that is not UTF-8, with its own code."""
        self.assertError(1002, mask_frame(CLOSE, b"\x03"))
        self.assertError(1007, mask_frame(CLOSE, b"\x03\xe8\xff"))


class ErrorTests(ReadTestCase):
    """What a client may not do."""

    def test_earlier_events_are_kept(self) -> None:
        """What was complete before an error has arrived."""
        self.assertError(1002, mask_frame(TEXT, b"a") + mask_frame(PING, b"b") + b"\xf1\x80", "a", Ping(b"b"))

    def test_reserved_bits(self) -> None:
        """Section 5.2: the three reserved bits are not set."""
        for bit in (0x40, 0x20, 0x10):
            for opcode in (TEXT, BINARY, PING, CLOSE):
                self.assertError(1002, bytes([0x80 | bit | opcode]) + mask_frame(opcode)[1:])

    def test_reserved_opcodes(self) -> None:
        """Section 5.2: opcodes 3 to 7 and 11 to 15 are not used."""
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            self.assertError(1002, mask_frame(opcode))

    def test_no_mask(self) -> None:
        """Section 5.1: frames of clients are masked."""
        for opcode in (TEXT, BINARY, PING, CLOSE):
            self.assertError(1002, bytes([0x80 | opcode, 0]) + b"....")
        self.assertError(1002, encode_frame(TEXT, b"x" * 200))

    def test_control_frames_in_fragments(self) -> None:
        """Section 5.4: control frames are whole."""
        for opcode in (CLOSE, PING, PONG):
            self.assertError(1002, mask_frame(opcode, fin=False))

    def test_long_control_frames(self) -> None:
        """Section 5.5: control frames have no more than 125 bytes."""
        for opcode in (CLOSE, PING, PONG):
            for size in (126, 70_000):
                data = mask_frame(opcode, b"x" * size)
                self.assertEqual(feed(data), ([], 1002))
                self.assertEqual(feed(data[:2]), ([], 1002), "to be seen from the first two bytes")

    def test_continuation_of_nothing(self) -> None:
        """Section 5.4: a continuation continues something."""
        self.assertError(1002, mask_frame(CONTINUATION, b"x"))
        self.assertError(1002, mask_frame(CONTINUATION, b"x", fin=False))
        self.assertError(1002, mask_frame(TEXT, b"a") + mask_frame(CONTINUATION, b"x"), "a")

    def test_message_in_a_message(self) -> None:
        """Section 5.4: a message does not begin within another."""
        for opcode in (TEXT, BINARY):
            self.assertError(1002, mask_frame(TEXT, b"a", fin=False) + mask_frame(opcode, b"b"))

    def test_longer_length_than_needed(self) -> None:
        """Section 5.2: lengths are written in the shortest way, and have 63 bits."""
        for head in (
            b"\x82\xfe\x00\x7d", b"\x82\xfe\x00\x00", b"\x82\xff" + (65535).to_bytes(8, "big"), b"\x82\xff" + bytes(8),
            b"\x82\xff" + (2**63).to_bytes(8, "big"), b"\x82\xff" + (2**64 - 1).to_bytes(8, "big"),
        ):  # fmt: skip
            self.assertError(1002, head + b"mask")

    def test_text_that_is_not_utf8(self) -> None:
        """Section 8.1: text that is not UTF-8 is refused."""
        for data in (b"\xff", b"\xc3", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"ok \xe2\x98"):
            self.assertError(1007, mask_frame(TEXT, data))
            self.assertError(1007, mask_frame(TEXT, data[:1], fin=False) + mask_frame(CONTINUATION, data[1:]))

    def test_bad_text_is_seen_early(self) -> None:
        """In a message in fragments, bad text is refused with the fragment it is in."""
        self.assertError(1007, mask_frame(TEXT, b"ok \xff", fin=False))

    def test_bad_text_is_refused_at_its_first_wrong_byte(self) -> None:
        """In an unfinished frame, too, however it is cut: no need to wait for the rest."""
        for good, wrong in (
            (b"ok ", b"\xff"), (b"\xc3", b"\x28"), (b"\xed", b"\xa0"), (b"\xf4", b"\x90"), (b"\xe0", b"\x9f"),
            (b"\xf0", b"\x8f"), (b"", b"\xc0"), (b"", b"\xf5"), (b"\xe2\x98", b"\xe2"),
            ("κόσμε".encode() + b"\xf4", b"\x90"), (b"x" * 70_000 + b"\xf0\x90\x80", b"x"),
        ):  # fmt: skip
            for before in (b"", mask_frame(TEXT, b"first ", fin=False)):
                head = mask_frame(CONTINUATION if before else TEXT, good + wrong + bytes(1000))[:-1000]
                self.assertEqual(feed(before + head[:-1]), ([], None), good)
                self.assertEqual(feed(before + head), ([], 1007), good)
                self.assertEqual(feed(before, *(bytes([byte]) for byte in head)), ([], 1007), good)

    @SETTINGS
    @given(st.lists(st.sampled_from([b"a", *(bytes([byte]) for byte in range(0x7F, 0x100))]), max_size=8).map(b"".join))
    def test_as_strict_as_autobahn(self, data: bytes) -> None:
        """The byte at which a text is refused is the one that Autobahn's validator names."""
        valid, _, index, _ = Utf8Validator().validate(data)
        head = mask_frame(TEXT, data + bytes(1000))[: 8 + len(data)]
        for size in range(len(data) + 1):
            self.assertEqual(feed(head[: 8 + size]), ([], None if valid or size <= index else 1007), data)

    def test_bytes_may_be_anything(self) -> None:
        """Bytes need not be UTF-8, in an unfinished frame neither."""
        self.assertEqual(feed(mask_frame(BINARY, b"\xff\xc3" + bytes(1000))[:-1000]), ([], None))
        self.assertEvents(mask_frame(BINARY, b"\xff\xc3"), b"\xff\xc3")

    def test_size_of_a_message(self) -> None:
        """A message of the largest size is read, a larger one refused, as soon as its length is known."""
        self.assertEvents(mask_frame(BINARY, b"x" * 1000), b"x" * 1000, limit=1000)
        self.assertEqual(feed(mask_frame(BINARY, b"x" * 1001)[:3], limit=1000), ([], None))
        self.assertEqual(feed(mask_frame(BINARY, b"x" * 1001)[:4], limit=1000), ([], 1009))
        self.assertEqual(feed(mask_frame(BINARY, b"x" * 100_000)[:10], limit=1000), ([], 1009))

    def test_size_in_fragments(self) -> None:
        """The fragments of a message count together, those of others and control frames do not."""
        first = mask_frame(TEXT, b"x" * 600, fin=False)
        self.assertError(1009, first + mask_frame(CONTINUATION, b"x" * 401), limit=1000)
        message = first + mask_frame(PING, b"p" * 100) + mask_frame(CONTINUATION, b"x" * 400)
        self.assertEvents(message * 2, *[Ping(b"p" * 100), "x" * 1000] * 2, limit=1000)

    def test_size_of_text_is_in_bytes(self) -> None:
        """The size of a text is that of its bytes."""
        self.assertError(1009, mask_frame(TEXT, "☃".encode() * 4), limit=11)
        self.assertEvents(mask_frame(TEXT, "☃".encode() * 4), "☃☃☃☃", limit=12)


#: One step of a client: the opcode of a message and its fragments, or a control frame.
steps = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY, PING, PONG]),
        st.lists(st.text(max_size=60), min_size=1, max_size=3),
    ),
    max_size=6,
)


class SplitTests(ReadTestCase):
    """The network cuts a stream anywhere."""

    @SETTINGS
    @given(steps, st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 600), max_size=15))
    def test_any_split(self, steps: list[Any], mask: bytes, places: list[int]) -> None:
        """Wherever the stream is cut, what is read is what was sent."""
        data, expected = b"", []
        for opcode, parts in steps:
            if opcode in (PING, PONG):
                payload = parts[0].encode()[:125]
                data += mask_frame(opcode, payload, mask=mask)
                expected.append(Ping(payload) if opcode == PING else Pong(payload))
                continue
            for index, part in enumerate(parts):
                data += mask_frame(0 if index else opcode, part.encode(), index == len(parts) - 1, mask)
            whole = "".join(parts)
            expected.append(whole if opcode == TEXT else whole.encode())
        ends = sorted({min(place, len(data)) for place in places})
        pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
        self.assertEqual(feed(*pieces), (expected, None))

    @SETTINGS
    @given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
    def test_any_split_of_noise(self, data: bytes, places: list[int]) -> None:
        """Nonsense is refused with the same code, after the same events, wherever it is cut."""
        ends = sorted({min(place, len(data)) for place in places})
        pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
        self.assertEqual(feed(*pieces), feed(data))

    def test_the_work_grows_with_the_bytes(self) -> None:
        """A frame that comes byte by byte is unmasked and decoded once: what has come before is not looked at again."""
        looked_at = []

        def noting(payload: bytes, mask: bytes) -> bytes:
            looked_at.append(len(payload))
            return unmask(payload, mask)

        self.patch(frames, "unmask", noting)
        data = mask_frame(TEXT, b"x" * 5000)
        self.assertEqual(feed(*(bytes([byte]) for byte in data)), (["x" * 5000], None))
        self.assertEqual(sum(looked_at), 5000)

    def test_big_message_in_small_pieces(self) -> None:
        """A large message in thousands of small pieces is put together."""
        data = mask_frame(BINARY, b"x" * 900_000)
        events, error = feed(*(data[start : start + 100] for start in range(0, len(data), 100)))
        self.assertTrue((events, error) == ([b"x" * 900_000], None))  # a difference would take minutes to show


class UnmaskTests(SynchronousTestCase):
    """Section 5.3: masking."""

    def test_sizes(self) -> None:
        """Every size gives what doing it byte by byte gives, also around the one from which native code does it."""
        mask = b"\x37\xfa\x21\x3d"
        payload = bytes(range(256)) * 20
        for size in [*range(40), *range(1015, 1035), *range(4090, 4100), 5000]:
            expected = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:size]))
            for given_as in (bytes, bytearray):
                result = unmask(given_as(payload[:size]), given_as(mask))
                self.assertEqual(result, expected, size)
                self.assertIs(type(result), bytes)

    def test_autobahn_is_imported_when_it_is_needed(self) -> None:
        """Its import takes time and memory: only the first large frame pays for it."""
        code = f"""
            import sys, time
            import channelserver.start.twistd
            from channelserver.server.websocket.frames import FrameReader
            from tests.fakes import mask_frame
            events = []
            reader = FrameReader(100_000)
            reader.feed(mask_frame(1, b"x" * 4095), events)
            print([name for name in sys.modules if name.startswith(("autobahn", "_nvx"))])
            reader.feed(mask_frame(1, b"x" * 4096), events)
            ends = time.monotonic() + {TIMEOUT}
            while "autobahn" not in sys.modules and time.monotonic() < ends:
                time.sleep(0.01)
            print("autobahn" in sys.modules, list(map(len, events)))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT
        )
        self.assertEqual((done.stdout, done.stderr), ("[]\nTrue [4095, 4096]\n", ""))

    @SETTINGS
    @given(st.binary(max_size=5000), st.binary(min_size=4, max_size=4))
    def test_twice_is_nothing(self, payload: bytes, mask: bytes) -> None:
        """Unmasking twice gives back what was there."""
        self.assertEqual(unmask(unmask(payload, mask), mask), payload)


class EncodeTests(SynchronousTestCase):
    """Frames of the server."""

    def test_lengths(self) -> None:
        """Section 5.2: the length is written in the shortest way, the frame is whole and not masked."""
        for size, head in (
            (0, b"\x82\x00"), (125, b"\x82\x7d"), (126, b"\x82\x7e\x00\x7e"), (65535, b"\x82\x7e\xff\xff"),
            (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ):  # fmt: skip
            self.assertEqual(encode_frame(BINARY, b"x" * size), head + b"x" * size)

    @SETTINGS
    @given(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=300))
    def test_round_trip(self, opcode: int, payload: bytes) -> None:
        """What is encoded can be read."""
        self.assertEqual(read_frames(encode_frame(opcode, payload)), [(opcode, payload)])

    def test_replies(self) -> None:
        """A reply that is just data has a frame; one of the two keys may be None, other keys do not matter."""
        for content, opcode, payload in (
            ({"text": "snow ☃"}, TEXT, "snow ☃".encode()), ({"text": "", "bytes": None}, TEXT, b""),
            ({"bytes": b"\xff", "text": None, "order": 3}, BINARY, b"\xff"), ({"bytes": b""}, BINARY, b""),
            ({"text": "a", "close": False}, TEXT, b"a"), ({"text": "a", "close": None}, TEXT, b"a"),
        ):  # fmt: skip
            self.assertEqual(encode_reply(content), encode_frame(opcode, payload))

    def test_replies_that_are_more(self) -> None:
        """A reply that closes, accepts or is wrong has no frame of its own."""
        for content in (
            {}, {"text": None}, {"text": "a", "bytes": b"b"}, {"text": "a", "close": True},
            {"text": "a", "close": 3000}, {"text": "a", "accept": True}, {"accept": False},
            {"text": b"a"}, {"bytes": "b"}, {"text": 7}, {"bytes": ["b"]},
        ):  # fmt: skip
            self.assertIsNone(encode_reply(content), content)

    def test_lone_surrogates(self) -> None:
        """Text that cannot be written as UTF-8 is sent as well as it can be."""
        self.assertEqual(encode_reply({"text": "a\ud800b"}), encode_frame(TEXT, b"a?b"))

    def test_close(self) -> None:
        """Section 5.5.1: a close frame has a code and a reason that fits, or nothing."""
        self.assertEqual(encode_close(None), b"\x88\x00")
        self.assertEqual(encode_close(1000), b"\x88\x02\x03\xe8")
        self.assertEqual(encode_close(3001, "bye"), b"\x88\x05\x0b\xb9bye")
        self.assertEqual(len(encode_close(1000, "x" * 500)), 127)

    def test_constants(self) -> None:
        """The codes have the numbers of the registries, which applications compare with."""
        self.assertEqual([int(code) for code in CloseCode], [*range(1000, 1004), *range(1005, 1015)])
        self.assertEqual([int(opcode) for opcode in Opcode], [0, 1, 2, 8, 9, 10])
        self.assertEqual((CloseCode.ABNORMAL, CloseCode.MESSAGE_TOO_BIG, CloseCode.TRY_AGAIN_LATER), (1006, 1009, 1013))
