"""WebSocket frames (RFC 6455), sans I/O: bytes in, messages out, and the other way.

Runs in the reactor thread. A :class:`FrameReader` owns the bytes of one connection's unfinished frame and message.
"""

from __future__ import annotations

import codecs
from typing import Any

from autobahn.websocket.xormasker import create_xor_masker

from channelserver.layers.content import Content

_make_masker: Any = create_xor_masker
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: Close codes (RFC 6455 section 7.4.1 and the IANA registry).
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL, INVALID_DATA, TOO_BIG = (
    1000,
    1001,
    1002,
    1005,
    1006,
    1007,
    1009,
)
INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER = 1011, 1012, 1013

_MAY_BE_RECEIVED = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
_RSV, _OPCODE, _MASK = 0x70, 0x0F, 0x80

#: Bits of a frame's first byte: the message's last frame; compressed, where that is agreed on (RFC 7692 section 6).
FIN, RSV1 = 0x80, 0x40


class FrameError(Exception):
    """The peer broke a rule; close with ``code``.

    :param code: close code.
    :param reason: for the log and the close frame; ASCII, under 124 bytes.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


#: What a reader returns: (TEXT, str), (BINARY, bytes), (PING, bytes), (PONG, bytes) or (CLOSE, (code, reason)).
Event = tuple[int, Any]


class FrameReader:
    """Turns the bytes of a client into messages.

    :param max_message: bytes; a larger message is refused as soon as its size is known.
    """

    __slots__ = ("_buffer", "_decoder", "_message", "_need", "_opcode", "max_message")

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self._buffer: bytearray | None = None
        self._need = 0
        self._opcode = 0  # of the unfinished message; 0: there is none
        self._message = bytearray()  # what there is of the unfinished message
        self._decoder: Any = None

    def feed(self, data: bytes, events: list[Event]) -> None:
        """Take the next bytes; append what is complete to `events`.

        :param events: also holds what was complete before an error.
        :raises FrameError: the peer broke a rule; the reader must not be fed again.
        """
        buffer: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return
            buffer = self._buffer
        position, end = 0, len(buffer)
        while end - position >= 2:
            first, second = buffer[position], buffer[position + 1]
            length = second & 0x7F
            start = position + 6
            if length > 125:
                if first & 0x08:
                    raise FrameError(PROTOCOL_ERROR, "control frame over 125 bytes")
                wide = 2 if length == 126 else 8
                start += wide
                if end < position + 2 + wide:
                    self._check_first(first, second)
                    self._need = end - position + 1
                    break
                length = int.from_bytes(buffer[position + 2 : position + 2 + wide], "big")
                if length < (126 if wide == 2 else 65536) or length >> 63:
                    raise FrameError(PROTOCOL_ERROR, "frame length not in its shortest form")
            self._check_first(first, second)
            if not first & 0x08 and len(self._message) + length > self.max_message:
                self._oversized(first, length)
            if end < start + length:
                self._need = start + length - position
                break
            payload = unmask(buffer[start : start + length], buffer[start - 4 : start])
            position = start + length
            if first == FIN | TEXT:
                events.append((TEXT, _decode(payload)))
            elif first == FIN | BINARY:
                events.append((BINARY, payload))
            elif first & 0x08:
                opcode = first & _OPCODE
                events.append((opcode, _read_close(payload) if opcode == CLOSE else payload))
                if opcode == CLOSE:
                    return
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

    def _check_first(self, first: int, second: int) -> None:
        """Check a frame's first two bytes (RFC 6455 section 5.2)."""
        opcode = first & _OPCODE
        if first & _RSV:
            raise FrameError(PROTOCOL_ERROR, "reserved bit set, without an extension that uses it")
        if not second & _MASK:
            raise FrameError(PROTOCOL_ERROR, "frame of a client not masked")
        if opcode & 0x08:
            if opcode > PONG:
                raise FrameError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if not first & FIN:
                raise FrameError(PROTOCOL_ERROR, "control frame in fragments")
        elif opcode > BINARY:
            raise FrameError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        elif opcode == CONTINUATION:
            if not self._opcode:
                raise FrameError(PROTOCOL_ERROR, "continuation of no message")
        elif self._opcode:
            raise FrameError(PROTOCOL_ERROR, "new message inside an unfinished one")

    def _oversized(self, first: int, length: int) -> None:
        """A data frame of `length` bytes makes its message too large."""
        raise FrameError(TOO_BIG, f"message over {self.max_message} bytes")

    def _add_fragment(self, first: int, payload: bytes, events: list[Event]) -> None:
        """Take a data frame that is not a whole message by itself.

        :param first: the frame's first byte.
        """
        opcode, last = first & _OPCODE, bool(first & FIN)
        if opcode:
            self._opcode = opcode
            if opcode == TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        if self._opcode == TEXT:  # looked at part by part, so that bad text is refused at once
            try:
                self._decoder.decode(payload, last)
            except UnicodeDecodeError:
                raise FrameError(INVALID_DATA, "text is not UTF-8") from None
        # In one piece: a list of parts would let a client that sends them a byte at a time, or empty, take many times
        # the memory its message is allowed.
        self._message += payload
        if last:
            message = self._message
            events.append((self._opcode, str(message, "utf-8") if self._opcode == TEXT else bytes(message)))
            self._opcode = 0
            self._message = bytearray()
            self._decoder = None


def unmask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Return `payload` with the client's mask taken off (RFC 6455 section 5.3)."""
    size = len(payload)
    if size > 1024:  # from here on Autobahn's native code makes up for the cost of calling it
        return bytes(_make_masker(bytes(mask), size).process(bytes(payload)))
    pad = (bytes(mask) * ((size >> 2) + 1))[:size]
    # One exclusive-or of two long integers is many times faster than a loop over bytes.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


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
    if isinstance(text, str) and data is None:
        return encode_frame(TEXT, text.encode("utf-8", "replace"))  # a lone surrogate cannot be sent as UTF-8
    if isinstance(data, bytes) and text is None:
        return encode_frame(BINARY, data)
    return None


def encode_close(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; None: without a code."""
    if code is None:
        return encode_frame(CLOSE, b"")
    return encode_frame(CLOSE, code.to_bytes(2, "big") + reason.encode("utf-8")[:123])


def _decode(payload: bytes) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError:
        raise FrameError(INVALID_DATA, "text is not UTF-8") from None


def _read_close(payload: bytes) -> tuple[int, str]:
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if code not in _MAY_BE_RECEIVED and not 3000 <= code <= 4999:
        raise FrameError(PROTOCOL_ERROR, f"close code {code} must not be sent")
    return code, _decode(payload[2:])
