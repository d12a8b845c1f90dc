"""What all connections of the server share.

Runs in the reactor thread; owns the set of open connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers import BaseChannelLayer, ChannelFull
from channelserver.layers.base import SESSION_CHANNEL
from channelserver.layers.content import Content
from channelserver.layers.throttled_log import ThrottledLog
from channelserver.layers.turns import Client
from channelserver.processes.shares import BEAT, Shares
from channelserver.server.common.access import AccessLog
from channelserver.server.common.account import ClientMemory
from channelserver.server.common.continuations import Continuations
from channelserver.server.common.limits import Admission, descriptors_short
from channelserver.server.common.options import Settings
from channelserver.server.common.wheel import Wheel
from channelserver.server.http.proxy import ProxyPolicy
from channelserver.server.http.ready import Files
from channelserver.server.replies import Replies
from channelserver.server.websocket.origin import OriginPolicy

_throttled = Logger("channelserver.server.throttled_log")

#: Seconds between two looks at what has expired in the layer.
SWEEP_SECONDS = 5.0


class Socket(Protocol):
    """What the server uses of an open WebSocket when it stops."""

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame."""


class Connection(Protocol):
    """What the server uses of any open connection."""

    @property
    def peer(self) -> str | None:
        """The address of the other end; None: a Unix socket."""

    @property
    def websocket(self) -> Socket | None:
        """What the connection has become, if it has become a WebSocket."""

    def drain(self) -> None:
        """Close when nothing is under way."""

    def abort(self) -> None:
        """Close at once."""


class Pulse:
    """Tells the other processes that this one's reactor runs, and whether it should be replaced."""

    def __init__(self, shares: Shares, wish: Callable[[], str]) -> None:
        self._shares = shares
        self._wish = wish

    def on_tick(self, now: float) -> float:
        self._shares.beat()
        self._shares.wish(self._wish())
        return now + BEAT - 0.5  # the wheel adds up to half a second


