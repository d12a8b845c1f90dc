"""The waiting messages of one channel, so that its clients are served in turn.

Safe under the lock of the queues (:mod:`channelserver.layers.queues`), which owns it.

Addresses are served in turn, and the connections of one address in turn. As long as that is what first in, first out
does anyway (one address, one message of each connection), the messages are in a plain deque: turns cost only those
who compete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, islice
from typing import Any, Protocol

from channelserver.layers.costs import UNKNOWN, Costs, is_slow

#: Address and port of a client, as in a message's ``client``; None: unknown.
Client = tuple[str, int] | None


#: What waits, by address and by connection; those whose turn is next come first.
_Lines = dict[str, dict[Client, deque[Any]]]
#: Items of which nothing is known, at which a thread that is kept for quick ones looks again.
LOOK_AT = 100
#: Of so many messages one is of a slower level, if several levels have some.
SHARE = 4


class Waiting(Protocol):
    """What waits: a message, or the first of a lane."""

    client: Client
    #: How slow it probably is; set here.
    level: float

    @property
    def path(self) -> Hashable:
        """The path of its message, by which :class:`Costs` knows it."""


class Threads:
    """The threads that serve the queues."""

    def __init__(self) -> None:
        #: Each returns, for a channel, the clients whose messages occupy threads that serve it, and how many serve it.
        self.holders: list[Callable[[str], tuple[list[Client], int]]] = []
        #: How many threads were replaced because their client had too many, see :mod:`channelserver.workers.relief`.
        self.away = 0
        #: How long messages keep a thread.
        self.costs = Costs()

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

    Where clients compete, messages that are probably quick come first. Of :data:`SHARE` messages one is of a slower
    level, if some wait there, and so on from level to level. Each level serves its clients in turn.
    """

    __slots__ = ("_channel", "_levels", "_picks", "_sizes", "_threads", "line", "seen")

    def __init__(self, channel: str, threads: Threads) -> None:
        self._channel = channel
        self._threads = threads
        #: The items, as long as they are served first in, first out; and if there are two or more, their clients: each
        #: has one item, or there is one client. The queues enter the only item and take the first one by themselves.
        self.line: deque[Any] = deque()
        self.seen: set[Client] = set()
        self._levels: dict[float, _Lines] | None = None  # by how slow they are; None: all are in `line`
        self._sizes: dict[str, int] = {}  # how many items an address has in _levels
        self._picks = 0

    def __len__(self) -> int:
        return len(self.line) if self._levels is None else sum(self._sizes.values())

    def __bool__(self) -> bool:
        if not self.line and self._levels is None:
            return False
        if not self._threads.away:
            return True
        held = self._threads.held(self._channel)
        every = chain.from_iterable(lines.items() for lines in self._sorted().values())
        return any(not held.bars(key, client) for key, own in every for client in own)

    def __iter__(self) -> Iterator[Any]:
        if self._levels is None:
            return iter(self.line)
        return chain.from_iterable(
            line for _, lines in sorted(self._levels.items()) for own in lines.values() for line in own.values()
        )

    def has_quick(self) -> bool:
        """Whether there is something to take that is known to be quick."""
        return bool(self) and (not all(map(is_slow, self._sorted())) or self._find_quick())

    def append(self, item: Waiting, first: bool = False) -> None:
        """Add an item behind those of its client, or before them."""
        if self._levels is None:
            line, seen, client = self.line, self.seen, item.client
            if line:
                if len(line) == 1:
                    seen.clear()
                    seen.add(line[0].client)
                if client in seen:
                    if len(seen) > 1:
                        self._sorted()
                elif len(seen) < len(line) or not _same_address(client, line[0].client):
                    self._sorted()
                else:
                    seen.add(client)
            if self._levels is None:
                if first:
                    line.appendleft(item)
                else:
                    line.append(item)
                return
        self._enter(item, first)

    def appendleft(self, item: Waiting) -> None:
        self.append(item, True)

    def popleft(self, quick_only: bool = False) -> Any:
        """Take the next item: of the address, and of its connection, whose turn it is and that occupies less than half
        of the threads; if each does, of the next.

        :param quick_only: leave those that are not known to be quick; the result is None if there are no others.
        """
        if self._levels is None and not quick_only:
            item = self.line.popleft()
            if len(self.seen) > 1:
                self.seen.discard(item.client)
            return item
        levels = self._sorted()
        order = [level for level in sorted(levels) if not (quick_only and is_slow(level))]
        if not order:
            if not self._find_quick():
                return None
            levels = self._sorted()
            order = [level for level in sorted(levels) if not is_slow(level)]
        if len(order) > 1:
            picks = self._picks = self._picks + 1
            place = 0
            while place < len(order) - 1 and picks % SHARE == 0:
                picks //= SHARE
                place += 1
            order = order[place:] + order[:place]
        held, away = self._threads.held(self._channel), self._threads.away
        best = None
        for level in order:
            rank, key, client = _next(levels[level], held, away)
            if best is None or rank < best[0]:
                best = rank, level, key, client
            if rank == 0:
                break
        assert best is not None
        _, level, key, client = best
        return self._take(level, key, client, levels[level][key][client][0])

    def remove(self, item: Waiting) -> None:
        """Take this item."""
        if self._levels is None:
            self.line.remove(item)
            if len(self.seen) > 1:
                self.seen.discard(item.client)
        else:
            self._take(item.level, _key(item.client), item.client, item)

    def heads(self) -> list[Any]:
        """Return the first item of each client: those that wait longest are among them."""
        if self._levels is None:
            return [self.line[0]] if self.line else []
        return [line[0] for lines in self._levels.values() for own in lines.values() for line in own.values()]

    def crowder(self, client: Client) -> Any:
        """Return the item that makes room for one of `client`: the last of the address with the most items, if that has
        at least two more than the client's address.
        """
        if self._levels is None and (not self.line or _same_address(client, self.line[0].client)):
            return None
        levels, sizes = self._sorted(), self._sizes
        most = max(sizes, key=sizes.__getitem__)
        if sizes[most] < sizes.get(_key(client), 0) + 2:
            return None
        every = [line for lines in levels.values() for line in lines.get(most, {}).values()]
        return max(reversed(every), key=len)[-1]

    def others(self, client: Client, whole_address: bool) -> int:
        """Return how many items are of other clients: of other addresses, or of any other connection."""
        key = _key(client)
        if self._levels is not None:
            lines = self._levels.values()
            own = (
                self._sizes.get(key, 0)
                if whole_address
                else sum(len(each.get(key, {}).get(client, ())) for each in lines)
            )
        elif whole_address:
            own = len(self.line) if self.line and _key(self.line[0].client) == key else 0
        else:
            own = sum(item.client == client for item in self.line)
        return len(self) - own

    def _sorted(self) -> dict[float, _Lines]:
        """Return the items by level, address and connection, where they are from now on."""
        if self._levels is None:
            self._levels = {}
            for item in self.line:
                self._enter(item, False)
            self.line.clear()
        return self._levels

    def _find_quick(self) -> bool:
        """Look again at items of which nothing was known when they came; return whether some are quick."""
        lines = self._sorted().get(UNKNOWN, {})
        every = chain.from_iterable(line for own in lines.values() for line in own.values())
        costs, channel = self._threads.costs, self._channel
        quick = [item for item in islice(every, LOOK_AT) if not is_slow(costs.level(channel, item.path))]
        for item in quick:
            self._take(UNKNOWN, _key(item.client), item.client, item)
            self._sorted()
            self._enter(item, False)
        return bool(quick)

    def _enter(self, item: Waiting, first: bool) -> None:
        assert self._levels is not None
        item.level = self._threads.costs.level(self._channel, item.path)
        key = _key(item.client)
        line = self._levels.setdefault(item.level, {}).setdefault(key, {}).setdefault(item.client, deque())
        self._sizes[key] = self._sizes.get(key, 0) + 1
        if first:
            line.appendleft(item)
        else:
            line.append(item)

    def _take(self, level: float, key: str, client: Client, item: Any) -> Any:
        """Take an item; its client and address have their next turn after all others of their level."""
        assert self._levels is not None
        lines = self._levels[level]
        own = lines.pop(key)
        line = own.pop(client)
        line.remove(item)
        if line:
            own[client] = line
        if own:
            lines[key] = own
        elif not lines:
            del self._levels[level]
        self._sizes[key] -= 1
        if not self._sizes[key]:
            del self._sizes[key]
            if not self._sizes:
                self._levels = None
        return item


def _next(lines: _Lines, held: Held, away: int) -> tuple[int, str, Client]:
    """Return whose turn it is in a level, and before that: 0 if the address has less than half of the threads, 1 if the
    connection has, 2 if neither has, and 3 if it may not have another thread at all.
    """
    found: tuple[int, str, Client] | None = None
    for key, own in lines.items():
        if held.addresses.get(key, 0) < held.limit:
            return 0, key, next(iter(own))
        for client in own:
            if found is None or found[0] > 1:
                if away and held.bars(key, client):
                    rank = 3
                else:
                    rank = 1 if held.connections.get(client, 0) < held.limit else 2
                if found is None or rank < found[0]:
                    found = rank, key, client
    assert found is not None
    return found


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
