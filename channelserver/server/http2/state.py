"""The state of an HTTP/2 connection as the package ``h2`` keeps it, set up for this server.

Runs in the reactor thread; owns nothing.

``h2`` makes objects and events of each frame, which cost more than a Django view. So the frames of most requests
(HEADERS without a body, DATA, WINDOW_UPDATE, and the answer) are read and written here, into the same state; ``h2`` has
all others, and all those that break a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.settings import SettingCodes
from h2.settings import Settings as HTTP2Settings
from h2.stream import H2Stream, StreamClosedBy, StreamState
from hpack import Decoder, Encoder, HeaderTuple, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable
from twisted.logger import Logger

from channelserver.server.common.options import Settings
from channelserver.server.http.body import BODY_IN_MESSAGE
from channelserver.server.http2 import frames
from channelserver.server.http2.frames import Violation

_log = Logger("channelserver.server.http2")

#: Streams a client may have open.
MAX_STREAMS = 100
#: Bytes a client may send ahead, in a stream and in all. Bodies are spooled as they arrive, so these cost no memory.
STREAM_WINDOW, CONNECTION_WINDOW = 256 * 1024, 1024 * 1024
#: Bytes a client may send in a stream before the server has seen that the body needs a file.
FIRST_WINDOW = BODY_IN_MESSAGE
#: Bytes of the table of header fields sent, whatever the client allows (RFC 7541 section 4.2).
MAX_TABLE = 4096


#: Blocks of header fields of which the contents are known: how many, bytes in each, and bytes of all contents.
KNOWN_BLOCKS, KNOWN_BYTES, KNOWN_WEIGHT = 16, 128, 32 * 1024
#: Bytes that each field takes, with what is made of it. Its text is short, or the table has it.
FIELD_BYTES = 256
#: Streams that ended are forgotten when there are so many.
TIDY = 16
#: The largest window (RFC 9113 section 6.9.1).
MAX_WINDOW = 2**31 - 1

#: Length in 24 bits, type, flags, stream (RFC 9113 section 4.1).
_frame_head = Struct(">BHBBI").pack
#: States of streams on which the client still gets data.
_SENDING = (StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE)
#: A block whose fields are all in the tables (RFC 7541 section 6.1), at places below 127: it changes no table.
_all_known = re.compile(rb"[\x81-\xfe]+").fullmatch

#: Private names of ``h2`` that are used here.
_PRIVATE = ("_closed_streams", "_data_to_send", "_inbound_flow_control_window_manager")
_PRIVATE_OF_STREAM = ("_actual_content_length", "_expected_content_length", "_inbound_window_manager")


def _is_known() -> bool:
    connection, stream = H2Connection(), H2Stream(1, H2Configuration(client_side=False), 0, 0)
    known = all(hasattr(connection, name) for name in _PRIVATE)
    known = known and all(hasattr(stream, name) for name in _PRIVATE_OF_STREAM)
    return known and isinstance(connection._data_to_send, bytearray)


_KNOWN = _is_known()
if not _KNOWN:
    _log.warn("this version of h2 has other private names in H2Connection and H2Stream: HTTP/2 costs more")


class _Encoder(Encoder):
    """Packs header fields; answers repeat the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}  # right as long as the table does not change

    def encode(self, headers: Iterable[tuple[bytes, bytes]], huffman: bool = True) -> bytes:  # type: ignore[override]
        fields = tuple(headers)
        block = None if self.header_table.resized else self._blocks.get(fields)
        if block is None:
            block = super().encode(fields, huffman)
            if len(self._blocks) >= KNOWN_BLOCKS or not _all_known(block):
                self._blocks.clear()
            elif len(block) <= KNOWN_BYTES:
                self._blocks[fields] = block
        return block

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, size: int) -> None:
        # ``hpack`` forgets to announce a change when the same size is set again, and else would announce all sizes; the
        # smallest and the last one are enough (RFC 7541 section 4.2).
        size = min(size, MAX_TABLE)
        if size != self.header_table.maxsize:
            self.header_table.maxsize = size
            self.table_size_changes = sorted({min([*self.table_size_changes, size]), size})


