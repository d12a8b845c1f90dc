"""What answers a request, whichever protocol it came by: HTTP/1.1, HTTP/2, the redirect port.

Runs in the reactor thread; owns nothing that changes.

The way of a request's bytes is a line: reader → head → dispatcher → exchange → layer.
"""

from __future__ import annotations

from typing import IO, Any

from channelserver.layers.waiting import SMALL, size_of
from channelserver.server.http.body import MemoryFile
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.ready import Ready
from channelserver.server.site import Site

#: Where certificate authorities look for the answers to ``http-01`` (RFC 8555 section 8.3).
CHALLENGES = "/.well-known/acme-challenge/"
#: Answers that are found by target and Accept-Encoding, and bytes in both of these.
MAX_READY, MAX_KEY = 1000, 256

_BUSY = "The server is busy; try again in a moment."


class Dispatcher:
    """Decides what answers a request."""

    __slots__ = ("_proxies", "_ready", "_site")

    def __init__(self, site: Site) -> None:
        self._ready: dict[tuple[bytes, bytes], Ready] = {}  # by request line and Accept-Encoding
        self._site = site
        self._proxies = site.proxies or None

    def admit(self, head: RequestHead, addresses: dict[str, Any], peer: str | None) -> dict[str, Any]:
        """Apply the proxy rules to a head, before its body is read; return the request's ``client``, ``server`` and
        ``scheme``.

        :param addresses: the connection's own.
        :param peer: the address of the other end of the connection; None on a Unix socket.
        :raises BadRequest: the headers of a trusted proxy are malformed or contradict each other.
        """
        return addresses if self._proxies is None else self._proxies.apply(head, addresses, peer)

    def ready(self, head: RequestHead) -> Ready | None:
        """Return the answer to a request without a body if it is in memory and needs no exchange."""
        site = self._site
        if site.static is None or not head.keep_alive or head.version == "1.0" or self._is_strained():
            return None
        ready = site.static.ready(head, site.bridge.turn_began(), site.wheel.now)
        encodings = head.fields.get(b"accept-encoding", b"")
        if ready is not None and len(head.target) + len(encodings) <= MAX_KEY and head.version == "1.1":
            if len(self._ready) >= MAX_READY:
                self._ready.clear()
            self._ready[b"GET %b HTTP/1.1" % head.target, encodings] = ready
        return ready

    def ready_again(self, line: bytes, encodings: bytes) -> Ready | None:
        """Return the answer to a request if :meth:`ready` has returned it before, and would return it again.

        :param line: the request line.
        :param encodings: the value of Accept-Encoding; the other fields are as they were.
        """
        key = line, encodings
        ready = self._ready.get(key)
        if ready is None or self._is_strained():
            return None
        if self._is_current(ready):
            return ready
        del self._ready[key]
        return None

    def still_ready(self, ready: Ready) -> bool:
        """Whether :meth:`ready` would return an answer again."""
        return not self._is_strained() and self._is_current(ready)

    def _is_current(self, ready: Ready) -> bool:
        site = self._site
        return ready.is_current(site.bridge.turn_began(), site.wheel.now)

    def _is_strained(self) -> bool:
        """Whether there is more to a request than its answer: the server stops, or memory is short."""
        site = self._site
        return site.draining or site.memory.bytes > site.memory.mark

    def answer(self, exchange: Exchange, body: bytes, body_file: IO[bytes] | None, addresses: dict[str, Any]) -> None:
        """Answer a complete request, or pass it on.

        :param body_file: has the body, if `body` does not; it is closed in the end.
        :param addresses: those of the request.
        """
        site = self._site
        exchange.wire.set_deadline(site.options.http_timeout)
        if exchange.head.path == "*":  # OPTIONS for the server as a whole (RFC 9110 section 9.3.7), not for Django
            exchange.reply({"status": 204})
        elif site.health is not None and site.health(exchange):
            pass
        elif (
            site.tokens is not None
            and exchange.head.path.startswith(CHALLENGES)
            and site.tokens(exchange, None if body_file else lambda: self._serve(exchange, body, None, addresses))
        ):
            pass
        elif site.memory.bytes > site.memory.mark and not site.memory.has_room():
            site.count_refusal("memory is short", "a request was answered 503", exchange.client)
            exchange.head.keep_alive = False
            exchange.fail(503, _BUSY)
        elif self._serve(exchange, body, body_file, addresses):
            return
        if body_file is not None:
            body_file.close()

    def _serve(self, exchange: Exchange, body: bytes, body_file: IO[bytes] | None, addresses: dict[str, Any]) -> bool:
        """Answer from a file, or give the request to the layer; return whether `body_file` is the layer's now."""
        site = self._site
        if site.static is not None and site.static(exchange):
            return False
        message, client = exchange.message(body, addresses), exchange.client
        size = size_of(message) if len(body) > SMALL or len(exchange.head.target) > SMALL else 0
        if isinstance(body_file, MemoryFile):
            size += body_file.size
        if site.submit("http.request", message, body_file, (client[0], client[1]) if client else None, size):
            if size:
                site.memory.submitted(size)
            return True
        exchange.fail(503, _BUSY)
        return False

    def refuse(self, exchange: Exchange, error: BadRequest) -> None:
        """Answer a request that breaks a rule or a limit; count and log it, unless the exchange is quiet."""
        if not exchange.quiet:
            self._site.count_refusal("slow request" if error.status == 408 else "bad request", error, exchange.client)
        # With 426 goes the version to change to (RFC 6455 section 4.4).
        version = [[b"Sec-WebSocket-Version", b"13"]] if error.status == 426 else []
        exchange.fail(error.status, error.reason, *version)
