"""The synchronous parts of one coroutine (``sync_to_async``, the ORM), in one thread of the worker pool.

An executor is made for each request or message that runs on the event loop. Its first call goes to whatever worker
thread is free, the later ones to the same thread: what a thread keeps, a database connection above all, stays the
same from call to call, and the number of connections stays that of the threads. Only if that thread waits for a
coroutine itself, perhaps for this one, the call goes to another, and the later ones do, too.

:meth:`StickyExecutor.submit` and :meth:`StickyExecutor.release` run in any thread. Owns the guests of each thread:
how many coroutines have their synchronous parts there and may come back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Self
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync

from channelserver.layers.turns import Client
from channelserver.workers import django_cleanup
from channelserver.workers.loop import run_call
from channelserver.workers.pool import WorkerPool
from channelserver.workers.worker_thread import WorkerThread


class StickyExecutor(Executor):
    """Runs calls one after the other in one worker thread.

    In a ``with`` block, what the running task passes to ``sync_to_async`` runs there.

    :param client: for whom.
    """

    #: For ``asgiref``, which takes it for a context with an executor of its own.
    _exited = False

    def __init__(self, pool: WorkerPool, client: Client = None) -> None:
        self._pool = pool
        self._client = client
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._under_way = False  # a thread makes a call, or is going to
        self._threads: list[WorkerThread] = []  # where the coroutine is a guest; the next call goes to the last one
        self._released = False

    def __enter__(self) -> Self:
        if type(SyncToAsync.context_to_thread_executor) is not _Executors:
            SyncToAsync.context_to_thread_executor = _Executors(SyncToAsync.context_to_thread_executor)
        SyncToAsync.thread_sensitive_context.set(self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._calls.append(partial(run_call, future, partial(fn, *args, **kwargs)))
            if self._under_way:
                return future
            self._under_way = True
            self._pool.call(self._make_call, self._threads[-1] if self._threads else None)
        return future

    def release(self) -> None:
        """The coroutine has ended. Its threads may close the database connections that are too old."""
        with self._lock:
            self._released = True
            if not self._under_way:  # else with what another of its threads keeps, perhaps
                self._leave()

    def _leave(self) -> None:
        """Be no thread's guest any more. The lock is held."""
        threads, self._threads = self._threads, []
        for thread in threads:
            self._pool.call(_leave, thread, stays=True)

    def _make_call(self, thread: WorkerThread) -> None:
        with self._lock:
            call = self._calls.popleft()
            # Calls of a task that outlives its request, and those in a thread that ends soon, stand alone.
            alone = thread.helper or (self._released and not self._threads)
            enters = alone or thread not in self._threads
            if not alone:
                if not enters:
                    self._threads.remove(thread)
                self._threads.append(thread)
        if enters:
            _enter(thread)
        thread.client = self._client
        call()
        thread.client = None
        if alone:
            _leave(thread)
        with self._lock:
            more = self._under_way = bool(self._calls)
            if self._released and not more:
                self._leave()
        if more:
            self._pool.call(self._make_call, thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to end: the threads are the pool's."""


class _Executors(WeakKeyDictionary[Any, Executor]):
    """What ``asgiref`` looks executors up in, by the context of a task: ours are their own contexts."""

    def __contains__(self, context: object) -> bool:
        return isinstance(context, StickyExecutor) or super().__contains__(context)

    def __getitem__(self, context: Any) -> Executor:
        return context if isinstance(context, StickyExecutor) else super().__getitem__(context)


def _enter(thread: WorkerThread) -> None:
    thread.guests += 1
    django_cleanup.guest_enters()


def _leave(thread: WorkerThread) -> None:
    thread.guests -= 1
    django_cleanup.guest_leaves()