class _Table(HeaderTable):
    """A table of header fields that counts its changes."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.__set__(self, newmax)  # type: ignore[attr-defined]


class Block:
    """A block of header fields that was unpacked."""

    __slots__ = ("fields", "request")

    def __init__(self, fields: list[HeaderTuple]) -> None:
        self.fields = fields
        #: What was made of them, for the next time that they come.
        self.request: Any = None


class _Decoder(Decoder):
    """Unpacks header fields; clients repeat the same ones."""

    header_table: _Table

    def __init__(self, max_header_list: int) -> None:
        super().__init__(max_header_list)
        self.header_table = _Table()
        self._blocks: dict[bytes, Block] = {}  # right as long as the table does not change
        #: Bytes of the known blocks.
        self.weight = 0

    def block(self, data: bytes) -> Block:
        """Unpack a block, or find it."""
        block = self._blocks.get(data)
        if block is None:
            changes = self.header_table.changes
            block = Block(list(super().decode(data, raw=True)))
            changed, weight = self.header_table.changes != changes, FIELD_BYTES * (len(block.fields) + 1)
            if changed or len(self._blocks) >= KNOWN_BLOCKS or self.weight + weight > KNOWN_WEIGHT:
                self._blocks.clear()
                self.weight = 0
            if not changed and len(data) <= KNOWN_BYTES and weight <= KNOWN_WEIGHT:
                self._blocks[data] = block
                self.weight += weight
        return block

    def decode(self, data: bytes, raw: bool = True) -> list[HeaderTuple]:
        return self.block(data).fields


class State(H2Connection):
    """The state of a connection."""

    # So many ended streams are remembered, to tell late frames from wrong ones.
    MAX_CLOSED_STREAMS = 1000

    decoder: _Decoder

    def receive_request(self, frame: bytes) -> Block | None:
        """Take a HEADERS frame that is a whole request; return its fields. The stream is ``highest_inbound_stream_id``,
        and :meth:`open_stream` or :meth:`send_ready` follows. None: ``receive_data`` must take the frame.

        :raises Violation: the fields cannot be unpacked.
        """
        flags, number, begin = frame[4], int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF, 9
        if flags & frames.PRIORITY:
            if int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF == number:
                return None
            begin = 14
        if (
            flags & ~frames.PRIORITY != frames.END_STREAM | frames.END_HEADERS
            or number <= self.highest_inbound_stream_id
            or not number % 2
            or len(frame) <= begin
            or self.state_machine.state is not ConnectionState.SERVER_OPEN
            or (len(self.streams) >= TIDY and self.open_inbound_streams >= MAX_STREAMS)
            or not _KNOWN
        ):
            return None
        try:
            block = self.decoder.block(frame[begin:])
        except OversizedHeaderListError as error:
            raise Violation(str(error), frames.ENHANCE_YOUR_CALM) from error
        except (HPACKError, IndexError, TypeError, UnicodeDecodeError) as error:
            raise Violation(f"malformed block of header fields: {error}") from error
        self.highest_inbound_stream_id = number
        return block

    def open_stream(self, number: int) -> None:
        """Open the stream of a whole request."""
        stream = H2Stream(number, self.config, FIRST_WINDOW, self.remote_settings.initial_window_size)
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        machine = stream.state_machine
        machine.state = StreamState.HALF_CLOSED_REMOTE
        machine.client, machine.headers_received = False, True
        self.streams[number] = stream

    def send_ready(self, number: int, fields: Sequence[tuple[bytes, bytes]], body: memoryview) -> bool:
        """Send a whole answer on a stream that is not open yet; return whether the windows have room for it."""
        size = len(body)
        if size > self.outbound_flow_control_window or size > self.remote_settings.initial_window_size:
            return False
        self._send_block(number, self.encoder.encode(fields), 0 if size else frames.END_STREAM)
        for begin in range(0, size, frames.MAX_FRAME_BYTES):
            end = begin + frames.MAX_FRAME_BYTES
            self._frame(frames.DATA, frames.END_STREAM if end >= size else 0, number, body[begin:end])
        self.outbound_flow_control_window -= size
        self._closed_streams[number] = StreamClosedBy.SEND_END_STREAM
        return True

    def send_whole(self, number: int, fields: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send a whole answer whose body is as large as one frame at most; return whether the windows have room for it,
        and the client has sent all of the request.
        """
        size, stream = len(body), self._answering(number)
        if (
            stream is None
            or stream.state_machine.headers_sent
            or size > frames.MAX_FRAME_BYTES
            or size > self.outbound_flow_control_window
            or size > stream.outbound_flow_control_window
        ):
            return False
        self._send_block(number, self.encoder.encode(fields), 0 if size else frames.END_STREAM)
        if size:
            self._frame(frames.DATA, frames.END_STREAM, number, body)
            self.outbound_flow_control_window -= size
        self._ended(stream)
        return True

    def receive_part(self, frame: bytes) -> tuple[int, bytes, bool] | None:
        """Take a DATA frame that keeps all rules; return stream, content and whether it ends the stream. None:
        ``receive_data`` must take the frame.
        """
        flags, number, size = frame[4], int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF, len(frame) - 9
        stream = self.streams.get(number)
        if (
            not _KNOWN
            or stream is None
            or flags & ~frames.END_STREAM
            or stream.state_machine.state is not StreamState.OPEN
            or self.state_machine.state is not ConnectionState.SERVER_OPEN
        ):
            return None
        whole, window = self._inbound_flow_control_window_manager, stream._inbound_window_manager
        expected, actual = stream._expected_content_length, stream._actual_content_length + size
        if (
            size > whole.current_window_size
            or size > window.current_window_size
            or (expected is not None and (actual > expected or (flags and actual != expected)))
        ):
            return None
        whole.window_consumed(size)
        window.window_consumed(size)
        stream._actual_content_length = actual
        if flags:
            stream.state_machine.state = StreamState.HALF_CLOSED_REMOTE
        return number, frame[9:], bool(flags)

    def receive_window(self, frame: bytes) -> int | None:
        """Take a WINDOW_UPDATE frame that keeps all rules; return its stream, or 0. None: ``receive_data`` must take
        the frame.
        """
        if len(frame) != 13 or self.state_machine.state is not ConnectionState.SERVER_OPEN:
            return None
        number, increment = (int.from_bytes(frame[begin : begin + 4], "big") & 0x7FFFFFFF for begin in (5, 9))
        owner: H2Connection | H2Stream | None = self
        if number:
            owner = self.streams.get(number)
            if owner is None or owner.state_machine.state not in _SENDING:
                return None
        if not increment or owner is None or owner.outbound_flow_control_window + increment > MAX_WINDOW:
            return None
        owner.outbound_flow_control_window += increment
        return number

    def send_head(self, number: int, fields: list[tuple[bytes, bytes]], ended: bool) -> None:
        """Send the head of an answer.

        :param ended: there is no body.
        """
        stream = self._answering(number)
        if stream is None or stream.state_machine.headers_sent:
            self.send_headers(number, fields, end_stream=ended)
            return
        self._send_block(number, self.encoder.encode(fields), frames.END_STREAM if ended else 0)
        stream.state_machine.headers_sent = True
        if ended:
            self._ended(stream)

    def _send_block(self, number: int, block: bytes, flags: int) -> None:
        kind = frames.HEADERS
        while len(block) > frames.MAX_FRAME_BYTES:
            self._frame(kind, flags, number, block[: frames.MAX_FRAME_BYTES])
            block, kind, flags = block[frames.MAX_FRAME_BYTES :], frames.CONTINUATION, 0
        self._frame(kind, flags | frames.END_HEADERS, number, block)

    def send_part(self, number: int, data: bytes | memoryview, ended: bool) -> None:
        """Send a part of an answer's body, as large as one frame and the windows allow.

        :param ended: it is the last one.
        """
        stream = self._answering(number)
        if stream is None:
            self.send_data(number, data, end_stream=ended)
            return
        self._frame(frames.DATA, frames.END_STREAM if ended else 0, number, data)
        stream.outbound_flow_control_window -= len(data)
        self.outbound_flow_control_window -= len(data)
        if ended:
            self._ended(stream)

    def _answering(self, number: int) -> H2Stream | None:
        """Return a stream whose client has sent all and waits for the answer; None: it is not in this state."""
        stream = self.streams.get(number)
        if stream is None or stream.state_machine.state is not StreamState.HALF_CLOSED_REMOTE or not _KNOWN:
            return None
        return stream

    def _frame(self, kind: int, flags: int, number: int, data: bytes | memoryview) -> None:
        size = len(data)
        self._data_to_send += _frame_head(size >> 16, size & 0xFFFF, kind, flags, number)
        self._data_to_send += data

    @staticmethod
    def _ended(stream: H2Stream) -> None:
        stream.state_machine.state = StreamState.CLOSED
        stream.state_machine.stream_closed_by = StreamClosedBy.SEND_END_STREAM


def max_header_list(options: Settings) -> int:
    """Return the size of the largest request head as RFC 9113 section 6.5.2 counts it: 32 bytes more for each field."""
    return int(options.max_header_bytes + 32 * options.max_header_fields)


def new_state(max_header_list: int) -> State:
    """Return the state of a new connection, whose settings wait to be sent.

    :param max_header_list: the limit announced to the client; a head of more than twice as much ends the connection.
    """
    state = State(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            # Requests are checked in head.py, where a bad one costs its stream only; answers in exchange.
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    state.local_settings = HTTP2Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_header_list,
            SettingCodes.INITIAL_WINDOW_SIZE: FIRST_WINDOW,
        },
    )
    state.encoder, state.decoder = _Encoder(), _Decoder(2 * max_header_list)
    state.initiate_connection()
    state.increment_flow_control_window(CONNECTION_WINDOW - 65535)
    return state
