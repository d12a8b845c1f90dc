"""The order of messages on the application's own channels: one at a time for each channel and reply channel.

Called by the work queues, under their lock. Owns a chain for each such message that is being consumed: the messages
that were passed over because they must wait for it.

Nothing is noted when a message is sent. A worker that comes upon one whose predecessor is still being consumed passes
it over; when the predecessor is finished, it returns to the front of its channel. So a channel stays first in, first
out as far as its messages allow, and messages without a reply channel cost no more than a look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

#: Channel and reply channel.
Key: TypeAlias = tuple[str, str]

#: Channels of the server whose messages have a reply channel each.
UNORDERED = frozenset({"http.request", "http.disconnect"})


class Item(Protocol):
    """What chains use of a message (:class:`channelserver.layers.waiting.Delivery`)."""

    channel: str
    content: dict[str, Any]
    expires: float
    foreign: bool
    lane: Any


T = TypeVar("T", bound=Item)


class Chain(Generic[T]):
    """What waits behind a message that is being consumed."""

    __slots__ = ("key", "next", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        #: The one that may be taken now; None: one is being consumed.
        self.next: T | None = None
        self.waiting: deque[T] = deque()


class Chains(Generic[T]):
    """All chains of a process."""

    def __init__(self) -> None:
        #: Channels whose messages are consumed in any order.
        self.unordered: frozenset[str] = UNORDERED
        self._chains: dict[Key, Chain[T]] = {}

    def __len__(self) -> int:
        return len(self._chains)

    def _key(self, delivery: T) -> Key | None:
        reply = delivery.content.get("reply_channel")
        if reply is None or delivery.foreign or delivery.channel in self.unordered or not isinstance(reply, str):
            return None
        return delivery.channel, reply

    def begin(self, delivery: T) -> bool:
        """Take a message that was ready; return False if it must wait for an earlier one, and is kept here for that."""
        key = self._key(delivery)
        if key is None:
            return True
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = Chain(key)
        elif chain.next is delivery:
            chain.next = None
        else:
            chain.waiting.append(delivery)
            return False
        delivery.lane = chain
        return True

    def end(self, chain: Chain[T]) -> T | None:
        """Go on after a message was consumed; return the next one, which is ready now, if there is one."""
        if chain.waiting:
            chain.next = chain.waiting.popleft()
        else:
            self._chains.pop(chain.key, None)
        return chain.next

    def put_back(self, delivery: T, chain: Chain[T]) -> None:
        """A message that was taken is ready again, before those that wait for it."""
        chain.next = delivery
        self._chains[chain.key] = chain

    def first_of_each(self, deliveries: Iterable[T]) -> Iterator[T]:
        """Yield those of the ready messages, given in their order, that need not wait for an earlier one."""
        seen: set[Key] = set()
        for delivery in deliveries:
            key = self._key(delivery)
            if key is not None:
                chain = self._chains.get(key)
                if key in seen or (chain is not None and chain.next is not delivery):
                    continue
                seen.add(key)
            yield delivery

    def waiting(self, channel: str) -> list[T]:
        """Return the oldest message that waits in each chain of a channel."""
        return [chain.waiting[0] for chain in self._chains.values() if chain.waiting and chain.key[0] == channel]

    def expire(self, now: float) -> Iterator[T]:
        """Remove the expired messages at the heads of the chains, and yield them."""
        for chain in self._chains.values():
            while chain.waiting and chain.waiting[0].expires <= now:
                yield chain.waiting.popleft()

    def flush(self) -> list[T]:
        """Forget all that waits, and return it. Messages that are being consumed keep their chains."""
        waiting: list[T] = []
        for chain in self._chains.values():
            waiting.extend(chain.waiting)
            chain.waiting.clear()
        self._chains = {key: chain for key, chain in self._chains.items() if chain.next is None}
        return waiting