class Site:
    """What every connection uses: the layer, the limits, the logs.

    :param origins: decides who may open a WebSocket.
    :param access_log: gets a line for each request and socket.
    :param static: answers requests for files in the reactor.
    :param proxies: the trusted proxies.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        options: Settings,
        bridge: Bridge,
        clock: IReactorTime,
        origins: OriginPolicy,
        access_log: AccessLog,
        static: Files | None = None,
        proxies: ProxyPolicy | None = None,
    ) -> None:
        self.layer = layer
        self.options = options
        self.bridge = bridge
        self.wheel = Wheel(clock)
        #: What connections have still to do.
        self.continuations = Continuations(bridge)
        #: What is kept for all clients of this process, which has its share of the option.
        self.memory = ClientMemory(options.client_memory // options.processes, self.wheel, bridge.post)
        bridge.before_large = self.memory.has_room
        self.origins = origins
        self.access_log = access_log
        self.static = static
        self.proxies = proxies if proxies is not None else ProxyPolicy()
        self.admission = Admission(options.max_connections, options.max_connections_per_ip)
        self.throttled_log = ThrottledLog(self.wheel.now, lambda text: _throttled.warn("{text}", text=text))
        access_log.on_error = lambda reason: self.throttled_log.count("access log", reason)
        #: Answers for the health of the server in the reactor; called with an exchange, returns whether it did.
        self.health: Callable[[Any], bool] | None = None
        #: The same for a certificate authority's questions; also called with what to do if it has no answer after all.
        self.tokens: Callable[[Any, Callable[[], object] | None], bool] | None = None
        queues = getattr(layer, "queues", None)
        if queues is not None:
            queues.max_bytes = self.memory.limit // 2
            self.memory.queued = lambda: queues.bytes + bridge.weight
        self.replies = Replies(bridge, self.wheel.now)
        self.replies.forget = layer.forget
        self.replies.settle_session = self._settle_session
        for prefix in (self.replies.http_prefix, self.replies.websocket_prefix):
            layer.attach(prefix, self.replies)
        value = b"max-age=%d" % options.hsts
        #: The field that asks browsers to use HTTPS only, see ``Connection.hsts``.
        self.hsts = (b"Strict-Transport-Security", value, b"Strict-Transport-Security: %b\r\n" % value)
        self.root_path = options.root_path.rstrip("/")
        self.connections: set[Connection] = set()
        #: Requests that wait for others of their HTTP/2 connections.
        self.held_back = 0
        #: The number of connections of each process, if there are several.
        self.shares: Shares | None = None
        #: Returns why this process should be replaced: one of ``shares.WISHES``.
        self.wish: Callable[[], str] = lambda: ""
        self.draining = False
        #: Whether it drains because others take its place: idle connections may ask once more before they are closed.
        self.patient = False
        #: Called once, when the last connection has closed.
        self.when_empty: Callable[[], object] | None = None
        self._date_made = 0
        self._date_field = (b"", b"", b"")

    def start(self) -> None:
        """Start to sweep the layer every few seconds, and to tell other processes that this one moves."""
        self.wheel.add(self, self.wheel.now() + SWEEP_SECONDS)
        if self.shares is not None:
            self.shares.count(len(self.connections))
            self.shares.beat()
            self.wheel.add(Pulse(self.shares, self.wish), self.wheel.now())

    def stop(self) -> None:
        """Cancel all deadlines and stop receiving replies."""
        self.wheel.stop()
        for prefix in (self.replies.http_prefix, self.replies.websocket_prefix):
            self.layer.detach(prefix)

    def is_full(self, peer: str | None) -> bool:
        """Whether to refuse a new connection from `peer`; if so, count and log it.

        :param peer: the address of the other end, None for a Unix socket.
        """
        trusted = bool(self.proxies) and self.proxies.trusts(peer)
        number = len(self.connections) if self.shares is None else self.shares.total()
        refusal = self.admission.refusal(peer, number, trusted)
        if not refusal and not self.memory.has_room():
            refusal = f"memory is short: {self.memory.bytes} bytes are kept for clients"
        if refusal:
            self.throttled_log.count("too many connections", refusal)
            return True
        short = descriptors_short()
        if short:
            self.throttled_log.count("descriptors", f"a connection was refused: {short}")
        return bool(short)

    def count_refusal(self, kind: str, reason: object, client: Any) -> None:
        """Count and log something that a client did wrong.

        :param client: [address, port] of the client; None if it is not known.
        """
        self.throttled_log.count(kind, f"{reason} (client {client[0] if client else 'unknown'})")

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self.shares is not None:
            self.shares.count(len(self.connections))
        self.admission.entered(connection.peer)

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.shares is not None:
            self.shares.count(len(self.connections))
        self.admission.left(connection.peer)
        if not self.connections and self.when_empty is not None:
            when_empty, self.when_empty = self.when_empty, None
            when_empty()

    def on_tick(self, now: float) -> float | None:
        """Drop expired messages of the layer; log the sums of throttled events."""
        self._sweep()
        self.throttled_log.flush()
        self.replies.renew_sessions(now)
        return now + SWEEP_SECONDS

    def _settle_session(self, name: str, is_open: bool) -> None:
        """Have a worker renew or delete a channel session. Workers have stored it, so they bound the messages."""
        self.layer.submit(SESSION_CHANNEL, {"reply_channel": name, "open": is_open}, urgent=True)

    def _sweep(self) -> None:
        if self.layer.sweep() and not self.draining:
            self.bridge.post(self._sweep)

    def submit(
        self, channel: str, content: Content, attachment: Any = None, client: Client = None, size: int | None = None
    ) -> bool:
        """Give a message to the layer; return False if its channel is full. See :meth:`BaseChannelLayer.submit`."""
        try:
            self.layer.submit(channel, content, attachment, False, client, size)
        except ChannelFull:
            return False
        return True

    def date_field(self) -> tuple[bytes, bytes, bytes]:
        """Return a ``Date`` field, made once a second: name, value, and its line in a head."""
        now = int(time.time())
        if self._date_made != now:
            value = formatdate(now, usegmt=True).encode("ascii")
            self._date_made, self._date_field = now, (b"Date", value, b"Date: %b\r\n" % value)
        return self._date_field
