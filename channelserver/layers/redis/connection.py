"""A connection to Redis that is kept: made again when it is lost, aborted when Redis does not answer.

Runs in the thread of its reactor; owns the connection and the timer of the next attempt.

States: ``down`` (connecting, or waiting for the next attempt), ``up``, ``closed``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import txredisapi
from twisted.internet import defer, error
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from channelserver.layers.redis.address import CONNECT_SECONDS, Address, describe
from channelserver.layers.redis.protocol import CommandProtocol, SubscriberProtocol

logger = logging.getLogger("channelserver.layers.redis")

#: Seconds before the first attempt to connect again, and the longest pause. Each pause varies by a third, so that not
#: all hosts connect at once.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Seconds until the same problem is logged again.
QUIET_SECONDS = 60.0


P = TypeVar("P", CommandProtocol, SubscriberProtocol)


class RefusedError(Exception):
    """The server answers, but cannot be used; the text says why and what to do."""


class RedisConnection(Generic[P]):
    """One connection, made again with a growing pause whenever it is lost.

    :param purpose: for the log: what the connection is for.
    :param make: ``make(seconds, lost)`` returns a new protocol.
    :param prepare: called with each new protocol, before it is used; may return a Deferred.
    :param up: called when the connection can be used.
    :param down: called when an established connection is lost, with the time when the server was last heard.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        purpose: str,
        make: Callable[[Callable[[], float], Callable[[P, Failure], object]], P],
        prepare: Callable[[P], defer.Deferred[Any] | None] = lambda protocol: None,
        up: Callable[[], object] = lambda: None,
        down: Callable[[float], object] = lambda heard: None,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._purpose = purpose
        self._make: Callable[..., P] = make
        self._prepare: Callable[[P], defer.Deferred[Any] | None] = prepare
        self._up = up
        self._down = down
        self.state = "down"
        self.protocol: P | None = None
        #: Why it is not up; empty: it is, or nothing is known yet.
        self.problem = ""
        #: Whether the first attempt has ended, with or without success.
        self.tried = False
        self._attempts = 0
        self._since = 0.0  # when it was last up
        self._timer: IDelayedCall | None = None
        self._trying: defer.Deferred[None] | None = None
        self._current: P | None = None
        self._lost_at: float | None = None  # when the server was last heard on a connection that was lost
        self._logged = ("", 0.0)
        self._waiting: list[defer.Deferred[None]] = []

    def start(self) -> None:
        self._timer = None
        if self.state == "closed":
            return
        protocol = self._current = self._make(self._reactor.seconds, self._lost)
        attempt = self._trying = defer.ensureDeferred(self._try(protocol))
        attempt.addTimeout(CONNECT_SECONDS * 2, self._reactor)
        attempt.addCallbacks(self._is_up, self._failed, callbackArgs=(protocol,), errbackArgs=(protocol,))

    async def _try(self, protocol: P) -> None:
        await self._address.connect(self._reactor, protocol)
        address = self._address
        try:
            if address.password is not None:
                await protocol.auth(address.password, address.username)
            if address.database:
                await protocol.select(address.database)
            if address.checks_role:
                role = await protocol.role()
                if role[0] != b"master":
                    raise RefusedError("it is not a master, although Sentinel says so")
            if (prepared := self._prepare(protocol)) is not None:
                await prepared
        except Exception as problem:
            end: BaseException | None = protocol.end
            if end is not None and _is_lost(problem):
                raise end from None  # it is more precise
            raise

    def _is_up(self, _: None, protocol: P) -> None:
        self._trying = None
        if self.state == "closed":
            protocol.transport.abortConnection()
            return
        if not protocol.connected:
            self._failed(Failure(error.ConnectionLost("the connection was lost")), protocol)
            return
        self.state = "up"
        self.tried = True
        self.protocol = protocol
        self._attempts = 0
        if self._lost_at is not None or self.problem:
            away = "" if self._lost_at is None else f", after {self._reactor.seconds() - self._lost_at:.1f} s"
            logger.warning("Redis %s is back%s (%s)", self._address, away, self._purpose)
        self.problem = ""
        self._lost_at = None
        self._logged = ("", 0.0)
        self._since = self._reactor.seconds()
        self._up()
        self._notify()

    def _failed(self, failure: Failure, protocol: P) -> None:
        self._trying = None
        self.tried = True
        _abort(protocol)
        if self.state == "closed":
            return
        self._again(failure)

    def _lost(self, protocol: P, why: Failure) -> None:
        if protocol is not self.protocol:
            return  # during an attempt, whose own error is more precise
        self.protocol = None
        if self.state == "closed":
            return
        self.state = "down"
        self._lost_at = protocol.heard
        self._down(protocol.heard)
        self._again(why)

    def _again(self, why: Failure) -> None:
        assert why.value is not None
        problem = self.problem = explain(why.value, self._address)
        now = self._reactor.seconds()
        text, when = self._logged
        if text != problem or now - when >= QUIET_SECONDS:
            self._logged = problem, now
            logger.error("no connection to Redis %s (%s): %s; trying again", self._address, self._purpose, problem)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._attempts, 10))
        self._attempts += 1
        self._timer = self._reactor.callLater(pause * random.uniform(0.67, 1.33), self.start)
        self._notify()

    def age(self) -> float:
        """Return the seconds since it was established; 0 if it is down."""
        return float(self._reactor.seconds() - self._since) if self.state == "up" else 0.0

    def hurry(self) -> None:
        """Connect now instead of after the pause: the server seems to be back."""
        if self._timer is not None and self.state == "down":
            self._timer.cancel()
            self.start()

    def when_tried(self) -> defer.Deferred[None]:
        """Return a Deferred that fires when the first attempt has ended, with or without success."""
        if self.tried or self.state == "closed":
            return defer.succeed(None)
        waiter: defer.Deferred[None] = defer.Deferred()
        self._waiting.append(waiter)
        return waiter

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def look(self, patience: float) -> None:
        """Abort the connection if an answer is overdue. Call it every few seconds.

        :param patience: seconds to wait for an answer.
        """
        if self.protocol is not None and self.protocol.overdue() > patience:
            logger.error(
                "Redis %s has not answered for %.1f s (%s)", self._address, self.protocol.overdue(), self._purpose
            )
            self.protocol.transport.abortConnection()

    def close(self) -> None:
        """End the connection, for good."""
        self.state = "closed"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._trying is not None:
            self._trying.cancel()
        for protocol in (self.protocol, self._current):
            if protocol is not None:
                _abort(protocol)
        self._notify()


