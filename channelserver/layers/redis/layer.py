"""The Redis channel layer, as the rest of the process sees it.

Safe from any thread: the local part guards itself, as in memory; commands to Redis run in the reactor's thread. Owns
the local part: queues, groups and outlets of this process.

Local are: the server's own messages, if this process has workers for them; replies to its own connections; group sends
to its own members. Everything else goes over Redis, see :mod:`channelserver.layers.redis.host`.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, cast

from twisted.internet.interfaces import IReactorTime

from channelserver.layers.base import ChannelFull, Outlet, Reactor, ReactorBridge
from channelserver.layers.content import Content, size_of_reply
from channelserver.layers.groups import Groups
from channelserver.layers.local import ORDERED_CHANNELS, SERVER_CHANNELS, LocalLayer
from channelserver.layers.losses import Reason
from channelserver.layers.names import check_channel_name, check_group_name, local_prefix, new_host_name
from channelserver.layers.redis import scripts
from channelserver.layers.redis.address import read_hosts
from channelserver.layers.redis.answer import Answer, Call, begin
from channelserver.layers.redis.copies import Parcel
from channelserver.layers.redis.errors import RedisUnavailable
from channelserver.layers.redis.fetcher import record_refused
from channelserver.layers.redis.host import Host, token_of
from channelserver.layers.redis.letters import from_queue, to_group, to_queue
from channelserver.layers.redis.pusher import Pusher
from channelserver.layers.redis.seal import Sealer, SealError
from channelserver.layers.redis.shard import ANSWER_SECONDS
from channelserver.layers.redis.thread import reactor_thread
from channelserver.layers.redis.vault import RedisVault
from channelserver.layers.redis.work import FetchedQueues
from channelserver.layers.throttled_log import ThrottledLog
from channelserver.layers.turns import Client

logger = logging.getLogger("channelserver.layers.redis")

#: Seconds for which a thread waits for an answer.
PATIENCE = ANSWER_SECONDS + 1.0

#: Messages of one socket which may wait in Redis.
LANE_LIMIT = 100


class RedisChannelLayer(LocalLayer):
    """Channels and groups of several processes (Channels 1: ``asgi_redis.RedisChannelLayer``).

    :param hosts: the Redis servers, see :mod:`channelserver.layers.redis.address`; several share the channels and
        groups among them.
    :param prefix: of all keys. Two projects on one Redis need two prefixes.
    :param expiry: seconds a message waits for a reader before it is dropped.
    :param group_expiry: seconds a group membership lasts after the last ``group_add``, unless it is an open
        connection's: that lasts as long as the connection.
    :param capacity: messages which may wait in one channel.
    :param channel_capacity: other capacities, by glob; the first match counts.
    :param symmetric_encryption_keys: encrypt what goes over Redis, see :mod:`channelserver.layers.redis.seal`.
    :param stats_prefix: of the keys of the statistics; default: `prefix` and ``meta:``.
    :param connection_kwargs: for all `hosts`: ``username``, ``password``, ``db``, ``ssl_ca_certs`` …
    :param services: names of services; `hosts` are then the Sentinels that watch them.
    :param sentinel_refresh_interval: ignored: each new connection asks the Sentinels for the master.
    :param clock: returns seconds, monotonic; for tests.
    :param rng: source of new names; for tests.
    :raises ValueError: a parameter is wrong; the text says which, and the cure.
    """

    queues: FetchedQueues
    queues_class = FetchedQueues
    ordered = frozenset(ORDERED_CHANNELS)
    lane_limit = LANE_LIMIT
    needs_services: ClassVar[bool] = False

    def __init__(
        self,
        hosts: Sequence[Any] | None = None,
        prefix: str = "channelserver:",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        stats_prefix: str | None = None,
        connection_kwargs: Mapping[str, Any] | None = None,
        services: Sequence[str] | None = None,
        sentinel_refresh_interval: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(expiry, group_expiry, capacity, channel_capacity, clock=clock, rng=rng)
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(f"prefix must be text, such as 'channelserver:', not {prefix!r}")
        if self.needs_services and not services:
            raise ValueError(
                "services is missing: list the names of the services that the Sentinels in hosts watch, "
                "such as ['mymaster']"
            )
        self.prefix = prefix
        self.stats_prefix = f"{prefix}meta:" if stats_prefix is None else stats_prefix
        self.addresses = read_hosts(hosts, connection_kwargs, services)
        self.sealer = Sealer(symmetric_encryption_keys, prefix, self._milliseconds)
        self.refusals = ThrottledLog(clock, logger.error)
        #: Milliseconds to add to Redis's clock; for tests.
        self.time_offset = 0
        #: What hosts share beside messages.
        self.vault = RedisVault(self.sealer, prefix, lambda: self._host)
        self._name = new_host_name()
        self._served: frozenset[str] = frozenset()
        self._lock = threading.RLock()
        self._host: Host | None = None
        self._opened = False
        self._owner = 0
        self._ident: int | None = None  # of the reactor's thread

    # -- connecting ----------------------------------------------------------------------------------------------------

    def open(self, reactor: Reactor, bridge: ReactorBridge) -> None:
        with self._lock:
            earlier = self._host
            if earlier is not None and not self._opened:
                earlier.bridge.post(earlier.close)
            self._opened = True
            self._owner = os.getpid()
            host = self._host = Host(self, self._name, cast(IReactorTime, reactor), bridge, bool(self._outlets))
        bridge.post(self._inside_reactor)
        host.start()
        reactor.callLater(0, self._start_pusher)

    def _inside_reactor(self) -> None:
        self._ident = threading.get_ident()

    def _start_pusher(self) -> None:
        """Move the server's messages to Redis that no worker of this process takes."""
        host, channels = self._host, [name for name in SERVER_CHANNELS if name not in self._served]
        if host is not None and channels:
            Pusher(host, channels, self.dispatch).start()

    def _engine(self) -> Host:
        """Return this process as a host; if no server has opened the layer, connect now."""
        host = self._host
        if host is not None and self._owner == os.getpid():
            return host
        with self._lock:
            if self._host is None or self._owner != os.getpid():
                thread = reactor_thread()
                if self._owner not in (0, os.getpid()):
                    self.forked()
                self._opened = False
                self._owner = os.getpid()
                self._ident = thread.ident
                self._host = Host(self, self._name, thread.reactor, thread.bridge, bool(self._outlets))
                thread.bridge.post(self._host.start)
            return self._host

    def forked(self) -> None:
        self._lock = threading.RLock()
        self._host, self._opened, self._owner, self._ident = None, False, 0, None
        self._name = new_host_name()
        self._served = frozenset()
        self._outlets.clear()
        self.groups = Groups(self.group_expiry, self._clock, self.outlet_of)

    def serve(self, channels: Collection[str], threads: int) -> None:
        self._served = frozenset(channels)
        self._engine().serve(sorted(channels), threads)

    def retire(self) -> None:
        if self._host is not None:
            self._host.retire()

    def close(self) -> Any:
        self.drops.flush(due=True)
        with self._lock:
            host, self._host = self._host, None
        if host is None or self._owner != os.getpid():
            return None
        if self._opened:
            return host.close()
        done = threading.Event()
        host.bridge.post(lambda: host.close().addBoth(lambda _: done.set()))
        done.wait(2.0)
        return None

    def problem(self) -> str:
        host = self._host
        return "" if host is None else host.problem()

    def _milliseconds(self) -> float:
        """Return the time of the first Redis, as far as it is known: the same for all processes."""
        host = self._host
        return time.time() * 1000 + self.time_offset if host is None else host.shards[0].now()

    def _know_time(self) -> None:
        """Before the first message is sealed: this machine's clock may be wrong."""
        if self.sealer.encrypts:
            self._connect()

    def _inside(self) -> bool:
        """Whether this is the reactor's thread, which never waits."""
        return threading.get_ident() == self._ident

    def _ask(self, call: Call, seconds: float = PATIENCE, late: Callable[[Future[Any]], object] | None = None) -> Any:
        """Ask Redis, and wait for the answer.

        :param late: see :meth:`Answer.wait`.
        :raises RedisUnavailable: there is none in time.
        """
        if self._inside():
            raise RuntimeError("the reactor's thread cannot wait for Redis; use another thread")
        answer = Answer()
        host = self._engine()
        host.bridge.post(answer.begin, host, call)
        return answer.wait(seconds, late)

    def _post(self, call: Call, size: int = 0) -> None:
        """Send to Redis without waiting; in a process without a server, which may end at once, wait."""
        host = self._engine()
        if self._opened or self._inside():
            host.bridge.post_data(size, begin, host, call)
        else:
            try:
                self._ask(call)
            except RedisUnavailable as error:
                self.drops.record(Reason.NO_REDIS, "groups and replies", hint=str(error))

    def _connect(self) -> None:
        """Wait for the first attempt to connect, but not in the reactor's thread."""
        if not self._engine().tried and not self._inside():
            try:
                self._ask(_nothing)
            except RedisUnavailable:
                pass  # Host sends all memberships with the first connection

    # -- asgiref 1 -----------------------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        """Take the next message from any of `channels`; with `block`, wait up to five seconds for one.

        :returns: ``(channel, message)``, or ``(None, None)`` if there was none. For a channel given as ``name!`` the
            full name is returned.
        :raises TypeError: a name is invalid.
        :raises RedisUnavailable: Redis cannot be asked.
        """
        names = tuple(channels)
        self.valid_channel_names(names, receive=True)
        arrived = threading.Event()
        ends = time.monotonic() + (self.receive_seconds if block else 0.0)
        if block:
            self._engine().listen(arrived.set)
        try:
            while True:
                arrived.clear()
                delivery = self.queues.take(names)
                if delivery is not None:
                    self.queues.finish(delivery)
                    return delivery.channel, delivery.content
                order = self._random.sample(names, len(names))
                taken = self._ask(lambda host: host.take(order, block))  # noqa: B023
                if taken is not None:
                    try:
                        channel = taken[0].decode()
                        return channel, from_queue(self.sealer, channel, taken[1])
                    except SealError as error:
                        record_refused(self.drops, names[0], error)
                        continue
                left = ends - time.monotonic()
                if left <= 0:
                    return None, None
                arrived.wait(left)
        finally:
            if block:
                self._engine().unlisten(arrived.set)

    def group_add(self, group: str, channel: str) -> None:
        """Make `channel` a member of `group`, or renew its membership."""
        self._join(check_group_name(group), check_channel_name(channel), True)

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of `channel` in `group`, if there is one."""
        self._join(check_group_name(group), check_channel_name(channel), False)

    def _join(self, group: str, channel: str, begins: bool) -> None:
        if self.outlet_of(channel) is not None:
            if begins:
                self.groups.add(group, channel)
            else:
                self.groups.discard(group, channel)
            host = self._engine()
            self._connect()  # a client whose socket is open may expect group messages
            host.bridge.post(host.sync, group, channel)
            return

        async def join(host: Host) -> None:
            try:
                await (host.join_other if token_of(channel) else host.join_queue)(group, channel, begins)
            except RedisUnavailable as error:
                self.drops.record(Reason.NO_REDIS, group, hint=f"a change of its members: {error}")

        self._post(join)

    def group_channels(self, group: str) -> list[str]:
        """Return the members of `group`; in the reactor's thread, those of this process.

        :raises RedisUnavailable: Redis cannot be asked.
        """
        own = self.groups.members(check_group_name(group))
        if self._inside():
            return own
        found: list[str] = self._ask(lambda host: host.members(group))
        # In Redis, memberships of this process may be missing or outdated.
        return [*own, *(name for name in found if self.outlet_of(name) is None)]

    def flush(self) -> None:
        """Forget all messages and all groups, those of other hosts, too. Open connections stay open."""
        self.queues.flush()
        self.groups.flush()

        async def delete(host: Host) -> None:
            for shard in host.shards:
                await shard.command("PUBLISH", f"{self.prefix}everyone", "x")
                await shard.delete_all((f"{_escaped(self.prefix)}*", f"{_escaped(self.stats_prefix)}*"))

        self._ask(delete)

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return one channel's figures (asgiref 1, extension ``statistics``).

        :returns: ``messages_count``, ``channel_full_count`` and ``messages_pending`` in messages, ``messages_max_age``
            in seconds. In the reactor's thread those of this process, else those of all processes of the server and
            of Redis.
        """
        name = local_prefix(channel)
        if self._inside():
            return self.own_channel_statistics(name)
        figures = self.own_channel_statistics(name) if self.gather is None else self.gather("channel_statistics", name)
        for number, full, pending, left in self._ask(lambda host: _statistics(host, name)):
            figures["messages_count"] += number
            figures["channel_full_count"] += full
            figures["messages_pending"] += pending
            if left >= 0:
                figures["messages_max_age"] = max(figures["messages_max_age"], self.expiry - left / 1000)
        return figures

    def global_statistics(self) -> dict[str, Any]:
        """Return the figures of all processes of the server (asgiref 1, extension ``statistics``), with groups and lost
        messages; messages that wait in Redis are pending.
        """
        alone = self.gather is None or self._inside()
        figures = self.own_global_statistics() if self.gather is None or alone else self.gather("global_statistics")
        figures["groups"] = len(figures.pop("by_group"))
        host = self._host
        books = [shard.books for shard in host.shards if shard.books is not None] if host is not None else []
        figures["messages_pending"] += sum(known.waiting for known in books)
        return figures

    def own_global_statistics(self) -> dict[str, Any]:
        # By name, because several processes have members in the same group.
        return {**super().own_global_statistics(), "by_group": self.groups.counts()}

    # -- for the server and the workers --------------------------------------------------------------------------------

    def attach(self, prefix: str, outlet: Outlet) -> None:
        self._name = token_of(prefix) or self._name
        super().attach(prefix, outlet)

    def submit(
        self, channel: str, content: Content, attachment: Any = None, urgent: bool = False,
        client: Client = None, size: int | None = None,
    ) -> None:  # fmt: skip
        if channel not in self._served and channel in ("http.request", "websocket.connect"):
            host = self._engine()
            if not host.is_up(content.get("reply_channel") or ""):
                raise RedisUnavailable(host.problem() or "there is no connection to Redis yet")
        self.queues.put(channel, content, attachment, urgent, client, size)

    def forget(self, channel: str) -> None:
        for group in self.groups.drop(channel):
            host = self._engine()
            host.bridge.post(host.sync, group, channel)

    def dispatch(self, channel: str, content: Content) -> None:
        """Like :meth:`BaseChannelLayer.dispatch`.

        In the reactor's thread, which never waits, a message that does not fit is tried again for two seconds, then
        counted as lost.

        :raises RedisUnavailable: Redis cannot be reached, or refuses the message.
        """
        self._dispatch(channel, content)

    def dispatch_unasked(self, channel: str, content: Content) -> None:
        """Like :meth:`dispatch`. If the connection is lost meanwhile, the layer finds out later whether the message has
        arrived, and counts it if not.
        """

        def late(answer: Future[Any]) -> None:
            error = answer.exception()
            if error is not None:
                self.drops.record(getattr(error, "reason", Reason.ERROR), channel, hint=str(error))

        self._dispatch(channel, content, late=late)

    sends_once = True

    def dispatch_once(self, token: str, is_group: bool, name: str, content: Content) -> None:
        if is_group:
            self.dispatch_group(name, content)
        else:
            self._dispatch(name, content, token)

    def _dispatch(
        self, channel: str, content: Content, token: str = "", late: Callable[[Future[Any]], object] | None = None
    ) -> None:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, content)
        elif token_of(channel):
            self._post(lambda host: host.reply(channel, content), size_of_reply(content))
        elif channel in self._served and channel in SERVER_CHANNELS:
            self.queues.put(channel, content)
        else:
            self._know_time()
            data = to_queue(self.sealer, channel, content, self.expiry)
            inside = self._inside()
            patient = inside or late is not None
            parcel = Parcel(channel, content, data, _reply_of(content), token=token, patient=patient)
            if inside:
                self._engine().push_patiently(parcel)
            else:
                self._ask(lambda host: host.copies.send(parcel), late=late)

    def session_stored(self, channel: str) -> None:
        if self.outlet_of(channel) is None and token_of(channel):
            self._post(lambda host: host.tell_session(channel))
        else:
            super().session_stored(channel)

    def dispatch_group(self, group: str, content: Content) -> None:
        for outlet, channels in self.groups.targets(group)[0]:
            outlet.deliver_group(channels, content)
        self._know_time()
        data, reply = to_group(self.sealer, group, content, self.expiry), _reply_of(content)
        self._post(lambda host: host.send_group(group, data, reply), len(data))

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            return outlet.deliver_waiting(channel, content, timeout)
        if token_of(channel):
            call: Call = lambda host: host.reply_waiting(channel, content, timeout)  # noqa: E731
            return bool(self._ask(call, timeout + 2 * PATIENCE))
        ends = self._clock() + timeout
        while True:
            try:
                self.dispatch(channel, content)
                return True
            except ChannelFull as error:
                left = ends - self._clock()
                if not error.retry or left <= 0:
                    return False
                threading.Event().wait(min(left, 0.2))

    def dispatch_then(self, channel: str, content: Content, timeout: float, done: Callable[[bool], object]) -> None:
        host = self._engine()
        call: Call = lambda host: host.reply_waiting(channel, content, timeout)  # noqa: E731
        host.bridge.post(lambda: begin(host, call).addBoth(lambda answer: done(answer is True)))

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        if self.outlet_of(channel) is not None or token_of(channel):
            return True
        if channel in SERVER_CHANNELS:
            return self.queues.when_room(channel, content, callback)
        self._engine().bridge.call_later(0.2, callback)
        return False

    def sweep(self) -> bool:
        self.refusals.flush()
        return super().sweep()


class RedisSentinelChannelLayer(RedisChannelLayer):
    """The layer on masters that Sentinels name (Channels 1: ``asgi_redis.RedisSentinelChannelLayer``).

    :raises ValueError: as for its parent, and without ``services``.
    """

    needs_services = True


async def _nothing(host: Host) -> None:
    """Wait for the first connection only."""


async def _statistics(host: Host, name: str) -> list[Any]:
    return [await shard.run(scripts.STATISTICS, name) for shard in host.shards]


def _reply_of(content: Content) -> str:
    """Return a message's reply channel; empty: it has none."""
    reply = content.get("reply_channel")
    return reply if isinstance(reply, str) else ""


def _escaped(prefix: str) -> str:
    """Return a glob that matches a prefix literally."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", prefix)
