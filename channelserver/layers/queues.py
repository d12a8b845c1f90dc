"""The work queues: messages that wait for a worker.

Safe from any thread: one lock, held for moments; callbacks are called without it. Owns the waiting messages.

Rules:

1. A queue is first in, first out, and holds at most its capacity.
2. Messages on *ordered* channels with the same ``reply_channel`` form a *lane*, a per-connection queue. A worker takes
   one message of a lane at a time, in order, whatever channel each one is on. The next one can be taken when that
   message is finished or put back. On the application's own channels, messages with the same ``reply_channel`` are
   also taken one at a time and in order; see :mod:`channelserver.layers.chains`.
3. Several queues are served in turn, so a busy one does not starve a quiet one.
4. The clients of the server's own channels are served in turn (:mod:`channelserver.layers.turns`). If such a channel
   is full, the client with the most messages makes room for one with fewer.
5. Large texts and bytes count from when a message is put in until it is finished: a lane holds at most
   :data:`LANE_BYTES` of them, or one message; all queues together hold at most ``max_bytes``, or one message.
5. There is no polling. Workers register listeners; senders to a full channel leave a callback.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

from channelserver.layers.base import ChannelFull
from channelserver.layers.chains import Chain, Chains
from channelserver.layers.content import Content
from channelserver.layers.costs import is_slow
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.names import local_prefix
from channelserver.layers.past_counts import PastCounts
from channelserver.layers.turns import Client, Threads, Turns

Callback = Callable[[], object]

#: Most messages of another process or host that one process can have in hand.
MAX_IN_HAND = 1000
#: Bytes in the messages of one lane, if there are several.
LANE_BYTES = 2 * 1024 * 1024
#: Texts and bytes up to this length do not count: the number of messages limits what they take.
SMALL = 1024
#: The channel from which a socket's first message comes, and that of its last, which may exceed the capacity.
FIRST, LAST = "websocket.connect", "websocket.disconnect"
#: While so many sockets' last messages wait, there is no first message of another one.
MOST_LAST = 10_000

#: Seconds between two looks for expired messages in a channel with many clients.
LOOK_SECONDS = 1.0
#: Channels, and expired messages, that one call of :meth:`WorkQueues.sweep` deals with: the reactor waits meanwhile.
SWEPT_AT_ONCE = 1000


class Delivery:
    """One message for one worker.

    ``channel`` is the full name; ``content`` belongs to the receiver; ``tries`` counts how often it was put back;
    ``attachment`` is an object that travels beside the content within a process (a spooled request body). ``ticket`` is
    set if another process owns the message; see :mod:`channelserver.processes.tickets`. ``plan`` caches what the
    workers know of a waiting message. ``client`` is set on channels whose clients are served in turn.
    ``deaths`` counts the processes that have died with it.
    """

    #: Whether another process or host has seen to the order.
    foreign = False

    __slots__ = (
        "attachment", "channel", "client", "content", "deaths", "expires", "lane", "level", "plan", "sent", "size",
        "ticket", "tries",
    )  # fmt: skip

    def __init__(
        self, channel: str, content: Content, sent: float, expires: float, attachment: Any = None,
        client: Client = None, lane: _Lane | None = None,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.content = content
        self.sent = sent
        self.expires = expires
        self.attachment = attachment
        self.client = client
        self.lane: _Lane | Chain[Delivery] | None = lane
        self.level = 0.0
        self.plan: Any = None
        self.ticket: Any = None
        self.tries = self.deaths = 0
        #: Bytes of memory for its large values, until it is finished.
        self.size = 0

    @property
    def path(self) -> str:
        """The path in its content; empty: it has none."""
        path = self.content.get("path")
        return path if isinstance(path, str) else ""


def size_of(content: Content) -> int:
    """Return the bytes of memory that the large texts and bytes in a message take, those in lists or dicts aside."""
    size = 0
    for value in content.values():
        if type(value) in _SIZED and len(value) > SMALL:
            size += sys.getsizeof(value)
    return size


_SIZED = frozenset({str, bytes})


class _Lane:
    """The waiting messages of one reply channel; see rule 2."""

    __slots__ = ("busy", "bytes", "client", "key", "level", "wants_room", "waiting")

    def __init__(self, key: str, client: Client) -> None:
        self.key = key
        self.client = client
        self.bytes = 0
        self.level = 0.0
        self.waiting: deque[Delivery] = deque()
        self.busy = False
        self.wants_room: list[Callback] = []

    @property
    def path(self) -> str:
        """The path of its next message."""
        return self.waiting[0].path


class _Queue:
    """One channel: what may be taken now, and how many messages wait in total, lanes included."""

    __slots__ = (
        "capacity", "count", "full_count", "idle", "line", "looked", "name", "ready", "seen", "size", "wants_room",
    )  # fmt: skip

    def __init__(self, name: str, capacity: int, ready: deque[Any] | Turns) -> None:
        self.name = name
        self.capacity = capacity
        self.ready = ready
        #: Where the items are that are served first in, first out; and their clients, see :class:`Turns`.
        self.line, self.seen = (ready.line, ready.seen) if isinstance(ready, Turns) else (ready, set())
        self.size = 0
        self.count = 0
        self.full_count = 0
        self.idle = False
        self.looked = -math.inf  # when expired messages were last looked for
        self.wants_room: list[Callback] = []


class Taker(Protocol):
    """Who takes a message."""

    delivery: Delivery | None


class WorkQueues:
    """All queues of a process.

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
        self._queues: dict[str, _Queue] = {}
        self._past = PastCounts()
        self._unswept: list[_Queue] = []
        self._lanes: dict[str, _Lane] = {}
        #: The order of the other channels.
        self.chains = Chains[Delivery]()
        self._listeners: dict[str, tuple[Callback, ...]] = {}
        #: The queues of some channels, by these; a take looks at the first one last.
        self._rows: dict[tuple[str, ...], deque[_Queue]] = {}

    # -- putting in ----------------------------------------------------------------------------------------------------

    def put(
        self, channel: str, content: Content, attachment: Any = None, urgent: bool = False,
        client: Client = None, size: int | None = None,
    ) -> None:  # fmt: skip
        """Let a message wait for a worker.

        :param channel: full name; a process-specific channel shares the queue of its part up to ``!``.
        :param content: belongs to the receiver afterwards.
        :param urgent: ignore the capacity and never expire; for messages that are bounded by something else (the one
            disconnect message of each open socket).
        :param client: whose message it is; None: `client_of` tells, if it matters.
        :param size: what :func:`size_of` returns; None: not known.
        :raises ChannelFull: there is no room; :meth:`when_room` calls back when there is.
        """
        name = local_prefix(channel) if "!" in channel else channel
        calls: list[Callback] = []
        now = self._clock()
        if size is None:
            size = size_of(content)
        try:
            with self._lock:
                queue = self._queues.get(name) or self._queue(name)
                key = self._lane_key(content) if channel in self._ordered else None
                lane = None if key is None else self._lanes.get(key)
                if client is None and name in self._in_turn:
                    client = self._client_of(content)
                if urgent:
                    expires = math.inf
                else:
                    expires = now + self._expiry
                    if size or lane is not None or queue.size >= queue.capacity or name == FIRST:
                        self._check_room(queue, lane, client, size, now, calls)
                if key is not None and lane is None:
                    lane = self._lanes[key] = _Lane(key, client)
                delivery = Delivery(channel, content, now, expires, attachment, client, lane)
                queue.count += 1
                if size:
                    delivery.size = size
                    self.bytes += size
                    if lane is not None:
                        lane.bytes += size
                listeners = self._listeners.get(name, ()) if self._enter(queue, delivery, lane) else ()
        finally:
            for call in calls:
                call()
        for listener in listeners:
            listener()

    def _check_room(
        self, queue: _Queue, lane: _Lane | None, client: Client, size: int, now: float, calls: list[Callback]
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

    def _is_full(self, queue: _Queue, lane: _Lane | None) -> bool:
        """Whether a channel has no room for a message.

        A socket without waiting messages always has, unless there are very many: or those with many would keep it out.
        """
        if queue.size < queue.capacity:
            return False
        first = queue.name in self._ordered and queue.name != FIRST and (lane is None or not lane.waiting)
        return not first or len(self._lanes) >= queue.capacity // 2

    def put_back(self, delivery: Delivery) -> None:
        """Put a taken message back: before those that must wait for it, or else at the end of its channel."""
        self._return((delivery,), False)

    def postpone(self, delivery: Delivery, seconds: float, call_later: Callable[..., object]) -> None:
        """Put a taken message back after `seconds`.

        :param call_later: ``call_later(seconds, function, *arguments)`` runs the function in the reactor thread.
        """
        call_later(seconds, self.put_back, delivery)

    def restore(self, deliveries: Iterable[Delivery]) -> None:
        """Put taken messages back where they were, as if they had never been taken.

        :param deliveries: in the order in which they were taken.
        """
        self._return(reversed(tuple(deliveries)), True)

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Like :meth:`restore`, for messages with which a process died: they expire as if sent now."""
        deliveries = tuple(deliveries)
        for delivery in deliveries:
            delivery.deaths += 1
            delivery.plan = None
            delivery.expires = max(delivery.expires, self._clock() + self._expiry)
        self.restore(deliveries)

    def _return(self, deliveries: Iterable[Delivery], first: bool) -> None:
        """Put taken messages back into their channels: before all others, or behind them."""
        listeners: set[Callback] = set()
        with self._lock:
            for delivery in deliveries:
                name = local_prefix(delivery.channel)
                queue = self._queue(name)
                queue.size += 1
                lane = delivery.lane
                enter = queue.ready.appendleft if first else queue.ready.append
                if isinstance(lane, Chain):
                    self.chains.put_back(delivery, lane)
                    queue.ready.appendleft(delivery)
                elif lane is not None:
                    lane.busy = False
                    lane.waiting.appendleft(delivery)
                    enter(lane)
                else:
                    enter(delivery)
                listeners.update(self._listeners.get(name, ()))
        for listener in listeners:
            listener()

    def add(self, delivery: Delivery) -> None:
        """Let a message wait that comes from another process, which has checked capacity and order."""
        name = local_prefix(delivery.channel)
        delivery.size = size_of(delivery.content)
        with self._lock:
            queue = self._queue(name)
            queue.count += 1
            self.bytes += delivery.size
            if name in self._in_turn:
                delivery.client = self._client_of(delivery.content)
            self._enter(queue, delivery, None)
            listeners = self._listeners.get(name, ())
        for listener in listeners:
            listener()

    def withdraw(self, unwanted: Callable[[Delivery], bool]) -> None:
        """Forget the waiting messages from :meth:`add` that `unwanted` is true for."""
        calls: list[Callback] = []
        with self._lock:
            for queue in self._queues.values():
                for item in [item for item in queue.ready if isinstance(item, Delivery) and unwanted(item)]:
                    queue.ready.remove(item)
                    queue.size -= 1
                    if item.size:
                        self._lighten(item, None, calls)
        for call in calls:
            call()

    def _queue(self, name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            ready: deque[Any] | Turns = Turns(name, self.threads) if name in self._in_turn else deque()
            queue = self._queues[name] = _Queue(name, self._capacity_of(name), ready)
            queue.count, queue.full_count = self._past.take(name)
            self._rows.clear()
        return queue

    def _make_room(self, queue: _Queue, client: Client, calls: list[Callback]) -> bool:
        """Take the last message of the client with the most messages out of a full channel, unless it is this one."""
        crowded_out = self._crowded_out
        if crowded_out is None or queue.name not in self.may_make_room or not isinstance(queue.ready, Turns):
            return False
        item = queue.ready.crowder(client)
        if item is None or (isinstance(item, _Lane) and len(item.waiting) > 1):
            return False
        queue.ready.remove(item)
        queue.size -= 1
        if isinstance(item, _Lane):
            item = self._lanes.pop(item.key).waiting.pop()
        if item.size:
            self._lighten(item, None, calls)
        calls.append(partial(crowded_out, item))
        return True

    @staticmethod
    def _lane_key(content: Content) -> str | None:
        """Return the name of the lane that a message on an ordered channel belongs to, or None."""
        key = content.get("reply_channel")
        return key if isinstance(key, str) else None

    @staticmethod
    def _enter(queue: _Queue, delivery: Delivery, lane: _Lane | None) -> bool:
        """Add a new message; return whether there is more to take now than before."""
        ready = queue.ready if queue.size else queue.line
        queue.size += 1
        queue.idle = False
        if lane is None:
            ready.append(delivery)
            return True
        lane.waiting.append(delivery)
        if lane.busy or len(lane.waiting) > 1:
            return False
        ready.append(lane)
        return True

    # -- taking out ----------------------------------------------------------------------------------------------------

    def take(self, channels: Iterable[str], taker: Taker | None = None, quick_only: bool = False) -> Delivery | None:
        """Return the next message of one of `channels`, or None. The taker must :meth:`finish` it or :meth:`put_back`
        it.

        :param channels: names, process-specific ones up to ``!``.
        :param taker: gets the message as its ``delivery`` before anybody else can take one.
        :param quick_only: only one that is known to be quick.
        """
        now = self._clock()
        calls: list[Callback] = []
        try:
            with self._lock:
                row = self._rows.get(channels) if type(channels) is tuple else None
                if row is None:
                    row = self._row(channels)
                row.rotate(-1)
                for queue in row:
                    while queue.size:
                        line = queue.line
                        if quick_only:
                            item = self._quick(queue)
                            if item is None:
                                break
                        elif not line or self.threads.away:
                            if not queue.ready:
                                break
                            item = queue.ready.popleft()
                        else:  # as Turns.popleft(), without its calls: this is for each message
                            item = line.popleft()
                            if line and len(queue.seen) > 1:
                                queue.seen.discard(item.client)
                        delivery = self._pop(queue, item, calls)
                        if delivery is None:
                            continue
                        if delivery.expires > now:
                            if taker is not None:
                                taker.delivery = delivery
                            return delivery
                        calls.append(self._drop_expired(delivery, calls))
                return None
        finally:
            for call in calls:
                call()

    def _row(self, channels: Iterable[str]) -> deque[_Queue]:
        channels = tuple(channels)
        row = self._rows.get(channels)
        if row is None:
            if len(self._rows) > 1000:  # most of those who took messages have gone
                self._rows.clear()
            found = [queue for name in channels if (queue := self._queues.get(name)) is not None]
            row = self._rows[channels] = deque(found)
        return row

    def peek(self, channels: Iterable[str], limit: int) -> list[Delivery]:
        """Return up to `limit` messages of each of `channels` that may be taken now; they stay where they are."""
        found: list[Delivery] = []
        with self._lock:
            for name in channels:
                queue = self._queues.get(name)
                if queue is not None:
                    found += self.chains.first_of_each(islice(_firsts(queue), limit))
        return found

    def take_this(self, delivery: Delivery) -> bool:
        """Take a message that :meth:`peek` has shown; return False if it is gone, or has expired."""
        calls: list[Callback] = []
        with self._lock:
            queue = self._queue(local_prefix(delivery.channel))
            if delivery not in self.chains.first_of_each(_firsts(queue)) or delivery.expires <= self._clock():
                return False
            lane = delivery.lane
            item = lane if isinstance(lane, _Lane) else delivery
            queue.ready.remove(item)
            self._pop(queue, item, calls)
        for call in calls:
            call()
        return True

    def finish(self, delivery: Delivery) -> None:
        """Note that a taken message has been consumed, so that its lane goes on. A second call does nothing."""
        lane, delivery.lane = delivery.lane, None
        if lane is None and not delivery.size:
            return
        calls: list[Callback] = []
        with self._lock:
            if delivery.size:
                self._lighten(delivery, lane, calls)
            if lane is not None:
                self._advance(lane, calls)
        for call in calls:
            call()

    def release(self, delivery: Delivery) -> None:
        """Note that a taken message no longer occupies a thread: the process can get another one. Default: no-op."""

    def has_work(self, channels: Iterable[str], quick_only: bool = False) -> bool:
        """Whether one of `channels` has a message that may be taken now.

        :param quick_only: that is known to be quick.
        """
        with self._lock:
            queues = self._row(channels)
            if quick_only:
                return any(queue.size and self._has_quick(queue) for queue in queues)
            return any(queue.size and queue.ready for queue in queues)

    def _has_quick(self, queue: _Queue) -> bool:
        ready = queue.ready
        if isinstance(ready, Turns):
            return ready.has_quick()
        return bool(ready) and not is_slow(self.threads.costs.level(queue.name, ready[0].path))

    def _quick(self, queue: _Queue) -> Any:
        """Take an item that is known to be quick; None: there is none."""
        if not self._has_quick(queue):
            return None
        return queue.ready.popleft(True) if isinstance(queue.ready, Turns) else queue.ready.popleft()

    def serves_in_turn(self, channels: Iterable[str]) -> bool:
        """Whether the clients of one of `channels` are served in turn."""
        return not self._in_turn.isdisjoint(channels)

    def others_waiting(self, channels: Iterable[str], client: Client, whole_address: bool) -> int:
        """Return how many messages of `channels` may be taken now that are not of this client, or of its address."""
        count = 0
        with self._lock:
            for name in channels:
                queue = self._queues.get(name)
                if queue is not None and queue.ready:
                    count += (
                        queue.ready.others(client, whole_address)
                        if isinstance(queue.ready, Turns)
                        else len(queue.ready)
                    )
        return count

    def _pop(self, queue: _Queue, item: Delivery | _Lane, calls: list[Callback]) -> Delivery | None:
        """Take the message of an item that is no longer in its queue; None: it must wait for an earlier one."""
        if isinstance(item, _Lane):
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

    @staticmethod
    def _call_queue(queue: _Queue, calls: list[Callback]) -> None:
        """Call those who want room in a queue, if there is much."""
        # Not at the first free place: all senders are woken at once, when there is room for many of them.
        if queue.size <= queue.capacity * 3 // 4:
            calls.extend(queue.wants_room)
            queue.wants_room.clear()

    def _heavy(self, size: int) -> bool:
        """Whether `size` bytes more are too many for all queues."""
        return size > 0 and self.bytes + size > self.max_bytes and self.bytes > 0

    def _lane_full(self, lane: _Lane, size: int) -> bool:
        """Whether a lane has no room for a message with `size` bytes."""
        return len(lane.waiting) >= self._lane_limit or (size > 0 and 0 < lane.bytes > LANE_BYTES - size)

    def _call_lane(self, lane: _Lane, calls: list[Callback]) -> None:
        """Call those who want room in a lane, if there is much."""
        if len(lane.waiting) <= self._lane_limit // 2 and lane.bytes <= LANE_BYTES // 2:
            calls.extend(lane.wants_room)
            lane.wants_room.clear()

    def _lighten(self, delivery: Delivery, lane: _Lane | Chain[Delivery] | None, calls: list[Callback]) -> None:
        """The bytes of a message are no longer kept."""
        size, delivery.size = delivery.size, 0
        self.bytes -= size
        if isinstance(lane, _Lane):
            lane.bytes -= size
            self._call_lane(lane, calls)
        if self._want_bytes and self.bytes <= self.max_bytes * 3 // 4:
            calls.extend(self._want_bytes)
            self._want_bytes.clear()

    def _advance(self, lane: _Lane | Chain[Delivery], calls: list[Callback]) -> None:
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

    def _expire(self, queue: _Queue, now: float, calls: list[Callback]) -> None:
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
                first = item.waiting[0] if isinstance(item, _Lane) else item
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

    # -- waiting -------------------------------------------------------------------------------------------------------

    def listen(self, channels: Iterable[str], callback: Callback) -> None:
        """Call `callback`, from any thread, each time a message becomes available in one of `channels`."""
        with self._lock:
            for name in channels:
                self._listeners[name] = (*self._listeners.get(name, ()), callback)

    def unlisten(self, channels: Iterable[str], callback: Callback) -> None:
        """Undo :meth:`listen`."""
        with self._lock:
            for name in channels:
                rest = tuple(other for other in self._listeners.get(name, ()) if other != callback)
                if rest:
                    self._listeners[name] = rest
                else:
                    self._listeners.pop(name, None)

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

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def sweep(self) -> bool:
        """Drop expired messages and forget queues that have been empty for a while. Call it every few seconds.

        :returns: whether there is more to do: then call it again soon.
        """
        now = self._clock()
        calls: list[Callback] = []
        with self._lock:
            if not self._unswept:
                self._unswept = list(self._queues.values())
                for delivery in self.chains.expire(now):
                    queue = self._queue(local_prefix(delivery.channel))
                    queue.size -= 1
                    self._call_queue(queue, calls)
                    calls.append(self._drop_expired(delivery, calls))
            for _ in range(SWEPT_AT_ONCE):
                if not self._unswept or len(calls) >= SWEPT_AT_ONCE:
                    break
                queue = self._unswept.pop()
                if self._queues.get(queue.name) is queue:
                    self._sweep(queue, now, calls)
        for call in calls:
            call()
        return bool(self._unswept)

    def _sweep(self, queue: _Queue, now: float, calls: list[Callback]) -> None:
        self._expire(queue, now, calls)
        if len(calls) >= SWEPT_AT_ONCE:
            self._unswept.append(queue)
        elif not queue.size and not queue.wants_room:
            if queue.idle:
                self._forget(queue)
                self._rows.clear()
            queue.idle = True

    def _forget(self, queue: _Queue) -> None:
        del self._queues[queue.name]
        self._past.keep(queue.name, queue.count, queue.full_count)

    def flush(self) -> None:
        """Forget all waiting messages. Messages already taken are not affected."""
        with self._lock:
            calls = [call for queue in self._queues.values() for call in queue.wants_room]
            waiting = [item for queue in self._queues.values() for item in queue.ready if isinstance(item, Delivery)]
            for lane in self._lanes.values():
                calls.extend(lane.wants_room)
                lane.wants_room.clear()
                waiting.extend(lane.waiting)
                lane.waiting.clear()
            for delivery in waiting + self.chains.flush():
                self._lighten(delivery, delivery.lane, calls)
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.busy}
            for queue in tuple(self._queues.values()):
                self._forget(queue)
            self._rows.clear()
        for call in calls:
            call()

    def totals(self) -> dict[str, int]:
        """Return the figures of all channels together: messages so far, refused ones, and those that wait."""
        with self._lock:
            queues = self._queues.values()
            return {
                "messages_count": self._past.messages + sum([queue.count for queue in queues]),
                "channel_full_count": self._past.refused + sum([queue.full_count for queue in queues]),
                "messages_pending": sum([queue.size for queue in queues]),
            }

    def pending(self) -> dict[str, int]:
        """Return how many messages wait, by channel."""
        with self._lock:
            return {queue.name: queue.size for queue in self._queues.values() if queue.size}

    def statistics(self, name: str) -> dict[str, float]:
        """Return one channel's figures: messages so far, refused, waiting, and the age in seconds of the oldest waiting
        one.
        """
        now = self._clock()
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                count, full = self._past.look(name)
                return {
                    "messages_count": count, "channel_full_count": full, "messages_pending": 0, "messages_max_age": 0.0,
                }  # fmt: skip
            firsts = [item for item in queue.ready if isinstance(item, Delivery)]
            firsts += [item for lane in self._lanes.values() for item in lane.waiting if item.channel == name]
            firsts += self.chains.waiting(name)
            return {
                "messages_count": queue.count,
                "channel_full_count": queue.full_count,
                "messages_pending": queue.size,
                "messages_max_age": max((now - first.sent for first in firsts), default=0.0),
            }

    def names(self) -> list[str]:
        """Return the names of the channels that hold or lately held messages."""
        with self._lock:
            return list(self._queues)


def _firsts(queue: _Queue) -> Iterator[Delivery]:
    """Yield the messages at the front of a queue, the first of each lane."""
    return (item.waiting[0] if isinstance(item, _Lane) else item for item in queue.ready)
