"""The event loop of a process: one asyncio loop, in a thread of its own, for everything declared ``async def``.

:meth:`EventLoop.post`, :meth:`EventLoop.start` and :meth:`EventLoop.stop` run in any thread; what is posted, and all
tasks, in the loop's thread. Owns that thread and the tasks it has started. The thread starts when it is first needed
and lasts as long as the process, so that clients, locks and tasks of a module live as under an ASGI server.

A burst of posts wakes the loop once: only the first post after a drain does. That no wake-up is lost follows from the
lock, as in :mod:`channelserver.bridge`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from queue import SimpleQueue
from typing import Any

from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import SyncToAsync

from channelserver.workers.outbox import own_thread
from channelserver.workers.threads import NoThreadError, start_thread

logger = logging.getLogger("channelserver.loop")

#: Seconds after which a loop that runs nothing but one step counts as stalled.
STALL_SECONDS = 1.0
#: Threads at most for ``asyncio.to_thread`` and its like, as many as asyncio itself allows.
MAX_THREADS = 32

Item = tuple[Callable[..., object], tuple[Any, ...]]


class EventLoop:
    """One asyncio loop in a daemon thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._awake = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: The identifier of the loop's thread; None before it is needed.
        self.thread_id: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_client: dict[str, asyncio.Task[Any]] = {}
        self._when_idle: list[Callable[[], object]] = []
        self._asked = self._answered = 0.0  # the last check for a stall, and when the loop came to it
        self._reported = False
        #: How late the loop was at the last :meth:`check`, in seconds.
        self.lag = 0.0

    # -- any thread ----------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The asyncio loop; it runs. A forked child gets one of its own."""
        loop = self._loop
        if loop is None:
            with self._lock:
                loop = self._loop
                if loop is None:
                    loop = self._begin()
        return loop

    def forked(self) -> None:
        """This is a child process: the loop, if there is one, is its parent's."""
        self._lock = threading.Lock()
        self._loop = self._thread = self.thread_id = None

    @property
    def running(self) -> bool:
        """Whether the loop has been needed so far."""
        return self._loop is not None

    def post(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Call ``function(*arguments)`` in the loop's thread, soon, in the order of the posts.

        :returns: False if the loop has just ended, with the process.
        """
        loop = self.loop
        with self._lock:
            self._items.append((function, arguments))
            if self._awake:
                return True
            self._awake = True
        try:
            loop.call_soon_threadsafe(self._drain, context=Context())  # not in that of a message
        except RuntimeError:  # it is closed
            self._awake = False  # nothing will drain; the next post must find that out, too
            return False
        return True

    def start(
        self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any, context: Context | None = None
    ) -> None:
        """Run ``function(*arguments)`` as a task of its own, in a fresh context or in the given one."""
        self.post(self.start_now, function, arguments, context)

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, from any thread, when none of the tasks that :meth:`start` began is left."""
        if not (self.running and self.post(self._add_idle_callback, callback)):
            callback()

    def __len__(self) -> int:
        return len(self._tasks)

    def client_gone(self, reply_channel: str) -> None:
        """Cancel the task that answers a request, for its client has left."""
        if reply_channel in self._of_client:
            self.post(self._cancel_of_client, reply_channel)

    def cancel(self) -> None:
        """Cancel all tasks of the loop, those of the application's own too."""
        if self.running:
            self.post(self._cancel_all)

    def stop(self, timeout: float) -> bool:
        """Cancel all tasks, wait up to `timeout` seconds until they have ended, end the loop.

        :returns: False if something runs on; the thread is a daemon, so the process can end all the same.
        """
        thread = self._thread
        if thread is None or not self.running or thread is threading.current_thread():
            return True
        self.post(self._end)
        thread.join(timeout)
        if thread.is_alive():
            return False
        self._loop = None
        return True

    def check(self) -> None:
        """Measure how late the loop is, and log, with the stack, that it is blocked.

        To be called about once a second, from one thread other than the loop's.
        """
        if not self.running:
            return
        now = time.monotonic()
        if self._answered >= self._asked:  # the last check was answered: ask again
            self.lag = self._answered - self._asked
            self._asked, self._reported = now, False
            self.post(self._answer)
            return
        lag = self.lag = now - self._asked
        if lag > STALL_SECONDS and not self._reported:
            self._reported = True
            frame = sys._current_frames().get(self.thread_id or 0)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            logger.warning("the event loop has been blocked for %.1f s by code that does not await:\n%s", lag, stack)

    # -- the loop's thread ---------------------------------------------------------------------------------------------

    def cancelled_with(self, message: Any) -> _CancelledWith:
        """While a ``with`` block runs, the running task is cancelled if the client of a request leaves.

        :param message: the ``http.request`` message.
        :raises asyncio.CancelledError: it has left already.
        """
        return _CancelledWith(self._of_client, message)

    def forget_client(self, reply_channel: str) -> None:
        """A task has noticed by itself that its client has left: do not cancel it while it tidies up."""
        self._of_client.pop(reply_channel, None)

    def _cancel_of_client(self, reply_channel: str) -> None:
        task = self._of_client.pop(reply_channel, None)
        if task is not None:
            task.cancel()

    def start_now(
        self,
        function: Callable[..., Coroutine[Any, Any, None]],
        arguments: tuple[Any, ...],
        context: Context | None = None,
    ) -> None:
        """Like :meth:`start`, for the loop's own thread."""
        assert self._loop is not None
        task = self._loop.create_task(function(*arguments), context=context if context is not None else Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _begin(self) -> asyncio.AbstractEventLoop:
        """Start the thread. The lock is held.

        :raises NoThreadError: the system has no room for it.
        """
        self._items, self._awake, self._tasks = [], False, set()
        loop = asyncio.new_event_loop()
        loop.set_default_executor(_DaemonExecutor())
        self._thread = own_thread("event-loop", self._run, loop)
        if not start_thread(self._thread):
            loop.close()
            self._thread = None
            raise NoThreadError("there is no room for the thread of the event loop")
        self._loop = loop
        self.thread_id = self._thread.ident
        return loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
                break
            except BaseException:  # asyncio passes on the SystemExit of any task
                logger.exception("a task raised what would end the event loop; it goes on")
        loop.close()

    def at_end_of_turn(self, function: Callable[[], object]) -> None:
        """Call a function when the loop has done all that is due now."""
        assert self._loop is not None
        self._loop.call_soon(function, context=Context())

    def _drain(self) -> None:
        # One batch a turn: between two batches the loop serves its tasks and sockets.
        with self._lock:
            items, self._items = self._items, []
        for function, arguments in items:
            try:
                function(*arguments)
            except BaseException:  # the rest of the batch must not be lost
                logger.exception("error in %r, handed over by a thread", function)
        with self._lock:
            if not self._items:
                self._awake = False
                return
        self.loop.call_soon(self._drain, context=Context())

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a task ended with an exception", exc_info=task.exception())
        if not self._tasks and self._when_idle:
            self._call_idle()

    def _add_idle_callback(self, callback: Callable[[], object]) -> None:
        self._when_idle.append(callback)
        if not self._tasks:
            self._call_idle()

    def _call_idle(self) -> None:
        callbacks, self._when_idle = self._when_idle, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("error in a callback for idleness")

    def _answer(self) -> None:
        self._answered = time.monotonic()

    def _cancel_all(self) -> set[asyncio.Task[Any]]:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        return tasks

    def _end(self) -> None:
        loop, tasks = self.loop, self._cancel_all()

        async def finish() -> None:
            while tasks:  # one that catches the cancellation and goes on is asked again
                await asyncio.wait(tasks, timeout=0.1)
                tasks.clear()
                tasks.update(task for task in self._cancel_all() if task is not self._ending)
            await loop.shutdown_asyncgens()
            loop.stop()

        self._ending = loop.create_task(finish())


class _CancelledWith:
    """See :meth:`EventLoop.cancelled_with`."""

    __slots__ = ("_message", "_reply_channel", "_tasks")

    def __init__(self, tasks: dict[str, asyncio.Task[Any]], message: Any) -> None:
        self._tasks = tasks
        self._message = message
        self._reply_channel = message.content.get("reply_channel")

    def __enter__(self) -> None:
        reply_channel, task = self._reply_channel, asyncio.current_task()
        if not reply_channel:
            return
        assert task is not None
        self._tasks[reply_channel] = task  # first: who leaves after the look cancels it
        outlet = self._message.channel_layer.outlet_of(reply_channel)
        if outlet is not None and reply_channel not in outlet:
            self.__exit__()
            raise asyncio.CancelledError

    def __exit__(self, *error: object) -> None:
        self._tasks.pop(self._reply_channel, None)


class _ThreadLocal(threading.local):
    """What asgiref knows of a thread; in worker threads, that its coroutines run on the event loop of the process."""

    ours = False
    #: Calls a function that waits for a coroutine.
    wait: Callable[..., Any] | None = None


class _MainLoop:
    """Stands where ``asgiref`` looks for the loop that ``async_to_sync`` uses: asked for, the loop begins."""

    def __init__(self, value: Callable[[], Any]) -> None:
        self._value = value

    def __get__(self, local: Any, owner: Any) -> Any:
        if local is None or not local.ours:
            raise AttributeError
        return self._value()


class _DaemonExecutor(ThreadPoolExecutor):
    """Runs calls in daemon threads: one that sleeps does not keep the process from ending.

    ``asyncio`` insists on a ``ThreadPoolExecutor``, whose own threads the interpreter waits for at its end.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call in a thread, as soon as one of 32 is free.

        :raises NoThreadError: there is none, and the system has no room for one.
        """
        future: Future[Any] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        if not self._free.acquire(blocking=False) and self._count < MAX_THREADS:
            self._count += 1
            if not start_thread(own_thread(f"to-thread-{self._count}", self._work)):
                self._count -= 1
                if not self._count:
                    future.cancel()
                    raise NoThreadError("there is no room for a thread")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to wait for."""

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            run_call(future, call)
            try:
                _close_old_connections()
            except Exception:
                logger.exception("error after a call in a thread")
            future, call = None, None  # type: ignore[assignment]  # an idle thread keeps nothing alive
            self._free.release()


def run_call(future: Future[Any], call: Callable[[], Any]) -> None:
    """Set a future to what `call` returns or raises, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            try:
                result = call()
            finally:
                # asgiref leaves it: a coroutine that this thread waits for next would be cancelled with this one.
                SyncToAsync.threadlocal.task_context = None
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _close_old_connections() -> None:
    from django.db import close_old_connections  # not before a coroutine needs it: scripts use this module, too

    close_old_connections()


#: The event loop of this process.
event_loop = EventLoop()
os.register_at_fork(after_in_child=event_loop.forked)
_ThreadLocal.main_event_loop = _MainLoop(lambda: event_loop.loop)  # type: ignore[attr-defined]
_ThreadLocal.main_event_loop_pid = _MainLoop(os.getpid)  # type: ignore[attr-defined]
_thread_local = _ThreadLocal()


_run_until_future = CurrentThreadExecutor.run_until_future


def _wait(executor: Any, future: Any) -> None:
    """What ``async_to_sync`` waits with (``CurrentThreadExecutor.run_until_future``)."""
    if _thread_local.wait is None:
        _run_until_future(executor, future)
    else:
        _thread_local.wait(_run_until_future, executor, future)


def adopt_thread(wait: Callable[..., Any]) -> None:
    """Have ``async_to_sync`` in the calling thread run coroutines on the event loop of the process.

    :param wait: ``wait(function, *arguments)`` calls a function that waits for the coroutine.
    """
    if SyncToAsync.threadlocal is not _thread_local:
        SyncToAsync.threadlocal = _thread_local
        CurrentThreadExecutor.run_until_future = _wait  # type: ignore[method-assign,assignment]
    _thread_local.ours = True
    _thread_local.wait = wait
