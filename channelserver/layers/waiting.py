"""What waits for a worker: messages, per-connection queues, and channels.

Used by the work queues (:mod:`channelserver.layers.queues`), under their lock; owns nothing.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from channelserver.layers.chains import Chain
from channelserver.layers.content import Content
from channelserver.layers.turns import Client, Turns

Callback = Callable[[], object]

#: Texts and bytes up to this length do not count: the number of messages limits what they take.
SMALL = 1024


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
        client: Client = None, lane: Lane | None = None,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.content = content
        self.sent = sent
        self.expires = expires
        self.attachment = attachment
        self.client = client
        self.lane: Lane | Chain[Delivery] | None = lane
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


class Lane:
    """The waiting messages of one reply channel: a per-connection queue."""

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


class Queue:
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


def firsts(queue: Queue) -> Iterator[Delivery]:
    """Yield the messages at the front of a queue, the first of each lane."""
    return (item.waiting[0] if isinstance(item, Lane) else item for item in queue.ready)
