"""Certificates for names that nobody has configured, when a client first asks for them, if the project says yes.

Runs in the reactor thread; owns what the project has said no to, and the handshakes that wait.

Whoever connects can ask for any name, so everything is bounded: questions to the project, by client address and at a
time; orders an hour, and one at a time; seconds that a handshake waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from channelserver.layers.turns import address_key
from channelserver.server.common.bucket import Bucket
from channelserver.server.common.host_names import host_name
from channelserver.server.tls.contexts import Contexts

_log = Logger("channelserver.server.acme")

#: Seconds that the project has to answer, that a no counts, and that a handshake waits for a certificate.
ALLOW_SECONDS, NO_SECONDS, HANDSHAKE_SECONDS = 2.0, 300.0, 10.0
#: Questions to the project that are under way at a time, and that a client address may cause in a burst and a minute.
QUESTIONS, A_BURST, A_MINUTE = 2, 10, 10.0
#: Names and addresses that are remembered, and handshakes that wait.
REMEMBERED, WAITING = 10_000, 1000

Key = TypeVar("Key")
Value = TypeVar("Value")


class OnDemand:
    """Decides what becomes of a handshake for an unknown name (``Contexts.on_unknown``).

    :param allow: asks the project whether a name may have a certificate, with the client's address.
    :param obtain: returns a Deferred of whether there is a certificate for a name now.
    """

    def __init__(
        self,
        contexts: Contexts,
        allow: Callable[[str, str | None], Deferred[bool]],
        obtain: Callable[[str], Deferred[bool]],
        clock: IReactorTime,
    ) -> None:
        self._contexts = contexts
        self._allow = allow
        self._obtain = obtain
        self._clock = clock
        self._refused: dict[str, float] = {}
        self._buckets: dict[str, Bucket] = {}
        self._waiting: dict[str, list[Deferred[bool]]] = {}
        self._questions = 0

    def __call__(self, name: str, peer: str | None) -> Deferred[bool] | None:
        """Return whether to go on with a handshake; None: yes, at once."""
        if self._contexts.has_challenge(name):  # the authority asks
            return None
        waiting = self._waiting.get(name)
        if waiting is None:
            if not self._may_ask(name, peer):
                return succeed(False)
            waiting = self._waiting[name] = []
            answer = self._wait(waiting)
            Deferred.fromCoroutine(self._decide(name, peer)).addErrback(self._failed).addCallback(self._decided, name)
            return answer
        return self._wait(waiting) if sum(map(len, self._waiting.values())) < WAITING else succeed(False)

    def _may_ask(self, name: str, peer: str | None) -> bool:
        now = self._clock.seconds()
        try:
            if self._refused.get(name, 0.0) > now or host_name(name) != name:
                return False
        except ValueError:
            return False
        address = address_key(peer or "")
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = _remember(self._buckets, address, Bucket(A_BURST, A_MINUTE / 60, now))
        return self._questions < QUESTIONS and bucket.take(now)

    def _wait(self, waiting: list[Deferred[bool]]) -> Deferred[bool]:
        answer: Deferred[bool] = Deferred()
        waiting.append(answer)

        def ended(result: bool | Failure) -> bool | Failure:
            waiting.remove(answer)
            return result

        return answer.addTimeout(HANDSHAKE_SECONDS, self._clock).addBoth(ended)

    async def _decide(self, name: str, peer: str | None) -> bool:
        if not await self._ask(name, peer).addTimeout(ALLOW_SECONDS, self._clock):
            _remember(self._refused, name, self._clock.seconds() + NO_SECONDS)
            return False
        return await self._obtain(name)

    def _ask(self, name: str, peer: str | None) -> Deferred[bool]:
        """Ask the project. Its function has a thread for as long as it takes, however long anybody waits for it."""
        answer: Deferred[bool] = Deferred()
        self._questions += 1

        def answered(result: bool | Failure) -> None:
            self._questions -= 1
            if not answer.called:
                answer.callback(result)

        self._allow(name, peer).addBoth(answered)
        return answer

    def _failed(self, failure: Failure) -> bool:
        if failure.check(TimeoutError):
            _log.warn("no certificate on demand: ACME_ALLOW has not answered in {seconds:g} s", seconds=ALLOW_SECONDS)
        else:
            _log.failure("no certificate on demand", failure)
        return False

    def _decided(self, found: bool, name: str) -> None:
        for answer in list(self._waiting.pop(name)):
            if not answer.called:
                answer.callback(found)


def _remember(known: dict[Key, Value], key: Key, value: Value) -> Value:
    """Keep a value, and forget the oldest of too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]
    return value
