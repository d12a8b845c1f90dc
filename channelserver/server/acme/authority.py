"""A certificate authority with which the server has an account, and from which it gets certificates.

Runs in the reactor thread; owns the account.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import Agent

from channelserver.server.acme.certificate import MOST_ARI_SECONDS, Certificate
from channelserver.server.acme.challenges import key_pem
from channelserver.server.acme.client import Client, Problem, Unreachable
from channelserver.server.acme.order import ChallengeFailed, Solver, obtain
from channelserver.server.acme.renewal import Window
from channelserver.server.acme.sharing import Sharing
from channelserver.server.acme.store import Store

_log = Logger("channelserver.server.acme")

#: Seconds until the authority is asked again when to renew: if it does not say, and at least.
ARI_SECONDS, LEAST_ARI_SECONDS = 6 * 3600.0, 3600.0


class Authority:
    """A certificate authority.

    :param store: has the account.
    :param email: to which the authority may write.
    :param eab: key ID and MAC key of an account that the user has there.
    :param profile: of the certificates; None: the authority's choice.
    """

    def __init__(
        self,
        store: Store,
        agent: Agent,
        clock: IReactorTime,
        now: Callable[[], float],
        email: str | None = None,
        eab: tuple[str, str] | None = None,
        profile: str | None = None,
    ) -> None:
        self._store = store
        self._email = email
        self._eab = eab
        self._profile = profile
        self._registering = DeferredLock()
        self._agent = agent
        self._clock = clock
        self._now = now
        self._client: Client | None = None
        #: What hosts share, if there are several.
        self.sharing: Sharing | None = None
        #: Its host.
        self.name = urlsplit(store.directory_url).netloc

    @property
    def client(self) -> Client:
        """The account's.

        :raises StoreError: its key cannot be used.
        """
        if self._client is None:
            key, account = self._store.account(self._email)
            self._client = Client(self._agent, self._store.directory_url, key, account, self._clock, self._now)
        return self._client

    async def obtain(self, certificate: Certificate, solver: Solver, rehearsal: bool = False) -> tuple[bytes, bytes]:
        """Return a private key and a certificate for it with its chain, as PEM.

        :param rehearsal: go on with no earlier order, and leave none.
        :raises AcmeError: there is none.
        """
        await self._register()
        try:
            return await self._obtain(certificate, solver, rehearsal)
        except Problem as problem:
            if problem.kind != "accountDoesNotExist":
                raise
            self.client.account = ""
        await self._register()
        return await self._obtain(certificate, solver, rehearsal)

    async def window(
        self, certificate: Certificate, draw: Callable[[float, float], float]
    ) -> tuple[Window | None, float]:
        """Return when the authority wants a certificate to be renewed (RFC 9773), and in how many seconds to ask again.

        :param draw: returns a random number between two.
        :returns: None for the window: it does not say.
        :raises AcmeError: it does not answer.
        """
        place = (await self.client.directory()).get("renewalInfo")
        pair = certificate.pair
        if not isinstance(place, str) or pair is None:
            return None, MOST_ARI_SECONDS
        answer = await self.client.get(f"{place.rstrip('/')}/{pair.serial}")
        found = answer.json()
        try:
            start, end = (_time(found["suggestedWindow"][key]) for key in ("start", "end"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unreachable("the certificate authority's renewal window cannot be read") from error
        if end <= start:
            raise Unreachable("the certificate authority's renewal window ends before it starts")
        seconds = min(max(answer.retry_after or ARI_SECONDS, LEAST_ARI_SECONDS), MOST_ARI_SECONDS)
        known = certificate.window
        if known is not None and (known.serial, known.start, known.end) == (pair.serial, start, end):
            return known, seconds
        if found.get("explanationURL"):
            _log.info(
                "{authority} wants {names} to be renewed between {start} and {end}, see {url}",
                authority=self.name, names=certificate.label, url=str(found["explanationURL"])[:200],
                **{key: str(found["suggestedWindow"][key]) for key in ("start", "end")},
            )  # fmt: skip
        return Window(pair.serial, start, end, draw(start, end)), seconds

    async def _obtain(self, certificate: Certificate, solver: Solver, rehearsal: bool) -> tuple[bytes, bytes]:
        if rehearsal:
            key, note, url, replaces = ec.generate_private_key(ec.SECP256R1()), _ignore, "", ""
        else:
            # A new order gets a new key, which is on disk before it.
            note, url, replaces = partial(self._note, certificate), certificate.order, certificate.replaces
            key = self._store.pending_key(certificate.names, new=not url)
        try:
            chain = await obtain(self.client, certificate.names, key, solver, note, url, self._profile, replaces)
        except (ChallengeFailed, Problem) as error:
            if not isinstance(error, Problem) or error.is_final:
                await note("")
            raise
        return key_pem(key), chain

    async def _note(self, certificate: Certificate, url: str) -> None:
        certificate.ordered(url)
        if self.sharing is not None:
            await self.sharing.share(certificate)

    async def _register(self) -> None:
        await self._registering.acquire()
        try:
            if self.client.account:
                return
            if self.sharing is None:
                await self._make_account()
            else:
                await self.sharing.account(self._email, self._make_account)
                self._client = None  # the account may be another host's
        finally:
            self._registering.release()

    async def _make_account(self) -> None:
        self._store.keep_account(self._email, await self.client.register(self._email, self._eab))


async def _ignore(url: str) -> None:
    """Nothing is kept."""


def _time(text: str) -> float:
    """Return the POSIX time of a text (RFC 3339)."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
