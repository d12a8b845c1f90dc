"""This process as a *host*: its place among other processes, and its commands to Redis.

Runs in the thread of its reactor, except where a docstring says otherwise; owns the connections to all servers, the
host's heartbeat and pending commands.

A host has a name, the random token in the names of its reply channels, and one pub/sub channel, on which it receives
messages. A message begins with a letter: ``s`` something sealed, whose place has its kind (``r`` a reply, ``w`` a reply
whose sender waits for room, ``k`` the answer to that, ``a`` and ``d`` the beginning and end of a membership; or it is a
message to a group); ``w`` and a channel: there is work; ``f`` and a reply channel: no answer will come, because the
host of the worker is dead; ``c`` and a number: the message of which this host has a copy has ended. All hosts hear
``e``, the name of a host and a message to a group, as in ``s``: soon after Redis was emptied, it does not know which
hosts have members; and ``x``: somebody empties the layer, so copies are not put back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from channelserver.layers.base import FAILED, SESSION, ChannelFull, MessageTooLarge, NotSendable, Outlet, ReactorBridge
from channelserver.layers.chains import UNORDERED
from channelserver.layers.content import Content
from channelserver.layers.groups import Groups
from channelserver.layers.local import SERVER_CHANNELS
from channelserver.layers.losses import MOST_REQUEUES, DropCounter, Reason
from channelserver.layers.names import local_prefix
from channelserver.layers.redis import scripts
from channelserver.layers.redis.address import Address
from channelserver.layers.redis.copies import Copies, Parcel
from channelserver.layers.redis.emptied import Emptied
from channelserver.layers.redis.fetcher import Fetcher, lane_of, record_expired, record_refused
from channelserver.layers.redis.letters import from_host, membership, to_host, to_queue
from channelserver.layers.redis.ring import Ring
from channelserver.layers.redis.seal import DAY, Sealer, SealError
from channelserver.layers.redis.shard import ANSWER_SECONDS, Books, Shard, next_number
from channelserver.layers.redis.work import FetchedQueues
from channelserver.layers.throttled_log import ThrottledLog

logger = logging.getLogger("channelserver.layers.redis")

#: Seconds between two heartbeats, and until a host without one is dead: if it does not listen (it may be back, though),
#: and in any case.
BEAT, SILENCE, LIFETIME = 1.0, 2.0, 20.0
#: Seconds after connecting until dead hosts are removed: after an outage of Redis, others may still be connecting.
GRACE = 4.0
#: Seconds after which all hosts are known to a Redis that was emptied; until then, group messages go to all of them.
YOUNG = 3.0
#: Heartbeats between two searches for expired messages.
SWEEP_EVERY = 10
#: Heartbeats between two searches for work that no host was woken for. There should be none.
SEARCH_EVERY = 30
#: Seconds for which a message is tried again whose sender cannot wait.
RETRY_SECONDS = 2.0
#: How often memberships of open connections are renewed within ``group_expiry``.
RENEWALS = 3
#: Members in one command when Redis has lost its data.
BATCH = 500
#: What tells that a message was put in, and that its sender is to keep a copy; see ``push.lua``.
COPIED = 2
#: Channels of whose messages no copies are kept.
OF_SERVER = frozenset(SERVER_CHANNELS)

_token = re.compile(r"(?:http\.response|websocket\.send)\.([A-Za-z0-9_\-]+)!").match


def token_of(channel: str) -> str:
    """Return the name of the host that has a reply channel; empty: it is no reply channel. Any thread."""
    match = _token(channel)
    return match[1] if match else ""


class HostLayer(Protocol):
    """What a host uses of its layer: settings, queues, groups and connections of this process."""

    prefix: str
    stats_prefix: str
    expiry: float
    group_expiry: float
    lane_limit: int
    ordered: frozenset[str]
    addresses: list[Address]
    time_offset: int
    sealer: Sealer
    queues: FetchedQueues
    groups: Groups
    drops: DropCounter
    requeued: frozenset[str]
    refusals: ThrottledLog

    def get_capacity(self, channel: str) -> int: ...
    def outlet_of(self, channel: str) -> Outlet | None: ...


class Host:
    """One process.

    :param layer: its settings and its local part.
    :param member: whether to announce this host to others: it has connections or workers.
    """

    def __init__(self, layer: HostLayer, name: str, reactor: IReactorTime, bridge: ReactorBridge, member: bool) -> None:
        self.layer = layer
        self.name = name
        self.reactor = reactor
        self.bridge = bridge
        self.member = member
        self.fetcher: Fetcher | None = None
        self.shards = [
            Shard(
                reactor, address, name, (layer.prefix, layer.stats_prefix),
                [f"{layer.prefix}host:{name}", f"{layer.prefix}everyone"], self._received,
                self._ready, self._hearing, self._emptied, layer.refusals, lambda: layer.time_offset,
            )
            for address in layer.addresses
        ]  # fmt: skip
        self._shard = Ring(self.shards, lambda shard: shard.address.name).find
        self._own = self._shard(name)
        self._timer: IDelayedCall | None = None
        self._looks = 0
        self._looked = reactor.seconds()
        self._former = Emptied(name, reactor, member, layer.drops)
        self.copies = Copies(
            name, reactor, lambda: layer.requeued, self.put, self._server_of_parcel,
            lambda parcel: to_queue(layer.sealer, parcel.channel, parcel.content, layer.expiry), layer.drops,
            self._former.put_back,
        )  # fmt: skip
        # Memberships end in Redis; those of open connections are renewed in time.
        self._renew_every = max(1, int(layer.group_expiry / RENEWALS / BEAT))
        self._closed = False
        self._waits: dict[int, Callable[[bool], object]] = {}
        self._number = 0
        self._wakers: set[Callable[[], object]] = set()
        self._later: dict[str, list[tuple[float, Parcel]]] = {}

    def start(self) -> None:
        for shard in self.shards:
            shard.start()
        self._timer = self.reactor.callLater(BEAT, self._look)

    def close(self) -> defer.Deferred[None]:
        """Tell the other hosts, then close the connections."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        left: defer.Deferred[None] = defer.Deferred()
        self.bridge.post(self._leave, left)  # behind what workers have finished
        return left.addTimeout(1.0, self.reactor).addBoth(self._end)

    def _leave(self, left: defer.Deferred[None]) -> None:
        if self.fetcher is not None:
            self.fetcher.report()
        told = [
            shard.run(scripts.LEAVE, self.name, int(self.layer.expiry * 1000), MOST_REQUEUES).addCallback(
                self._lost_with, self.name
            )
            for shard in self.shards
            if self.member and shard.is_up
        ]
        defer.DeferredList(told, consumeErrors=True).addCallback(lambda _: None if left.called else left.callback(None))

    def _end(self, _: object) -> None:
        for shard in self.shards:
            shard.close()
        for channel, number in self.copies.unsent().items():
            self.layer.drops.record(Reason.NO_REDIS, channel, number, "the server ended before Redis was back")

    def problem(self) -> str:
        """Return what is wrong with the servers; empty: nothing. Any thread."""
        return "; ".join(filter(None, (shard.problem() for shard in self.shards)))

    def when_tried(self) -> defer.Deferred[list[None]]:
        """Return a Deferred that fires after the first attempt to connect to all servers."""
        tried = [(shard.commands.when_tried(), shard.subscriber.when_tried()) for shard in self.shards]
        return defer.gatherResults([each for both in tried for each in both])

    @property
    def tried(self) -> bool:
        return all(shard.commands.tried and shard.subscriber.tried for shard in self.shards)

    def server_of(self, name: str) -> Shard:
        """Return the server that is responsible for a name."""
        return self._shard(name)

    @property
    def hears(self) -> bool:
        """Whether replies of other hosts arrive: there is a subscription where they are published."""
        return self._own.subscriber.state == "up"

    def is_up(self, name: str) -> bool:
        """Whether the server that is responsible for a name is connected. Any thread."""
        return self._shard(name).is_up

    # -- heartbeat -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = self.reactor.callLater(BEAT, self._look)
        self._looks += 1
        looked, self._looked = self._looked, self.reactor.seconds()
        late = self._looked - looked > 2 * BEAT  # this process stood still: answers may wait to be read
        for shard in self.shards:
            try:
                if not late:
                    shard.look()
                if self.member and shard.is_up:
                    self._beat(shard)
                    if self._looks % self._renew_every == 0:
                        self._send_all(shard)
                    if self._looks % SWEEP_EVERY == 0:
                        self._sweep(shard)
                self.copies.beat(shard, self.member)
                if self._looks % SEARCH_EVERY == 0:
                    self.copies.look(shard)
                    if self.fetcher is not None:
                        self.fetcher.search(shard, self.layer.prefix)
            except Exception:
                logger.exception("error in the heartbeat to Redis %s", shard.address)

    def _beat(self, shard: Shard, first: bool = False) -> None:
        requeued = [] if self.fetcher is None else self.fetcher.requeued - OF_SERVER
        alive = shard.change(scripts.BEAT, self.name, int(SILENCE * 1000), int(LIFETIME * 1000), *requeued)
        alive.addCallbacks(self._beaten, _ignore, callbackArgs=(shard, first))

    def _beaten(self, answer: list[Any], shard: Shard, first: bool) -> None:
        added, silent = answer
        if added and not first:
            self._send_all(shard)  # Redis has lost its data, or another host took this one for dead
        if silent and shard.commands.age() > GRACE:
            removed = shard.run(
                scripts.REMOVE_DEAD, int(LIFETIME * 1000), int(SILENCE * 1000), int(self.layer.expiry * 1000),
                MOST_REQUEUES, *silent,
            )  # fmt: skip
            removed.addCallbacks(self._removed, _ignore)

    def _removed(self, answer: list[Any]) -> None:
        for name, before, rows in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
            if not before:
                logger.warning("host %s is dead, or cut off", name.decode())
            self._lost_with(rows, name.decode())

    def _lost_with(self, rows: list[Any], name: str) -> None:
        """Count the messages that a host had started when it ended."""
        for at in range(0, len(rows), 4):
            channel, lost, twice, again = rows[at].decode(), *rows[at + 1 : at + 4]
            for reason, number in ((Reason.DIED, lost - twice), (Reason.DIED_AGAIN, twice)):
                self.layer.drops.record(reason, channel, number, f"it was host {name}")
            if again:
                logger.warning("%d message(s) to %r of host %s, which has ended, go to others", again, channel, name)

    def _sweep(self, shard: Shard) -> None:
        """Drop expired messages that nobody takes."""
        swept = shard.change(scripts.SWEEP, int((SWEEP_EVERY - 1) * BEAT * 1000))
        swept.addCallbacks(lambda answer: record_expired(self.layer.drops, answer[0]), _ignore)

    def _emptied(self, shard: Shard, old: Books, new: Books) -> None:
        """Redis has lost what it knew: tell it again, and count what waited in it."""
        if self.member:
            logger.warning(
                "Redis %s was emptied %.1f s ago: lost are messages that waited in it, but not those with requeue, and "
                "memberships of channels that are no connections", shard.address, shard.since(new.epoch),
            )  # fmt: skip
            self.layer.drops.add(Reason.GAP)
            self._send_all(shard)
        held = 0
        if self.fetcher is not None:
            held = self.fetcher.held(shard)
            self.fetcher.connected(shard, emptied=True)
        self._former.tell(shard, old, held, self.copies.emptied(shard, old.epoch))

    def _ready(self, shard: Shard) -> None:
        if self.member:
            self._beat(shard, first=True)
        self._send_all(shard)
        self.copies.connected(shard)  # before it is reported that those have been consumed that sent them
        if self.fetcher is not None:
            self.fetcher.connected(shard)

    def _send_all(self, shard: Shard) -> None:
        """Send a server all memberships of this host's own connections: it may have lost its data."""
        for group in self.layer.groups.counts():
            if self._shard(group) is shard:
                members = [name for name in self.layer.groups.members(group) if token_of(name)]
                for index in range(0, len(members), BATCH):
                    self._join(group, members[index : index + BATCH])

    def _hearing(self, shard: Shard, seconds: float | None) -> None:
        if seconds is not None:
            logger.warning(
                "no subscription to Redis %s for %.1f s: messages from other hosts to connections here are lost",
                shard.address, seconds,
            )  # fmt: skip
            self.layer.drops.add(Reason.GAP)
        self.copies.look(shard)  # it may have missed that some have ended
        if self.fetcher is not None:
            self.fetcher.ready(shard)

    # -- work ----------------------------------------------------------------------------------------------------------

    def serve(self, channels: Sequence[str], threads: int) -> None:
        layer = self.layer
        self.member = True
        self._former.asks = True
        fetcher = self.fetcher = Fetcher(
            self.name, self.shards, layer.queues, channels, threads, layer.sealer, layer.drops,
            lambda: layer.requeued, int(layer.expiry * 1000), lambda function: self.reactor.callLater(0, function),
        )  # fmt: skip
        layer.queues.on_done = lambda delivery: self.bridge.post(fetcher.done, delivery)
        layer.queues.on_release = lambda delivery: self.bridge.post(fetcher.release, delivery)
        for shard in self.shards:
            if shard.is_up:
                fetcher.ready(shard)

    def retire(self) -> None:
        if self.fetcher is not None:
            self.fetcher.retire(self.shards)

    def listen(self, waker: Callable[[], object]) -> None:
        """Call `waker` whenever there may be work."""
        self._wakers.add(waker)

    def unlisten(self, waker: Callable[[], object]) -> None:
        self._wakers.discard(waker)

    async def take(self, channels: Sequence[str], waiting: bool) -> tuple[bytes, bytes] | None:
        """Take one message of any of `channels`; return the channel and the sealed message, or None.

        :param waiting: wake this host when one arrives, if there is none.
        """
        for shard in self.shards:
            items, gone = await shard.take(1, waiting, False, channels)
            record_expired(self.layer.drops, gone)
            if items:
                return items[0], items[3]
        return None

    async def push(self, channel: str, content: Content, urgent: bool = False) -> None:
        """Put a message into a channel.

        :param urgent: ignore the capacity, and keep it for a day.
        :raises ChannelFull: it is full, or Redis refuses it.
        """
        reply = content.get("reply_channel")
        data = to_queue(self.layer.sealer, channel, content, DAY if urgent else self.layer.expiry)
        await self.put(Parcel(channel, content, data, reply if isinstance(reply, str) else "", urgent))

    async def put(self, parcel: Parcel) -> bool:
        """Put a sealed message into its channel; return whether its sender is to keep a copy.

        :raises ChannelFull: it is full, or Redis refuses it.
        """
        layer, channel, reply = self.layer, parcel.channel, parcel.reply
        queue = local_prefix(channel)
        free = parcel.urgent or parcel.again
        capacity = 10**9 if free else layer.get_capacity(queue)
        lifetime = int((DAY if parcel.urgent else layer.expiry) * 1000)
        script = scripts.PUSH
        words: tuple[Any, ...] = queue, capacity, lifetime, "p", channel
        if reply and channel in layer.ordered:
            script, words = scripts.PUSH_LANE, (channel, capacity, lifetime, reply, -1 if free else layer.lane_limit)
        elif reply and channel in UNORDERED:
            words = queue, capacity, lifetime, "t", reply
        elif reply and "?" not in channel and "!" not in channel:
            lane = lane_of(channel, reply)
            script, words = scripts.PUSH_LANE, (channel, capacity, lifetime, lane, -1 if free else capacity)
        parcel.number = parcel.number if parcel.copied else next_number()
        shard = self._server_of_parcel(parcel)
        done, gone = await shard.put(script, parcel.number, parcel.token, int(parcel.copied), *words, parcel.data)
        if gone:
            layer.drops.record(Reason.EXPIRED, queue, gone, "no consumer took it in time")
        if not done:
            raise ChannelFull(
                f"channel {queue!r} is full: {capacity} messages wait in Redis, or in the lane of one socket"
            )
        return bool(done == COPIED)

    def _server_of_parcel(self, parcel: Parcel) -> Shard:
        of_reply = parcel.reply and (parcel.channel in self.layer.ordered or parcel.channel in UNORDERED)
        return self._shard(parcel.reply if of_reply else local_prefix(parcel.channel))

    def push_patiently(self, parcel: Parcel) -> None:
        """Send without waiting: tried again for two seconds, then counted as lost."""
        waiting = self._later.setdefault(parcel.channel, [])
        waiting.append((self.reactor.seconds() + RETRY_SECONDS, parcel))
        if len(waiting) == 1:
            defer.ensureDeferred(self._push_waiting(parcel.channel))

    async def _push_waiting(self, channel: str) -> None:
        waiting = self._later[channel]
        while waiting:
            ends, parcel = waiting[0]
            try:
                await self.copies.send(parcel)
            except ChannelFull as error:
                if error.retry and self.reactor.seconds() < ends:
                    await task.deferLater(self.reactor, 0.2)
                    continue
                self.layer.drops.record(error.reason, channel, hint=str(error))
            except Exception:
                logger.exception("cannot send to %r", channel)
                self.layer.drops.add(Reason.ERROR)
            waiting.pop(0)
        del self._later[channel]

    # -- replies -------------------------------------------------------------------------------------------------------

    async def tell(self, host: str, kind: str, *items: Any) -> int:
        """Publish something to another host; return 1 if it listens, else 0."""
        data = to_host(self.layer.sealer, host, kind, *items)
        return int(await self._shard(host).command("PUBLISH", f"{self.layer.prefix}host:{host}", data))

    async def reply(self, channel: str, content: Content) -> None:
        """Send to a reply channel of another host; count it if it does not arrive."""
        try:
            if not await self.tell(token_of(channel), "r", channel, content):
                self.layer.drops.record(Reason.HOST_GONE, "replies", hint=f"no host has {channel!r} any more")
        except (ChannelFull, MessageTooLarge, NotSendable) as error:
            self.layer.drops.record(error.reason, "replies", hint=str(error))

    async def tell_session(self, channel: str) -> None:
        """Tell another host that it has the connection of a stored session; if it has gone, so has the connection."""
        try:
            await self.tell(token_of(channel), "r", channel, {SESSION: True})
        except ChannelFull:
            pass

    async def reply_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """Send to a reply channel of another host when its client has room; return whether that succeeded."""
        self._number += 1
        number, answer = self._number, defer.Deferred[bool]()
        self._waits[number] = answer.callback
        try:
            if not await self.tell(token_of(channel), "w", channel, content, self.name, number, timeout):
                return False
            return bool(await answer.addTimeout(timeout + ANSWER_SECONDS, self.reactor))
        except (ChannelFull, defer.TimeoutError):
            return False
        finally:
            self._waits.pop(number, None)

    def _pass_on(self, channel: str, content: Content, sender: str, number: int, ends: float) -> None:
        """Deliver a part of an answer when its client has room, then answer the sender."""
        outlet = self.layer.outlet_of(channel)
        done = outlet is not None and outlet.deliver_waiting(channel, content, 0)
        if not done and outlet is not None and channel in outlet and self.reactor.seconds() < ends:
            self.reactor.callLater(0.05, self._pass_on, channel, content, sender, number, ends)
            return
        defer.ensureDeferred(self.tell(sender, "k", number, done)).addErrback(_ignore)

    # -- groups --------------------------------------------------------------------------------------------------------

    def sync(self, group: str, channel: str) -> None:
        """Store in Redis whether a connection of this host is a member of a group now."""
        self._join(group, [channel])

    def _join(self, group: str, channels: Sequence[str]) -> None:
        shard = self._shard(group)
        if not shard.is_up:
            return  # _send_all() follows when it is up
        groups = self.layer.groups
        words: list[str | int] = []
        for channel in channels:
            words += [channel, int(groups.has(group, channel))]
        joined = shard.run(
            scripts.JOIN, group, self.name, int(self.layer.group_expiry * 1000), int(groups.has(group)), *words
        )
        joined.addErrback(_ignore)

    async def join_other(self, group: str, channel: str, begins: bool) -> None:
        """Make another host's connection a member of a group, or end its membership."""
        kind, lifetime = ("a", int(self.layer.group_expiry * 1000)) if begins else ("d", 0)
        shard, host = self._shard(group), token_of(channel)
        data = to_host(self.layer.sealer, host, kind, group, channel)
        heard = await shard.run(scripts.JOIN_OTHER, group, channel, host, lifetime, data)
        if begins and not heard:
            logger.debug("%r did not join group %r: its host has gone", channel, group)

    async def join_queue(self, group: str, channel: str, begins: bool) -> None:
        """Make an ordinary channel a member of a group, or end its membership."""
        layer = self.layer
        lifetime = int(layer.group_expiry * 1000) if begins else 0
        capacity = layer.get_capacity(local_prefix(channel))
        proof = membership(layer.sealer, group, channel, layer.group_expiry)
        await self._shard(group).run(scripts.JOIN_QUEUE, group, channel, lifetime, capacity, proof)

    async def members(self, group: str) -> list[str]:
        found = await self._shard(group).run(scripts.MEMBERS, group, int(LIFETIME * 1000))
        return [name.decode() for name in found]

    async def send_group(self, group: str, data: bytes, reply: str = "") -> None:
        """Send to a group's members on other hosts; count what is lost.

        :param reply: the message's reply channel, if it has one.
        """
        layer = self.layer
        try:
            deaf, full, gone = await self._shard(group).change(
                scripts.SEND_GROUP, group, self.name, int(layer.expiry * 1000), int(LIFETIME * 1000), data, reply,
                int(YOUNG * 1000),
            )  # fmt: skip
        except ChannelFull as error:
            reason = error.reason
            layer.drops.record(reason, group, hint=f"members on other hosts: {error}")
            return
        if deaf:
            layer.drops.record(Reason.HOST_DEAF, group, deaf, "a host with members does not listen")
        for channel in full:
            layer.drops.record(Reason.FULL, channel.decode(), hint=f"it is a member of group {group!r}")
        record_expired(layer.drops, gone)

    # -- messages of other hosts ---------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        try:
            kind, rest = data[:1], data[1:]
            if kind == b"s":
                self._act(*from_host(self.layer.sealer, self.name, rest))
            elif kind == b"e":
                sender, _, sealed = rest.partition(b" ")
                if sender != self.name.encode():
                    self._act(*from_host(self.layer.sealer, self.name, sealed))
            elif kind == b"w":
                self._woken(rest.decode())
            elif kind == b"c" and rest.isdigit():
                self.copies.over(int(rest))
            elif kind == b"x":
                self.copies.flush()
            elif kind == b"f":
                channel = rest.decode()
                outlet = self.layer.outlet_of(channel)
                if outlet is not None:
                    outlet.deliver(channel, {FAILED: 502})
            else:
                raise SealError("its first letter is unknown")
        except SealError as error:
            record_refused(self.layer.drops, "this host", error)
        except Exception:
            logger.exception("error in a message of another host")

    def _act(self, kind: str, items: list[Any]) -> None:
        layer = self.layer
        if kind == "group":
            group, content = items
            for some, channels in layer.groups.targets(group)[0]:
                some.deliver_group(channels, content)
        elif kind == "r":
            channel, content = items
            outlet = layer.outlet_of(channel)
            if outlet is not None:
                outlet.deliver(channel, content)
        elif kind == "w":
            channel, content, sender, number, timeout = items
            self._pass_on(channel, content, sender, number, self.reactor.seconds() + timeout)
        elif kind == "k":
            number, done = items
            waiting = self._waits.pop(number, None)
            if waiting is not None:
                waiting(done)
        elif kind in ("a", "d"):
            group, channel = items
            if kind == "a":
                layer.groups.add(group, channel)
            else:
                layer.groups.discard(group, channel)
            self.sync(group, channel)
        else:
            raise SealError(f"this version does not know the kind {kind!r}")

    def _woken(self, channel: str) -> None:
        if self.fetcher is not None:
            for shard in self.shards:
                self.fetcher.woken(shard, channel)
        for waker in tuple(self._wakers):
            waker()


def _ignore(failure: Failure) -> None:
    """Ignore that Redis cannot be reached: the connection logs it."""
    failure.trap(ChannelFull)
