"""HTTP/2 frames (RFC 9113), written by hand: attackers send what no library would.

Any thread; owns nothing.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack("!IBBI", len(payload), kind, flags, stream)[1:] + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return the preface with a client's settings."""
    return PREFACE + frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def window_update(stream: int, size: int) -> bytes:
    """Return a frame that allows `size` more bytes."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", size))


def data(stream: int, content: bytes, end: bool = False) -> bytes:
    """Return frames of a body, of at most 16 KiB each."""
    pieces = [content[start : start + 16_384] for start in range(0, len(content), 16_384)] or [b""]
    last = len(pieces) - 1
    return b"".join(frame(DATA, END_STREAM * (end and at == last), stream, piece) for at, piece in enumerate(pieces))


def field(name: str, value: str) -> bytes:
    """Return a header field: a literal that enters no table (RFC 7541 section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def request(stream: int, path: str, method: str = "GET", end: bool = True, fields: bytes = b"") -> bytes:
    """Return the head of a request; `stream` is odd."""
    block = field(":method", method) + field(":scheme", "https") + field(":authority", "127.0.0.1")
    block += field(":path", path) + fields
    return frame(HEADERS, END_HEADERS | END_STREAM * end, stream, block)


def _text(text: str) -> bytes:
    raw = text.encode()
    size = bytes([len(raw)]) if len(raw) < 127 else b"\x7f" + _rest(len(raw) - 127)
    return size + raw


def _rest(number: int) -> bytes:
    """Return what follows the prefix of a larger integer (RFC 7541 section 5.1)."""
    found = bytearray()
    while number >= 128:
        found.append(number % 128 | 128)
        number >>= 7
    return bytes([*found, number])
