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
6. There is no polling. Workers register listeners; senders to a full channel leave a callback.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from channelserver.layers.chains import Chain
from channelserver.layers.content import Content
from channelserver.layers.costs import is_slow
from channelserver.layers.names import local_prefix
from channelserver.layers.room import FIRST
from channelserver.layers.turns import Client, Turns
from channelserver.layers.upkeep import KeptQueues
from channelserver.layers.waiting import Callback, Delivery, Lane, Queue, firsts, size_of

#: Most messages of another process or host that one process can have in hand.
MAX_IN_HAND = 1000


class Taker(Protocol):
    """Who takes a message."""

    delivery: Delivery | None


class WorkQueues(KeptQueues):
    """All queues of a process. The parameters are those of :class:`~channelserver.layers.room.BoundedQueues`."""

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
                    lane = self._lanes[key] = Lane(key, client)
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

    @staticmethod
    def _enter(queue: Queue, delivery: Delivery, lane: Lane | None) -> bool:
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

    def _row(self, channels: Iterable[str]) -> deque[Queue]:
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
                    found += self.chains.first_of_each(islice(firsts(queue), limit))
        return found

    def take_this(self, delivery: Delivery) -> bool:
        """Take a message that :meth:`peek` has shown; return False if it is gone, or has expired."""
        calls: list[Callback] = []
        with self._lock:
            queue = self._queue(local_prefix(delivery.channel))
            if delivery not in self.chains.first_of_each(firsts(queue)) or delivery.expires <= self._clock():
                return False
            lane = delivery.lane
            item = lane if isinstance(lane, Lane) else delivery
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

    def _has_quick(self, queue: Queue) -> bool:
        ready = queue.ready
        if isinstance(ready, Turns):
            return ready.has_quick()
        return bool(ready) and not is_slow(self.threads.costs.level(queue.name, ready[0].path))

    def _quick(self, queue: Queue) -> Any:
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
