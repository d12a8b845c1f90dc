"""Which threads leave the pool's count because their client occupies more than half of it while others wait.

Runs in the reactor thread; owns nothing.

The queues serve clients in turn, and give a client no more than half of the threads while others wait. But a client
that came alone may have all of them by then, for a long time. So the threads beyond its half leave the pool's count,
like threads that stream (:mod:`channelserver.workers.streams`), until the end of their messages, and new ones take
their places.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from channelserver.layers.queues import WorkQueues
from channelserver.layers.turns import Client, address_key

#: Seconds that others wait for the threads of one client. Quick messages make room by themselves.
HOG_SECONDS = 0.1


class Thread(Protocol):
    """A worker thread; see :class:`channelserver.workers.worker_thread.WorkerThread`."""

    busy_since: float

    @property
    def serves(self) -> Client:
        """The client whose message it is on, or whose coroutine has a synchronous part there."""


T = TypeVar("T", bound=Thread)


class Relief:
    """Finds the threads that a client has beyond its half."""

    def __init__(self, queues: WorkQueues) -> None:
        self._queues = queues

    def surplus(self, threads: Collection[T], channels: Sequence[str]) -> list[T]:
        """Return the threads to replace: as many as others need, and those that began first."""
        begun = time.monotonic() - HOG_SECONDS
        for whole_address in (True, False):
            held: dict[str | Client, list[T]] = {}
            for state in threads:
                client = state.serves
                if client is not None:
                    held.setdefault(address_key(client[0]) if whole_address else client, []).append(state)
            most: list[T] = max(held.values(), key=len, default=[])
            beyond = len(most) - max(1, len(threads) // 2)
            if beyond > 0:
                long = [state for state in most if 0.0 < state.busy_since < begun]
                long.sort(key=lambda state: state.busy_since)
                others = self._queues.others_waiting(channels, most[0].serves, whole_address)
                if others:
                    return long[: min(beyond, others)]
        return []
