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
from collections.abc import Callable, Iterable
from typing import Any

from h2 import events
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.logger import Logger
from twisted.python.failure import Failure

from channelserver.server.common.continuations import BULK
from channelserver.server.common.transport import Transport
from channelserver.server.http.base import Connection
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.ready import Ready, Served
from channelserver.server.http2 import frames
from channelserver.server.http2.frames import FrameReader, Violation, goaway
from channelserver.server.http2.head import KnownFields, Malformed, check_trailers, read_head
from channelserver.server.http2.kept import IDLE_BYTES, Kept
from channelserver.server.http2.queue import HOLD, RequestQueue
from channelserver.server.http2.state import Block, max_header_list, new_state
from channelserver.server.http2.stream import Fields, Stream
from channelserver.server.http2.uploads import LOOK_SECONDS, Uploads
from channelserver.server.site import Site

_log = Logger("channelserver.server.http2")

#: Bytes written to the transport at a time.
FLUSH = 64 * 1024
#: Bytes written to a transport that is full, as answers to pings and the like; with more, nothing is read.
BACKLOG = 64 * 1024
#: Frames handled in one turn of the reactor; a request counts as several, and as fewer if it is answered from memory.
FRAMES_A_TURN, FRAMES_A_REQUEST, FRAMES_A_FILE = 32, 8, 2
#: A request that the reactor answers by itself and nobody logs (health) counts as so many pings.
QUIET_WEIGHT = 20


