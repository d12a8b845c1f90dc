"""WebSocket frames (RFC 6455), sans I/O: bytes in, messages out, and the other way.

Runs in the reactor thread. A :class:`FrameReader` owns the bytes of one connection's unfinished frame and message.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from channelserver.layers.content import Content


class Opcode(IntEnum):
    """What a frame is (RFC 6455 section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ends (RFC 6455 section 7.4.1 and the IANA registry).

    ``NO_STATUS`` and ``ABNORMAL`` are never sent: they stand for a close frame without a code, and for none at all.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


_SENDABLE = frozenset(CloseCode) - {CloseCode.NO_STATUS, CloseCode.ABNORMAL}

# Plain integers for the hot paths: an operation on a member of an enumeration takes several times as long.
_TEXT, _BINARY, _CLOSE, _PING, _PONG = (
    int(opcode) for opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG)
)
_RSV, _OPCODE, _MASK, _CONTROL = 0x70, 0x0F, 0x80, 0x08

#: Bits of a frame's first byte: the message's last frame; compressed, if both sides agreed on it (RFC 7692 section 6).
FIN, RSV1 = 0x80, 0x40
# The first byte of a frame that is a whole message; such a one needs no further check outside another message.
_WHOLE_TEXT, _WHOLE_BINARY = FIN | _TEXT, FIN | _BINARY
_WHOLE = (_WHOLE_TEXT, _WHOLE_BINARY)

_integer = int.from_bytes

#: Bytes of payload from which on Autobahn's native code, its call included, unmasks faster than Python's integers.
_NATIVE_FROM = 4 * 1024


class FrameError(Exception):
    """The peer violated the protocol; close the connection with ``code``.

    :param reason: for the log and the close frame; ASCII, under 124 bytes.
    """

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Ping:
    """A ping frame (RFC 6455 section 5.5.2)."""

    data: bytes


@dataclass(slots=True)
class Pong:
    """A pong frame (RFC 6455 section 5.5.3)."""

    data: bytes


@dataclass(slots=True)
class Close:
    """A close frame (RFC 6455 section 5.5.1); ``code`` is :attr:`CloseCode.NO_STATUS` if the frame has none."""

    code: int
    reason: str


#: What a reader returns: ``str`` is a text message, ``bytes`` a binary one.
Event = str | bytes | Ping | Pong | Close


class FrameReader:
    """Turns the bytes from a client into messages and control frames.

    It takes the bytes of an unfinished data frame as they arrive, as if they were a fragment: invalid text fails the
    connection at its first wrong byte.

    :param max_message: bytes; a larger message is refused as soon as its size is known.
    """

    __slots__ = ("_buffer", "_first", "_mask", "_need", "_opcode", "_tail", "max_message", "message", "rest")

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self._buffer: bytearray | None = None  # an unfinished header, or an unfinished control frame
        self._need = 0  # bytes in the buffer before another look pays off
        #: Bytes to come of an unfinished data frame.
        self.rest = 0
        self._first = 0  # first byte of the frame that would hold them
        self._mask = b""
        self._opcode = 0  # of the unfinished message; 0: there is none
        #: The bytes of the unfinished message.
        self.message = bytearray()
        self._tail = b""  # an incomplete character at its end

    def feed(self, data: bytes, events: list[Event]) -> None:
        """Take the next bytes; append what is complete to `events`.

        :param events: also holds what was complete before an error.
        :raises FrameError: the peer violated the protocol; the reader must not be fed again.
        """
        buffer: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return
            buffer = self._buffer
        position, end = 0, len(buffer)
        if self.rest:
            position = min(self.rest, end)
            self._add_part(data[:position], events)
        while end - position >= 2:
            first, second = buffer[position], buffer[position + 1]
            length = second & 0x7F
            start = position + 6
            if length > 125:
                if first & _CONTROL:
                    raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes")
                wide = 2 if length == 126 else 8
                start += wide
                if end < position + 2 + wide:
                    self._check_first(first, second)
                    self._need = end - position + 1
                    break
                length = int.from_bytes(buffer[position + 2 : position + 2 + wide], "big")
                if length < (126 if wide == 2 else 65536) or length >> 63:
                    raise FrameError(CloseCode.PROTOCOL_ERROR, "frame length is not minimal")
            if first not in _WHOLE or second < _MASK or self._opcode:
                self._check_first(first, second)
            if not first & _CONTROL and len(self.message) + length > self.max_message:
                self._oversized(first, length)
            if end < start + length:
                if first & _CONTROL or end < start:
                    self._need = start + (length if first & _CONTROL else 0) - position
                    break
                self.rest, self._first, self._mask = length, first, bytes(buffer[start - 4 : start])
                self._add_part(buffer[start:], events)
                position = end
                break
            payload = unmask(buffer[start : start + length], buffer[start - 4 : start])
            position = start + length
            if first == _WHOLE_TEXT:
                events.append(_decode(payload))
            elif first == _WHOLE_BINARY:
                events.append(payload)
            elif first & _CONTROL:
                opcode = first & _OPCODE
                if opcode == _CLOSE:
                    events.append(_read_close(payload))
                    return
                events.append(Ping(payload) if opcode == _PING else Pong(payload))
            else:
                self._add_fragment(first, payload, events)
        else:
            self._need = 2
        if position == end:
            self._buffer = None
        elif self._buffer is None:
            self._buffer = bytearray(data[position:])
        else:
            del self._buffer[:position]

    def short_text(self, data: bytes) -> str | None:
        """Return the text if `data` is a short text message in one frame, as most are; None: :meth:`feed` tells."""
        size = len(data) - 6
        if (
            not 0 <= size <= 125
            or data[0] != _WHOLE_TEXT
            or data[1] != _MASK + size
            or self._buffer is not None
            or self.rest
            or self._opcode
            or size > self.max_message
        ):
            return None
        try:
            return str(unmask(data[6:], data[2:6]), "utf-8")
        except UnicodeDecodeError:
            return None

    def kept(self) -> int:
        """Return how many bytes of memory its unfinished frame and message take."""
        return self.message.__alloc__() + (len(self._buffer) if self._buffer is not None else 0)

    def _check_first(self, first: int, second: int) -> None:
        """Check a frame's first two bytes (RFC 6455 section 5.2)."""
        opcode = first & _OPCODE
        if first & _RSV:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bit set without an extension")
        if not second & _MASK:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "client frame is not masked")
        if opcode & _CONTROL:
            if opcode > _PONG:
                raise FrameError(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if not first & FIN:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
        elif opcode > _BINARY:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        elif not opcode:
            if not self._opcode:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "continuation without a message")
        elif self._opcode:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "new message before the end of the last one")

    def _oversized(self, first: int, length: int) -> None:
        """A data frame of `length` bytes makes its message too large."""
        raise FrameError(CloseCode.MESSAGE_TOO_BIG, f"message over {self.max_message} bytes")

    def _add_part(self, data: bytes | bytearray, events: list[Event]) -> None:
        """Take the next bytes of an unfinished data frame."""
        self.rest -= len(data)
        first, mask, turn = self._first, self._mask, len(data) & 3
        self._first = first & FIN
        self._mask = mask[turn:] + mask[:turn]
        self._add_fragment(first & ~FIN if self.rest else first, unmask(data, mask), events)

    def _add_fragment(self, first: int, payload: bytes, events: list[Event]) -> None:
        """Take a data frame that is not a whole message by itself.

        :param first: the frame's first byte.
        """
        opcode, last = first & _OPCODE, bool(first & FIN)
        if opcode and last:  # it was compressed
            events.append(_decode(payload) if opcode == _TEXT else payload)
            return
        if opcode:
            self._opcode = opcode
        if self._opcode == _TEXT:
            self._tail = _incomplete(self._tail + payload, last)
        # In one piece: a list of parts would let a client that sends them a byte at a time, or empty, take many times
        # the memory its message is allowed.
        self.message += payload
        if last:
            message = self.message
            events.append(str(message, "utf-8") if self._opcode == _TEXT else bytes(message))
            self._opcode = 0
            self.message = bytearray()


