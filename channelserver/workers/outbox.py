"""Holds back what a consumer sends until it has ended normally (Channels 1: "pending message store").

An outbox belongs to the thread that runs the consumer, and to coroutines that run on its behalf: a context variable
holds it. A thread that a consumer starts has no part in it, even if it inherits the context (Python 3.14): nobody waits
for its end. After :meth:`Outbox.flush` it may go on in the reactor thread, which then owns it alone.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import thread as executor_threads
from contextvars import Context, ContextVar, Token
from functools import partial
from typing import Any

from channelserver.layers.base import BaseChannelLayer, ChannelFull
from channelserver.layers.content import Content
from channelserver.layers.losses import Reason

logger = logging.getLogger("channelserver.outbox")

#: Seconds for which a message to a full channel is tried again.
RETRY_SECONDS = 2.0

CallLater = Callable[..., object]
Entry = tuple[BaseChannelLayer, bool, str, Content]

_current: ContextVar[Outbox | None] = ContextVar("channelserver_outbox", default=None)
# The consumer goes on in the parent process, which does not see what a child adds.
os.register_at_fork(after_in_child=lambda: _current.set(None))


class Outbox:
    """The held-back sends of one consumer, in the order of the calls.

    Inside its ``with`` block, sends are held back in it. Whoever opens the block flushes or drops it.

    :param call_later: ``call_later(seconds, function)`` runs the function in the reactor thread.
    """

    __slots__ = ("_at_end", "_call_later", "_entries", "_flush", "_token", "closed", "thread")

    def __init__(self, call_later: CallLater) -> None:
        self._call_later = call_later
        self._entries: list[Entry] = []
        self._at_end: list[Callable[[], object]] = []
        self._flush: _Flush | None = None
        self._token: Token[Outbox | None]
        #: The consumer has ended: what is left of it, such as a task, sends at once.
        self.closed = False
        self.thread = 0

    def __enter__(self) -> Outbox:
        self.thread = threading.get_ident()
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        _current.reset(self._token)

    def add(self, layer: BaseChannelLayer, is_group: bool, name: str, content: Content) -> None:
        """Hold back one send; the caller must not change `content` afterwards."""
        self._entries.append((layer, is_group, name, content))

    def at_end(self, function: Callable[[], object]) -> None:
        """Have :meth:`flush` call `function` in the consumer's thread; for what may use the database."""
        self._at_end.append(function)

    @property
    def has_functions(self) -> bool:
        return bool(self._at_end)

    def call_functions(self) -> None:
        """Call what :meth:`at_end` was given; log what it raises."""
        functions, self._at_end = self._at_end, []
        for function in functions:
            try:
                function()
            except Exception:
                logger.exception("error in %r, called at the end of a consumer", function)

    def drop(self) -> None:
        """Drop everything: the consumer raised."""
        self._entries.clear()
        self._at_end.clear()

    def release(self) -> None:
        """Send everything now, and raise what goes wrong: for tests.

        :raises ChannelFull: a channel is at its capacity; what comes after it is not sent.
        """
        functions, self._at_end = self._at_end, []
        for function in functions:
            function()
        entries, self._entries = self._entries, []
        for entry in entries:
            _send(*entry)

    def flush(self, done: Callable[..., object] | None = None, *arguments: Any) -> None:
        """Send everything, in order, without blocking the calling thread.

        A message to a full channel, and all after it, wait until there is room, two seconds at most; then the messages
        that still do not fit are counted as lost and logged, and the others are sent.

        :param done: called with `arguments` when nothing is left to send, in the calling thread or the reactor's.
        """
        if not (self._entries or self._at_end or self._flush):  # as a rule
            if done is not None:
                done(*arguments)
            return
        if self._at_end:
            self.call_functions()
        earlier = self._flush
        waits = earlier is not None and not earlier.ended
        if not waits and _send_what_fits(self._entries):
            if done is not None:
                done(*arguments)
            return
        entries, self._entries = self._entries, []
        self._flush = flush = _Flush(entries, self._call_later, partial(done, *arguments) if done is not None else None)
        if waits and earlier is not None:
            self._call_later(0, earlier.then, flush)
        else:
            flush.wait()


