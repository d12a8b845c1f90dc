"""Compressed WebSocket messages: permessage-deflate (RFC 7692), sans I/O.

Runs in the reactor thread. Owns nothing that outlives a message: both sides agree to start each message with an empty
window (``server_no_context_takeover``, ``client_no_context_takeover``), so an idle socket keeps no zlib state, and a
message for a group is compressed once for all its members.

The windows are small, 4 KiB if the client allows it, and so is the state of an unfinished message. With the usual
window of 32 KiB, a socket that keeps its state takes some 300 KiB.

Autobahn's ``compress_deflate`` does not fit: its objects keep a window for one connection each, while here many sockets
share one compressed frame; and it accepts numbers that RFC 7692 section 7.1.2 forbids.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

from channelserver.server.websocket.frames import (
    FIN,
    RSV1,
    CloseCode,
    Event,
    FrameError,
    FrameReader,
    Opcode,
    encode_frame,
)

#: Messages up to this many bytes are sent uncompressed.
THRESHOLD = 1024
#: Base-two logarithms of the windows we use and ask clients to use. Each step up doubles the memory.
WINDOW, CLIENT_WINDOW = 12, 12
#: zlib's: memory for its hash table; effort. The effort is the reactor's time.
_MEMORY, _EFFORT = 5, 3

#: Bytes that are compressed at a time: a millisecond of the reactor's.
PIECE = 64 * 1024

#: Bytes of memory that zlib takes to decompress, beside the window.
INFLATER_BYTES = 8 * 1024

#: The end of each compressed message, which is not sent (RFC 7692 section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: An empty last block: may follow where another block may begin, and nowhere else.
_EMPTY_BLOCK = b"\x03\x00"
#: Blocks marked as the last one (RFC 7692 section 7.2.3.4) which one message may have.
_MAX_FINAL_BLOCKS = 16
#: Length of the header of a frame just over the threshold.
_HEADER = 4

# The quantifiers with a + do not give back what they have taken, so no header can make a search long.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_PARAMETER = rb'[ \t]*+;[ \t]*+(%b)(?:[ \t]*+=[ \t]*+(?:(%b)|"((?:[^"\\]|\\.)*+)"))?+' % (_TOKEN, _TOKEN)
_parameters = re.compile(_PARAMETER).finditer
# One element of the list, which may be empty (RFC 9110 section 5.6.1), and the comma after it.
_element = re.compile(rb"[ \t]*+(?:(?P<name>%b)(?P<parameters>(?:%b)*+))?+[ \t]*+(?:,|\Z)" % (_TOKEN, _PARAMETER)).match
_is_token = re.compile(_TOKEN).fullmatch
_is_bits = re.compile(rb"[89]|1[0-5]").fullmatch

_NAMES = frozenset(
    (b"server_no_context_takeover", b"client_no_context_takeover", b"server_max_window_bits", b"client_max_window_bits")
)


class Agreement(NamedTuple):
    """What client and server have agreed on.

    ``window`` and ``client_window`` are base-two logarithms of how far back the server's and the client's compressed
    data refers; ``response`` is the value of ``Sec-WebSocket-Extensions`` that says so.
    """

    window: int
    client_window: int
    response: bytes


def negotiate(values: Iterable[bytes]) -> Agreement | None:
    """Accept the first acceptable offer of permessage-deflate (RFC 7692 section 5.1); None: there is none.

    :param values: of all ``Sec-WebSocket-Extensions`` fields, in order.
    :raises ValueError: they are malformed.
    """
    for name, parameters in parse_extensions(b",".join(values)):
        if name == b"permessage-deflate":
            agreement = _accept(parameters)
            if agreement is not None:
                return agreement
    return None


def parse_extensions(value: bytes) -> list[tuple[bytes, list[tuple[bytes, bytes | None]]]]:
    """Return the extensions in a list, each with its parameters (RFC 6455 section 9.1).

    :raises ValueError: the list is malformed.
    """
    found = []
    position = 0
    while position < len(value):
        element = _element(value, position)
        if element is None:
            raise ValueError("malformed extension list")
        position = element.end()
        if element["name"] is not None:
            found.append(
                (element["name"], [_parameter(*match.groups()) for match in _parameters(element["parameters"])])
            )
    return found


def _parameter(name: bytes, token: bytes | None, quoted: bytes | None) -> tuple[bytes, bytes | None]:
    if quoted is None:
        return name, token
    value = re.sub(rb"\\(.)", rb"\1", quoted)
    if not _is_token(value):
        raise ValueError("quoted value is not a token")
    return name, value


def _accept(parameters: list[tuple[bytes, bytes | None]]) -> Agreement | None:
    """Return the response to one offer; None: decline it (RFC 7692 section 7.1)."""
    offer = dict(parameters)
    if len(offer) != len(parameters) or not offer.keys() <= _NAMES:
        return None
    if offer.get(b"server_no_context_takeover") is not None or offer.get(b"client_no_context_takeover") is not None:
        return None  # these two have no value
    window = WINDOW
    if b"server_max_window_bits" in offer:
        bits = offer[b"server_max_window_bits"]
        if bits is None or not _is_bits(bits) or bits == b"8":  # zlib cannot compress with a window of 256 bytes
            return None
        window = min(window, int(bits))
    client_window = None
    if b"client_max_window_bits" in offer:
        bits = offer[b"client_max_window_bits"]
        if bits is not None and not _is_bits(bits):
            return None
        client_window = min(CLIENT_WINDOW, int(bits or CLIENT_WINDOW))
    return _agreement(window, client_window)


@functools.cache
def _agreement(window: int, client_window: int | None) -> Agreement:
    """Return the one object for these parameters, of which there are not many.

    :param client_window: None: the client does not offer to limit its window, so it may use the largest.
    """
    response = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=%d"
    if client_window is None:
        return Agreement(window, 15, response % window)
    return Agreement(window, client_window, (response + b"; client_max_window_bits=%d") % (window, client_window))


class Deflated:
    """A frame for many sockets, and its compressed forms, each created when the first socket needs it.

    :param frame: an encoded data frame, the whole message.
    """

    __slots__ = ("_forms", "frame")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self._forms: dict[int, bytes | Generator[None, None, bytes]] = {}  # by window; or the work on it

    @staticmethod
    def of(frame: bytes | None) -> Deflated | None:
        """Return the object for a frame that is large enough to compress."""
        return Deflated(frame) if frame is not None and len(frame) > THRESHOLD + _HEADER else None

    def form(self, window: int) -> bytes | None:
        """Return the frame for a socket of this window; it is not compressed if that would not make it smaller.

        :returns: None: it is long, and there is none until :meth:`go_on` has been called often enough.
        """
        form = self._forms.get(window)
        if form is None and len(self.frame) <= PIECE:
            self.go_on(window)
            form = self._forms[window]
        return form if isinstance(form, bytes) else None

    def go_on(self, window: int) -> None:
        """Compress the next piece."""
        work = self._forms.get(window)
        if work is None:
            work = self._forms[window] = _deflating(self.frame, window)
        if not isinstance(work, bytes):
            try:
                next(work)
            except StopIteration as end:
                self._forms[window] = end.value

    def whole(self, window: int) -> bytes:
        """Return the form, whatever time it takes."""
        while (form := self.form(window)) is None:
            self.go_on(window)
        return form


def deflate(frame: bytes, window: int) -> bytes:
    """Return a data frame compressed, or as it is if that is smaller (RFC 7692 section 7.2.1)."""
    return Deflated(frame).whole(window)


def _deflating(frame: bytes, window: int) -> Generator[None, None, bytes]:
    """Compress piece by piece; see :func:`deflate`."""
    payload = memoryview(frame)[_HEADER if frame[1] == 126 else 10 if frame[1] == 127 else 2 :]
    compressor = zlib.compressobj(_EFFORT, zlib.DEFLATED, -window, _MEMORY)
    parts = []
    for begin in range(0, len(payload), PIECE):
        if begin:
            yield
        parts.append(compressor.compress(payload[begin : begin + PIECE]))
    parts.append(compressor.flush(zlib.Z_SYNC_FLUSH)[: -len(_TAIL)])
    data = b"".join(parts)
    return encode_frame(RSV1 | (frame[0] & ~FIN), data) if len(data) < len(payload) else frame


class DeflateReader(FrameReader):
    """A reader for a client that may compress.

    :param window: base-two logarithm of how far back the client's compressed data may refer.
    """

    __slots__ = ("_finals", "_inflater", "_window")

    def __init__(self, max_message: int, window: int) -> None:
        super().__init__(max_message)
        self._window = max(9, window)  # zlib compresses with 9 where it is asked for 8
        self._inflater: Any = None  # of the unfinished message, if it is compressed
        self._finals = 0

    def kept(self) -> int:
        return super().kept() + ((1 << self._window) + INFLATER_BYTES if self._inflater is not None else 0)

    def _check_first(self, first: int, second: int) -> None:
        # Only a message's first frame may say that it is compressed (RFC 7692 section 6).
        super()._check_first(first & ~RSV1 if first & 0x0F in (Opcode.TEXT, Opcode.BINARY) else first, second)

    def _oversized(self, first: int, length: int) -> None:
        # The limit is for the decompressed message. Incompressible data gets a little longer by compression.
        if not (first & RSV1 or self._inflater is not None) or length > self.max_message + self.max_message // 256 + 64:
            super()._oversized(first, length)

    def _add_fragment(self, first: int, payload: bytes, events: list[Event]) -> None:
        if first & RSV1:
            self._inflater = zlib.decompressobj(-self._window)
            self._finals = 0
        if self._inflater is not None:
            payload = self._inflate(payload + _TAIL if first & FIN else payload)
            if first & FIN:
                self._check_end()
                self._inflater = None
        super()._add_fragment(first & ~RSV1, payload, events)

    def _inflate(self, data: bytes) -> bytes:
        """Decompress a part of a message (RFC 7692 section 7.2.2), up to the size limit."""
        found = b""
        room = self.max_message - len(self.message) + 1
        try:
            while data and len(found) < room:
                inflater = self._inflater
                found += inflater.decompress(data, room - len(found))
                data = inflater.unused_data
                if data and data != _TAIL:
                    # A block that was marked as the last one, and is not (RFC 7692 section 7.2.3.4).
                    self._finals += 1
                    if self._finals > _MAX_FINAL_BLOCKS:
                        raise FrameError(CloseCode.INVALID_DATA, "too many final blocks in compressed data")
                    self._inflater = zlib.decompressobj(-self._window)
                elif data:
                    break
        except zlib.error:
            raise FrameError(CloseCode.INVALID_DATA, "invalid compressed data") from None
        if len(found) >= room:
            super()._oversized(0, len(found))
        return found

    def _check_end(self) -> None:
        """Refuse a message that ends inside a block: zlib would wait for the rest."""
        inflater = self._inflater
        try:
            if not inflater.eof and (inflater.decompress(_EMPTY_BLOCK, 1) or not inflater.eof):
                raise FrameError(CloseCode.INVALID_DATA, "compressed data is incomplete")
        except zlib.error:
            raise FrameError(CloseCode.INVALID_DATA, "invalid compressed data") from None