#: Autobahn's masker; None: it is not imported yet.
_make_masker: Callable[..., Any] | None = None


@functools.cache
def _begin_import() -> None:
    """Import Autobahn's masker: it takes 90 ms and 4 MB, and many sites never receive a frame large enough."""
    with contextlib.suppress(RuntimeError):  # no room for a thread
        threading.Thread(target=_import_masker, name="import", daemon=True).start()


def _import_masker() -> None:
    global _make_masker
    from autobahn.websocket.xormasker import create_xor_masker

    _make_masker = create_xor_masker


def unmask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Return `payload` with the client's mask taken off (RFC 6455 section 5.3)."""
    size = len(payload)
    if size >= _NATIVE_FROM:
        if _make_masker is not None:
            return bytes(_make_masker(bytes(mask), size).process(bytes(payload)))
        _begin_import()
        step = _NATIVE_FROM - 4  # of long integers, several short ones take less time
        return b"".join(unmask(payload[begin : begin + step], mask) for begin in range(0, size, step))
    pad = (mask * ((size >> 2) + 1))[:size]
    # One exclusive-or of two long integers is many times faster than a loop over bytes.
    return (_integer(payload, "little") ^ _integer(pad, "little")).to_bytes(size, "little")


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole, unmasked frame, as servers send it."""
    size = len(payload)
    if size < 126:
        return bytes((FIN | opcode, size)) + payload
    if size < 65536:
        return bytes((FIN | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((FIN | opcode, 127)) + size.to_bytes(8, "big") + payload


def encode_reply(content: Content) -> bytes | None:
    """Return the frame for a reply that is just data, or None if the reply says or needs anything more."""
    if content.get("close") or "accept" in content:
        return None
    text, data = content.get("text"), content.get("bytes")
    if text is None or data is None:
        return encode_data(text, data)
    return None


def encode_text(text: str) -> bytes:
    """Return the frame for a text."""
    return encode_frame(_TEXT, text.encode("utf-8", "replace"))  # the layer has replaced lone surrogates


def encode_data(text: Any, data: Any) -> bytes | None:
    """Return the frame for a text, or else for bytes; None if they are neither."""
    if isinstance(text, str):
        return encode_text(text)
    if isinstance(data, bytes):
        return encode_frame(_BINARY, data)
    return None


def encode_close(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; None: without a code."""
    if code is None:
        return encode_frame(_CLOSE, b"")
    return encode_frame(_CLOSE, code.to_bytes(2, "big") + reason.encode("utf-8")[:123])


def _incomplete(data: bytes, last: bool) -> bytes:
    """Return the incomplete character at the end of a part of a text.

    CPython's decoder is faster than Autobahn's ``Utf8Validator`` at any size, 3 times for other alphabets and 35 times
    for ASCII.
    """
    try:
        tail = data[codecs.utf_8_decode(data, "strict", last)[1] :]
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8") from None
    if tail[:1] == b"\xed" and tail[1:] >= b"\xa0":  # a surrogate, for whose third byte that decoder waits
        raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8")
    return tail


def _decode(payload: bytes) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8") from None


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455 section 7.4)."""
    return code in _SENDABLE or 3000 <= code <= 4999


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(CloseCode.NO_STATUS, "")
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"close code {code} must not be sent")
    return Close(code, _decode(payload[2:]))
