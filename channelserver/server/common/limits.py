"""Limits on the number of connections, and the answer to a refused one.

Runs in the reactor thread; owns the numbers of open connections by address.
"""

from __future__ import annotations

import os
import resource
from typing import cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from channelserver.layers.turns import address_key
from channelserver.server.common.sending import lose_transport
from channelserver.server.common.transport import Transport
from channelserver.server.common.wheel import Wheel

#: Seconds that a refused connection may take to read its answer; and how many may do so at a time.
REFUSAL_SECONDS, MAX_REFUSALS = 2.0, 200

#: File descriptors beside those of the connections: listeners, databases, logs, spooled bodies.
SPARE_DESCRIPTORS = 500
#: File descriptors that one connection may have: its socket, request bodies, files that are sent.
MOST_OF_ONE = 8

_BUSY = b"The server has no room for another connection; try again in a moment.\n"


class Admission:
    """Decides which new connections to refuse.

    :param most: open connections in all.
    :param most_of_one: open connections of one address; 0: any number.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._numbers: dict[str, int] = {}
        #: How many refusals are being read.
        self.refusing = 0

    def refusal(self, peer: str | None, number: int, exempt: bool) -> str:
        """Return why to refuse a new connection; empty: accept it.

        :param peer: its address; None: a Unix socket.
        :param number: how many connections are open.
        :param exempt: the limit for one address does not apply: it is a trusted proxy.
        """
        if number >= self._most:
            return f"{number} are open, of at most {self._most}; turned away {peer or 'a Unix socket'}"
        if self._most_of_one and peer is not None and not exempt:
            own = self._numbers.get(address_key(peer), 0)
            if own >= self._most_of_one:
                return f"{own} of {peer} are open, of at most {self._most_of_one}"
        return ""

    def entered(self, peer: str | None) -> None:
        if self._most_of_one and peer is not None:
            key = address_key(peer)
            self._numbers[key] = self._numbers.get(key, 0) + 1

    def left(self, peer: str | None) -> None:
        if self._most_of_one and peer is not None:
            key = address_key(peer)
            self._numbers[key] -= 1
            if not self._numbers[key]:
                del self._numbers[key]


class Refusal(Protocol):
    """The protocol of a connection that is turned away: it answers 503, and ignores the request (unread, the request
    would cost the client that answer).

    :param admission: counts those who read their refusal.
    :param wheel: ends them.
    :param date: the line of a ``Date`` field.
    :param peer: the address of the other end; None: a Unix socket.
    """

    def __init__(self, admission: Admission, wheel: Wheel, date: bytes, peer: str | None) -> None:
        self.peer = peer
        self._admission = admission
        self._wheel = wheel
        self._date = date

    def connectionMade(self) -> None:
        transport = cast(Transport, self.transport)
        self._admission.refusing += 1
        if self._admission.refusing > min(MAX_REFUSALS, _spare() // 2):
            transport.abortConnection()
            return
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n%s"
            b"Content-Length: %d\r\nRetry-After: 5\r\nConnection: close\r\n\r\n%s" % (self._date, len(_BUSY), _BUSY)
        )
        lose_transport(transport)
        self._wheel.add(self, self._wheel.now() + REFUSAL_SECONDS)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._admission.refusing -= 1
        self._wheel.remove(self)

    def on_tick(self, now: float) -> None:
        cast(Transport, self.transport).abortConnection()


def descriptors_short() -> str:
    """Return why no connection can be accepted, because there are hardly any descriptors left; empty: there are.

    Some must be left for files, databases and logs, and for saying so to clients.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # the lowest that is free
        os.close(lowest)
    except OSError as error:
        return str(error)
    if limit != resource.RLIM_INFINITY and lowest >= limit - _spare():
        return f"{lowest} of at most {limit} descriptors are open"
    return ""


def _spare() -> int:
    """Return how many descriptors are not for connections."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SPARE_DESCRIPTORS if limit == resource.RLIM_INFINITY else min(SPARE_DESCRIPTORS, limit // 4)


def raise_descriptor_limit(connections: int) -> str:
    """Let this process have as many open files as `connections` may need; return why they may have too few, or an empty
    text.

    The default soft limit is low, for programs that use select(); others must raise it themselves.
    """
    least, wanted = (each * connections + SPARE_DESCRIPTORS for each in (1, MOST_OF_ONE))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ""
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if possible > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < least:
        return f"the system lets this process have {possible} open files, and max_connections asks for {least}"
    return ""
