"""Speaks ACME with a certificate authority (RFC 8555): signed requests, nonces, the account, errors.

Runs in the reactor thread; owns the nonces and the connections to the authority.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import josepy
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from channelserver._version import __version__
from channelserver.processes.link import IReactor
from channelserver.server.common.option import OptionError

#: Seconds that the authority has for an answer, and bytes that this may have.
ANSWER_SECONDS, ANSWER_BYTES = 30.0, 1024 * 1024
#: How often a request is sent again because the authority refuses its nonce. With ten, one of 300 orders would fail at
#: an authority that refuses every second nonce.
NONCE_TRIES = 20
#: Characters of what the authority says that are shown.
TEXT = 500
#: Seconds for which an authority can have itself left alone, at most: its longest limits are for a week.
LONGEST_RETRY = 8 * 86_400.0
#: Nonces that are kept.
NONCES = 50

_ERROR = "urn:ietf:params:acme:error:"


class AcmeError(Exception):
    """No certificate came of it; the text says why.

    :param retry_after: seconds for which the authority wants to be left alone; 0.0: it does not say.
    """

    retry_after = 0.0


class Unreachable(AcmeError):
    """The authority does not answer, or not as ACME has it."""


class Problem(AcmeError):
    """The authority refuses something (RFC 8555 section 6.7).

    :param kind: the type of the problem, such as ``rateLimited``.
    """

    def __init__(self, status: int, document: Any, retry_after: float = 0.0) -> None:
        document = document if isinstance(document, dict) else {}
        self.status = status
        self.kind = str(document.get("type", "")).removeprefix(_ERROR)[:TEXT]
        self.retry_after = retry_after
        parts = document.get("subproblems")
        details = [document, *(each for each in (parts if isinstance(parts, list) else ()) if isinstance(each, dict))]
        text = "; ".join(str(each["detail"]) for each in details if each.get("detail"))
        text = " ".join(text.split())[:TEXT]
        #: Whether the order is lost, too.
        self.is_final = not status or (400 <= status < 500 and status != 429 and self.kind != "rateLimited")
        super().__init__(f"{self.kind or f'status {status}'}: {text or 'the authority does not say why'}")


@dataclass
class Answer:
    """What the authority has answered.

    :param retry_after: see :class:`AcmeError`.
    """

    status: int
    headers: Headers
    body: bytes
    retry_after: float = 0.0

    def header(self, name: str) -> str:
        """Return a header; empty: there is none."""
        values = self.headers.getRawHeaders(name) or [""]
        return values[0]

    def json(self) -> dict[str, Any]:
        """Return the object in the body.

        :raises Unreachable: it has none.
        """
        found = _json(self.body)
        if not isinstance(found, dict):
            raise Unreachable("the certificate authority's answer is not JSON; check --acme-directory")
        return found


class Client:
    """An account at a certificate authority.

    :param directory_url: where the authority lists its URLs.
    :param key: the account's private key (P-256).
    :param account: the URL of the account; empty: not known yet, see :meth:`register`.
    :param now: returns POSIX time.
    """

    def __init__(
        self,
        agent: Agent,
        directory_url: str,
        key: ec.EllipticCurvePrivateKey,
        account: str,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self.directory_url = directory_url
        self.account = account
        self.clock = clock
        self._agent = agent
        self._key = key
        self._jwk = josepy.JWKEC(key=key).public_key()
        self._now = now
        self._nonces: list[str] = []
        self._directory: dict[str, Any] = {}

    async def directory(self) -> dict[str, Any]:
        """Return the authority's directory, asked for once."""
        if not self._directory:
            self._directory = (await self.get(self.directory_url)).json()
        return self._directory

    async def place(self, name: str) -> str:
        """Return one of the directory's URLs.

        :raises Unreachable: it has none of that name.
        """
        url = (await self.directory()).get(name)
        if not isinstance(url, str):
            raise Unreachable(f"the ACME directory {self.directory_url} has no {name}; check --acme-directory")
        return url

    async def register(self, email: str | None, eab: tuple[str, str] | None) -> str:
        """Make the account, or find that of the key; return its URL.

        :param eab: key ID and MAC key, as base64url, of an account that the user has at the authority.
        """
        url = await self.place("newAccount")
        content: dict[str, Any] = {"termsOfServiceAgreed": True}
        if email:
            content["contact"] = [f"mailto:{email}"]
        if eab is not None:
            protected = {"alg": "HS256", "kid": eab[0], "url": url}
            mac = josepy.b64decode(eab[1])
            content["externalAccountBinding"] = _signed(
                protected, self._jwk.to_json(), lambda data: josepy.HS256.sign(mac, data)
            )
        self.account = ""
        answer = await self.post(url, content)
        self.account = answer.header("Location")
        if not self.account:
            raise Unreachable("the certificate authority names no account")
        return self.account

    def key_authorization(self, token: str) -> str:
        """Return what proves that this account has been given `token` (RFC 8555 section 8.1)."""
        return f"{token}.{josepy.b64encode(self._jwk.thumbprint()).decode()}"

    async def post(self, url: str, content: object) -> Answer:
        """Send a signed request.

        :param content: for JSON; None: nothing (POST-as-GET).
        :raises Problem: the authority refuses it.
        :raises Unreachable: there is no answer.
        """
        for tries_left in range(NONCE_TRIES, -1, -1):
            protected: dict[str, Any] = {"alg": "ES256", "nonce": await self._nonce(), "url": url}
            protected |= {"kid": self.account} if self.account else {"jwk": self._jwk.to_json()}
            body = _signed(protected, content, lambda data: josepy.ES256.sign(self._key, data))
            try:
                return await self._request(b"POST", url, json.dumps(body).encode())
            except Problem as problem:
                if problem.kind != "badNonce" or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def get(self, url: str) -> Answer:
        """Send a request that is not signed."""
        return await self._request(b"GET", url)

    async def _nonce(self) -> str:
        if not self._nonces:
            await self._request(b"HEAD", await self.place("newNonce"))
        if not self._nonces:
            raise Unreachable("the certificate authority gives no nonce")
        return self._nonces.pop()

    async def _request(self, method: bytes, url: str, body: bytes | None = None) -> Answer:
        headers = Headers({"User-Agent": [f"channelserver/{__version__}"]})
        if body is not None:
            headers.setRawHeaders("Content-Type", ["application/jose+json"])
        producer = None if body is None else _Body(body)
        late: Any = None
        try:
            asked = self._agent.request(method, url.encode("ascii"), headers, producer).addCallback(_read)
            late = self.clock.callLater(ANSWER_SECONDS, asked.cancel)
            answer: Answer = await asked
        except Exception as error:
            reason = _reason(error)
            if isinstance(reason, CancelledError):
                if late.active():
                    raise reason from error  # the order is stopped
                reason = TimeoutError(f"not in {ANSWER_SECONDS:g} s")
            text = str(reason) or type(reason).__name__
            raise Unreachable(f"the certificate authority at {url} does not answer: {text}") from error
        finally:
            if late is not None and late.active():
                late.cancel()
        answer.retry_after = retry_after(answer.header("Retry-After"), self._now())
        nonce = answer.header("Replay-Nonce")
        if nonce:
            self._nonces = [*self._nonces[1 - NONCES :], nonce]
        if answer.status >= 400:
            raise Problem(answer.status, _json(answer.body), answer.retry_after)
        if answer.status >= 300:
            place = answer.header("Location")[:TEXT] or "nowhere"
            raise Unreachable(f"the certificate authority redirects {url} to {place}; check --acme-directory")
        return answer