def _abort(protocol: P) -> None:
    """Abort a protocol's connection, if it has one: Twisted's TLS fails on one that is closed already."""
    if protocol.connected:
        protocol.transport.abortConnection()


def _is_lost(problem: BaseException) -> bool:
    return isinstance(problem, (txredisapi.ConnectionError, error.ConnectionLost, error.ConnectionDone))


_NO_PERMISSION = "the user lacks a permission that the layer needs; the page on Redis lists them"
#: How errors of Redis begin, and what they mean.
_MEANINGS = (
    ("WRONGPASS", "the user name or the password is wrong; see hosts and connection_kwargs in the layer's CONFIG"),
    ("NOAUTH", "Redis requires a password; add it to the URL in hosts"),
    ("NOPERM", _NO_PERMISSION),
    ("ERR The user executing the script", _NO_PERMISSION),
    ("OOM", "Redis is out of memory; raise its maxmemory, or find out what fills it"),
    ("LOADING", "Redis is loading its data"),
    ("MASTERDOWN", "Redis is a replica without a connection to its master"),
    ("READONLY", "Redis is a read-only replica; use the master or its Sentinels in hosts"),
    ("MISCONF", "Redis cannot save its data and refuses writes; see its log"),
    ("BUSY", "Redis is busy running a script"),
)


def explain(problem: BaseException, address: Address | None = None) -> str:
    """Return what went wrong, as a phrase for the log and the health report."""
    text = describe(problem)
    for start, meaning in _MEANINGS:
        if text.lstrip().startswith(start):
            return f"{meaning} ({start})"
    if "invalid password" in text or "called without any password" in text or "invalid username-password" in text:
        return f"the password is wrong or not required ({text.strip()})"
    kind = type(problem).__name__
    if "certificate verify failed" in str(problem) or kind in ("VerificationError", "DNSMismatch", "IPAddressMismatch"):
        host = "" if address is None or isinstance(address.place, str) else f" for the host {address.place[0]!r}"
        return f"its certificate is not valid{host}, or not signed by a trusted authority; see ssl_ca_certs ({text})"
    if isinstance(problem, (error.ConnectionDone, error.ConnectionLost)):
        return "the connection was lost"
    if isinstance(problem, (error.TimeoutError, defer.TimeoutError, defer.CancelledError)):
        return "it does not answer in time"
    if isinstance(problem, error.ConnectionRefusedError):
        return "nothing listens there"
    return text
