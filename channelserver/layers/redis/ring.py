"""Maps names to Redis servers by consistent hashing.

Runs in any thread; never changes. Adding or removing a server moves only the names of that server.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

#: Places on the ring for each server.
PLACES = 160


class Ring(Generic[T]):
    """A ring of servers.

    :param name: returns a server's name, which decides on its places.
    """

    def __init__(self, servers: Sequence[T], name: Callable[[T], str]) -> None:
        self._only = servers[0] if len(servers) == 1 else None
        places = sorted(
            (_hash(f"{name(server)}#{number}"), index)
            for index, server in enumerate(servers)
            for number in range(PLACES)
        )
        self._hashes = [place for place, _ in places]
        self._servers = [servers[index] for _, index in places]

    def find(self, name: str) -> T:
        """Return the server that is responsible for `name`."""
        if self._only is not None:
            return self._only
        return self._servers[bisect.bisect(self._hashes, _hash(name)) % len(self._servers)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
