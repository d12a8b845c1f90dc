"""What the hosts of a site share: who orders, certificates, orders that are not finished, answers to challenges.

Runs in the reactor thread; owns the leases that this host has.

All of it is sealed with the layer's keys. The folder of certificates stays what a host serves from, so HTTPS goes on
while the other hosts cannot be reached.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from channelserver.layers import ChannelFull
from channelserver.layers.vault import Vault
from channelserver.server.acme.certificate import Certificate
from channelserver.server.acme.challenges import HTTP_01, key_pem
from channelserver.server.acme.client import pause
from channelserver.server.acme.served import Served
from channelserver.server.acme.store import Store, read_pair
from channelserver.server.common.bucket import Bucket

_log = Logger("channelserver.server.acme")

#: Seconds for which a lease lasts, and after which it is extended.
LEASE_SECONDS, EXTEND_SECONDS = 60.0, 20.0
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
        self._extending: dict[str, Any] = {}

    def _name(self, certificate: Certificate) -> str:
        return f"certificate:{self._authority}:{'+'.join(certificate.names)}"

    # -- the lease -----------------------------------------------------------------------------------------------------

    async def hold(self, certificate: Certificate) -> bool:
        """Become the host that orders a certificate; return whether no other is.

        :raises ChannelFull: the others cannot be reached.
        """
        name = self._name(certificate)
        await self._vault.ready()
        held = await self._vault.lease(name, self._owner, LEASE_SECONDS)
        if held:
            self._extending[name] = self._clock.callLater(EXTEND_SECONDS, self._extend, name)
        return held

    def _extend(self, name: str) -> None:
        self._extending[name] = self._clock.callLater(EXTEND_SECONDS, self._extend, name)
        _in_background(self._vault.lease(name, self._owner, LEASE_SECONDS))

    async def release(self, certificate: Certificate) -> None:
        """Let other hosts order it."""
        name = self._name(certificate)
        extending = self._extending.pop(name, None)
        if extending is not None:
            extending.cancel()
        try:
            await self._vault.release(name, self._owner)
        except ChannelFull:
            pass  # it ends by itself

    def stop(self) -> None:
        """Give all leases back."""
        for name, extending in self._extending.items():
            extending.cancel()
            _in_background(self._vault.release(name, self._owner))
        self._extending.clear()

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
