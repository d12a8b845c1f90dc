"""The waiting messages of one channel, so that its clients are served in turn.

Safe under the lock of the queues (:mod:`channelserver.layers.queues`), which owns it.

Addresses are served in turn, and the connections of one address in turn. As long as that is what first in, first out
does anyway (one address, one message of each connection), the messages are in a plain deque: turns cost only those
who compete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from typing import Any, Protocol

#: Address and port of a client, as in a message's ``client``; None: unknown.
Client = tuple[str, int] | None


class Waiting(Protocol):
    """What waits: a message, or the first of a lane."""

    client: Client


class Threads:
    """The threads that serve the queues."""

    def __init__(self) -> None:
        #: Each returns, for a channel, the clients whose messages occupy threads that serve it, and how many serve it.
        self.holders: list[Callable[[str], tuple[list[Client], int]]] = []
        #: How many threads were replaced because their client had too many, see :mod:`channelserver.workers.relief`.
        self.away = 0

    def held(self, channel: str) -> Held:
        """Return who has the threads that serve a channel."""
        found = [holder(channel) for holder in self.holders]
        return Held(chain.from_iterable(clients for clients, _ in found), sum(places for _, places in found))


class Held:
    """How many threads the messages of each client occupy."""

    __slots__ = ("addresses", "connections", "limit", "most")

    def __init__(self, clients: Iterable[Client], places: int) -> None:
        self.addresses: dict[str, int] = {}
        self.connections: dict[Client, int] = {}
        for client in clients:
            if client is not None:
                key = address_key(client[0])
                self.addresses[key] = self.addresses.get(key, 0) + 1
                self.connections[client] = self.connections.get(client, 0) + 1
        #: How many one client may have while others wait; and in all, those that were replaced included.
        self.limit, self.most = max(1, places // 2), max(1, places)

    def bars(self, key: str, client: Client) -> bool:
        """Whether this client may not have another thread, even alone: it has a whole pool already."""
        return self.connections.get(client, 0) >= self.most or self.addresses.get(key, 0) >= 2 * self.most


class Turns:
    """What waits in one channel.

    It is true if there is something to take: not if it all belongs to clients that :meth:`Held.bars`.
    """

    __slots__ = ("_channel", "_lines", "_sizes", "_threads", "line", "seen")

    def __init__(self, channel: str, threads: Threads) -> None:
        self._channel = channel
        self._threads = threads
        #: The items, as long as they are served first in, first out; and if there are two or more, their clients: each
        #: has one item, or there is one client. The queues enter the only item and take the first one by themselves.
        self.line: deque[Any] = deque()
        self.seen: set[Client] = set()
        #: By address, then by connection, those whose turn is next first; None: all are in `line`.
        self._lines: dict[str, dict[Client, deque[Any]]] | None = None
        self._sizes: dict[str, int] = {}  # how many items an address has in _lines

    def __len__(self) -> int:
        return len(self.line) if self._lines is None else sum(self._sizes.values())

    def __bool__(self) -> bool:
        if not self.line and self._lines is None:
            return False
        if not self._threads.away:
            return True
        if self._lines is None:
            self._sort()
        assert self._lines is not None
        held = self._threads.held(self._channel)
        return any(not held.bars(key, client) for key, own in self._lines.items() for client in own)

    def __iter__(self) -> Iterator[Any]:
        if self._lines is None:
            return iter(self.line)
        return chain.from_iterable(line for lines in self._lines.values() for line in lines.values())

    def append(self, item: Waiting, first: bool = False) -> None:
        """Add an item behind those of its client, or before them."""
        if self._lines is None:
            line, seen, client = self.line, self.seen, item.client
            if line:
                if len(line) == 1:
                    seen.clear()
                    seen.add(line[0].client)
                if client in seen:
                    if len(seen) > 1:
                        self._sort()
                elif len(seen) < len(line) or not _same_address(client, line[0].client):
                    self._sort()
                else:
                    seen.add(client)
            if self._lines is None:
                if first:
                    line.appendleft(item)
                else:
                    line.append(item)
                return
        self._enter(item, first)

    def appendleft(self, item: Waiting) -> None:
        self.append(item, True)

    def popleft(self) -> Any:
        """Take the next item: of the address, and of its connection, whose turn it is and that occupies less than half
        of the threads; if each does, of the next.
        """
        if self._lines is None:
            item = self.line.popleft()
            if len(self.seen) > 1:
                self.seen.discard(item.client)
            return item
        held, away = self._threads.held(self._channel), self._threads.away
        found: tuple[str, Client] | None = None
        crowded = True
        for key, own in self._lines.items():
            if held.addresses.get(key, 0) < held.limit:
                found = key, next(iter(own))
                break
            for client in own:
                if crowded and not (away and held.bars(key, client)):
                    crowded = held.connections.get(client, 0) >= held.limit
                    if found is None or not crowded:
                        found = key, client
        key, client = found or next((key, client) for key, own in self._lines.items() for client in own)
        return self._take(key, client, self._lines[key][client][0])

    def remove(self, item: Waiting) -> None:
        """Take this item."""
        if self._lines is None:
            self.line.remove(item)
            if len(self.seen) > 1:
                self.seen.discard(item.client)
        else:
            self._take(_key(item.client), item.client, item)

    def heads(self) -> list[Any]:
        """Return the first item of each client: those that wait longest are among them."""
        if self._lines is None:
            return [self.line[0]] if self.line else []
        return [line[0] for lines in self._lines.values() for line in lines.values()]

    def crowder(self, client: Client) -> Any:
        """Return the item that makes room for one of `client`: the last of the address with the most items, if that has
        at least two more than the client's address.
        """
        if self._lines is None:
            if not self.line or _same_address(client, self.line[0].client):
                return None
            self._sort()
        assert self._lines is not None
        sizes = self._sizes
        most = max(sizes, key=sizes.__getitem__)
        if sizes[most] < sizes.get(_key(client), 0) + 2:
            return None
        lines = self._lines[most]
        longest = max(reversed(lines), key=lambda client: len(lines[client]))
        return lines[longest][-1]

    def others(self, client: Client, whole_address: bool) -> int:
        """Return how many items are of other clients: of other addresses, or of any other connection."""
        key = _key(client)
        if self._lines is not None:
            own = self._sizes.get(key, 0) if whole_address else len(self._lines.get(key, {}).get(client, ()))
        elif whole_address:
            own = len(self.line) if self.line and _key(self.line[0].client) == key else 0
        else:
            own = sum(item.client == client for item in self.line)
        return len(self) - own

    def _sort(self) -> None:
        self._lines = {}
        for item in self.line:
            self._enter(item, False)
        self.line.clear()

    def _enter(self, item: Waiting, first: bool) -> None:
        assert self._lines is not None
        key = _key(item.client)
        line = self._lines.setdefault(key, {}).setdefault(item.client, deque())
        self._sizes[key] = self._sizes.get(key, 0) + 1
        if first:
            line.appendleft(item)
        else:
            line.append(item)

    def _take(self, key: str, client: Client, item: Any) -> Any:
        """Take an item; its client and address have their next turn after all others."""
        assert self._lines is not None
        own = self._lines.pop(key)
        line = own.pop(client)
        line.remove(item)
        if line:
            own[client] = line
        if own:
            self._lines[key] = own
            self._sizes[key] -= 1
        else:
            del self._sizes[key]
            if not self._lines:
                self._lines = None
        return item


def _same_address(one: Client, other: Client) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] == other[0] or address_key(one[0]) == address_key(other[0])


def _key(client: Client) -> str:
    return "" if client is None else address_key(client[0])


def address_key(peer: str) -> str:
    """Return what counts as one address: of IPv6 the first half, for the second is the client's own to choose."""
    return _read_key(peer) if ":" in peer else peer


@lru_cache(1000)
def _read_key(peer: str) -> str:
    try:
        address = read_address(peer)
    except ValueError:
        return peer
    return str(address) if isinstance(address, IPv4Address) else address.packed[:8].hex()


def read_address(text: str) -> IPv4Address | IPv6Address:
    """Return an address, without a zone; one of IPv4 that a listener of IPv6 sees is one of IPv4.

    :raises ValueError: it is none.
    """
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
