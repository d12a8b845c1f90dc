"""Lets a thread ask Redis and wait for the answer.

:meth:`Answer.wait` runs in the thread that asks, all else in the reactor's. Owns the pending answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from twisted.internet import defer

from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.host import Host

#: What to ask: called with this process as a host.
Call = Callable[[Host], Coroutine[Any, Any, Any]]


class Answer(Future[Any]):
    """The answer that one thread waits for."""

    def begin(self, host: Host, call: Call) -> None:
        """Start the call, unless the thread has given up by then. Reactor thread."""

        async def begun(host: Host) -> None:
            if self.set_running_or_notify_cancel():
                try:
                    self.set_result(await call(host))
                except Exception as error:
                    self.set_exception(error)

        begin(host, begun)

    def wait(self, seconds: float, late: Callable[[Future[Any]], object] | None = None) -> Any:
        """Return the result. The waiting thread.

        :param late: called with this in the reactor's thread when a late result is there; None is returned then.
        :raises RedisUnavailable: it is not there in time.
        """
        try:
            return self.result(seconds)
        except TimeoutError:
            if self.cancel():
                raise RedisUnavailable(f"Redis could not be reached within {seconds:g} s") from None
            if late is not None:
                self.add_done_callback(late)
                return None
            raise DeliveryUnknown(
                f"Redis did not answer within {seconds:g} s; the message may or may not have arrived"
            ) from None


def begin(host: Host, call: Call) -> defer.Deferred[Any]:
    """Start a call after the first attempt to connect. Reactor thread."""
    if host.tried:
        return defer.ensureDeferred(call(host))
    return host.when_tried().addCallback(lambda _: defer.ensureDeferred(call(host)))
