"""Event streams (HTML standard, "Server-sent events"): answers that the reactor holds open and groups feed.

Runs in the reactor thread; a feed is owned by its exchange.
"""

from __future__ import annotations

from typing import Any

from channelserver.layers.content import Content
from channelserver.layers.events import encode_event
from channelserver.server.common.sending import limit_unsent
from channelserver.server.http.source import Answer

#: Seconds of silence after which a comment is sent as a keep-alive.
PING_SECONDS = 15.0
_PING = b":\n\n"


class EventFeed:
    """Feeds one answer: a source (see :class:`channelserver.server.http.source.Source`) that groups and timers drive.

    :param exchange: whose answer it is; the head has been sent.
    :param retry: milliseconds after which the client should reconnect; None: its own default.
    """

    __slots__ = ("_exchange", "_last", "_retry", "_waiting")

    def __init__(self, exchange: Answer, retry: Any) -> None:
        self._exchange = exchange
        self._retry = retry
        self._waiting = 0  # bytes that the client has not read
        site = exchange.site
        self._last = site.wheel.now()
        site.wheel.add(self, self._last + PING_SECONDS)
        site.replies.events.add(exchange.name)
        transport = exchange.wire.direct()
        if transport is not None:
            limit_unsent(transport)  # a long answer may have raised it

    def send(self, data: bytes) -> None:
        """Send an event; a client that does not read is cut off."""
        exchange = self._exchange
        site = exchange.site
        if not data or exchange.state != "streaming":
            return
        self._last = site.wheel.now()
        exchange.send_part(data)
        if exchange.has_room:
            self._waiting = 0
            return
        self._waiting += len(data)
        if self._waiting > site.options.send_buffer_bytes:
            site.count_refusal("slow reader", f"an event stream was not read: {exchange.head.path}", exchange.client)
            exchange.fail(500)

    def reply(self, content: Content) -> None:
        """Act on a reply: send an event; ``close`` ends the stream."""
        self.send(encode_event(content))
        if content.get("close"):
            self.end()

    def end(self) -> None:
        """End the stream, because the server stops or the application asks for it; clients reconnect."""
        self._exchange.site.replies.feed()
        if self._retry is not None:
            self.send(b"retry: %d\n\n" % self._retry)
        self._exchange.reply({"content": b"", "more_content": False})

    def resume(self) -> None:
        self._waiting = 0

    def close(self) -> None:
        """The exchange is over: leave the groups."""
        site = self._exchange.site
        site.wheel.remove(self)
        site.replies.events.discard(self._exchange.name)
        site.layer.forget(self._exchange.name)

    def ping(self) -> None:
        """Send a comment."""
        self.send(_PING)

    def kept(self) -> int:
        return 0

    def on_tick(self, now: float) -> float | None:
        """Send a comment after some silence."""
        if self._exchange.state != "streaming":
            return None
        if now >= self._last + PING_SECONDS:
            self.ping()
        return self._last + PING_SECONDS
