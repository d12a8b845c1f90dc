"""The sending side of a WebSocket: frames to one client, at its pace.

Runs in the reactor thread; part of its WebSocket.
"""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IWriteDescriptor

from channelserver.layers.content import Content
from channelserver.layers.losses import Reason
from channelserver.server.common.account import Account
from channelserver.server.common.sending import OBJECT_BYTES, SocketSend
from channelserver.server.common.transport import Transport
from channelserver.server.websocket import deflate, frames
from channelserver.server.websocket.frames import CloseCode, Opcode

if TYPE_CHECKING:
    from channelserver.server.site import Site

#: Bytes given to the transport at a time when a slow client reads again.
REFILL = 64 * 1024
#: While more bytes wait for the client, nothing is read from it.
HOLD = 512 * 1024
#: Seconds for the client to answer a close frame.
CLOSE_SECONDS = 5.0


class Wire(Protocol):
    """What a WebSocket asks of the HTTP connection that carries it."""

    site: Site
    peer: str | None
    transport: Transport
    account: Account

    def write(self, data: bytes) -> object: ...
    def socket_send(self) -> SocketSend | None: ...
    def reading(self, wanted: bool) -> None: ...
    def forget_head(self) -> None: ...
    def refuse_upgrade(self, status: int, text: str, answer: Content | None = None) -> None: ...
    def close_socket(self) -> None: ...
    def abort(self) -> None: ...


class _FanOutFields:
    """What a message to a group reads of each of its sockets.

    The fields of a base class come first in memory, so these share a cache line. In a large group the time goes into
    cache misses.
    """

    __slots__ = ("_deflate", "_sent", "_socket_send", "_state", "paused")


