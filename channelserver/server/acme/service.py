"""Gets and renews certificates: looks at each every ten minutes, and orders what is due.

Runs in the reactor thread; owns the certificates' states. Only one process of a server has it.

Nothing that happens here ends the server: it serves what it has, and tries again by a schedule that is kept on disk.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twisted.application import service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from channelserver.layers import ChannelFull
from channelserver.processes.link import IReactor
from channelserver.server.acme.authority import LEAST_ARI_SECONDS, Authority
from channelserver.server.acme.certificate import Certificate
from channelserver.server.acme.challenges import HTTP_01, TLS_ALPN_01
from channelserver.server.acme.client import AcmeError, Problem
from channelserver.server.acme.order import ChallengeFailed
from channelserver.server.acme.renewal import DEMANDS_AN_HOUR, next_try
from channelserver.server.acme.self_check import unreachable
from channelserver.server.acme.served import Served
from channelserver.server.acme.sharing import Sharing
from channelserver.server.acme.solver import ServedChallenges
from channelserver.server.acme.store import Pair, StoreError, read_pair

_log = Logger("channelserver.server.acme")

#: Seconds between two looks at all certificates, at most.
LOOK_SECONDS = 600.0
#: Orders in a minute, of all certificates together.
ORDERS_A_MINUTE = 10
#: Seconds for which the same failure of a certificate is not logged again.
QUIET_SECONDS = 3600.0
#: How many failures of the self-check keep the server from ordering: some routers do not let a machine reach itself by
#: its public address.
SELF_CHECKS = 3
#: Characters of the tokens in reasons that make each of them another one.
_TOKEN = 30
#: Seconds until the next look at a certificate that another process is ordering.
OTHERS_SECONDS = 30.0
#: The same if there is no certificate yet.
FIRST_SECONDS = 2.0


@dataclass
class Ports:
    """The ports on which the site is to be found; the authority's own are tried, too."""

    http: int = 80
    https: int = 443


