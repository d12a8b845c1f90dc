"""The byte accounts: what the server keeps for each client, and for all of them.

Runs in the reactor thread, so it needs no lock. Owns the sum of all accounts.

A connection has an :class:`Account` and can tell in a few additions what it keeps (:meth:`Holder.kept`). It enters that
with :meth:`Account.set` wherever it may have grown or shrunk by more than :data:`SMALL`: less is part of its base, so
an ordinary request or message does no accounting at all. :class:`ClientMemory` weighs whoever holds more than that
again each second, and whom it is about to close, so a figure that is too high never costs anybody anything, and
nothing can drift.

What is bounded:

* one connection: :data:`CONNECTION_BYTES`, beside one message or body within its own limit. Whoever has so much is
  :attr:`Account.full`: it is no longer read from, and its further requests wait. Each protocol says what is cut then.
* all connections, and their messages in the channel layer: ``client_memory``. When 7/10 of it are in use, connections
  are closed, those first that hold most, until 3/5 are. The rest is for what Python needs beside the bytes that are
  counted. If there are none that hold more than :data:`FLOOR`, new
  requests get 503.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Protocol

from channelserver.server.common.machine import trim
from channelserver.server.common.wheel import Wheel

#: Bytes that a connection may keep without entering them.
SMALL = 4 * 1024
#: Bytes that are kept for one connection, beside one message or body within its own limit.
CONNECTION_BYTES = 8 * 1024 * 1024
#: A connection that holds less, beside its base, is never closed for the others' sake.
FLOOR = 16 * 1024
#: Seconds between two looks at who holds what; and, while memory is short, between two attempts to free some.
WEIGH_SECONDS, RELIEF_SECONDS = 1.0, 0.1


class Holder(Protocol):
    """What has an account: a connection."""

    def kept(self) -> int:
        """Return how many bytes are kept for it now, its base included. Called often: it only adds some lengths."""

    def evict(self, size: int) -> None:
        """Close at once, and drop what others share, because memory is short and this is one of the largest holders.

        :param size: bytes that it holds, for the log.
        """


class Account:
    """The bytes that are kept for one connection.

    :param base: bytes that it costs while it is idle.
    """

    __slots__ = ("_closed", "base", "bytes", "holder", "memory", "shared")

    def __init__(self, memory: ClientMemory, holder: Holder, base: int) -> None:
        self._closed = False
        self.memory = memory
        self.holder: Holder | None = holder
        self.base = base
        #: What is kept for this connection alone, and what for others, too: frames of a group.
        self.bytes = self.shared = 0
        self.enter(base)

    def enter(self, size: int) -> None:
        """Add `size` bytes; less than 0: they are no longer kept."""
        if self._closed:
            return
        self.bytes += size
        memory = self.memory
        memory.bytes += size
        if self.bytes + self.shared > self.base + SMALL:
            memory.watch(self)
        if size >= 0 and memory.bytes > memory.mark:
            memory.overflowed()

    def set(self, size: int) -> None:
        """Enter that `size` bytes are kept in all."""
        self.enter(size - self.bytes)

    def weigh(self) -> None:
        """Enter what the connection keeps now."""
        if self.holder is not None:
            self.set(self.holder.kept())

    def share(self, data: bytes) -> None:
        """Enter bytes that other connections may keep, too: in the sum they count once."""
        self.shared += len(data)
        self.memory.share(data)
        self.enter(0)

    def unshare(self, data: bytes) -> None:
        """Undo :meth:`share`."""
        self.shared -= len(data)
        self.memory.unshare(data)

    @property
    def full(self) -> bool:
        """Whether the connection has all it may have: do not read more from it, and let further requests wait."""
        return self.bytes + self.shared > CONNECTION_BYTES

    def close(self) -> None:
        """The connection has closed, or will in a moment: whatever it enters from now on does not count."""
        self._closed = True
        self.holder = None  # without a reference to each other, both are freed at once
        self.memory.watched.discard(self)
        self.memory.bytes -= self.bytes
        self.bytes = 0


class ClientMemory:
    """What is kept for all clients of this process.

    :param limit: bytes.
    :param post: calls a function later in this turn of the reactor, or in its next one.
    """

    def __init__(self, limit: int, wheel: Wheel, post: Callable[[Callable[[], object]], object]) -> None:
        self.limit = limit
        self._wheel = wheel
        self._post = post
        #: The sum of all accounts, and of what they share.
        self.bytes = 0
        #: From so many bytes on, memory is short; and so many may stay in use when some has been freed.
        self.mark, self._target = limit * 7 // 10, limit * 3 // 5
        #: The accounts that hold more than their base.
        self.watched: set[Account] = set()
        #: Returns how many bytes the messages of clients take that are in the channel layer.
        self.queued: Callable[[], int] = lambda: 0
        self._queued = 0  # as far as they are part of the sum
        self._frames: dict[int, int] = {}  # how many accounts share each
        self._relieving = False
        self._evicted = False  # since the last look
        self._again = 0.0  # when another attempt to free some is due

    def watch(self, account: Account) -> None:
        """Weigh an account again in a second, and until it holds little."""
        if not self.watched:
            self._wake()
        self.watched.add(account)

    def submitted(self, size: int) -> None:
        """Enter a message of `size` bytes that was put into the channel layer."""
        if not self._queued:
            self._wake()
        self._queued += size
        self.bytes += size
        if self.bytes > self.mark:
            self.overflowed()

    def _wake(self) -> None:
        self._wheel.add(self, self._wheel.now() + WEIGH_SECONDS)

    def share(self, data: bytes) -> None:
        number = self._frames.get(id(data), 0)  # whoever shares it keeps it, so no other object has its identity
        self._frames[id(data)] = number + 1
        if not number:
            self.bytes += len(data)

    def unshare(self, data: bytes) -> None:
        number = self._frames.pop(id(data), 0) - 1
        if number > 0:
            self._frames[id(data)] = number
        else:
            self.bytes -= len(data)

    def on_tick(self, now: float) -> float | None:
        """Weigh again whoever holds more than its base."""
        self._weigh()
        if self._evicted:
            self._evicted = False
            trim()
        return now + WEIGH_SECONDS if self.watched or self._queued else None

    def _weigh_queued(self) -> None:
        queued = self.queued()
        self.bytes += queued - self._queued
        self._queued = queued

    def _weigh(self) -> None:
        self._weigh_queued()
        for account in tuple(self.watched):
            account.weigh()
            if account.bytes + account.shared <= account.base + SMALL:
                self.watched.discard(account)

    def has_room(self) -> bool:
        """Whether there is memory for a new request; if it is short, some is freed first."""
        return self.bytes <= self.mark or self._relieve()

    def fills(self) -> bool:
        """Whether half of what may be in use is: work is better done at once than kept for later."""
        return self.bytes > self.mark // 2

    def overflowed(self) -> None:
        """Free some memory soon: not from within a connection, which may be in the middle of something."""
        if not self._relieving and self._wheel.now() >= self._again:
            self._relieving = True
            self._post(self._relieve)

    def _relieve(self) -> bool:
        """Close the largest holders if memory is short; return whether there is enough now."""
        self._relieving = False
        now = self._wheel.now()
        if now >= self._again:
            self._weigh_queued()
            if self.bytes > self.mark:
                self._evict()
                if self.bytes > self.mark:  # a look at thousands of connections takes time
                    self._again = now + RELIEF_SECONDS
        return self.bytes <= self.mark

    def _evict(self) -> None:
        holders = [(-account.bytes - account.shared, number, account) for number, account in enumerate(self.watched)]
        heapify(holders)
        while holders and self.bytes > self._target:
            size, number, account = heappop(holders)
            account.weigh()
            now = account.bytes + account.shared
            if now < -size:  # it is not the largest any more
                heappush(holders, (-now, number, account))
            elif now <= account.base + FLOOR:
                self._weigh()
                return
            else:
                if account.holder is not None:
                    account.holder.evict(now)
                account.close()
                self._evicted = True

    def figures(self) -> dict[str, int]:
        """Return what is in use, the limit, and what the largest holder has, in bytes."""
        self._weigh()
        largest = max((account.bytes + account.shared for account in self.watched), default=0)
        return {"used": self.bytes, "limit": self.limit, "largest": largest}
