"""One WebSocket: its handshake, what the client sends, replies, and its end.

Runs in the reactor thread; owned by its connection.

The states, and what may follow:

=======  ======================================================  =============================
state    meaning                                                 followed by
=======  ======================================================  =============================
waiting  the handshake is held; ``websocket.connect`` is with a  open (accepted), done (refused
         consumer                                                or left)
open     frames flow both ways                                   closing, done
closing  a close frame was sent or received; nothing but the     done
         other one is waited for
done     ``websocket.disconnect`` was sent if it ever was open
=======  ======================================================  =============================
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Any

from twisted.logger import Logger

from channelserver.layers.base import FAILED
from channelserver.layers.content import Content
from channelserver.layers.losses import Reason
from channelserver.layers.reply import acceptance_fields, reason_of, refusal
from channelserver.layers.turns import Client
from channelserver.layers.waiting import SMALL as SMALL_VALUE
from channelserver.server.common.account import SMALL
from channelserver.server.common.bucket import Bucket
from channelserver.server.common.continuations import BULK
from channelserver.server.common.sending import OBJECT_BYTES
from channelserver.server.http.http1 import RequestHead
from channelserver.server.websocket import deflate, frames
from channelserver.server.websocket.frames import CloseCode, Opcode
from channelserver.server.websocket.handshake import (
    check_handshake,
    choose_protocol,
    connect_message,
    handshake_response,
    offered_protocols,
)
from channelserver.server.websocket.outgoing import CLOSE_SECONDS, HOLD, REFILL, Outgoing, Wire

_log = Logger("channelserver.server.websocket")
# Most lines of this level are switched off: ``logging`` knows so within 0.1 µs.
_debug = logging.getLogger("channelserver.server.websocket").debug

_BUSY = "The server is busy; try again later."
#: Bytes parsed at a time, if there are more: compressed ones may expand a thousandfold and fill the channel, and others
#: may be hundreds of frames, after which the rest waits for the next turn of the reactor.
SLICE = 1024
#: So many bytes of a client that may compress are as much work as :data:`BULK` of another.
PACKED_BULK = 256
#: When so many bytes of content have been read at once, the rest waits for a later turn.
CONTENT = 256 * 1024
#: Pings that come together and are answered each; of more, the latest is (RFC 6455 section 5.5.3).
PINGS = 10
#: Pings and pongs of a client: so many at once, and so many a second.
CHATTER_BURST, CHATTER_PER_SECOND = 2000, 200.0

#: The ping of the JavaScript client, after a silence, and its answer: a script cannot send the protocol's own pings.
SCRIPT_PING, SCRIPT_PONG = "\0ping", frames.encode_frame(Opcode.TEXT, b"\0pong")
#: When a message of so many bytes has come, the next one is read only if another would fit.
LARGE = 64 * 1024


class WebSocket(Outgoing):
    """One WebSocket.

    :param wire: the connection it has to itself from now on.
    :param addresses: ``client``, ``server`` and ``scheme`` for the message.
    """

    __slots__ = (
        "_addresses", "_chatter", "_continues", "_head", "_held", "_held_bytes", "_last_received", "_order",
        "_reader", "_received", "_unread", "began", "client", "name",
    )  # fmt: skip

    def __init__(self, wire: Wire, head: RequestHead, addresses: dict[str, Any]) -> None:
        super().__init__(wire, head.path)
        self.name = ""
        self._head: RequestHead | None = head
        self._addresses = addresses
        client = addresses["client"]
        #: Address and port, for the queues.
        self.client: Client = (client[0], client[1]) if client else None
        self._reader: frames.FrameReader | None = frames.FrameReader(self.site.options.max_message_bytes)
        self._unread = b""  # received, but not yet parsed
        self._continues = False  # _continue() goes on with it in the next turn
        self._chatter: Bucket | None = None
        self._order = 0
        # Messages for which the layer had no room, and their size. Texts are UTF-8, which takes less.
        self._held: deque[tuple[str, bytes]] | None = None
        self._held_bytes = 0
        self._last_received: float = self.site.wheel.now()
        self.began = self._last_received
        self._received = 0

    # -- handshake -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the handshake.

        :raises BadRequest: it is malformed or refused.
        """
        assert self._head is not None
        self._deflate = check_handshake(self._head, self.site)

    def begin(self, data: bytes) -> None:
        """Send ``websocket.connect`` to the application and wait for its answer.

        :param data: bytes received after the handshake.
        """
        head, site = self._head, self.site
        assert head is not None
        self._unread = data
        self.name = site.replies.add(site.replies.websocket_prefix, self)
        site.access_log.socket("handshake", self.path, self._addresses["client"], head)
        self._due = site.wheel.now() + site.options.connect_timeout
        site.wheel.add(self, self._due)
        if len(data) + head.weight > SMALL:
            self.wire.account.weigh()
        if not site.memory.has_room():
            site.count_refusal("memory is short", "a WebSocket was refused", self._addresses["client"])
            self._refuse(503, _BUSY)
        elif not site.submit("websocket.connect", connect_message(self.name, head, site, self._addresses)):
            self._refuse(503, _BUSY)

    def _accept(self, subprotocol: Any, fields: list[tuple[bytes, bytes]]) -> None:
        """Open the socket.

        :param fields: the application's header fields.
        """
        head = self._head
        assert head is not None
        chosen = choose_protocol(subprotocol, offered_protocols(head), self.site.options.ws_protocol, self.path)
        response = handshake_response(head, chosen, self._deflate, fields)
        if self._deflate is not None:
            self._reader = deflate.DeflateReader(self.site.options.max_message_bytes, self._deflate.client_window)
        self._state = "open"
        # An open socket may live for days: keep nothing of its handshake, here or in the connection.
        self._head = None
        self.wire.forget_head()
        self._write(response)
        self.site.access_log.socket("open", self.path, self._addresses["client"], head)
        now: float = self.site.wheel.now()
        self._last_received = now
        self._due = self._next_look(now)
        self.site.wheel.add(self, self._due)
        self.unblock()

    def _refuse(self, status: int, text: str, answer: Content | None = None) -> None:
        """Refuse the handshake.

        :param answer: the application's own; None: the status and the text.
        """
        self._state = "done"
        self._forget()
        self.site.replies.end_session(self.name)
        self.site.access_log.socket("refuse", self.path, self._addresses["client"], self._head, status=status)
        self.wire.refuse_upgrade(status, text, answer)

    # -- replies -------------------------------------------------------------------------------------------------------

    def reply(self, content: Content) -> None:
        """Act on a reply: data (``text``, ``bytes``); ``close`` and ``reason``; ``accept``, ``subprotocol`` and
        ``headers``, or for a refusal ``status``, ``headers`` and ``content``. Other keys are ignored.
        """
        text = content.get("text")
        if len(content) == 1 and type(text) is str and self._state == "open":  # as a rule
            frame = frames.encode_text(text)
            self.send_frame(frame, None if self._deflate is None else deflate.Deflated.of(frame))
            return
        data, close = content.get("bytes"), content.get("close")
        if (text is not None and not isinstance(text, str)) or (data is not None and not isinstance(data, bytes)):
            self._drop("a reply's text must be str and its bytes bytes")
            return
        if text is not None and data is not None:
            self._drop("a reply with both text and bytes")
            return
        if self._state == "waiting":
            if not self._decide(content, text is not None or data is not None, bool(close)):
                return
        if self._state != "open":
            return
        if not self._send_data(text, data) and not close and "accept" not in content:
            _debug("%r: a reply without text, bytes, close and accept", self.path)
        if close:
            self.close(_close_code(close, self.path), self._close_reason_of(content))

    group_reply = reply

    def _drop(self, why: str) -> None:
        """Count a reply that cannot be sent."""
        self.site.layer.drops.record(Reason.NOT_SENDABLE, "websocket.send", hint=f"{self.path!r}: {why}")

    def _send_data(self, text: str | None, data: bytes | None) -> bool:
        """Send a text, or else bytes; return False if there is neither."""
        frame = frames.encode_data(text, data)
        if frame is None:
            return False
        self.send_frame(frame, None if self._deflate is None else deflate.Deflated.of(frame))
        return True

    def _decide(self, content: Content, has_data: bool, close: bool) -> bool:
        """Act on a reply to a held handshake; return whether the socket is open now."""
        if FAILED in content:
            self._refuse(content[FAILED], "The application failed." if content[FAILED] >= 500 else "Not found.")
            return False
        try:
            if content.get("accept") is False or (close and not has_data and not content.get("accept")):
                answer = refusal(content)
                self._refuse(answer["status"] if answer else 403, "Access denied.", answer)
            elif content.get("accept") or has_data:
                self._accept(content.get("subprotocol"), acceptance_fields(content) if content.get("accept") else [])
                return True
        except ValueError as error:
            _log.error("cannot send the answer to {path!r}: {error}", path=self.path, error=error)
            self._refuse(500, "The application failed.")
        return False

    def _close_reason_of(self, content: Content) -> str:
        try:
            return reason_of(content)
        except ValueError as error:
            _log.error("{path!r}: closed without the reason: {error}", path=self.path, error=error)
            return ""

    # -- received ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._blocked or self._continues:
            # Clients may send only after the handshake (RFC 6455 section 4.1); a little from impatient ones is kept.
            # Else these bytes were under way when reading stopped.
            self._unread += data
            if len(self._unread) > REFILL:
                self.wire.reading(False)
            self.wire.account.weigh()
        elif len(data) > (BULK if self._deflate is None else PACKED_BULK) and self.site.continuations.behind():
            self._unread = data
            self._put_off()
            self.wire.account.weigh()
        elif len(data) <= SLICE or (self._deflate is None and self._in_frame(len(data))):
            self._take(data)
        else:
            self._unread = data
            self._read_on()

    def unblock(self) -> None:
        if self._held is None and self._waiting_bytes <= HOLD // 2 and self._state in ("open", "closing"):
            self._blocked = False
            self._read_on()

    def _in_frame(self, size: int) -> bool:
        """Whether the next `size` bytes are of the frame that has begun."""
        return self._reader is not None and self._reader.rest >= size

    def _read_on(self) -> None:
        """Parse what has been read already; then resume reading, if there is room."""
        content = 0
        while self._unread and not self._blocked and not self._continues:
            size = len(self._unread)
            if size > SLICE and (self._deflate is not None or not self._in_frame(size)):
                size = SLICE
            data, self._unread = self._unread[:size], self._unread[size:]
            size = self._take(data)
            content += size
            if (size < len(data) // 2 or content > CONTENT) and self._unread:
                self._put_off()  # mostly the heads of frames: as much work as a megabyte of others; or it expands
        if not self._blocked and not self._continues:
            self.wire.reading(True)

    def _put_off(self) -> None:
        """Parse what has been read in a later turn."""
        self._continues = True
        self.wire.reading(False)
        self.site.continuations.add(self.wire.peer, self._continue)

    def _continue(self) -> None:
        self._continues = False
        self._read_on()

    def kept(self) -> int:
        """Return how many bytes are kept for the client, without the frames that wait to be sent."""
        size = len(self._unread) + self._held_bytes
        if self._reader is not None:
            size += self._reader.kept()
        if self._head is not None:
            size += self._head.weight
        return size + (len(self._waiting) * OBJECT_BYTES if self._waiting else 0)

    def _take(self, data: bytes) -> int:
        """Act on the frames in `data`; return how many of its bytes are the content of messages, or more."""
        reader = self._reader
        if self._state == "done" or reader is None:
            return len(data)
        self._last_received = now = self.site.wheel.now()
        if self._pinged is not None:
            self._pinged = None
            self._due = self._next_look(now)
            self.site.wheel.add(self, self._due)
        text = reader.short_text(data)
        if text is not None and text != SCRIPT_PING:
            self._message("text", text)
            return len(data)
        begun = len(reader.message)
        events: list[frames.Event] = []
        error = None
        try:
            reader.feed(data, events)
        except frames.FrameError as caught:
            error = caught
        if len(events) == 1 and type(events[0]) is str and error is None and events[0] != SCRIPT_PING:
            self._message("text", events[0])
            return max(len(data), len(events[0]))
        size = chatter = 0
        pings: list[bytes] = []
        script_ping = False
        for event in events:
            if type(event) is str:
                if event == SCRIPT_PING:
                    script_ping = True
                    chatter += 1
                else:
                    size += len(event)
                    self._message("text", event)
            elif type(event) is bytes:
                size += len(event)
                self._message("bytes", event)
            elif isinstance(event, frames.Close):
                self._close_received(event.code)
                return size
            else:
                chatter += 1
                if isinstance(event, frames.Ping):
                    pings.append(event.data)
        if chatter and self._state == "open":
            self._answer(pings, script_ping, chatter, now)
        if error is not None:
            if self._state == "open":
                self._count("bad frame", f"closed with {error.code}: {error.reason}")
                self.close(error.code, error.reason)
            self._finish()
        if reader.message:
            self.wire.account.weigh()
        return size + len(reader.message) - begun

    def _answer(self, pings: list[bytes], script_ping: bool, chatter: int, now: float) -> None:
        """Answer the pings that have come together.

        :param script_ping: whether there were some of a script.
        :param chatter: how many there were, pongs included; a client that sends too many is disconnected.
        """
        if self._chatter is None:
            self._chatter = Bucket(CHATTER_BURST, CHATTER_PER_SECOND, now)
        if not self._chatter.take(now, chatter):
            self._count("chatter", "closed with 1008: too many pings or pongs")
            self.close(CloseCode.POLICY_VIOLATION, "too many pings or pongs")
            self._finish()  # what else it sends is not parsed
            return
        if pings and self.paused:
            self._pong = pings[-1]
        elif pings:
            answered = pings if len(pings) <= PINGS else pings[-1:]
            self._write(b"".join(frames.encode_frame(Opcode.PONG, data) for data in answered))
        if script_ping and not self.paused:  # else other data is on its way
            self._write(SCRIPT_PONG)

    def _message(self, kind: str, data: str | bytes) -> None:
        if self._state != "open":
            return
        self._received += 1
        if self._held is not None:
            self._hold(kind, data)
            return
        self._order += 1
        message = {"reply_channel": self.name, "path": self.path, "order": self._order, kind: data}
        size = sys.getsizeof(data) if len(data) > SMALL_VALUE else 0
        if not self.site.submit("websocket.receive", message, None, self.client, size):
            # No room: the client waits, nothing is lost.
            self._order -= 1
            self._held = deque()
            self._hold(kind, data)
            self._block()
            self.wire.account.weigh()
            self._await_room(message)
        elif size:
            self.site.memory.submitted(size)
            if len(data) > LARGE and not self.site.layer.when_room("websocket.receive", message, self._room):
                # No room for another one like this: do not even begin to read it.
                self._held = deque()
                self._block()

    def _hold(self, kind: str, data: str | bytes) -> None:
        """Keep a message until the layer has room."""
        packed = data.encode() if isinstance(data, str) else data
        assert self._held is not None
        self._held.append((kind, packed))
        self._held_bytes += len(packed) + 2 * OBJECT_BYTES

    def _await_room(self, message: Content) -> None:
        if self.site.layer.when_room("websocket.receive", message, self._room):
            self._room()

    def _room(self) -> None:  # any thread
        self.site.bridge.post(self._release)

    def _release(self) -> None:
        """Give the held messages to the layer, which may have room now."""
        while self._held:
            kind, packed = self._held[0]
            data = packed.decode() if kind == "text" else packed
            message = {"reply_channel": self.name, "path": self.path, "order": self._order + 1, kind: data}
            if not self.site.submit("websocket.receive", message, None, self.client):
                self._await_room(message)
                return
            self._order += 1
            self._held.popleft()
            self._held_bytes -= len(packed) + 2 * OBJECT_BYTES
        self._held = None
        if self._state == "done":
            self._disconnected()
        else:
            # Nothing was read meanwhile, so the client was not silent.
            self._last_received = self.site.wheel.now()
            self._pinged = None
            self.unblock()

    def give_up(self) -> None:
        """The transport will be aborted: send nothing more."""
        if self._state != "waiting":
            self._state = "closing"
            self._close_code, self._close_reason = CloseCode.TRY_AGAIN_LATER, None
        self._drop_waiting()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close, with a close frame; or refuse, if the handshake is still held."""
        if self._state == "waiting":
            self._refuse(503, "The server is shutting down.")
        elif self._state == "open":
            self._state = "closing"
            self._close_code = code
            self._close_reason = reason
            if self._waiting is None:
                self._send_close()
            self._due = self.site.wheel.now() + CLOSE_SECONDS
            self.site.wheel.add(self, self._due)

    def _close_received(self, code: int) -> None:
        if self._state == "open":
            self._state = "closing"
            self._close_code = code if code != CloseCode.NO_STATUS else None
            self._close_reason = ""
        self._finish()
        self._close_code = code

    def _finish(self) -> None:
        """Close the transport: the client's close frame is here, or the stream is broken (RFC 6455 section 7.1.1)."""
        self._reader = None
        self._drop_waiting()  # it would keep our close frame waiting, which nothing may follow
        self._send_close()
        self._due = self.site.wheel.now() + CLOSE_SECONDS
        self.site.wheel.add(self, self._due)
        self.wire.close_socket()

    def connection_lost(self) -> None:
        if self._state == "waiting":
            self._state = "done"
            self._forget()
            self.site.replies.end_session(self.name)
            self.site.access_log.socket("refuse", self.path, self._addresses["client"], self._head, status=499)
        elif self._state != "done":
            self._state = "done"
            self._drop_waiting()
            self._forget()
            seconds = self.site.wheel.now() - self.began
            self.site.access_log.socket(
                "close", self.path, self._addresses["client"],
                code=self._code(), seconds=seconds, received=self._received, sent=self._sent,
            )  # fmt: skip
            if self._held is None:
                self._disconnected()

    def _code(self) -> int:
        return int(CloseCode.ABNORMAL if self._close_code is None else self._close_code)

    def _disconnected(self) -> None:
        """Send ``websocket.disconnect``, which every accepted socket gets exactly once, whatever the capacity."""
        message = {"reply_channel": self.name, "path": self.path, "code": self._code(), "order": self._order + 1}
        self.site.layer.submit("websocket.disconnect", message, urgent=True)
        self.site.replies.end_session(self.name)

    def _forget(self) -> None:
        self.site.wheel.remove(self)
        # In this order: a name that has left the table cannot join a group again.
        self.site.replies.remove(self.name)
        self.site.layer.forget(self.name)

    def _count(self, kind: str, text: str) -> None:
        """Count something that clients can cause without end, and log it in sums."""
        self.site.count_refusal(kind, f"{self.path!r}: {text}", self._addresses["client"])

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> float | None:
        if self._state == "done":
            return None
        if self._paused_at is not None and now >= self._paused_at + self.site.options.http_timeout:
            self.site.throttled_log.count("slow reader", f"{self.path!r}: closed, the client has stopped reading")
            self.give_up()
            self.wire.abort()
            return None
        if now < self._due:
            return self._due
        if self._state == "waiting":
            self._count("handshake timeout", "refused: no consumer accepted the connection in time")
            self._refuse(403, "The application did not accept the connection in time.")
            return None
        if self._state == "closing":
            self.wire.abort()
            return None
        self._due = self._next_look(now)
        return self._due

    def _next_look(self, now: float) -> float:
        """Ping a silent client, abort one that stays silent; return when to check again."""
        options = self.site.options
        interval: float = options.ping_interval
        timeout: float = options.ping_timeout
        if not interval:
            return now + 3600.0
        if self._blocked:
            return now + interval  # reading has stopped, so no answer can arrive
        if self._pinged is not None:
            if timeout and now >= self._pinged + timeout:
                self._count("no pong", "no answer to a ping; closed")
                self._state = "closing"  # an aborted transport silently drops what is written
                self.wire.abort()
                return now + CLOSE_SECONDS
            if not timeout:
                self._pinged = self._ping(now)
        elif now >= self._last_received + interval:
            self._pinged = self._ping(now)
        else:
            return self._last_received + interval
        return self._pinged + timeout if timeout else now + interval


def _close_code(close: Any, path: str) -> int:
    """Return the close code of a reply's ``close``: True stands for 1000."""
    if close is True:
        return CloseCode.NORMAL
    if isinstance(close, int) and frames.may_be_sent(close):
        return close
    _log.error("{path!r}: {close!r} is not a close code that may be sent; sent 1000", path=path, close=close)
    return CloseCode.NORMAL