class HTTP2Connection(Connection):
    """The protocol of one connection."""

    __slots__ = (
        "_backlog", "_begun", "_frames", "_frames_left", "_h2", "_known", "_last", "_reading", "_scheduled", "_streams",
        "_turn", "_unfinished_turn", "_unflushed", "_work", "dispatcher", "memory", "requests", "uploads", "waiting",
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
        self._known = KnownFields()
        self._state = "open"
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the last stream that was opened
        self._work: deque[Stream] = deque()  # streams with something to send
        #: What is kept for the client.
        self.memory = Kept()
        self.account.base += IDLE_BYTES
        self.account.enter(IDLE_BYTES)
        #: The complete requests.
        self.requests = RequestQueue()
        #: The windows for request bodies.
        self.uploads = Uploads(self._h2)
        self._reading = True  # we read from the transport
        self._unfinished_turn = False  # whole frames wait for a later turn of the reactor
        self._turn, self._frames_left = 0.0, FRAMES_A_TURN  # when the turn began; frames left in it
        self._backlog = 0  # bytes written since the transport is full
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
        if self._unfinished_turn:
            self._frames.keep(data)  # decrypted together with what is being handled
        elif self._state not in ("closing", "closed"):
            if len(data) > BULK and self.site.continuations.behind():
                self._frames.keep(data)
                self._put_off()
                self._read_on()
            else:
                self._receive(data)

    def _receive(self, data: bytes) -> None:
        now = self.site.wheel.now()
        if not self._frames.unfinished:
            self._begun = now
        turn = self.site.bridge.turn_began()
        # One read from the socket may bring hundreds of TLS records, each a call of this method.
        left = self._frames_left if turn == self._turn else FRAMES_A_TURN
        if left <= 0:
            self._frames.keep(data)
            self._put_off()
            self._read_on()
            return
        self._scheduled = True  # what is to be sent is sent below
        try:
            for kind, frame in self._frames.feed(data, now):
                if kind != frames.CONTINUATION:
                    self._begun = now
                left -= self._receive_frame(kind, frame, now)
                if self._state in ("closing", "closed"):
                    return
                if left <= 0:
                    break
        except Violation as violation:
            self._end(violation)
            return
        except ProtocolError as error:
            self.site.count_refusal("bad request", error, self.addresses()["client"])
            self._close()  # h2 has its GOAWAY ready
            return
        if left <= 0 and self._frames.has_whole:
            self._put_off()
        self.memory.unread = self._h2.decoder.weight
        if self._frames.unfinished:
            self.site.wheel.add(self, self._finish_by())
            self.memory.unread += self._frames.kept
        self._turn, self._frames_left = turn, left
        self._pump()
        if self._unfinished_turn or not self._reading:
            self._read_on()

    def _receive_frame(self, kind: int, frame: bytes, now: float) -> int:
        """Handle a frame; return as how many it counts."""
        state = self._h2
        if kind == frames.HEADERS:
            block = state.receive_request(frame)
            if block is not None:
                number = state.highest_inbound_stream_id
                if block.request is not None and self._serve(number, block.request):
                    return FRAMES_A_FILE
                state.open_stream(number)
                self._begin_request(number, block.fields, True, block)
                self._end_request(number)
                return FRAMES_A_REQUEST
        elif kind == frames.DATA:
            part = state.receive_part(frame)
            if part is not None:
                number, data, ended = part
                self._receive_part(number, data, len(data), ended)
                if ended:
                    self._end_request(number)
                return 1
        elif kind == frames.WINDOW_UPDATE:
            opened = state.receive_window(frame)
            if opened is not None:
                self._window_opened(opened)
                return 1
        elif kind == frames.GOAWAY:
            self._leave()  # the client still waits for its answers; h2 would close the connection
            return 1
        elif kind == frames.SETTINGS:
            frame = frames.known_settings(frame)
        happened = state.receive_data(frame)
        for event in happened:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)
        if not happened:
            self._frames.count_ignored(kind, frame, now)
        return FRAMES_A_REQUEST if kind == frames.HEADERS else 1

    def _put_off(self) -> None:
        """Handle further frames in a later turn."""
        self._unfinished_turn = True
        self.site.continuations.add(self.peer, self._go_on)

    def _go_on(self) -> None:
        """Handle further frames that came in an earlier turn."""
        self._unfinished_turn = False
        self._frames_left = FRAMES_A_TURN
        self.dataReceived(b"")

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
        self._backlog = 0
        self._read_on()
        if self._state != "closing":
            self.set_deadline(self.site.options.keep_alive)
            self.site.wheel.add(
                self, self._next_look(self.site.wheel.now())
            )  # while paused, stream deadlines were not checked
            self._schedule()

    # -- what the client sends -----------------------------------------------------------------------------------------

    def _on_request(self, event: events.RequestReceived) -> None:
        self._begin_request(event.stream_id or 0, event.headers or (), event.stream_ended is not None)

    def _begin_request(
        self, number: int, fields: Iterable[tuple[bytes, bytes]], ended: bool, block: Block | None = None
    ) -> None:
        if self._state != "open":
            self._reset(number, frames.REFUSED_STREAM)
            self._frames.count_reset(self.site.wheel.now())
            return
        self._last = number
        self._frames.count_request()
        options = self.site.options
        scheme = self.addresses()["scheme"].encode()
        most = options.max_header_fields, options.max_header_bytes
        try:
            if block is not None and block.request is not None:
                head = block.request.head.again()
            else:
                head = read_head(fields, ended, scheme, *most, self._known)
                if block is not None:
                    block.request = _Request(head.again())
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

    def _serve(self, number: int, request: _Request) -> bool:
        """Answer a request that has come before from memory, if it can be done now; return whether it was."""
        dispatcher, ready = self.dispatcher, request.ready
        if self._state != "open" or self._paused or self._work or self.memory.full_until is not None:
            return False
        if ready is None or not dispatcher.still_ready(ready):
            request.ready = ready = dispatcher.ready(request.head)
            if ready is None:
                return False
            try:
                request.client = dispatcher.admit(request.head.again(), self.addresses(), self.peer)["client"]
            except BadRequest:
                request.ready = None
                return False
        if not self._h2.send_ready(number, ready.fields(self.site.date_field(), self.hsts), ready.body()):
            return False
        self._last = number
        self._frames.count_request()
        self._frames.sent(ready.size)
        if not self._streams:
            self.set_deadline(self.site.options.keep_alive)
        if self.site.access_log.wanted:
            self.site.access_log.http(Served(request.head, request.client, ready.size), 0.0)
        self._unflushed += ready.size
        if self._unflushed >= FLUSH:
            self._flush()
        return True

    def _open(self, number: int, head: RequestHead) -> Stream:
        stream = self._streams[number] = Stream(self, number, head)
        return stream

    def _on_data(self, event: events.DataReceived) -> None:
        size, ended = event.flow_controlled_length or 0, event.stream_ended is not None
        self._receive_part(event.stream_id or 0, event.data or b"", size, ended)

    def _receive_part(self, number: int, data: bytes, size: int, ended: bool) -> None:
        self.uploads.received(size)
        stream = self._streams.get(number)
        if stream is not None:
            try:
                stream.receive(data, size, ended)
            except BadRequest as error:
                stream.refuse(error)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers or ())
        except Malformed as error:
            self._break_rule(event.stream_id or 0, error)

    def _on_end(self, event: events.StreamEnded) -> None:
        self._end_request(event.stream_id or 0)

    def _end_request(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.request_ended = True
        if stream.state == "body":
            stream.due = None
            self.requests.add(stream)

    def _on_reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:  # by h2, for an error of the client's; its own resets are counted as they come
            self._frames.count_reset(self.site.wheel.now())
        self._forget(event.stream_id or 0)

    def _on_window(self, event: events.WindowUpdated) -> None:
        self._window_opened(event.stream_id or 0)

    def _window_opened(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None and stream.waiting:
            self.has_work(stream)

    def _on_settings(self, event: events.RemoteSettingsChanged) -> None:
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

    def send_whole(self, number: int, fields: Fields, body: bytes) -> bool:
        """Send a whole answer if the client takes it at once; return whether it was sent. It ends the stream."""
        if self._paused or self._state not in ("open", "leaving") or not self._h2.send_whole(number, fields, body):
            return False
        self._frames.sent(len(body))
        self._unflushed += len(body)
        if self._unflushed >= FLUSH:
            self._flush()
        self._forget(number)
        self._schedule()
        return True

    def count_quiet(self) -> None:
        """A request for the health has been answered, which costs the client nothing."""
        try:
            self._frames.count_chatter(self.site.wheel.now(), QUIET_WEIGHT)
        except Violation as violation:
            self.site.bridge.post(self._end_soon, violation)

    def _end_soon(self, violation: Violation) -> None:
        if self._state in ("open", "leaving"):
            self._end(violation)

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
        if self.requests.waiting:
            self.requests.go_on()
        if self.uploads.waiting:
            self.uploads.go_on(self.site.wheel.now())
            self._flush()
        if self.memory.has_changed:
            self.memory.enter(self.site.wheel.now())
            self.account.weigh()
            if self.memory.full_until is not None:
                self.site.wheel.add(self, self.memory.full_until)
            self._read_on()
        if self._state == "leaving" and not self._streams and not self._paused:  # else the client has answers to read
            self._close()

    def kept(self) -> int:
        flows = [stream.exchange.flow for stream in self._streams.values() if stream.exchange is not None]
        return super().kept() + self.memory.size + sum(flow.held for flow in flows if flow is not None)

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
        """Send a stream's next frame, or frames; return whether there is more, and its window has room."""
        state, number = self._h2, stream.number
        if stream.fields is not None:
            fields, stream.fields = stream.fields, None
            bare = stream.ended and not stream.waiting
            state.send_head(number, fields, bare)
            if bare:
                self._stream_sent(stream)
                return False
        if stream.waiting:
            while stream.waiting:
                # The connection's window is part of this.
                room = state.local_flow_control_window(number)
                if room <= 0:
                    return state.outbound_flow_control_window <= 0
                try:
                    data = stream.take(min(room, frames.MAX_FRAME_BYTES))
                except OSError as error:
                    text = f"cannot be read: {error}"
                    self.site.count_refusal("answer not stored", text, self.addresses()["client"])
                    self.break_off(stream)
                    return False
                last = stream.ended and not stream.waiting
                state.send_part(number, data, last)
                self._frames.sent(len(data))
                self._unflushed += len(data)
                if last:
                    self._stream_sent(stream)
                    return False
                if self._work or self._unflushed >= FLUSH:  # else nobody else has anything to send
                    break
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
            if self._paused:
                self._backlog += len(data)
                self._read_on()
            self.transport.write(data)

    def _read_on(self) -> None:
        """Read from the transport, unless there is enough to do."""
        wanted = self._state == "closing" or (
            not self._unfinished_turn and self._backlog <= BACKLOG and self.memory.full_until is None
        )
        if wanted != self._reading and self._state != "closed":
            self._reading = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def has_room(self) -> bool:
        """Whether the client takes its answers, so that further requests can be dispatched."""
        answers = self.memory.answers
        return not self._paused and self.waiting + (answers.waiting if answers.whole else 0) <= HOLD

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        idle = self._state == "open" and not self._streams and not self._paused
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
        self._read_on()

    def _drop_streams(self) -> None:
        streams, self._streams = self._streams, {}
        self._work.clear()
        self.requests.clear()
        self.uploads.waiting.clear()
        for stream in streams.values():
            stream.close()
        self.memory.answers.whole.clear()

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
        full_until = self.memory.full_until
        if full_until is not None and now >= full_until:
            self._end(Violation(f"{self.memory.size} bytes were kept for it", frames.ENHANCE_YOUR_CALM))
        elif self._frames.unfinished and now >= self._finish_by():
            self._end(Violation("a frame took too long", frames.NO_ERROR))
        elif not self._streams and now >= self._deadline:
            self._leave()
            self._close()
        else:
            for stream in list(self._streams.values()):
                if stream.due is not None and now >= stream.due:
                    self._stream_late(stream)
            self._pump()  # some requests and bodies wait for time to pass
            self._read_on()
        return self._next_look(now)

    def _next_look(self, now: float) -> float:
        dues = [stream.due for stream in self._streams.values() if stream.due is not None]
        if self._frames.unfinished and self._state != "closing":
            dues.append(self._finish_by())
        if not self._streams or self._state == "closing":
            dues.append(self._deadline)
        if self.requests.due is not None:
            dues.append(self.requests.due)
        if self.uploads.waiting:
            dues.append(now + LOOK_SECONDS)
        if self.memory.full_until is not None:
            dues.append(self.memory.full_until)
        # All that comes later is added when it comes.
        return min(dues, default=now + self.site.options.keep_alive)

    def _stream_late(self, stream: Stream) -> None:
        stream.due = None
        exchange = stream.exchange
        if stream.state == "body":
            stream.refuse(BadRequest("the request body took too long", 408))
        elif exchange is not None and exchange.state == "waiting":
            exchange.late()
        elif not stream.progressed():
            self.site.count_refusal("slow reader", "an answer was not read in time", self.addresses()["client"])
            self._reset(stream.number, frames.CANCEL)
            self._forget(stream.number)
            self._schedule()


class _Request:
    """A request of a connection that comes again and again, in the same block of header fields.

    :param head: its head; each request gets a copy.
    """

    __slots__ = ("client", "head", "ready")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        #: The answer, if it is in memory, and whom it is for.
        self.ready: Ready | None = None
        self.client: Any = None


_HANDLERS: dict[type[events.Event], Callable[[HTTP2Connection, Any], None]] = {
    events.RequestReceived: HTTP2Connection._on_request,
    events.DataReceived: HTTP2Connection._on_data,
    events.TrailersReceived: HTTP2Connection._on_trailers,
    events.StreamEnded: HTTP2Connection._on_end,
    events.StreamReset: HTTP2Connection._on_reset,
    events.WindowUpdated: HTTP2Connection._on_window,
    events.RemoteSettingsChanged: HTTP2Connection._on_settings,
}
