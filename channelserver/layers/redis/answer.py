"""A thread asks Redis, and waits for the answer.

:meth:`Answer.wait` runs in the thread that asks, all else in the reactor's. Owns the answer on its way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import defer

from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.host import Host

#: What is asked: called with this process as a host.
Call = Callable[[Host], Coroutine[Any, Any, Any]]


class Answer:
    """What one thread waits for."""

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

    def _failed(self, failure: Any) -> None:
        self._error = failure.value
        self._done.set()

    def wait(self, seconds: float) -> Any:
        """Return the result. The waiting thread."""
        if not self._done.wait(seconds):
            self._given_up = True
            if not self._begun:
                raise RedisUnavailable(f"Redis could not be reached within {seconds:g} s")
            raise DeliveryUnknown(f"Redis did not answer within {seconds:g} s; the message may have arrived or not")
        if self._error is not None:
            raise self._error
        return self._result


def begin(host: Host, call: Call) -> Any:
    """Start a call when the first connections are there, or could not be made. Reactor thread."""
    if host.tried:
        return defer.ensureDeferred(call(host))
    return host.when_tried().addCallback(lambda _: defer.ensureDeferred(call(host)))