class Outgoing(_FanOutFields):
    """What a WebSocket sends, and what waits to be sent.

    :param wire: the connection it has to itself.
    :param path: of the handshake, for the log.
    """

    __slots__ = (
        "_blocked", "_close_code", "_close_reason", "_due", "_packing", "_paused_at", "_ping_owed", "_pinged", "_pong",
        "_waiting", "_waiting_bytes", "path", "site", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, path: str) -> None:
        self.wire = wire
        self.site = wire.site
        self.path = path
        self._state = "waiting"
        self._deflate: deflate.Agreement | None = None
        self._sent = 0
        #: None while bytes wait in the transport, which nothing may overtake.
        self._socket_send: SocketSend | None = None
        #: The transport's buffer is full, or a long frame is being compressed; further frames wait here.
        self.paused = False
        self._packing = False  # _pack_later() will be called
        self._waiting: deque[bytes | deflate.Deflated] | None = None
        self._waiting_bytes = 0
        #: Nothing is parsed: the handshake is held, the layer has no room, or too much waits to be sent.
        self._blocked = True
        self._paused_at: float | None = None  # None: the transport's buffer is not full
        self._due: float = 0.0
        self._close_code: int | None = None
        self._close_reason: str | None = None  # while our close frame has still to be sent
        self._pinged: float | None = None
        self._ping_owed = False  # due while the client did not read; sent when it reads again
        self._pong: bytes | None = None  # waits until the client reads

    def close(self, code: int, reason: str = "") -> None:
        raise NotImplementedError

    def send_frame(self, frame: bytes, deflated: deflate.Deflated | None) -> bool:
        """Send an encoded frame; return False if the handshake is still held, so that the reply decides on it.

        :param deflated: the compressed forms of the frame; None if compression does not pay off.
        """
        if self._state != "open":
            return self._state != "waiting"
        if deflated is not None and self._deflate is not None:
            form = deflated.form(self._deflate.window)
            if form is None and not self.site.memory.fills():
                self._sent += 1
                self._let_wait(deflated)
                return True
            frame = form if form is not None else deflated.whole(self._deflate.window)
        self._sent += 1
        if not self.paused:
            socket_send = self._socket_send
            if socket_send is not None:  # inlined sending.send(): a call would cost a group 4 % of its deliveries
                try:
                    taken = socket_send(frame)
                except OSError:  # the buffer is full; or the socket is closed, which the reactor notices, too
                    taken = 0
                if taken == len(frame):
                    return True
                frame = frame[taken:]
            self._write(frame)
            return True
        self._let_wait(frame)
        return True

    def _let_wait(self, frame: bytes | deflate.Deflated) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(frame)
        self._enter(frame)
        if not self.paused:
            self._pack()
        if self._waiting_bytes > HOLD or self._waiting_bytes > self.site.options.send_buffer_bytes:
            self._hold_back()

    def _pack(self) -> None:
        """Compress a piece of the frame that waits first, in a later turn of the reactor."""
        self.paused = True
        if not self._packing:
            self._packing = True
            self.site.continuations.add(self.wire.peer, self._pack_later)

    def _pack_later(self) -> None:
        self._packing = False
        if self._waiting:
            self._go_on(self._waiting[0])
            if self._state == "closing":
                self._due = self.site.wheel.now() + CLOSE_SECONDS  # that is the client's time, not ours
        if self._paused_at is None:
            self._hand_over()

    def _go_on(self, frame: bytes | deflate.Deflated) -> None:
        if not isinstance(frame, bytes) and self._deflate is not None:
            frame.go_on(self._deflate.window)

    def _form(self, frame: bytes | deflate.Deflated) -> bytes | None:
        """Return a frame as this socket gets it; None: it is not compressed yet."""
        if isinstance(frame, bytes):
            return frame
        assert self._deflate is not None
        return frame.form(self._deflate.window)

    def _enter(self, frame: bytes | deflate.Deflated) -> None:
        """Enter a frame that waits into the account."""
        data = frame if isinstance(frame, bytes) else frame.frame
        self._waiting_bytes += len(data) + OBJECT_BYTES
        self.wire.account.share(data)

    def _leave(self, frame: bytes | deflate.Deflated) -> None:
        data = frame if isinstance(frame, bytes) else frame.frame
        self._waiting_bytes -= len(data) + OBJECT_BYTES
        self.wire.account.unshare(data)

    def _hold_back(self) -> None:
        """Much waits: read nothing more from the client; if it is too much, end."""
        most = self.site.options.send_buffer_bytes
        while self._waiting_bytes > most:
            if self._shrink():
                pass
            elif self._paused_at is None:
                self._hand_over()
            elif not self._flush() and self._waiting_bytes > most:
                self._overflow()
                return
        if not self._blocked and self._waiting_bytes > HOLD:
            self._block()

    def _shrink(self) -> bool:
        """Compress a frame that waits, at once, because what counts is what the client has still to read.

        :returns: whether there was one.
        """
        waiting = self._waiting if self._waiting is not None and self._deflate is not None else ()
        place = next((place for place, frame in enumerate(waiting) if isinstance(frame, deflate.Deflated)), None)
        if self._waiting is None or place is None:
            return False
        frame = self._waiting[place]
        assert self._deflate is not None and isinstance(frame, deflate.Deflated)
        form = frame.whole(self._deflate.window)
        self._leave(frame)
        self._enter(form)
        self._waiting[place] = form
        return True

    def _block(self) -> None:
        """Parse and read nothing more, until :meth:`unblock` finds that there is room."""
        self._blocked = True
        self.wire.reading(False)

    def unblock(self) -> None:
        """Read on, if nothing stands in the way."""
        raise NotImplementedError

    def pause(self) -> None:
        """The transport's buffer is full."""
        self.paused = True
        self._paused_at = self.site.wheel.now()
        self.site.wheel.add(self, self._paused_at + self.site.options.http_timeout)

    def on_tick(self, now: float) -> float | None:
        raise NotImplementedError

    def _drop_waiting(self) -> None:
        """Send nothing of what waits."""
        waiting, self._waiting = self._waiting, None
        for frame in waiting or ():
            self._leave(frame)

    def _write(self, data: bytes) -> None:
        """Send bytes, after all that waits."""
        self.wire.write(data)
        self._socket_send = self.wire.socket_send()

    def _flush(self) -> bool:
        """Give the kernel what it accepts: within one turn of the reactor a fast client can seem slow.

        :returns: whether the transport's buffer has room now.
        """
        transport = IWriteDescriptor(self.wire.transport, None)
        if transport is not None:
            room = select.poll()
            room.register(transport.fileno(), select.POLLOUT)
            writable = [(transport.fileno(), select.POLLOUT)]
            while self._paused_at is not None and room.poll(0) == writable and not transport.doWrite():
                pass  # when it has written all it holds, it calls drained()
        return self._paused_at is None

    def _overflow(self) -> None:
        self.site.throttled_log.count(
            "slow reader",
            f"{self.path!r}: closed with 1013, the client does not read: {self._waiting_bytes} bytes were waiting",
        )
        self.site.layer.drops.record(Reason.SLOW_READER, "websocket.send", len(self._waiting or ()))
        self._drop_waiting()
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        self.unblock()

    def drained(self) -> None:
        """The transport accepts bytes again."""
        self._paused_at = None
        if not self._packing:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the transport what waits."""
        self.paused = False
        pong, self._pong = self._pong, None
        if pong is not None and self._state == "open":
            self._write(frames.encode_frame(Opcode.PONG, pong))
        if self._ping_owed and self._pinged is not None and self._state == "open":
            self._pinged = self._ping(self.site.wheel.now())
        while self._waiting and not self.paused:
            parts, size = [], 0
            while self._waiting and size < REFILL and (form := self._form(self._waiting[0])) is not None:
                self._leave(self._waiting.popleft())
                parts.append(form)
                size += len(form)
            if parts:
                self._write(b"".join(parts))
            else:
                self._pack()
        if not self._waiting:
            self._waiting = None
            if self._state == "closing":
                self._send_close()
        if self._blocked:
            self.unblock()

    def _send_close(self) -> None:
        reason, self._close_reason = self._close_reason, None
        if reason is not None:  # else it has been sent
            self._write(frames.encode_close(self._close_code, reason))

    def _ping(self, now: float) -> float:
        self._ping_owed = self.paused
        if not self.paused:
            self._write(frames.encode_frame(Opcode.PING, b""))
        return now
