"""One connection to Redis: txredisapi's protocols with a reader of our own, and a watch on overdue answers.

Runs in the thread of its reactor; owned by a
:class:`channelserver.layers.redis.connection.RedisConnection`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import txredisapi
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from channelserver.layers.redis.replies import ReplyReader


class _Watched:
    """Mixed in before a protocol of txredisapi.

    :param seconds: returns seconds, monotonic.
    :param lost: called with this protocol and the reason when the connection has ended.
    """

    transport: ITCPTransport
    connected: int
    replyReceived: Callable[[Any], None]

    def __init__(self, seconds: Callable[[], float], lost: Callable[[Any, Failure], object]) -> None:
        super().__init__(charset=None, convertNumbers=False)  # type: ignore[call-arg]
        self._seconds = seconds
        self._lost = lost
        self._reader = ReplyReader()
        self._asked: deque[float] = deque()
        #: When something was last heard of the server.
        self.heard = seconds()
        #: Why the connection has ended.
        self.end: BaseException | None = None

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self.heard = self._seconds()
        try:
            values = self._reader.feed(data)
        except ValueError:
            self.transport.abortConnection()  # the end of this answer is unknown
            return
        for value in values:
            self._answered(value)
            self.replyReceived(value)

    def _answered(self, value: Any) -> None:
        if self._asked:
            self._asked.popleft()

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().execute_command(*args, **kwargs)  # type: ignore[misc]
        self._asked.append(self._seconds())
        return answer

    def overdue(self) -> float:
        """Return for how many seconds the oldest command has been waiting for its answer."""
        return self._seconds() - self._asked[0] if self._asked else 0.0

    def connectionLost(self, why: Failure = connectionDone) -> None:
        """Fail all commands that wait for an answer."""
        self.end = why.value  # first: those who get an error now look at it
        super().connectionLost(why)  # type: ignore[misc]
        self._asked.clear()
        self._lost(self, why)


class CommandProtocol(_Watched, txredisapi.BaseRedisProtocol):
    """Carries commands."""


class SubscriberProtocol(_Watched, txredisapi.SubscriberProtocol):
    """Receives what is published.

    :param received: called with the bytes of each message.
    """

    def __init__(
        self, seconds: Callable[[], float], lost: Callable[[Any, Failure], object], received: Callable[[bytes], object]
    ) -> None:
        super().__init__(seconds, lost)
        self._received = received

    def _answered(self, value: Any) -> None:
        if not isinstance(value, list) or not value or value[0] != b"message":
            super()._answered(value)

    def messageReceived(self, pattern: Any, channel: Any, message: Any) -> None:
        self._received(message)
