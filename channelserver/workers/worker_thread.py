"""One worker thread, as its pool sees it.

The pool's lock guards what the pool changes in it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from channelserver.layers.turns import Client
from channelserver.layers.waiting import Delivery

#: A synchronous part of a coroutine; called with the thread it runs in.
Call = Callable[["WorkerThread"], object]


class WorkerThread:
    """One worker thread as the pool sees it."""

    __slots__ = (
        "away", "busy_since", "calls", "client", "delivery", "gate", "guests", "helper", "outside", "thread", "waits",
    )  # fmt: skip

    def __init__(self, helper: bool = False) -> None:
        #: Calls for this thread, each with whether no other may make it, and how many coroutines will make further
        #: ones (workers/sticky.py).
        self.calls: deque[tuple[Call, bool]] = deque()
        self.guests = 0
        #: It makes calls only, and ends when there are none.
        self.helper = helper
        #: It waits for a coroutine; it has left the pool's count.
        self.waits = self.outside = False
        self.away = False  # it has left the count until the end of its message, see workers/relief.py
        self.gate = threading.Lock()
        self.gate.acquire()
        self.busy_since = 0.0  # 0: awake, and between two jobs
        self.delivery: Delivery | None = None
        self.client: Client = None  # of the coroutine whose call it makes
        self.thread: threading.Thread | None = None

    @property
    def serves(self) -> Client:
        """The client whose message it is on, or whose coroutine has a synchronous part there."""
        delivery = self.delivery
        return self.client if delivery is None else delivery.client


class _Current(threading.local):
    """The pool and the state of the calling thread, if it is a worker thread."""

    pool: Any = None
    state: WorkerThread | None = None


current = _Current()
