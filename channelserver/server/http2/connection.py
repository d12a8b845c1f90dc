"""One connection that speaks HTTP/2 (RFC 9113): many requests at a time, each a stream.

Runs in the reactor thread; a connection is owned by its transport, and owns its streams.

The package ``h2`` keeps the protocol's state and packs the header fields; :mod:`channelserver.server.http2.frames`
checks frames before it, and disconnects clients that send too many. WebSockets over HTTP/2 (RFC 8441) are not offered:
browsers then open them over HTTP/1.1.

What is to be sent waits in the streams, never in the transport: the streams take turns, a frame each, as long as the
transport and the client's windows have room. Nothing is written from within a call of the application's side, but at
the end of the turn, so that head, body and end of a small answer are one write.

The states are *open*, *leaving* (GOAWAY was sent: what runs is finished, new streams are refused), *closing* and
*closed*.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from h2 import events
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.logger import Logger
from twisted.python.failure import Failure

from channelserver.server.common.transport import Transport
from channelserver.server.http.base import Connection
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http2 import frames
from channelserver.server.http2.frames import FrameReader, Violation, goaway
from channelserver.server.http2.head import Malformed, check_trailers, read_head
from channelserver.server.http2.state import MAX_TABLE, max_header_list, new_state
from channelserver.server.http2.stream import Stream
from channelserver.server.site import Site

_log = Logger("channelserver.server.http2")

#: While so many bytes of answers wait for the client, further requests wait, too.
HOLD = 1024 * 1024
#: Bytes written to the transport at a time.
FLUSH = 64 * 1024


class HTTP2Connection(Connection):
    """The protocol of one connection."""

    __slots__ = (
        "_begun", "_frames", "_h2", "_held", "_last", "_scheduled", "_streams", "_unflushed", "_work", "dispatcher",
        "waiting",
    )  # fmt: skip

    def __init__(self, site: Site, peer: str | None, dispatcher: Dispatcher) -> None:
        super().__init__(site, peer)
        self.dispatcher = dispatcher
        #: Bytes of answers that wait in all streams.
        self.waiting = 0
        most = max_header_list(site.options)
        self._h2 = new_state(most)
        # A head somewhat over the limits gets its answer; one far over them ends the connection before it is read.
        self._frames = FrameReader(site.wheel.now(), 2 * most)
        self._state = "open"
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the last stream that was opened
        self._work: deque[Stream] = deque()  # streams with something to send
        self._held: deque[Stream] = deque()  # streams whose request waits
        self._scheduled = False
        self._unflushed = 0
        self._begun = site.wheel.now()  # when the client began what it has not finished

    # -- called by the transport ---------------------------------------------------------------------------------------

    def makeConnection(self, transport: Transport) -> None:
        transport.registerProducer(self, True)
        super().makeConnection(transport)
        self._deadline = self._begun + max(self.site.options.header_timeout, self.site.options.keep_alive)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        if self._state in ("closing", "closed"):
            return
        now = self.site.wheel.now()
        if not self._frames.unfinished:
            self._begun = now
        self._scheduled = True  # what is to be sent is sent below
        try:
            for kind, frame in self._frames.feed(data, now):
                if kind != frames.CONTINUATION:
                    self._begun = now
                if kind == frames.GOAWAY:
                    self._leave()  # the client still waits for its answers; h2 would close the connection
                    continue
                for event in self._h2.receive_data(frame):
                    handle = _HANDLERS.get(type(event))
                    if handle is not None:
                        handle(self, event)
                if self._state in ("closing", "closed"):
                    return
        except Violation as violation:
            self._end(violation)
            return
        except ProtocolError as error:
            self.site.count_refusal("bad request", error, self.addresses()["client"])
            self._close()  # h2 has its GOAWAY ready
            return
        if self._frames.unfinished:
            self.site.wheel.add(self, self._finish_by())
        self._pump()

    def connectionLost(self, reason: Failure | None) -> None:
        self._state = "closed"
        self._drop_streams()
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._state != "closing":
            self.set_deadline(self.site.options.http_timeout)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._state != "closing":
            self.set_deadline(self.site.options.keep_alive)
            self.site.wheel.add(
                self, self._next_look(self.site.wheel.now())
            )  # while paused, stream deadlines were not checked
            self._schedule()

    # -- what the client sends -----------------------------------------------------------------------------------------

    def _on_request(self, event: events.RequestReceived) -> None:
        number, ended = event.stream_id or 0, event.stream_ended is not None
        if self._state != "open":
            self._reset(number, frames.REFUSED_STREAM)
            return
        self._last = number
        options = self.site.options
        scheme = self.addresses()["scheme"].encode()
        try:
            head = read_head(event.headers or (), ended, scheme, options.max_header_fields, options.max_header_bytes)
        except Malformed as error:
            self._break_rule(number, error)
            return
        except BadRequest as error:
            head = RequestHead()
            head.method = head.path = "-"
            head.version = "2"
            self._open(number, head).refuse(error)
            return
        stream = self._open(number, head)
        try:
            stream.begin_request(ended)
        except BadRequest as error:
            stream.refuse(error)
        else:
            if head.expects_continue:
                self._h2.send_headers(number, [(b":status", b"100")])

    def _open(self, number: int, head: RequestHead) -> Stream:
        stream = self._streams[number] = Stream(self, number, head)
        return stream

    def _on_data(self, event: events.DataReceived) -> None:
        number = event.stream_id or 0
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, number)
        stream = self._streams.get(number)
        if stream is not None:
            try:
                stream.receive(event.data or b"")
            except BadRequest as error:
                stream.refuse(error)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers or ())
        except Malformed as error:
            self._break_rule(event.stream_id or 0, error)

    def _on_end(self, event: events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id or 0)
        if stream is None:
            return
        stream.request_ended = True
        if stream.state == "body":
            stream.due = None
            if self._paused or self.waiting > HOLD:
                stream.state = "held"
                self._held.append(stream)
            else:
                stream.dispatch()

    def _on_reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:  # by h2, for an error of the client's; its own resets are counted as they come
            self._frames.count_reset(self.site.wheel.now())
        self._forget(event.stream_id or 0)

    def _on_window(self, event: events.WindowUpdated) -> None:
        if event.stream_id:
            stream = self._streams.get(event.stream_id)
            if stream is not None and stream.waiting:
                self.has_work(stream)

    def _on_settings(self, event: events.RemoteSettingsChanged) -> None:
        encoder = self._h2.encoder
        if encoder.header_table_size > MAX_TABLE:
            encoder.header_table_size = MAX_TABLE
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            for stream in self._streams.values():
                if stream.waiting:
                    self.has_work(stream)

    def _break_rule(self, number: int, error: Malformed) -> None:
        """A stream error (RFC 9113 section 5.4.2)."""
        self.site.count_refusal("bad request", error, self.addresses()["client"])
        self._reset(number, frames.PROTOCOL_ERROR)
        self._forget(number)
        self._frames.count_reset(self.site.wheel.now())

    # -- called by the streams -----------------------------------------------------------------------------------------

    def has_work(self, stream: Stream) -> None:
        """A stream has something to send."""
        if not stream.queued:
            stream.queued = True
            self._work.append(stream)
        self._schedule()

    def break_off(self, stream: Stream) -> None:
        """An answer cannot be finished."""
        if stream.state != "closed":
            self._reset(stream.number, frames.INTERNAL_ERROR)
            self._forget(stream.number)
            self._schedule()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.site.bridge.post(self._pump)

    def _pump(self) -> None:
        """Send what waits, then dispatch requests that were held back."""
        try:
            self._take_turns()
        except Exception:  # else nothing would ever be sent again
            _log.failure("error in the HTTP/2 connection of {client}", client=self.addresses()["client"])
            self.abort()
            return
        self._scheduled = False
        while self._held and not self._paused and self.waiting <= HOLD:
            stream = self._held.popleft()
            if stream.state == "held":
                stream.dispatch()
        if self._state == "leaving" and not self._streams:
            self._close()

    def _take_turns(self) -> None:
        """Let the streams send in turn, as long as there is room."""
        self._scheduled = True  # has_work, called from here, needs no further turn
        work, full = self._work, []
        while work and not self._paused and self._state in ("open", "leaving"):
            stream = work.popleft()
            if stream.state != "closed" and self._send(stream):
                if self._h2.outbound_flow_control_window > 0:
                    work.append(stream)
                else:  # it keeps its place, and those behind it that have no data to send get their turn
                    full.append(stream)
            else:
                stream.queued = False
            if self._unflushed >= FLUSH:
                self._flush()
        work.extendleft(reversed(full))
        self._flush()

    def _send(self, stream: Stream) -> bool:
        """Send a stream's next frame; return whether there is more, and its window has room."""
        state, number = self._h2, stream.number
        if stream.fields is not None:
            fields, stream.fields = stream.fields, None
            bare = stream.ended and not stream.waiting
            state.send_headers(number, fields, end_stream=bare)
            if bare:
                self._stream_sent(stream)
                return False
        if stream.waiting:
            # The connection's window is part of this.
            room = state.local_flow_control_window(number)
            if room <= 0:
                return state.outbound_flow_control_window <= 0
            data = stream.take(min(room, frames.MAX_FRAME_BYTES))
            last = stream.ended and not stream.waiting
            state.send_data(number, data, end_stream=last)
            self._frames.sent(len(data))
            self._unflushed += len(data)
            if last:
                self._stream_sent(stream)
                return False
            stream.make_room()
        elif stream.ended:
            state.end_stream(number)
            self._stream_sent(stream)
            return False
        return bool(stream.state != "closed" and (stream.waiting or stream.ended))

    def _stream_sent(self, stream: Stream) -> None:
        if not stream.request_ended:
            # The rest of the request is not needed (RFC 9113 section 8.1).
            self._reset(stream.number, frames.NO_ERROR)
        self._forget(stream.number)

    def _reset(self, number: int, code: int) -> None:
        try:
            self._h2.reset_stream(number, code)
        except ProtocolError:
            pass  # it is closed already

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.close()
        if not self._streams:
            self.set_deadline(self.site.options.keep_alive)
            self._schedule()

    def _flush(self) -> None:
        self._unflushed = 0
        data = self._h2.data_to_send()
        if data:
            self.transport.write(data)

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        idle = self._state == "open" and not self._streams
        self._leave()
        if idle:
            self._close_idle()
        else:
            for stream in list(self._streams.values()):
                if stream.exchange is not None:
                    stream.exchange.drain()
            self._schedule()

    def _leave(self, code: int = frames.NO_ERROR) -> None:
        """Take no more streams (RFC 9113 section 6.8)."""
        if self._state == "open":
            self._state = "leaving"
            self._flush()
            # Not by h2, which would take the connection for closed.
            self.transport.write(goaway(self._last, code))

    def _end(self, violation: Violation) -> None:
        kind = "slow request" if violation.code == frames.NO_ERROR else "bad request"
        self.site.count_refusal(kind, violation.reason, self.addresses()["client"])
        self._state = "open"
        self._leave(violation.code)
        self._close()

    def _close(self) -> None:
        if self._state in ("closing", "closed"):
            return
        self._flush()
        self._drop_streams()
        self._finish()

    def _drop_streams(self) -> None:
        streams, self._streams = self._streams, {}
        self._work.clear()
        self._held.clear()
        for stream in streams.values():
            stream.close()

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def _finish_by(self) -> float:
        """When the client must have finished what it has begun."""
        options = self.site.options
        seconds: float = options.header_timeout if self._frames.unfinished == "head" else options.body_timeout
        return self._begun + seconds

    def on_tick(self, now: float) -> float | None:
        if self._state == "closed":
            return None
        if self._state == "closing" or self._paused:
            if now < self._deadline:
                return self._deadline
            if self._state != "closing":
                self.site.count_refusal("slow reader", "an answer was not read in time", self.addresses()["client"])
            self.abort()
            return None
        if self._frames.unfinished and now >= self._finish_by():
            self._end(Violation("a frame took too long", frames.NO_ERROR))
        elif not self._streams and now >= self._deadline:
            self._leave()
            self._close()
        else:
            for stream in list(self._streams.values()):
                if stream.due is not None and now >= stream.due:
                    self._stream_late(stream)
        return self._next_look(now)

    def _next_look(self, now: float) -> float:
        dues = [stream.due for stream in self._streams.values() if stream.due is not None]
        if self._frames.unfinished and self._state != "closing":
            dues.append(self._finish_by())
        if not self._streams or self._state == "closing":
            dues.append(self._deadline)
        # All that comes later is added when it comes.
        return min(dues, default=now + self.site.options.keep_alive)

    def _stream_late(self, stream: Stream) -> None:
        stream.due = None
        exchange = stream.exchange
        if stream.state == "body":
            stream.refuse(BadRequest("the request body took too long", 408))
        elif exchange is not None and exchange.state == "waiting":
            exchange.late()
        else:
            self.site.count_refusal("slow reader", "an answer was not read in time", self.addresses()["client"])
            self._reset(stream.number, frames.CANCEL)
            self._forget(stream.number)
            self._schedule()


_HANDLERS: dict[type[events.Event], Callable[[HTTP2Connection, Any], None]] = {
    events.RequestReceived: HTTP2Connection._on_request,
    events.DataReceived: HTTP2Connection._on_data,
    events.TrailersReceived: HTTP2Connection._on_trailers,
    events.StreamEnded: HTTP2Connection._on_end,
    events.StreamReset: HTTP2Connection._on_reset,
    events.WindowUpdated: HTTP2Connection._on_window,
    events.RemoteSettingsChanged: HTTP2Connection._on_settings,
}
