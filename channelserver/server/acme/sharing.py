"""What the hosts of a site share: who orders, certificates, orders that are not finished, answers to challenges.

Runs in the reactor thread; owns the leases that this host has.

All of it is sealed with the layer's keys. The folder of certificates stays what a host serves from, so HTTPS goes on
while the other hosts cannot be reached.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from channelserver.layers import ChannelFull
from channelserver.layers.vault import Vault
from channelserver.server.acme.certificate import Certificate
from channelserver.server.acme.challenges import HTTP_01, key_pem
from channelserver.server.acme.client import pause
from channelserver.server.acme.renewal import DEMANDS_AN_HOUR
from channelserver.server.acme.served import Served
from channelserver.server.acme.store import Store, read_pair
from channelserver.server.common.bucket import Bucket

_log = Logger("channelserver.server.acme")

#: Seconds for which a lease lasts, after which it is extended, and after which it counts as lost without an extension:
#: before it ends in Redis.
LEASE_SECONDS, EXTEND_SECONDS, LOST_SECONDS = 60.0, 20.0, 50.0
#: Seconds for which an open challenge, and a certificate, are kept for other hosts.
CHALLENGE_SECONDS, CERTIFICATE_SECONDS = 600.0, 400 * 86_400.0
#: Questions of other hosts a second, and in a burst: whoever asks for unknown challenges costs them no more.
LOOK_UPS = 20

_is_token = re.compile(r"[A-Za-z0-9_-]{16,128}").fullmatch


class Sharing:
    """What this host shares with others.

    :param authority: the name of its folder.
    """

    def __init__(self, vault: Vault, store: Store, authority: str, clock: IReactorTime) -> None:
        self._vault = vault
        self._store = store
        self._authority = authority
        self._clock = clock
        self._owner = secrets.token_urlsafe(16)
        self._leases: dict[str, _Lease] = {}

    def _name(self, certificate: Certificate) -> str:
        return f"certificate:{self._authority}:{'+'.join(certificate.names)}"

    # -- the lease -----------------------------------------------------------------------------------------------------

    async def hold(self, certificate: Certificate) -> None:
        """Become the host that orders a certificate, if no other is (:meth:`holds`).

        :raises ChannelFull: the others cannot be reached.
        """
        await self._hold(self._name(certificate))

    async def _hold(self, name: str) -> bool:
        await self._vault.ready()
        asked = self._clock.seconds()
        held = await self._vault.lease(name, self._owner, LEASE_SECONDS)
        if held:
            self._leases[name] = _Lease(asked, self._clock.callLater(EXTEND_SECONDS, self._extend, name))
        return held

    def _extend(self, name: str) -> None:
        lease = self._leases[name]
        seconds = min(EXTEND_SECONDS, lease.extended + LOST_SECONDS - self._clock.seconds())
        if seconds <= 0.0:
            self._lose(name)
            return
        lease.timer = self._clock.callLater(seconds, self._extend, name)
        _in_background(self._try_to_extend(name, lease))

    async def _try_to_extend(self, name: str, lease: _Lease) -> None:
        asked = self._clock.seconds()
        held = await self._vault.lease(name, self._owner, LEASE_SECONDS)
        if held:
            lease.extended = asked
        elif self._leases.get(name) is lease:  # Redis has lost it, and another host has it
            lease.timer.cancel()
            self._lose(name)

    def _lose(self, name: str) -> None:
        _log.warn("the lease {name} is lost: another host may order now", name=name)
        self._leases.pop(name).when_lost()

    def holds(self, certificate: Certificate) -> bool:
        """Whether no other host may order it now."""
        return self._name(certificate) in self._leases

    def when_lost(self, certificate: Certificate, stop: Callable[[], object]) -> None:
        """Call `stop` when other hosts may order a certificate that this one is ordering."""
        self._leases[self._name(certificate)].when_lost = stop

    async def release(self, certificate: Certificate) -> None:
        """Let other hosts order it."""
        await self._release(self._name(certificate))

    async def _release(self, name: str) -> None:
        lease = self._leases.pop(name, None)
        if lease is not None:
            lease.timer.cancel()
        try:
            await self._vault.release(name, self._owner)
        except ChannelFull:
            pass  # it ends by itself

    def stop(self) -> None:
        """Give all leases back."""
        for name, lease in self._leases.items():
            lease.timer.cancel()
            _in_background(self._vault.release(name, self._owner))
        self._leases.clear()

    # -- on demand -----------------------------------------------------------------------------------------------------

    async def may_demand(self) -> bool:
        """Whether all hosts together have not used up :data:`DEMANDS_AN_HOUR`, and none is on such an order; if so,
        this counts as one. Call :meth:`demanded` at its end.

        Each of the orders is a lease of an hour that nobody gives back.
        """
        try:
            if not await self._hold(self._demand):
                return False
            for number in range(DEMANDS_AN_HOUR):
                if await self._vault.lease(f"{self._demand}:{number}", secrets.token_urlsafe(16), 3600.0):
                    return True
        except ChannelFull:
            pass
        await self.demanded()
        return False

    async def demanded(self) -> None:
        """Let other hosts order on demand."""
        await self._release(self._demand)

    @property
    def _demand(self) -> str:
        return f"demand:{self._authority}"

    # -- what is shared ------------------------------------------------------------------------------------------------

    async def learn(self, certificate: Certificate) -> None:
        """Store what another host has found out about a certificate.

        :raises ChannelFull: the others cannot be reached.
        """
        await self._vault.ready()
        found = await self._vault.get(self._name(certificate))
        known = certificate.pair
        if isinstance(found, dict):
            pair = None
            if found.get("pair"):
                try:
                    key, chain = found["pair"]
                    pair = read_pair(key, chain, certificate.names)
                except (ValueError, TypeError):
                    _log.warn("the certificate for {names} of another host is broken", names=certificate.label)
            if known is not None and (pair is None or pair.begins < known.begins):
                await self.share(certificate)  # which others have missed
                return
            if pair is not None and (known is None or pair.serial != known.serial):
                self._store.save(certificate.names, pair)
            certificate.learn(found.get("record") or {})
            if found.get("pending"):
                self._store.put_pending_key(certificate.names, found["pending"])
        elif known is not None:
            await self.share(certificate)

    async def share(self, certificate: Certificate) -> None:
        """Tell the other hosts what is known of a certificate.

        :raises ChannelFull: they cannot be reached.
        """
        pair = certificate.pair
        value = {
            "pair": None if pair is None else [pair.key, pair.chain],
            "record": certificate.shared,
            "pending": self._store.get_pending_key(certificate.names) if certificate.order else None,
        }
        await self._vault.put(self._name(certificate), value, CERTIFICATE_SECONDS)

    async def account(self, email: str | None, register: Callable[[], Awaitable[None]]) -> None:
        """Have one account for all hosts: that of another one, else that which `register` makes and stores.

        :raises ChannelFull: the others cannot be reached.
        """
        name = f"account:{self._authority}:{email or ''}"
        while True:
            held = await self._vault.lease(name, self._owner, LEASE_SECONDS)
            found = await self._vault.get(name)
            if isinstance(found, list) and len(found) == 2:
                self._store.put_account(email, *found)
            elif held:
                await register()
                key, url = self._store.account(email)
                await self._vault.put(name, [key_pem(key), url], CERTIFICATE_SECONDS)
            else:
                await pause(self._clock, 0.5)
                continue
            await self._vault.release(name, self._owner)
            return

    # -- challenges ----------------------------------------------------------------------------------------------------

    async def open(self, kind: str, name: str, token: str, answer: Any) -> None:
        """Have the other hosts answer a challenge.

        :raises ChannelFull: they cannot be reached.
        """
        await self._vault.put(_challenge(kind, name, token), answer, CHALLENGE_SECONDS)

    def close(self, kind: str, name: str, token: str) -> None:
        """They need not any more."""
        _in_background(self._vault.remove(_challenge(kind, name, token)))


@dataclass
class _Lease:
    """A lease of this host.

    :param extended: when it was last asked for (the clock's seconds).
    :param timer: extends it.
    """

    extended: float
    timer: Any
    when_lost: Callable[[], object] = lambda: None


def answer_for_others(vault: Vault, served: Served, clock: IReactorTime) -> None:
    """Have this process answer challenges that other hosts have opened."""
    bucket = Bucket(LOOK_UPS, LOOK_UPS, clock.seconds())

    def token(token: str) -> Deferred[str | None] | None:
        if not _is_token(token) or not bucket.take(clock.seconds()):
            return None
        return Deferred.fromCoroutine(vault.get(_challenge(HTTP_01, "", token)))

    def alpn(name: str) -> Deferred[bool] | None:
        contexts = served.contexts
        if contexts.has_challenge(name) or not contexts.serves(name) or not bucket.take(clock.seconds()):
            return None
        return Deferred.fromCoroutine(look_up(name))

    async def look_up(name: str) -> bool:
        try:
            pair = await vault.get(_challenge("", name, ""))
            if pair is not None:
                served.contexts.challenge(name, *pair)
                clock.callLater(0, served.contexts.end_challenge, name)  # for this handshake alone
        except (ChannelFull, ValueError, TypeError):
            pass
        return True

    served.tokens.ask = token
    served.contexts.on_challenge = alpn


def _challenge(kind: str, name: str, token: str) -> str:
    return f"challenge:{token}" if kind == HTTP_01 else f"challenge:{name}"


def _in_background(work: Any) -> None:
    Deferred.fromCoroutine(work).addErrback(lambda failure: failure.trap(ChannelFull) and None)
