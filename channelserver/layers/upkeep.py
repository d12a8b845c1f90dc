"""The upkeep of the work queues: what has expired is dropped, what is idle forgotten; and their figures.

As :mod:`channelserver.layers.queues`; owns nothing of its own.
"""

from __future__ import annotations

from channelserver.layers.names import local_prefix
from channelserver.layers.room import SWEPT_AT_ONCE, BoundedQueues
from channelserver.layers.waiting import Callback, Delivery, Queue


class KeptQueues(BoundedQueues):
    """Queues that are kept up."""

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

    def _sweep(self, queue: Queue, now: float, calls: list[Callback]) -> None:
        self._expire(queue, now, calls)
        if len(calls) >= SWEPT_AT_ONCE:
            self._unswept.append(queue)
        elif not queue.size and not queue.wants_room:
            if queue.idle:
                self._forget(queue)
                self._rows.clear()
            queue.idle = True

    def _forget(self, queue: Queue) -> None:
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