class Certificates(service.Service):
    """Keeps the configured certificates valid.

    :param authority: where they come from.
    :param rehearsal: where an order is tried after a failure, before it is made again at `authority`; None: nowhere.
    :param now: returns POSIX time.
    :param draw: returns a random number between two.
    :param sharing: what hosts share, if there are several.
    """

    name = "certificates"

    def __init__(
        self,
        served: Served,
        authority: Authority,
        rehearsal: Authority | None,
        reactor: IReactor,
        clock: IReactorTime,
        now: Callable[[], float],
        draw: Callable[[float, float], float] = random.uniform,
        sharing: Sharing | None = None,
    ) -> None:
        self._served = served
        self._authority = authority
        self._rehearsal = rehearsal
        self._reactor = reactor
        self._clock = clock
        self._now = now
        self._draw = draw
        self._sharing = authority.sharing = sharing
        self._timer: Any = None
        self._orders: deque[float] = deque()
        self._tasks: set[Deferred[None]] = set()
        self.ports = Ports()
        #: The kinds of challenges that can be answered, the preferred one first: ``tls-alpn-01`` needs no second port.
        self.kinds: Sequence[str] = (TLS_ALPN_01, HTTP_01)
        self.issued = self.failed = 0
        #: Asks the project whether a name that is not configured may have a certificate.
        self.allow: Callable[[str, str | None], Deferred[bool]] = lambda name, peer: succeed(False)
        self._demanded = False
        self._looks = 0
        #: Called with the names and the new certificate when one is there.
        self.on_renewed: Callable[[tuple[str, ...], Pair], object] = lambda names, pair: None
        #: Makes the challenges and certificates of this process known to the others; returns a Deferred that fires
        #: when they have them.
        self.tell: Callable[[], Deferred[Any] | None] = lambda: None
        self.certificates = [Certificate(names, served.store, now) for names in served.wanted]
        for certificate in self.certificates:
            self._load(certificate)

    def _load(self, certificate: Certificate) -> bool:
        """Serve what is stored; return whether that is another certificate than before."""
        pair = self._served.load(certificate.names)
        if pair is None or (certificate.pair is not None and certificate.pair.serial == pair.serial):
            return False
        certificate.adopt(pair)
        return True

    # -- the service ---------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Begin to look at the certificates."""
        super().startService()
        for certificate in self.certificates:
            if certificate.pair is None:
                _log.info(
                    "no certificate for {names} yet: HTTPS shows a self-signed one until {authority} has sent one",
                    names=certificate.label, authority=self._authority.name,
                )  # fmt: skip
            else:
                self._log_valid("certificate", certificate)
        self._look()

    def stopService(self) -> Any:
        """Stop, at once."""
        stopped = super().stopService()  # what is cut off now is no failure
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._sharing is not None:
            self._sharing.stop()
        return stopped

    def figures(self) -> dict[str, Any]:
        """Return what monitoring shows: of each certificate its state and when it expires (POSIX time); how many orders
        came to what; how many seconds ago the authority last spoke about renewal.
        """
        answered = max((certificate.ari_answered for certificate in self.certificates), default=0.0)
        return {
            "certificates": {
                name: {
                    "state": certificate.state,
                    "expires": 0 if certificate.pair is None else int(certificate.pair.ends),
                    "next": int(certificate.due()[0]),
                }
                for certificate in self.certificates
                for name in certificate.names
            },
            "certificate_orders": {"issued": self.issued, "failed": self.failed},
            **({"renewal_info_age": int(self._now() - answered)} if answered else {}),
        }

    def _look(self) -> None:
        """Do what is due. What ends at once asks for another look, which must not begin within this one."""
        self._looks += 1
        if self._looks > 1:
            return
        try:
            while self._looks and self.running:
                self._looks = 1
                self._look_once()
                self._looks -= 1
        finally:
            self._looks = 0

    def _look_once(self) -> None:
        for certificate in list(self.certificates):
            if certificate.working or certificate.asking or certificate not in self.certificates:
                continue
            if self._sharing is not None and not 0 <= self._now() - certificate.learned < LOOK_SECONDS:
                certificate.asking, certificate.learned = True, self._now()
                self._run(self._learn(certificate, self._sharing), certificate)
            elif certificate.pair is not None and certificate.ask_again <= self._now():
                certificate.asking = True
                self._run(self._ask(certificate), certificate)
            elif certificate.due()[0] <= self._now() and self._may_order():
                self._begin(certificate)
        idle = [certificate for certificate in self.certificates if not certificate.working and not certificate.asking]
        waits = [certificate.due()[0] for certificate in idle]
        if len(self._orders) >= ORDERS_A_MINUTE:
            waits = [max(when, self._orders[0] + 60.0) for when in waits]
        seconds = min(waits, default=self._now() + LOOK_SECONDS) - self._now()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(min(max(seconds, 0.01), LOOK_SECONDS), self._look)

    def _begin(self, certificate: Certificate) -> Deferred[None]:
        self._orders.append(self._now())
        certificate.working, certificate.ordering = True, False
        return self._run(self._work(certificate), certificate)

    def _may_order(self) -> bool:
        while self._orders and not 0.0 <= self._now() - self._orders[0] < 60.0:  # the clock may have been set back
            self._orders.popleft()
        return len(self._orders) < ORDERS_A_MINUTE

    def _run(self, work: Coroutine[Any, Any, None], certificate: Certificate) -> Deferred[None]:
        task = Deferred.fromCoroutine(work)
        self._tasks.add(task)
        done: Deferred[None] = Deferred()

        def ended(result: Any) -> None:
            self._tasks.discard(task)
            if certificate.working and not certificate.ordering and self._orders:
                self._orders.pop()  # it has come to no order
            certificate.working = certificate.ordering = certificate.asking = False
            self._look()
            done.callback(None)

        task.addErrback(lambda failure: self._unexpected(certificate, failure)).addBoth(ended)
        return done

    # -- on demand -----------------------------------------------------------------------------------------------------

    async def demand(self, name: str) -> bool:
        """Have a certificate for a name that is not configured; return whether there is one.

        It is stored, or ordered now: one at a time, and :data:`DEMANDS_AN_HOUR` of all processes and hosts together.
        """
        certificate = next((each for each in self.certificates if each.names == (name,)), None)
        if certificate is None:
            certificate = Certificate((name,), self._served.store, self._now)
            self._load(certificate)
        if not certificate.lasts and self._sharing is not None:
            await self._run(self._learn(certificate, self._sharing), certificate)
        if not certificate.lasts:
            if self._demanded or certificate.working or certificate.due()[0] > self._now():
                return False
            self._demanded = True
            try:
                if self._may_order() and self.running and await self._may_demand():
                    await self._begin(certificate)
            finally:
                self._demanded = False
                if self._sharing is not None:
                    await self._sharing.demanded()
        if certificate.lasts:
            self._keep(certificate)
        return certificate.lasts

    async def _may_demand(self) -> bool:
        """Whether one more order on demand may be made this hour; if so, it counts. A restart changes nothing."""
        now, store = self._now(), self._served.store
        times = [when for when in store.demands() if now - 3600.0 < when <= now]
        if len(times) >= DEMANDS_AN_HOUR or (self._sharing is not None and not await self._sharing.may_demand()):
            return False
        store.keep_demands([*times, now])
        return True

    async def _still_allowed(self, certificate: Certificate) -> bool:
        """Ask the project before a renewal; after a no, the certificate is used no more."""
        try:
            allowed = await self.allow(certificate.names[0], None)
        except Exception as error:
            raise AcmeError(f"ACME_ALLOW did not say whether it is still wanted: {error}") from error
        if not allowed:
            self.certificates.remove(certificate)
            self._served.drop(certificate.names)
            self.tell()
            _log.info("certificate for {names}: ACME_ALLOW says no, so it is dropped", names=certificate.label)
        return allowed

    def _keep(self, certificate: Certificate) -> None:
        """Renew a certificate that was not configured like the others."""
        if certificate not in self.certificates:
            certificate.demanded = True
            self.certificates.append(certificate)
        self.tell()

    # -- one certificate -----------------------------------------------------------------------------------------------

    async def _work(self, certificate: Certificate) -> None:
        with self._served.store.lock(certificate.names) as alone:
            if self._load(certificate):
                self._renewed(certificate, "another process has ordered it")
                return
            if not alone:
                certificate.postpone(_until_others(certificate))
                return
            certificate.read()
            if self._sharing is not None:
                await self._renew_for_all(certificate, self._sharing)
            elif certificate.due()[0] <= self._now():
                await self._renew(certificate)

    async def _renew_for_all(self, certificate: Certificate, sharing: Sharing) -> None:
        """Renew a certificate, unless another host is on it, or has done so."""
        try:
            await sharing.hold(certificate)
            await sharing.learn(certificate)
            if self._load(certificate):
                self._renewed(certificate, "another host has ordered it")
            if not sharing.holds(certificate):
                certificate.postpone(_until_others(certificate))
            elif certificate.due()[0] <= self._now():
                order = Deferred.fromCoroutine(self._renew(certificate))
                sharing.when_lost(certificate, order.cancel)
                await order
                if sharing.holds(certificate):
                    await sharing.share(certificate)
        except CancelledError:
            if sharing.holds(certificate):
                raise
            certificate.postpone(_until_others(certificate))
        except ChannelFull as error:
            certificate.postpone(_until_others(certificate))
            reason = f"other hosts cannot be asked who orders it: {error}"
            self._log_failure(certificate, reason, _until_others(certificate))
        finally:
            await sharing.release(certificate)

    async def _renew(self, certificate: Certificate) -> None:
        certificate.ordering = True
        if certificate.demanded and not await self._still_allowed(certificate):
            return
        before = certificate.pair
        reason = certificate.due()[1]
        try:
            await self._check(certificate)
            _log.info("ordering a certificate for {names}: {reason}", names=certificate.label, reason=reason)
            pair = await self._order(certificate)
        except AcmeError as error:
            self._note(certificate, error)
            return
        try:
            self._served.store.save(certificate.names, pair)
            certificate.adopt(pair, new=True)
        except (StoreError, OSError) as error:
            # The order is still known on disk: the next start gets the certificate from there.
            _log.error("the certificate for {names} is not stored: {error}", names=certificate.label, error=error)
            certificate.pair = pair
        self.issued += 1
        self._renewed(certificate, "renewed" if before is not None else "the first one")

    async def _ask(self, certificate: Certificate) -> None:
        """Ask when to renew; without an answer, again in an hour."""
        try:
            certificate.asked(*await self._authority.window(certificate, self._draw))
        except AcmeError as error:
            certificate.asked(None, LEAST_ARI_SECONDS)
            _log.debug("no renewal window for {names}: {error}", names=certificate.label, error=error)

    async def _learn(self, certificate: Certificate, sharing: Sharing) -> None:
        """Serve what another host has ordered."""
        try:
            await sharing.learn(certificate)
        except ChannelFull:
            return
        if self._load(certificate):
            self._renewed(certificate, "another host has ordered it")

    async def _check(self, certificate: Certificate) -> None:
        """Look whether the names lead here, before the first order.

        :raises AcmeError: they do not.
        """
        if certificate.pair is not None or certificate.order:
            return
        for name in certificate.names:
            token, answer = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
            try:
                await self._open(HTTP_01, name, token, answer)
                shown = await self._open(TLS_ALPN_01, name, token, answer)
                http_ports, https_ports = dict.fromkeys((80, self.ports.http)), dict.fromkeys((443, self.ports.https))
                problem = await deferToThreadPool(
                    self._reactor, self._reactor.getThreadPool(), unreachable, name, token, answer, list(http_ports),
                    list(https_ports), shown[1],
                )  # fmt: skip
            finally:
                for kind in (HTTP_01, TLS_ALPN_01):
                    self._close(kind, name, token)
            if problem and (certificate.failures < SELF_CHECKS or "does not resolve" in problem):
                raise AcmeError(problem)

    async def _order(self, certificate: Certificate) -> Pair:
        """Order a certificate; with the other kind of challenge if the first one fails."""
        solver = ServedChallenges(self._open, self._close, self.kinds, certificate.avoided)
        try:
            return await self._order_once(certificate, solver)
        except ChallengeFailed as error:
            solver.avoided = error.kind
            if len(solver.offered) < 2:
                raise
            _log.warn("{error}; trying the other kind of challenge", error=error)
        return await self._order_once(certificate, solver)

    async def _order_once(self, certificate: Certificate, solver: ServedChallenges) -> Pair:
        if certificate.failures and self._rehearsal is not None and not certificate.rehearsed:
            try:
                await self._rehearsal.obtain(certificate, solver, rehearsal=True)
            except AcmeError as error:
                if isinstance(error, ChallengeFailed) or (isinstance(error, Problem) and error.is_final):
                    raise
                _log.warn("no rehearsal for {names}: {error}", names=certificate.label, error=error)
            certificate.rehearsed = True
        key, chain = await self._authority.obtain(certificate, solver)
        try:
            pair = read_pair(key, chain, certificate.names)
            self._served.use(certificate.names, pair)
            return pair
        except ValueError as error:
            certificate.ordered("")
            raise AcmeError(f"the certificate cannot be used: {error}") from error

    async def _open(self, kind: str, name: str, token: str, answer: str) -> Any:
        """Have all processes, and all hosts, answer a challenge; return the answer."""
        made = self._served.open(kind, name, token, answer)
        told = self.tell()
        if told is not None:
            await told
        if self._sharing is not None:
            await self._sharing.open(kind, name, token, made)
        return made

    def _close(self, kind: str, name: str, token: str) -> None:
        self._served.close(kind, name, token)
        if self._sharing is not None:
            self._sharing.close(kind, name, token)

    def _renewed(self, certificate: Certificate, what: str) -> None:
        assert certificate.pair is not None
        self.tell()
        self._log_valid(f"certificate ({what})", certificate)
        self.on_renewed(certificate.names, certificate.pair)

    def _note(self, certificate: Certificate, error: Exception) -> None:
        """Note and log a failure."""
        if not self.running:
            return
        self.failed += 1
        certificate.rehearsed = False
        pause = next_try(certificate.failures + 1, getattr(error, "retry_after", 0.0))
        certificate.failed(str(error), pause, error.kind if isinstance(error, ChallengeFailed) else "")
        self._log_failure(certificate, certificate.reason, pause)

    def _log_failure(self, certificate: Certificate, reason: str, pause: float) -> None:
        text, since = certificate.logged
        same = " ".join(word for word in reason.split() if len(word) < _TOKEN)
        if text == same and 0.0 <= self._now() - since < QUIET_SECONDS:
            return
        certificate.logged = same, self._now()
        _log.error(
            "no certificate for {names}: {reason}; next try in {pause}{served}",
            names=certificate.label, reason=reason, pause=_duration(pause),
            served="" if certificate.pair is None else f"; the present one ends on {_date(certificate.pair.ends)}",
        )  # fmt: skip

    def _unexpected(self, certificate: Certificate, failure: Any) -> None:
        if not self.running:
            return
        if failure.check(StoreError):
            self._note(certificate, failure.value)
            return
        _log.failure("the order for {names} has failed", failure, names=certificate.label)
        self._note(certificate, AcmeError(f"an error of the server itself: {failure.getErrorMessage()}"))

    def _log_valid(self, what: str, certificate: Certificate) -> None:
        assert certificate.pair is not None
        when, why = certificate.due()
        _log.info(
            "{what} for {names}: valid until {until}, to be renewed {when} ({why})",
            what=what, names=certificate.label, until=_date(certificate.pair.ends), when=_date(when), why=why,
        )  # fmt: skip


def _until_others(certificate: Certificate) -> float:
    """Return the seconds until the next look at what others have ordered: soon if there is no certificate."""
    return FIRST_SECONDS if certificate.pair is None else OTHERS_SECONDS


def _date(when: float) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 7200 else f"{seconds / 60:.3g} min"
