"""Lets a thread ask Redis and wait for the answer.

:meth:`Answer.wait` runs in the thread that asks, all else in the reactor's. Owns the pending answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import defer
from twisted.python.failure import Failure

from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.host import Host

#: What to ask: called with this process as a host.
Call = Callable[[Host], Coroutine[Any, Any, Any]]


class Answer:
    """The answer that one thread waits for."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._begun = self._given_up = False
        self._result: Any = None
        self._error: BaseException | None = None

    def begin(self, host: Host, call: Call) -> None:
        """Start the call. Reactor thread."""

        async def begun(host: Host) -> Any:
            if self._given_up:
                raise host.shards[0].unavailable()
            self._begun = True
            return await call(host)

        begin(host, begun).addCallbacks(self._answered, self._failed)

    def _answered(self, result: Any) -> None:
        self._result = result
        self._done.set()

    def _failed(self, failure: Failure) -> None:
        self._error = failure.value
        self._done.set()

    def wait(self, seconds: float) -> Any:
        """Return the result. The waiting thread."""
        if not self._done.wait(seconds):
            self._given_up = True
            if not self._begun:
                raise RedisUnavailable(f"Redis could not be reached within {seconds:g} s")
            raise DeliveryUnknown(f"Redis did not answer within {seconds:g} s; the message may or may not have arrived")
        if self._error is not None:
            raise self._error
        return self._result


def begin(host: Host, call: Call) -> defer.Deferred[Any]:
    """Start a call after the first attempt to connect. Reactor thread."""
    if host.tried:
        return defer.ensureDeferred(call(host))
    return host.when_tried().addCallback(lambda _: defer.ensureDeferred(call(host)))
