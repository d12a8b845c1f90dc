"""One TCP connection: it answers one request after the other, or becomes a WebSocket.

Runs in the reactor thread; a connection is owned by its transport.

The states, and what may follow:

========  =======================================================  =====================
state     meaning                                                  followed by
========  =======================================================  =====================
head      idle, or in the middle of a request head                 body, answer, socket
body      in the middle of a request body                          answer
answer    the request is with a consumer; further bytes wait       head, socket, closing
socket    a WebSocket owns the transport                           closed
closing   the last answer is on its way; nothing is read any more  ending, closed
ending    the client has had time to close its side; now we do     closed
closed    the transport is gone
========  =======================================================  =====================

Every state may be followed by *closing* (after an error of the client) and *closed*.

In one turn of the reactor a connection gets one request answered at most, or a slice of a body read: what else it has
sent waits for the next turn, so that others come between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from twisted.internet import interfaces
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from channelserver.layers.content import Content
from channelserver.server.common.account import SMALL
from channelserver.server.common.bucket import Bucket
from channelserver.server.common.continuations import BULK
from channelserver.server.common.sending import (
    SocketSend,
    direct,
    limit_unsent,
    lose_transport,
    send,
    socket_send,
    unsent,
)
from channelserver.server.common.transport import Transport
from channelserver.server.http import half_close
from channelserver.server.http.base import LINGER, Connection, ConnectionFactory
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.reader import RequestReader
from channelserver.server.http.ready import Ready, Served
from channelserver.server.site import Site
from channelserver.server.websocket.websocket import WebSocket

#: Bytes of further requests which are read while one is being answered.
READ_AHEAD = 64 * 1024
#: Bytes that are read at a time, usually and while as many of a body are to come.
READ, BODY_READ = FileDescriptor.bufferSize, 256 * 1024
#: Pipelined requests that the reactor answers by itself and nobody logs (health): so many at once, so many a second.
CHATTER_BURST, CHATTER_PER_SECOND = 100, 10.0
#: Bytes of fields by which a connection knows a repeated request.
SHORT_FIELDS = 1024
#: Seconds a new connection has for its first request when the server stops.
FIRST_REQUEST = 1.0

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@implementer(interfaces.IHalfCloseableProtocol)
class HTTPConnection(Connection):
    """The protocol of one connection."""

    __slots__ = (
        "_addresses", "_again", "_begun", "_chatter", "_continues", "_direct", "_dispatcher", "_entered", "_exchange",
        "_half_closed", "_head", "_producing", "_reader", "websocket",
    )  # fmt: skip

    def __init__(self, site: Site, peer: str | None, dispatcher: Dispatcher) -> None:
        super().__init__(site, peer)
        self._dispatcher = dispatcher
        self._direct: Any = None  # the transport, if it can be written to without the reactor
        self._state = "head"
        self._reader = RequestReader(site.options)
        self._begun = False  # something of the next request has come, if only an empty line
        self._continues = False  # _advance() goes on in the next turn
        self._chatter: Bucket | None = None
        self._head: RequestHead | None = None
        self._entered = 0  # bytes of the head in the account
        self._exchange: Exchange | None = None
        self.websocket: WebSocket | None = None
        #: What follows the line of a request which differs in that line alone from the latest one, if that was answered
        #: from memory; and its Accept-Encoding.
        self._again: tuple[bytes, bytes] | None = None
        self._addresses: dict[str, Any] = {}  # of the request, where a proxy knows better
        self._producing = True  # we read from the transport
        self._half_closed = False  # the client sends nothing more

    # -- called by the transport ---------------------------------------------------------------------------------------

    def makeConnection(self, transport: Transport) -> None:
        transport.registerProducer(self, True)
        self._direct = direct(transport)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.data_received(data)
            return
        again = self._again
        if again is not None and data.endswith(again[0]) and self._serve_again(data[: -len(again[0])], again[1]):
            return
        if self._state in ("closing", "ending"):
            return
        reader = self._reader
        reader.buffer = reader.buffer + data if reader.buffer else data
        if not self._continues and (self._state == "body" or (self._state == "head" and not self._paused)):
            if len(data) > BULK and self.site.continuations.behind():
                self._continue()
            else:
                self._advance()
        elif len(reader.buffer) > READ_AHEAD:
            self.reading(False)
        if len(reader.buffer) > SMALL:
            self.account.weigh()

    def connectionLost(self, reason: Failure | None) -> None:
        self._state = "closed"
        self._reader.close()
        if self.websocket is not None:
            self.websocket.connection_lost()
            self.websocket = None
        if self._exchange is not None:
            self._exchange.client_gone()
            self._exchange = None
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """The client has closed its side, or has left."""
        if self._half_closed:
            return
        exchange, state = self._exchange, self._state
        if self.site.proxies.trusts(self.peer):
            waits = False  # proxies close both sides
        elif state == "answer":
            waits = exchange is not None and exchange.outlives_half_close()
        else:  # for the end of an answer, perhaps, which is on its way
            waits = self._continues or (state != "socket" and (self._paused or unsent(self.transport) > 0))
        if not waits:
            self._lose()
            return
        self._half_closed = True
        if state == "closing" and not self._paused:
            self._close_idle()
        elif state == "answer" or self._continues or (state == "head" and self._paused and self._reader.buffer):
            self._probe(exchange, half_close.looks())
        else:
            self._close()  # whatever has begun will not be completed

    def writeConnectionLost(self) -> None:
        """Our side is closed: the work is done where that was asked for."""

    def _lose(self) -> None:
        self.transport.connectionLost(Failure(ConnectionDone()))  # type: ignore[attr-defined]

    def _probe(self, exchange: Exchange | None, looks: Iterator[tuple[float, bool]]) -> None:
        """Find out whether the client of an exchange has left, as long as that is under way."""
        if exchange is not None and exchange is self._exchange:
            exchange.probe(half_close.PROBE)
            self._look(exchange, looks)

    def _look(self, exchange: Exchange, looks: Iterator[tuple[float, bool]]) -> None:
        if exchange is not self._exchange:
            return
        if half_close.was_reset(self.transport):
            self._lose()
            return
        pause, probe = next(looks)
        self.site.bridge.call_later(pause, self._probe if probe else self._look, exchange, looks)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self.websocket is not None:
            self.websocket.pause()
        else:
            self.set_deadline(self.site.options.http_timeout)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self.websocket is not None:
            self.websocket.drained()
        elif self._exchange is not None:
            self._exchange.drained()
        elif self._state == "head":
            self._next_request()
        elif self._state == "closing":
            self._end_sending()

    # -- reading requests ----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Handle the next request in the buffer, or go on with its body."""
        self._continues = False
        reader = self._reader
        try:
            if self._state == "head" and reader.buffer and not self._paused:
                head = reader.take_head()
                if head is None and self._half_closed:
                    self._close()
                    return
                if head is None:
                    if not self._begun:
                        # The time for a head runs from its first byte and is not put off by later ones.
                        self._begun = True
                        self.set_deadline(self.site.options.header_timeout)
                    return
                self._begin(head)
            if self._state == "body" and reader.buffer:
                body = reader.read_body()
                if body is not None:
                    self._dispatch(*body)
                elif reader.buffer:
                    self._continue()
                elif self._half_closed:
                    self._close()
                else:
                    assert reader.body is not None
                    self._read_at_a_time(reader.body.left)
                    self.account.weigh()
                    self._deadline = reader.body.deadline(self.site.wheel.now())
                    self.site.wheel.add(self, self._deadline)
                    self.reading(True)
        except BadRequest as error:
            self._refuse(error)

    def _continue(self) -> None:
        """Call :meth:`_advance` in the reactor's next turn."""
        if not self._continues:
            self._continues = True
            self.reading(len(self._reader.buffer) <= READ_AHEAD)
            self.site.continuations.add(self.peer, self._advance)

    def _read_at_a_time(self, left: int) -> None:
        """Read larger pieces while a long body comes, but no more of what follows it.

        :param left: bytes of the body that are to come; 0: there is none.
        """
        self.transport.bufferSize = min(max(READ, left), BODY_READ)

    def _begin(self, head: RequestHead) -> None:
        self._begun = False
        self._again = None
        self._head = head
        self._addresses = own = self._own or self.addresses()
        self._addresses = self._dispatcher.admit(head, own, self.peer)
        # RFC 9110 section 7.8: in HTTP/1.0, Upgrade means nothing.
        if b"upgrade" in head.fields and head.version == "1.1" and b"websocket" in head.tokens(b"upgrade"):
            self._upgrade(head)
        elif head.length == 0:
            ready = self._dispatcher.ready(head)
            if ready is None:
                self._dispatch(b"", None)
            else:
                self._serve(ready, head)
        else:
            self._begin_body(head)

    def _begin_body(self, head: RequestHead) -> None:
        self._reader.begin_body(head, self.site.wheel.now(), self.site.memory)
        if head.expects_continue and not self._reader.buffer:
            self.write(_CONTINUE)
        self._state = "body"
        self.set_deadline(self.site.options.body_timeout)

    def _dispatch(self, body: bytes, body_file: IO[bytes] | None) -> None:
        """The request is complete."""
        assert self._head is not None
        self._state = "answer"
        if body_file is not None:
            self._read_at_a_time(0)
            self.account.weigh()  # from now on it counts as part of a message
        weight = self._head.weight
        if weight > SMALL:  # as with most browsers: weighing the connection would take longer
            self._entered = weight
            self.account.enter(weight)
        exchange = self._exchange = Exchange(self, self._head, self._addresses["client"])
        self._dispatcher.answer(exchange, body, body_file, self._addresses)
        if self._half_closed:
            self._probe(exchange, half_close.looks())

    def _serve(self, ready: Ready, head: RequestHead) -> None:
        """Answer a request from memory."""
        self._head = None
        if self.site.access_log.wanted:
            self.site.access_log.http(Served(head, self._addresses["client"], ready.size), 0.0)
        elif head.section is not None and len(head.section.text) <= SHORT_FIELDS:
            self._again = b"\r\n%b\r\n\r\n" % head.section.text, head.fields.get(b"accept-encoding", b"")
        self._send_ready(ready)

    def _serve_again(self, line: bytes, encodings: bytes) -> bool:
        """Answer a request from memory if it can be done without reading its head; return whether it was."""
        if self._state != "head" or self._paused or self._begun or self._reader.buffer:
            return False
        ready = self._dispatcher.ready_again(line, encodings)
        if ready is None:
            return False
        self._send_ready(ready)
        return True

    def _send_ready(self, ready: Ready) -> None:
        self.write(ready.message(self.site.date_field()[2], b"" if self.hsts is None else self.hsts[2]))
        self._answered(True)

    def _upgrade(self, head: RequestHead) -> None:
        data = self._reader.buffer
        addresses = {**self._addresses, "scheme": "wss" if self._addresses["scheme"] == "https" else "ws"}
        websocket = WebSocket(self, head, addresses)
        websocket.check()
        self._state = "socket"
        limit_unsent(self.transport)  # a long answer may have raised it
        self._reader.close()
        self.websocket = websocket
        if self._paused:
            websocket.pause()
        websocket.begin(data)

    # -- called by exchange and WebSocket ------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        if self._direct is None:
            self.transport.write(data)
            self.account.memory.watch(self.account)  # how much of it waits is known later
        elif not send(self._direct, data):
            self.account.weigh()
        return not self._paused

    def socket_send(self) -> SocketSend | None:
        """Return what gives the kernel bytes, as long as :meth:`write` is not called; None: only that may be used."""
        return None if self._direct is None else socket_send(self._direct)

    def direct(self) -> Any:
        return self._direct

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        self._exchange = None
        self._head = None
        if self._entered:
            self.account.enter(-self._entered)
            self._entered = 0
        if self._state != "answer":
            return
        if exchange.quiet and self._reader.buffer and reusable:
            reusable = self._pays()
        self._answered(reusable)

    def _answered(self, reusable: bool) -> None:
        """An answer has been written: close, or go on with the next request."""
        if not reusable or self.site.draining or (self._half_closed and not self._reader.buffer):
            self._close()
            return
        self._state = "head"
        if self._paused:  # a client that does not read its answers must wait for more
            self.set_deadline(self.site.options.http_timeout)
        else:
            self._next_request()

    def _next_request(self) -> None:
        self.set_deadline(self.site.options.keep_alive)
        if self._reader.buffer:
            self._continue()
        elif not self._producing:
            self.reading(True)

    def _pays(self) -> bool:
        """Whether a client may have one more request answered that costs it nothing, with the next one on its way."""
        now = self.site.wheel.now()
        if self._chatter is None:
            self._chatter = Bucket(CHATTER_BURST, CHATTER_PER_SECOND, now)
        paid = self._chatter.take(now)
        if not paid:
            self.site.count_refusal("chatter", "too many pipelined requests for the health", self.addresses()["client"])
        return paid

    def refuse_upgrade(self, status: int, text: str, answer: Content | None = None) -> None:
        """Answer a handshake with an error, and close.

        :param answer: the application's own; None: the status and the text.
        """
        self.websocket = None
        exchange = self._last_exchange(quiet=True)
        if answer is None:
            self._dispatcher.refuse(exchange, BadRequest(text, status))
        else:
            exchange.reply(answer)

    def close_socket(self) -> None:
        """Close the transport when everything written has been sent."""
        self.transport.unregisterProducer()
        lose_transport(self.transport)

    def forget_head(self) -> None:
        self._head = None

    def drain(self) -> None:
        if self._state == "head" and not self._reader.buffer and self._paused:
            self._close()  # the client has an answer to read
        elif self._state == "head" and not self._reader.buffer:
            # Accepted a moment ago, or there is time: a request may be on its way.
            if self._own is None or self.site.patient:
                self.set_deadline(FIRST_REQUEST)
            else:
                self._close_idle()
        elif self._head is not None:
            self._head.keep_alive = False
            if self._exchange is not None:
                self._exchange.drain()

    # -- what is kept for the client -----------------------------------------------------------------------------------

    def kept(self) -> int:
        size = super().kept() + self._reader.kept()
        if self._head is not None:
            size += self._head.weight
        if self.websocket is not None:
            size += self.websocket.kept()
        elif self._exchange is not None:
            size += self._exchange.kept()
        return size

    def evict(self, size: int) -> None:
        if self.websocket is not None:
            self.websocket.give_up()
        super().evict(size)

    # -- closing -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: BadRequest) -> None:
        """Answer a request that breaks a rule or a deadline, and close."""
        self._dispatcher.refuse(self._last_exchange(), error)

    def _last_exchange(self, quiet: bool = False) -> Exchange:
        """Return an exchange after whose answer the connection is closed.

        :param quiet: the access log knows of the request already.
        """
        head = RequestHead()
        known = self._head
        if known is not None:
            head.method, head.path, head.query_string = known.method, known.path, known.query_string
        else:
            head.method, head.path = "-", "-"
        self._reader.close()
        self._read_at_a_time(0)
        self._state = "answer"
        head.keep_alive = False
        client = (self._addresses if known is not None and self._addresses else self.addresses())["client"]
        exchange = self._exchange = Exchange(self, head, client)
        exchange.quiet = quiet
        return exchange

    def _close(self) -> None:
        """Send what has been written, then close."""
        if self._state in ("closing", "ending", "closed"):
            return
        self._state = "closing"
        self._reader.close()
        self.reading(True)
        if self._paused:  # the client still has data to read; pauseProducing() limits the time for it
            self.set_deadline(self.site.options.http_timeout)
        else:
            self._end_sending()

    def _end_sending(self) -> None:
        if self._half_closed:
            self._close_idle()  # what was written is sent before; there is nothing of the client's to wait for
        else:
            self._finish()

    def reading(self, wanted: bool) -> None:
        """Resume or pause reading."""
        if self._half_closed:
            return
        if wanted != self._producing and self._state != "closed":
            self._producing = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def _late(self, now: float) -> float | None:
        state = self._state
        if self._paused or state == "ending":
            if state != "ending":
                self.site.count_refusal("slow reader", "an answer was not read in time", self._addresses.get("client"))
            self.transport.abortConnection()
        elif state == "closing" and self.secure:
            self.transport.abortConnection()  # it waits for a close_notify that does not come
        elif state == "closing":
            # The kernel goes on sending what it holds; only our own buffer has a deadline.
            self._state = "ending"
            self.set_deadline(self.site.options.http_timeout)
            self.transport.loseConnection()
        elif state == "head":
            if self._reader.buffer:
                self._refuse(BadRequest("the request head took too long", 408))
            else:
                self._close_idle()
        elif state == "body":
            self._refuse(BadRequest("the request body took too long", 408))
        elif self._exchange is not None and self._exchange.state == "waiting":
            self._exchange.late()
        else:
            return None  # an answer on its way: it has a deadline again when the client does not read
        return now + LINGER


@implementer(interfaces.IProtocolNegotiationFactory)
class HTTPFactory(ConnectionFactory):
    """Makes HTTP/1.1 connections."""

    connection_class = HTTPConnection

    def __init__(self, site: Site, dispatcher: Dispatcher | None = None) -> None:
        self.dispatcher = dispatcher if dispatcher is not None else Dispatcher(site)
        super().__init__(site, lambda peer: self.connection_class(site, peer, self.dispatcher))

    def acceptableProtocols(self) -> list[bytes]:
        """Return the ALPN names that an ``ssl:`` endpoint accepts (RFC 7301)."""
        return [b"http/1.1"]
