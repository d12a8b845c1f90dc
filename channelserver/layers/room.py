"""For how much there is room in the work queues: messages of each channel and of each connection, bytes of all.

As :mod:`channelserver.layers.queues`, whose lock the methods that begin with ``_`` need. Owns the state of the queues.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

from channelserver.layers.base import ChannelFull
from channelserver.layers.chains import Chain, Chains
from channelserver.layers.content import Content
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.names import local_prefix
from channelserver.layers.past_counts import PastCounts
from channelserver.layers.turns import Client, Threads, Turns
from channelserver.layers.waiting import Callback, Delivery, Lane, Queue, size_of

#: Bytes in the messages of one lane, if there are several.
LANE_BYTES = 2 * 1024 * 1024
#: The channel from which a socket's first message comes, and that of its last, which may exceed the capacity.
FIRST, LAST = "websocket.connect", "websocket.disconnect"
#: While so many sockets' last messages wait, there is no first message of another one.
MOST_LAST = 10_000
#: Seconds between two looks for expired messages in a channel with many clients.
LOOK_SECONDS = 1.0
#: Channels, and expired messages, that one call of :meth:`WorkQueues.sweep` deals with: the reactor waits meanwhile.
SWEPT_AT_ONCE = 1000


class BoundedQueues:
    """Queues, and what fits into them.

    :param capacity_of: returns a channel's capacity in messages.
    :param expiry: seconds after which a waiting message is dropped.
    :param clock: returns seconds, monotonic.
    :param ordered: the channels whose messages form lanes.
    :param lane_limit: capacity of one lane in messages; keeps one busy client from filling a channel for all.
    :param in_turn: the channels whose clients are served in turn.
    :param client_of: returns the client of a message on one of these channels.
    :param crowded_out: called with a message of one of these that made room for another client's; such messages must
        not be lost in silence. None: none makes room.
    """

    #: Channels whose messages may make room for other clients': the sender is answered.
    may_make_room = frozenset({"http.request", "websocket.connect"})

    def __init__(
        self,
        capacity_of: Callable[[str], int],
        expiry: float,
        clock: Callable[[], float],
        drops: DropCounter,
        ordered: Iterable[str] = (),
        lane_limit: int = 100,
        in_turn: Iterable[str] = (),
        client_of: Callable[[Content], Client] = lambda content: None,
        crowded_out: Callable[[Delivery], object] | None = None,
    ) -> None:
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._clock = clock
        self._drops = drops
        self._ordered = frozenset(ordered)
        self._lane_limit = lane_limit
        self._in_turn = frozenset(in_turn)
        self._client_of = client_of
        self._crowded_out = crowded_out
        self.threads = Threads()
        #: Bytes in all messages that are not finished, and how many there may be.
        self.bytes = 0
        self.max_bytes: float = math.inf
        self._want_bytes: list[Callback] = []  # senders of messages for which there were too many
        self._lock = threading.Lock()
        self._queues: dict[str, Queue] = {}
        self._past = PastCounts()
        self._unswept: list[Queue] = []
        self._lanes: dict[str, Lane] = {}
        #: The order of the other channels.
        self.chains = Chains[Delivery]()
        self._listeners: dict[str, tuple[Callback, ...]] = {}
        #: The queues of some channels, by these; a take looks at the first one last.
        self._rows: dict[tuple[str, ...], deque[Queue]] = {}

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            ready: deque[Any] | Turns = Turns(name, self.threads) if name in self._in_turn else deque()
            queue = self._queues[name] = Queue(name, self._capacity_of(name), ready)
            queue.count, queue.full_count = self._past.take(name)
            self._rows.clear()
        return queue

    @staticmethod
    def _lane_key(content: Content) -> str | None:
        """Return the name of the lane that a message on an ordered channel belongs to, or None."""
        key = content.get("reply_channel")
        return key if isinstance(key, str) else None

    def when_room(self, channel: str, content: Content, callback: Callback) -> bool:
        """Return True if a message fits into `channel` now; else call `callback` once, from any thread, when it may.

        :param content: the message that did not fit; its ``reply_channel`` names the lane.
        :returns: True if there is room now; then `callback` is never called.
        """
        name = local_prefix(channel)
        size = size_of(content)
        with self._lock:
            queue = self._queue(name)
            if self._heavy(size):
                self._want_bytes.append(callback)
                return False
            key = self._lane_key(content) if channel in self._ordered else None
            lane = self._lanes.get(key) if key is not None else None
            if self._is_full(queue, lane):
                queue.wants_room.append(callback)
                return False
            if lane is not None and self._lane_full(lane, size):
                lane.wants_room.append(callback)
                return False
            return True

    def _check_room(
        self, queue: Queue, lane: Lane | None, client: Client, size: int, now: float, calls: list[Callback]
    ) -> None:
        """Check that there is room for a message; make some if possible.

        :raises ChannelFull: there is none.
        """
        name = queue.name
        if queue.size >= queue.capacity and not self._heavy(size):
            self._expire(queue, now, calls)
        if self._heavy(size):
            reason = f"channel {name!r} is full: {self.bytes} bytes are in messages of all channels"
        elif self._is_full(queue, lane) and not self._make_room(queue, client, calls):
            listens = name in self._listeners
            reason = f"channel {name!r} is full: {queue.size} messages wait"
            reason += "" if listens else ", and no consumer in this process listens to it"
        elif lane is not None and self._lane_full(lane, size):
            reason = f"channel {name!r} is full for {lane.key!r}: {len(lane.waiting)} of its messages wait"
        elif name == FIRST and (last := self._queues.get(LAST)) is not None and last.size >= MOST_LAST:
            reason = f"channel {name!r} takes no more, as {last.size} messages wait in {LAST!r}"
        else:
            return
        queue.full_count += 1
        raise ChannelFull(reason)

    def _is_full(self, queue: Queue, lane: Lane | None) -> bool:
        """Whether a channel has no room for a message.

        A socket without waiting messages always has, unless there are very many: or those with many would keep it out.
        """
        if queue.size < queue.capacity:
            return False
        first = queue.name in self._ordered and queue.name != FIRST and (lane is None or not lane.waiting)
        return not first or len(self._lanes) >= queue.capacity // 2

    def _lane_full(self, lane: Lane, size: int) -> bool:
        """Whether a lane has no room for a message with `size` bytes."""
        return len(lane.waiting) >= self._lane_limit or (size > 0 and 0 < lane.bytes > LANE_BYTES - size)

    def _heavy(self, size: int) -> bool:
        """Whether `size` bytes more are too many for all queues."""
        return size > 0 and self.bytes + size > self.max_bytes and self.bytes > 0

    def _make_room(self, queue: Queue, client: Client, calls: list[Callback]) -> bool:
        """Take the last message of the client with the most messages out of a full channel, unless it is this one."""
        crowded_out = self._crowded_out
        if crowded_out is None or queue.name not in self.may_make_room or not isinstance(queue.ready, Turns):
            return False
        item = queue.ready.crowder(client)
        if item is None or (isinstance(item, Lane) and len(item.waiting) > 1):
            return False
        queue.ready.remove(item)
        queue.size -= 1
        if isinstance(item, Lane):
            item = self._lanes.pop(item.key).waiting.pop()
        if item.size:
            self._lighten(item, None, calls)
        calls.append(partial(crowded_out, item))
        return True

    def _expire(self, queue: Queue, now: float, calls: list[Callback]) -> None:
        """Drop the expired messages at the head of a queue, or a part of them if there are many."""
        limit = len(calls) + SWEPT_AT_ONCE
        ready = queue.ready
        if isinstance(ready, Turns):
            if now < queue.looked + LOOK_SECONDS:
                return
            queue.looked = now
        gone = True
        while gone and len(calls) < limit:
            gone = False
            for item in ready.heads() if isinstance(ready, Turns) else tuple(islice(ready, 1)):
                first = item.waiting[0] if isinstance(item, Lane) else item
                if first.expires <= now:
                    gone = True
                    ready.remove(item)
                    expired = self._pop(queue, item, calls)
                    if expired is not None:
                        calls.append(self._drop_expired(expired, calls))

    def _drop_expired(self, delivery: Delivery, calls: list[Callback]) -> Callback:
        lane, delivery.lane = delivery.lane, None
        if delivery.size:
            self._lighten(delivery, lane, calls)
        if lane is not None:
            self._advance(lane, calls)
        return lambda: self._drops.record(Reason.EXPIRED, delivery.channel, hint="no consumer took it in time")

    def _pop(self, queue: Queue, item: Delivery | Lane, calls: list[Callback]) -> Delivery | None:
        """Take the message of an item that is no longer in its queue; None: it must wait for an earlier one."""
        if isinstance(item, Lane):
            delivery = item.waiting.popleft()
            item.busy = True
            if item.wants_room:
                self._call_lane(item, calls)
        elif item.channel in self.chains.unordered or self.chains.begin(item):
            delivery = item
        else:
            return None
        queue.size -= 1
        if queue.wants_room:
            self._call_queue(queue, calls)
        return delivery

    def _advance(self, lane: Lane | Chain[Delivery], calls: list[Callback]) -> None:
        if isinstance(lane, Chain):
            following = self.chains.end(lane)
            if following is not None:
                name = local_prefix(following.channel)
                self._queue(name).ready.appendleft(following)
                calls.extend(self._listeners.get(name, ()))
            return
        lane.busy = False
        if lane.waiting:
            name = local_prefix(lane.waiting[0].channel)
            self._queue(name).ready.append(lane)
            calls.extend(self._listeners.get(name, ()))
        elif not lane.wants_room:
            self._lanes.pop(lane.key, None)

    def _lighten(self, delivery: Delivery, lane: Lane | Chain[Delivery] | None, calls: list[Callback]) -> None:
        """The bytes of a message are no longer kept."""
        size, delivery.size = delivery.size, 0
        self.bytes -= size
        if isinstance(lane, Lane):
            lane.bytes -= size
            self._call_lane(lane, calls)
        if self._want_bytes and self.bytes <= self.max_bytes * 3 // 4:
            calls.extend(self._want_bytes)
            self._want_bytes.clear()

    @staticmethod
    def _call_queue(queue: Queue, calls: list[Callback]) -> None:
        """Call those who want room in a queue, if there is much."""
        # Not at the first free place: all senders are woken at once, when there is room for many of them.
        if queue.size <= queue.capacity * 3 // 4:
            calls.extend(queue.wants_room)
            queue.wants_room.clear()

    def _call_lane(self, lane: Lane, calls: list[Callback]) -> None:
        """Call those who want room in a lane, if there is much."""
        if len(lane.waiting) <= self._lane_limit // 2 and lane.bytes <= LANE_BYTES // 2:
            calls.extend(lane.wants_room)
            lane.wants_room.clear()
