"""One TCP connection: requests come in one after the other, answers go out, or it becomes a WebSocket.

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
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import interfaces
from twisted.python.failure import Failure
from zope.interface import implementer

from channelserver.server.common.sending import SocketSend, direct, lose_transport, send, socket_send
from channelserver.server.common.transport import Transport
from channelserver.server.http.base import LINGER, Connection, ConnectionFactory
from channelserver.server.http.body import FramedBody
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, FieldSection, RequestHead, parse_head
from channelserver.server.site import Site
from channelserver.server.websocket.websocket import WebSocket

#: Bytes of further requests which are read while one is being answered.
READ_AHEAD = 64 * 1024
#: Fields of a request which are kept for the next request on the connection: how many, and how many bytes in all. That
#: may be 10 KiB of memory; an idle connection must stay small.
KEPT_FIELDS, KEPT_BYTES = 32, 2048
#: Seconds a new connection has for its first request when the server stops.
FIRST_REQUEST = 1.0

_bare_lf = re.compile(rb"(?<!\r)\n").search
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _small(section: FieldSection | None) -> FieldSection | None:
    """Return the section if it may be kept."""
    if section is None or len(section.text) > KEPT_BYTES or len(section.headers) > KEPT_FIELDS:
        return None
    return section


class HTTPConnection(Connection):
    """The protocol of one connection."""

    __slots__ = (
        "_addresses", "_begun", "_body", "_buffer", "_direct", "_exchange", "_head", "_producing", "_searched",
        "_section", "websocket",
    )  # fmt: skip

    def __init__(self, site: Site, peer: str | None = None) -> None:
        super().__init__(site, peer)
        self._direct: Any = None  # the transport, if it can be written to without the reactor
        self._state = "head"
        self._buffer = b""
        self._searched = 0
        self._begun = False  # something of the next request has come
        self._head: RequestHead | None = None
        self._section: FieldSection | None = None  # of the latest head
        self._body: FramedBody | None = None
        self._exchange: Exchange | None = None
        self.websocket: WebSocket | None = None
        self._addresses: dict[str, Any] = {}  # of the request, where a proxy knows better
        self._producing = True  # we read from the transport

    # -- called by the transport ---------------------------------------------------------------------------------------

    def makeConnection(self, transport: Transport) -> None:
        transport.registerProducer(self, True)
        self._direct = direct(transport)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.data_received(data)
            return
        if self._state in ("closing", "ending"):
            return
        if self._body is not None:
            self._feed_body(self._body, data)
        else:
            self._buffer = self._buffer + data if self._buffer else data
            if self._state == "answer" or self._paused:
                if len(self._buffer) > READ_AHEAD:
                    self._read(False)
                return
        self._advance()

    def connectionLost(self, reason: Failure | None) -> None:
        self._state = "closed"
        self._drop_body()
        if self.websocket is not None:
            self.websocket.connection_lost()
        if self._exchange is not None:
            self._exchange.client_gone()
            self._exchange = None
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self.websocket is not None:
            self.websocket.paused = True
        else:
            self._set_deadline(self.site.options.http_timeout)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self.websocket is not None:
            self.websocket.drained()
        elif self._exchange is not None:
            self._exchange.drained()
        elif self._state == "head":
            self._next_request()
        elif self._state == "closing":
            self._finish()

    # -- reading requests ----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Work off what has been read, as far as it goes."""
        try:
            while self._buffer and self._state == "head" and not self._paused:
                if not self._read_head():
                    return
        except BadRequest as error:
            self._refuse(error)

    def _read_head(self) -> bool:
        """Take a head out of the buffer; return False if it is not there yet."""
        options = self.site.options
        buffer = self._buffer
        if buffer[:2] == b"\r\n":  # RFC 9112 section 2.2: an empty line before a request is skipped
            skipped = next((count for count in range(2, 10, 2) if buffer[count : count + 2] != b"\r\n"), None)
            if skipped is None:
                raise BadRequest("too many empty lines before a request")
            buffer = self._buffer = buffer[skipped:]
            self._searched = 0
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if (end if end >= 0 else len(buffer) - 3) > options.max_header_bytes:
            if b"\r\n" in buffer[: options.max_header_bytes]:
                raise BadRequest(f"request head over {options.max_header_bytes} bytes", 431)
            raise BadRequest(f"request line over {options.max_header_bytes} bytes", 414)
        if end < 0:
            if buffer and not self._searched:
                if not (buffer[:1].isupper() or buffer == b"\r"):  # TLS, for instance
                    raise BadRequest("malformed request line")
            if _bare_lf(buffer, max(0, self._searched - 1)):
                raise BadRequest("lines end with bare LF")
            self._searched = len(buffer)
            if not self._begun:
                # The time for a head runs from its first byte and is not put off by later ones.
                self._begun = True
                self._set_deadline(options.header_timeout)
            return False
        self._searched = 0
        self._begun = False
        self._buffer = buffer[end + 4 :]
        head = self._head = parse_head(buffer[:end], options.max_header_fields, self._section)
        if head.section is not self._section:
            self._section = _small(head.section)
        self._addresses = self.addresses()
        if self.site.proxies:
            self._addresses = self.site.proxies.apply(head, self._addresses, self.peer)
        # RFC 9110 section 7.8: in HTTP/1.0, Upgrade means nothing.
        if b"upgrade" in head.fields and head.version == "1.1" and b"websocket" in head.tokens(b"upgrade"):
            self._upgrade(head)
        elif head.length == 0:
            self._dispatch(b"", None)
        else:
            self._start_body(head)
        return True

    def _start_body(self, head: RequestHead) -> None:
        self._body = FramedBody(head, self.site.options, self.site.wheel.now())
        if head.expects_continue and not self._buffer:
            self.write(_CONTINUE)
        self._state = "body"
        data, self._buffer = self._buffer, b""
        self._set_deadline(self.site.options.body_timeout)
        self._feed_body(self._body, data)

    def _feed_body(self, body: FramedBody, data: bytes) -> None:
        try:
            rest = body.feed(data)
        except BadRequest as error:
            self._refuse(error)
            return
        if rest is None:
            self._deadline = body.deadline(self.site.wheel.now())
            self.site.wheel.add(self, self._deadline)
            return
        self._buffer = rest
        self._body = None
        self._dispatch(*body.take())

    def _dispatch(self, body: bytes, body_file: Any) -> None:
        """The request is complete: give it to the layer."""
        head = self._head
        assert head is not None
        site = self.site
        self._state = "answer"
        exchange = self._exchange = Exchange(self, head, self._addresses["client"])
        if head.path == "*":  # OPTIONS for the server as a whole (RFC 9110 section 9.3.7); Django has no such path
            exchange.reply({"status": 204})
            return
        if site.health is not None and site.health(exchange):
            return
        if site.static is not None and site.static(exchange):
            if body_file is not None:
                body_file.close()
            return
        self._set_deadline(site.options.http_timeout)
        if not site.submit("http.request", exchange.message(body, self._addresses), body_file):
            if body_file is not None:
                body_file.close()
            exchange.fail(503, "The server is busy; try again in a moment.")

    def _upgrade(self, head: RequestHead) -> None:
        self._state = "socket"
        self._section = None
        data, self._buffer = self._buffer, b""
        addresses = {**self._addresses, "scheme": "wss" if self._addresses["scheme"] == "https" else "ws"}
        websocket = WebSocket(self, head, addresses)
        refusal = websocket.check()
        if refusal is not None:
            self._state = "head"
            raise refusal
        self.websocket = websocket
        websocket.paused = self._paused
        websocket.begin(data)

    # -- called by exchange and WebSocket ------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send bytes; return False if they wait for the client to read."""
        if self._direct is not None:
            send(self._direct, data)
        else:
            self.transport.write(data)
        return not self._paused

    def socket_send(self) -> SocketSend | None:
        """Return what gives the kernel bytes, as long as :meth:`write` is not called; None: only that may be used."""
        return None if self._direct is None else socket_send(self._direct)

    def exchange_done(self, exchange: Exchange, reusable: bool) -> None:
        """See :class:`channelserver.server.http.exchange.Wire`."""
        self._exchange = None
        self._head = None
        if self._state != "answer":
            return
        if not reusable or self.site.draining:
            self._close()
            return
        self._state = "head"
        if self._paused:  # a client that reads no answers gets no more of them
            self._set_deadline(self.site.options.http_timeout)
        else:
            self._next_request()

    def _next_request(self) -> None:
        self._set_deadline(self.site.options.keep_alive)
        self._read(True)
        if self._buffer:
            # Not from here: a long row of pipelined requests would become as deep a recursion.
            self.site.bridge.post(self._advance)

    def refuse_upgrade(self, status: int, text: str) -> None:
        """Answer a handshake with an error, and close."""
        self.websocket = None
        self._refuse(BadRequest(text, status), logged=True)

    def close_socket(self) -> None:
        """Close the transport when everything written has been sent."""
        self.transport.unregisterProducer()
        lose_transport(self.transport)

    def forget_head(self) -> None:
        """The handshake is over."""
        self._head = None

    def reading(self, wanted: bool) -> None:
        """Read, or leave the client waiting."""
        self._read(wanted)

    def drain(self) -> None:
        """The server stops: close now if idle, else after the answer under way."""
        if self._state == "head" and not self._buffer:
            if self._own is None:  # accepted a moment ago: its first request may be on its way
                self._set_deadline(FIRST_REQUEST)
            else:
                self._close_idle()
        elif self._head is not None:
            self._head.keep_alive = False

    # -- closing -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: BadRequest, logged: bool = False) -> None:
        """Answer a request that cannot be read, and close.

        :param logged: the access log knows of it already.
        """
        head = RequestHead()
        known = self._head
        if known is not None:
            head.method, head.path, head.query_string = known.method, known.path, known.query_string
        else:
            head.method, head.path = "-", "-"
        self._drop_body()
        self._state = "answer"
        self._buffer = b""
        head.keep_alive = False
        client = (self._addresses if known is not None and self._addresses else self.addresses())["client"]
        if not logged:
            kind = "slow request" if error.status == 408 else "bad request"
            self.site.throttled_log.count(kind, f"{error.reason} (client {client[0] if client else 'unknown'})")
        exchange = self._exchange = Exchange(self, head, client)
        exchange.quiet = logged
        extra = [[b"Sec-WebSocket-Version", b"13"]] if error.status == 426 else []
        exchange.reply(
            {
                "status": error.status,
                "headers": [[b"Content-Type", b"text/plain; charset=utf-8"], *extra],
                "content": error.reason.encode() + b"\n",
            }
        )

    def _close(self) -> None:
        """Send what has been written, then close."""
        if self._state in ("closing", "ending", "closed"):
            return
        self._state = "closing"
        self._buffer = b""
        self._read(True)
        if self._paused:  # the client has much to read yet; it has its time for that, see pauseProducing
            self._set_deadline(self.site.options.http_timeout)
        else:
            self._finish()

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def _read(self, wanted: bool) -> None:
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
                client = self._addresses.get("client")
                self.site.throttled_log.count(
                    "slow reader", f"an answer was not read in time (client {client[0] if client else 'unknown'})"
                )
            self.transport.abortConnection()
        elif state == "closing" and self.secure:
            self.transport.abortConnection()  # it waits for a good-bye that does not come
        elif state == "closing":
            # What the kernel has still to send it goes on sending; only what we hold must be gone in time.
            self._state = "ending"
            self._set_deadline(self.site.options.http_timeout)
            self.transport.loseConnection()
        elif state == "head":
            if self._buffer:
                self._refuse(BadRequest("the request head took too long", 408))
            else:
                self._close_idle()
        elif state == "body":
            self._refuse(BadRequest("the request body took too long", 408))
        elif self._exchange is not None and self._exchange.state == "waiting":
            self._exchange.head.keep_alive = False
            self._exchange.fail(503, "The application did not answer in time.")
        return now + LINGER


@implementer(interfaces.IProtocolNegotiationFactory)
class HTTPFactory(ConnectionFactory):
    """Makes HTTP/1.1 connections."""

    def acceptableProtocols(self) -> list[bytes]:
        """See ``IProtocolNegotiationFactory``: what an ``ssl:`` endpoint agrees to (RFC 7301)."""
        return [b"http/1.1"]

    def make(self, peer: str | None) -> HTTPConnection:
        return HTTPConnection(self.site, peer)