class _Flush:
    """Sends the entries of an outbox for which a channel was full, in the reactor thread."""

    __slots__ = ("_call_later", "_done", "_entries", "_next", "ended")

    def __init__(self, entries: list[Entry], call_later: CallLater, done: Callable[[], object] | None) -> None:
        self._entries = entries
        self._call_later = call_later
        self._done = done
        self._next: _Flush | None = None
        self.ended = False

    def wait(self) -> None:
        """Send when there is room. Any thread."""
        self._call_later(RETRY_SECONDS, self._give_up)
        self._call_later(0, self._go_on)

    def then(self, following: _Flush) -> None:
        """Start another flush after this one. Reactor thread."""
        if self.ended:
            following.start()
        else:
            self._next = following

    def start(self) -> None:
        if _send_what_fits(self._entries):
            self._end()
        else:
            self.wait()

    def _go_on(self) -> None:
        if self.ended:
            return
        while not _send_what_fits(self._entries):
            layer, _, name, content = self._entries[0]
            if not layer.when_room(name, content, self._wake):
                return
        self._end()

    def _wake(self) -> None:  # any thread
        self._call_later(0, self._go_on)

    def _give_up(self) -> None:
        if not self.ended:
            _send_what_fits(self._entries, give_up=True)
            self._end()

    def _end(self) -> None:
        self.ended = True
        if self._done is not None:
            self._done()
        if self._next is not None:
            self._next.start()


def _send_what_fits(entries: list[Entry], give_up: bool = False) -> bool:
    """Send up to the first message whose channel is full; with `give_up`, count such messages as lost and go on."""
    for number, (layer, is_group, name, content) in enumerate(entries):
        try:
            (layer.dispatch_group if is_group else layer.dispatch_unasked)(name, content)
        except ChannelFull as error:
            if not give_up and error.retry:
                del entries[:number]
                return False
            hint = f"{error}; tried again for {RETRY_SECONDS:.0f} s" if error.retry else str(error)
            layer.drops.record(error.reason, name, hint=hint)
        except Exception as error:
            reason = getattr(error, "reason", Reason.ERROR)
            if reason is Reason.ERROR:
                logger.exception("cannot send to %r", name)
                layer.drops.add(reason)
            else:
                layer.drops.record(reason, name, hint=str(error))
    entries.clear()
    return True


def _send(layer: BaseChannelLayer, is_group: bool, name: str, content: Content) -> None:
    (layer.dispatch_group if is_group else layer.dispatch)(name, content)


class _Thread(threading.local):
    """Whether the calling thread is one of the server's, which run parts of consumers only."""

    is_own = False


_thread = _Thread()


def own_thread(name: str, function: Callable[..., object], *arguments: object) -> threading.Thread:
    """Return a daemon thread of the server's, not started. It inherits no context, and sends on behalf of the consumer
    whose context it is given.
    """

    def run() -> None:
        _thread.is_own = True
        function(*arguments)

    return threading.Thread(target=Context().run, args=(run,), name=name, daemon=True)


def _works_for(outbox: Outbox) -> bool:
    """Whether the calling thread, not the consumer's, runs a part of it: a thread of the server, or of an executor."""
    if _thread.is_own:
        return True
    thread = threading.current_thread()
    inherited: Context | None = getattr(thread, "_context", None)  # Python 3.14
    if inherited is not None and inherited.get(_current) is outbox:
        return False
    runs = getattr(thread, "_target", None)
    return runs is not None and runs is getattr(executor_threads, "_worker", None)


def current() -> Outbox | None:
    """Return the outbox of the running consumer, or None outside a consumer."""
    outbox = _current.get()
    if outbox is None or outbox.closed:
        return None
    return outbox if outbox.thread == threading.get_ident() or _works_for(outbox) else None


def hold_back(layer: BaseChannelLayer, is_group: bool, name: str, content: Content, immediately: bool) -> None:
    """Send, or hold back if a consumer is running and `immediately` is false.

    :raises ChannelFull: the message went out at once and its channel is full.
    """
    outbox = None if immediately else current()
    (_send if outbox is None else outbox.add)(layer, is_group, name, content)


def at_end(function: Callable[[], object], immediately: bool) -> None:
    """Call `function` now, or at the normal end of the running consumer unless `immediately` is true."""
    outbox = None if immediately else current()
    if outbox is None:
        function()
    else:
        outbox.at_end(function)