def make_agent(reactor: IReactor, ca_file: str | None) -> Agent:
    """Return what connects to certificate authorities.

    :param ca_file: PEM file of the roots to trust; None: the system's.
    :raises OptionError: it cannot be used.
    """
    if ca_file is None:
        policy = BrowserLikePolicyForHTTPS()
    else:
        try:
            with open(ca_file, "rb") as stream:
                parts = stream.read().split(b"-----END CERTIFICATE-----")[:-1]
            roots = [ssl.Certificate.loadPEM(part + b"-----END CERTIFICATE-----") for part in parts]
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OptionError(f"--acme-ca-file {ca_file!r} cannot be read: {reason}") from error
        except Exception as error:
            raise OptionError(f"--acme-ca-file {ca_file!r} holds a broken certificate") from error
        if not roots:
            raise OptionError(f"--acme-ca-file {ca_file!r} holds no certificate in PEM form")
        policy = BrowserLikePolicyForHTTPS(ssl.trustRootFromCertificates(roots))
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost, pool.cachedConnectionTimeout = 4, 20
    return Agent(reactor, policy, connectTimeout=10, pool=pool)


def retry_after(value: str, now: float) -> float:
    """Return the seconds in a ``Retry-After`` header (RFC 9110 section 10.2.3); 0.0: it says none."""
    if value.isdecimal():
        return min(float(value[:9]), LONGEST_RETRY)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), LONGEST_RETRY)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def pause(clock: IReactorTime, seconds: float) -> Awaitable[None]:
    """Return what fires after so many seconds."""
    waiting: Deferred[None] = Deferred()
    clock.callLater(seconds, waiting.callback, None)
    return waiting


def _signed(protected: dict[str, Any], content: object, sign: Callable[[bytes], bytes]) -> dict[str, str]:
    """Return a JWS in its flattened form (RFC 7515)."""
    head = josepy.b64encode(json.dumps(protected).encode())
    payload = b"" if content is None else josepy.b64encode(json.dumps(content).encode())
    signature = josepy.b64encode(sign(head + b"." + payload))
    return {"protected": head.decode(), "payload": payload.decode(), "signature": signature.decode()}


def _json(body: bytes) -> Any:
    """Return what a body holds; None: nothing that can be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _reason(error: Exception) -> Exception:
    reasons = getattr(error, "reasons", None)  # of twisted.web: a list of failures
    return reasons[0].value if reasons else error


@implementer(IBodyProducer)
class _Body:
    """The body of a request."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written."""

    def resumeProducing(self) -> None:
        """All is written."""

    def stopProducing(self) -> None:
        """All is written."""


@dataclass
class _Reader(Protocol):
    """Collects the body of an answer."""

    done: Deferred[bytes] = field(init=False)
    received: bytes = b""

    def __post_init__(self) -> None:
        self.done = Deferred(self._cut_off)

    def _cut_off(self, done: Deferred[bytes]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > ANSWER_BYTES:
            self._cut_off(self.done)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self.done.called:
            return
        if len(self.received) > ANSWER_BYTES:
            self.done.errback(ValueError(f"more than {ANSWER_BYTES} bytes"))
        elif reason.check(ResponseDone):
            self.done.callback(self.received)
        else:
            self.done.errback(reason)


def _read(response: Any) -> Deferred[Answer]:
    reader = _Reader()
    response.deliverBody(reader)
    return reader.done.addCallback(lambda body: Answer(response.code, response.headers, body))
