"""The synchronous parts of one coroutine (``sync_to_async``, the ORM), in one thread of the worker pool.

An executor is made for each request or message that runs on the event loop. Its first call goes to whatever worker
thread is free, the later ones to the same thread: what a thread keeps, a database connection above all, stays the
same from call to call, and the number of connections stays that of the threads.

:meth:`StickyExecutor.submit` and :meth:`StickyExecutor.release` run in any thread. Owns the guests of each thread:
how many coroutines have their synchronous parts there and may come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Self

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from channelserver.workers import django_cleanup
from channelserver.workers.loop import run_call
from channelserver.workers.pool import WorkerPool, WorkerThread


class StickyExecutor(Executor):
    """Runs calls one after the other in one worker thread.

    In a ``with`` block, what the running task passes to ``sync_to_async`` runs there.
    """

    __slots__ = ("_lock", "_pool", "_released", "_thread", "_waiting")

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._thread: WorkerThread | None = None
        self._waiting: list[Callable[[WorkerThread], object]] | None = None  # not None: the first call is on its way
        self._released = False

    def __enter__(self) -> Self:
        sensitive = ThreadSensitiveContext()
        SyncToAsync.thread_sensitive_context.set(sensitive)
        SyncToAsync.context_to_thread_executor[sensitive] = self
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def used(self) -> bool:
        return self._thread is not None or self._waiting is not None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._submit(lambda thread: run_call(future, partial(fn, *args, **kwargs)))
        return future

    def release(self) -> None:
        """The coroutine has ended. Its thread may close the database connections that are too old."""
        if not self._released:
            self._released = True
            if self.used:
                self._submit(_leave)

    def _submit(self, call: Callable[[WorkerThread], object]) -> None:
        if self._released and call is not _leave:  # a task that outlives its request
            self._pool.call(partial(_alone, call))
            return
        with self._lock:
            if self._thread is None:
                if self._waiting is not None:
                    self._waiting.append(call)
                    return
                self._waiting = []
        if self._thread is not None:
            self._pool.call(call, self._thread)
        else:
            self._pool.call(partial(self._first, call))

    def _first(self, call: Callable[[WorkerThread], object], thread: WorkerThread) -> None:
        thread.guests += 1
        django_cleanup.guest_enters()
        with self._lock:
            self._thread = thread
            waiting, self._waiting = self._waiting or [], None
        thread.calls.extendleft(reversed(waiting))
        call(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to end: the threads are the pool's."""


def _leave(thread: WorkerThread) -> None:
    thread.guests -= 1
    django_cleanup.guest_leaves()


def _alone(call: Callable[[WorkerThread], object], thread: WorkerThread) -> None:
    django_cleanup.guest_enters()
    try:
        call(thread)
    finally:
        django_cleanup.guest_leaves()
