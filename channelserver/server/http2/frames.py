"""Received HTTP/2 frames (RFC 9113 section 4), sans I/O: split, and limited in rate.

Runs in the reactor thread; owned by its connection.

A frame of a few bytes can ask for much work: to open a stream and take it back, to acknowledge a ping, to send a byte
for each byte of window. Each of them is valid, so token buckets limit their rate; a client that exceeds
a bucket is disconnected with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from collections.abc import Iterator

from channelserver.server.common.bucket import Bucket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Types of frames (RFC 9113 section 6).
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x7, 0x8, 0x9
#: As the type of the bytes before the first frame.
BEGINNING = -1

#: Their flags.
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20

#: Error codes (RFC 9113 section 7).
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = (
    0x0, 0x1, 0x2, 0x6, 0x7, 0x8, 0xB,
)  # fmt: skip

#: Largest payload of a frame: what is in force without SETTINGS_MAX_FRAME_SIZE, which is not sent.
MAX_FRAME_BYTES = 16 * 1024
#: Largest block of compressed header fields.
MAX_BLOCK_BYTES = 32 * 1024

#: Streams taken back, by the client or for an error of its: so many at once, and so many a second (CVE-2023-44487).
RESET_BURST, RESETS_PER_SECOND = 1000, 33.0
#: Settings that the client may change (RFC 9113 section 6.5.2, RFC 8441); all others are ignored.
_KNOWN_SETTINGS = frozenset(range(1, 7)) | {8}
#: Chatter, frames without content: pings, settings, priorities, window updates, nearly empty data.
CHATTER_BURST, CHATTER_PER_SECOND = 2000, 200.0
#: Data frames with less than this count as chatter, except for a stream's last.
SMALL_DATA_BYTES = 64
#: One SETTINGS frame counts once for each so many bytes.
SETTINGS_BYTES = 64
#: A client that takes data opens the window for more: one frame is free for so many bytes sent to it.
BYTES_PER_CHATTER = 4096
#: What a request may bring along: priorities, updates for a short answer.
CHATTER_PER_REQUEST = 4


class Violation(Exception):
    """The connection must end.

    :param reason: for the log.
    :param code: error code for the client.
    """

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class FrameReader:
    """Splits the received bytes into frames.

    :param now: seconds of a clock.
    :param max_block: bytes of the largest block of compressed header fields.
    """

    __slots__ = ("_block", "_buffer", "_chatter", "_max_block", "_resets", "_started")

    def __init__(self, now: float, max_block: int = MAX_BLOCK_BYTES) -> None:
        self._max_block = max_block
        self._buffer = b""
        self._started = False
        self._block = -1  # bytes of an unfinished header block; -1: there is none
        self._resets = Bucket(RESET_BURST, RESETS_PER_SECOND, now)
        self._chatter = Bucket(CHATTER_BURST, CHATTER_PER_SECOND, now)

    @property
    def unfinished(self) -> str:
        """What the client must finish: ``head`` (also: the connection preface), ``frame``, or empty."""
        buffer = self._buffer
        if not self._started or self._block >= 0 or (len(buffer) >= 4 and buffer[3] in (HEADERS, CONTINUATION)):
            return "head"
        return "frame" if buffer else ""

    @property
    def kept(self) -> int:
        """Bytes of what the client has not finished."""
        return len(self._buffer) + max(0, self._block)

    @property
    def has_whole(self) -> bool:
        """Whether there is a whole frame, or one that is too large."""
        size = len(self._buffer)
        return size >= 9 and not size - 9 < int.from_bytes(self._buffer[:3], "big") <= MAX_FRAME_BYTES

    def feed(self, data: bytes, now: float) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes; yield whole frames, as (type, bytes). If it is closed early, the rest is kept.

        :param now: seconds of the clock.
        :raises Violation: the client breaks a rule or a rate limit.
        """
        buffer = self._buffer + data if self._buffer else data
        self._buffer = buffer
        position = 0
        if not self._started:
            if buffer[: len(PREFACE)] != PREFACE[: len(buffer)]:
                raise Violation("not the beginning of an HTTP/2 connection")
            if len(buffer) < len(PREFACE):
                return
            self._started = True
            position = len(PREFACE)
            yield BEGINNING, PREFACE
        try:
            while len(buffer) - position >= 9:
                length = int.from_bytes(buffer[position : position + 3], "big")
                kind, flags = buffer[position + 3], buffer[position + 4]
                if length > MAX_FRAME_BYTES:
                    raise Violation(f"frame over {MAX_FRAME_BYTES} bytes", FRAME_SIZE_ERROR)
                if self._block >= 0 and kind != CONTINUATION:  # RFC 9113 section 4.3
                    raise Violation("a frame within a block of header fields")
                if kind in (HEADERS, CONTINUATION):
                    self._weigh_block(kind, length)
                end = position + 9 + length
                if end > len(buffer):
                    break
                if kind in (HEADERS, CONTINUATION):
                    self._count_block(flags, length)
                self._weigh(kind, flags, length, buffer[position + 9] if flags & PADDED and length else 0, now)
                begin, position = position, end
                yield kind, buffer[begin:end]
        finally:
            self._buffer = buffer[position:]

    def keep(self, data: bytes) -> None:
        """Take further bytes, to be split later."""
        self._buffer += data

    def _weigh_block(self, kind: int, length: int) -> None:
        if (length if kind == HEADERS else self._block + length) > self._max_block:
            raise Violation(f"header block over {self._max_block} bytes", ENHANCE_YOUR_CALM)

    def _count_block(self, flags: int, length: int) -> None:
        if flags & END_HEADERS:
            self._block = -1
        else:
            self._block = max(0, self._block) + length

    def _weigh(self, kind: int, flags: int, length: int, padding: int, now: float) -> None:
        if kind == RST_STREAM:
            self.count_reset(now)
        elif kind == HEADERS or (kind == DATA and (flags & END_STREAM or length - padding >= SMALL_DATA_BYTES)):
            return
        else:
            self.count_chatter(now, 1 + length // SETTINGS_BYTES if kind == SETTINGS else 1)

    def count_chatter(self, now: float, number: int = 1) -> None:
        """Count frames that carry nothing, such as data for a stream that is closed.

        :raises Violation: there are too many.
        """
        if not self._chatter.take(now, number):
            raise Violation("too many frames that carry nothing", ENHANCE_YOUR_CALM)

    def count_ignored(self, kind: int, frame: bytes, now: float) -> None:
        """Count a frame that had no effect, if it is for a stream that is closed: ``h2`` answers it with a reset.

        :raises Violation: there are too many.
        """
        if kind == DATA:
            self.count_chatter(now)
        elif kind in (HEADERS, CONTINUATION) and frame[4] & END_HEADERS:
            self.count_reset(now)

    def count_request(self) -> None:
        """Allow for the frames that a request brings along."""
        self._chatter.give(CHATTER_PER_REQUEST)

    def count_reset(self, now: float) -> None:
        """Count a stream that the client reset, or that the server reset for an error of the client (CVE-2025-8671).

        :raises Violation: there are too many.
        """
        if not self._resets.take(now):
            raise Violation("too many streams opened and reset", ENHANCE_YOUR_CALM)

    def sent(self, size: int) -> None:
        """Allow for the window updates that `size` sent bytes cause."""
        self._chatter.give(size / BYTES_PER_CHATTER)


def known_settings(frame: bytes) -> bytes:
    """Return a SETTINGS frame without the settings that this server does not know: ``h2`` would remember them all."""
    pairs = [frame[begin : begin + 6] for begin in range(9, len(frame), 6)]
    kept = [pair for pair in pairs if len(pair) < 6 or int.from_bytes(pair[:2], "big") in _KNOWN_SETTINGS]
    if len(kept) == len(pairs):
        return frame
    payload = b"".join(kept)
    return len(payload).to_bytes(3, "big") + frame[3:9] + payload


def goaway(last_stream: int, code: int) -> bytes:
    """Return a GOAWAY frame (RFC 9113 section 6.8).

    :param last_stream: the last stream that is worked on; later ones can be tried again elsewhere.
    """
    return b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
