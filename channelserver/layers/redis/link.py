"""A connection to Redis that is kept: made again when it is lost, given up when it is silent.

Runs in the thread of its reactor; owns the connection and the timer of the next attempt.

States: ``down`` (an attempt is under way, or the next one is waited for), ``up``, ``closed``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import txredisapi
from twisted.internet import defer, error
from twisted.python.failure import Failure

from channelserver.layers.redis.address import CONNECT_SECONDS, Address, describe

logger = logging.getLogger("channelserver.layers.redis")

#: Seconds before the first attempt to connect again, and at most. Each pause is up to a third longer or shorter, so
#: that not all hosts come at once.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: The same problem is logged again after so many seconds.
QUIET_SECONDS = 60.0


class RefusedError(Exception):
    """The server was reached, but is of no use; the text says why and what to do."""


class Link:
    """Keeps one connection.

    :param reactor: the reactor.
    :param address: where to.
    :param purpose: for the log: what goes over this connection.
    :param make: ``make(seconds, lost)`` returns a new protocol.
    :param prepare: called with each new protocol, before it is used; may return a Deferred.
    :param up: called when it can be used.
    :param down: called with the seconds since it was last up, when it could be and cannot be used any more.
    :param rng: source of the jitter.
    """

    def __init__(
        self,
        reactor: Any,
        address: Address,
        purpose: str,
        make: Callable[[Callable[[], float], Callable[[Any, Any], object]], Any],
        prepare: Callable[[Any], Any] = lambda protocol: None,
        up: Callable[[], object] = lambda: None,
        down: Callable[[], object] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._purpose = purpose
        self._make = make
        self._prepare = prepare
        self._up = up
        self._down = down
        self._random = rng or random.SystemRandom()
        self.state = "down"
        self.protocol: Any = None
        #: What keeps it from being up; empty: nothing, or nothing is known yet.
        self.problem = ""
        #: The first attempt has ended, well or not.
        self.tried = False
        self._attempts = 0
        self._since = 0.0  # when it was last up
        self._timer: Any = None
        self._trying: Any = None
        self._current: Any = None
        self._lost_at: float | None = None
        self._logged = ("", 0.0)
        self._waiting: list[defer.Deferred[None]] = []

    def start(self) -> None:
        """Begin to connect."""
        self._timer = None
        if self.state == "closed":
            return
        protocol = self._current = self._make(self._reactor.seconds, self._lost)
        attempt = self._trying = defer.ensureDeferred(self._try(protocol))
        attempt.addTimeout(CONNECT_SECONDS * 2, self._reactor)
        attempt.addCallbacks(self._is_up, self._failed, callbackArgs=(protocol,), errbackArgs=(protocol,))

    async def _try(self, protocol: Any) -> None:
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
                    raise RefusedError("it is no master, which Sentinel took it for")
            await _maybe(self._prepare(protocol))
        except Exception as problem:
            end: BaseException | None = protocol.end
            if end is not None and _is_lost(problem):
                raise end from None  # which tells more
            raise

    def _is_up(self, _: Any, protocol: Any) -> None:
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
        self._tell()

    def _failed(self, failure: Any, protocol: Any) -> None:
        self._trying = None
        self.tried = True
        _abort(protocol)
        if self.state == "closed":
            return
        self._again(explain(failure.value, self._address))

    def _lost(self, protocol: Any, why: Any) -> None:
        """The protocol's connection has ended."""
        if protocol is not self.protocol:
            return  # during an attempt: its own error tells more
        self.protocol = None
        if self.state == "closed":
            return
        self.state = "down"
        self._lost_at = self._reactor.seconds()
        self._down()
        self._again(explain(why.value, self._address))

    def _again(self, problem: str) -> None:
        self.problem = problem
        now = self._reactor.seconds()
        text, when = self._logged
        if text != problem or now - when >= QUIET_SECONDS:
            self._logged = problem, now
            logger.error("no connection to Redis %s (%s): %s; trying again", self._address, self._purpose, problem)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._attempts, 10))
        self._attempts += 1
        self._timer = self._reactor.callLater(pause * self._random.uniform(0.67, 1.33), self.start)
        self._tell()

    def age(self) -> float:
        """Return for how many seconds it has been up; 0 if it is not."""
        return float(self._reactor.seconds() - self._since) if self.state == "up" else 0.0

    def hurry(self) -> None:
        """Try again at once, if the next attempt is only waited for: there is news of the server."""
        if self._timer is not None and self.state == "down":
            self._timer.cancel()
            self.start()

    def when_tried(self) -> defer.Deferred[None]:
        """Return a Deferred that fires when the first attempt has ended, well or not."""
        if self.tried or self.state == "closed":
            return defer.succeed(None)
        waiter: defer.Deferred[None] = defer.Deferred()
        self._waiting.append(waiter)
        return waiter

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def look(self, patience: float) -> None:
        """Give the connection up if an answer is overdue. To be called every few seconds.

        :param patience: seconds.
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
        self._tell()


def _abort(protocol: Any) -> None:
    """End a protocol's connection at once, if it has one: Twisted's TLS fails on one that is gone already."""
    if protocol.connected:
        protocol.transport.abortConnection()


async def _maybe(result: Any) -> Any:
    return await result if isinstance(result, defer.Deferred) else result


def _is_lost(problem: BaseException) -> bool:
    return isinstance(problem, (txredisapi.ConnectionError, error.ConnectionLost, error.ConnectionDone))


#: How errors of Redis begin, and what they mean.
_MEANINGS = (
    ("WRONGPASS", "the user name or the password is wrong; see hosts and connection_kwargs in the layer's CONFIG"),
    ("NOAUTH", "Redis wants a password; give it in the URL in hosts"),
    ("NOPERM", "the user may not do what the layer needs; see the page on Redis for the rights"),
    ("OOM", "Redis is out of memory; raise its maxmemory, or find what fills it"),
    ("LOADING", "Redis is reading its data"),
    ("MASTERDOWN", "Redis is a replica that has lost its master"),
    ("READONLY", "Redis is a replica, which takes no writes; name the master, or its Sentinels"),
    ("MISCONF", "Redis cannot store its data, and so takes no writes; see its log"),
    ("BUSY", "Redis is busy with a script"),
)


def explain(problem: BaseException, address: Address | None = None) -> str:
    """Return what went wrong, as a phrase for the log and the health report."""
    text = describe(problem)
    for start, meaning in _MEANINGS:
        if text.lstrip().startswith(start):
            return f"{meaning} ({start})"
    if "invalid password" in text or "called without any password" in text or "invalid username-password" in text:
        return f"the password is wrong or not wanted ({text.strip()})"
    kind = type(problem).__name__
    if "certificate verify failed" in str(problem) or kind in ("VerificationError", "DNSMismatch", "IPAddressMismatch"):
        host = "" if address is None or isinstance(address.place, str) else f" for the host {address.place[0]!r}"
        return f"its certificate is not valid{host}, or nobody trusted has signed it; see ssl_ca_certs ({text})"
    if isinstance(problem, (error.ConnectionDone, error.ConnectionLost)):
        return "the connection was lost"
    if isinstance(problem, (error.TimeoutError, defer.TimeoutError, defer.CancelledError)):
        return "it does not answer in time"
    if isinstance(problem, error.ConnectionRefusedError):
        return "nothing listens there"
    return text
