"""The way of one certificate through a certificate authority: order, authorizations, challenges, certificate.

Runs in the reactor thread; owns nothing that lasts.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import josepy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, gatherResults

from channelserver.server.acme.client import AcmeError, Answer, Client, Problem, Unreachable, pause

#: Seconds until the authority is asked again what has become of something: at first, and at most.
FIRST_POLL, LONGEST_POLL = 0.03, 10.0
#: Seconds after which an order is given up.
PATIENCE = 300.0


_is_token = re.compile(r"[A-Za-z0-9_-]{1,500}").fullmatch


class Solver(Protocol):
    """Answers the questions by which the authority finds out who has a name."""

    def choose(self, name: str, offered: Sequence[str]) -> str | None:
        """Return which of the kinds of challenges to take; None: none of them."""

    async def open(self, kind: str, name: str, token: str, key_authorization: str) -> None:
        """Answer a challenge from now on, everywhere."""

    def close(self, kind: str, name: str, token: str) -> None:
        """No longer answer it."""


class ChallengeFailed(AcmeError):
    """The authority has not found what it asked for.

    :param kind: of the challenge.
    """

    def __init__(self, name: str, kind: str, problem: Problem) -> None:
        super().__init__(f"{kind} for {name} failed: {problem}")
        self.kind = kind


async def obtain(
    client: Client,
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    solver: Solver,
    note: Callable[[str], Awaitable[None]],
    url: str = "",
    profile: str | None = None,
    replaces: str = "",
) -> bytes:
    """Return a certificate and its chain as PEM.

    :param key: of the certificate.
    :param note: called with the URL of the order before anything else is done with it.
    :param url: of an order for the same key that was not finished; empty: there is none.
    :param replaces: the ID of the certificate that this one renews (RFC 9773); empty: none.
    :raises AcmeError: there is no certificate.
    """
    try:
        return await _obtain(client, names, key, solver, note, url, profile, replaces)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"the certificate authority's answers are not as ACME has them: {error!r:.200}") from error


async def _obtain(
    client: Client,
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    solver: Solver,
    note: Callable[[str], Awaitable[None]],
    url: str,
    profile: str | None,
    replaces: str,
) -> bytes:
    order: dict[str, Any] = {}
    if url:
        try:
            order = (await client.post(url, None)).json()
        except Problem as problem:
            if not problem.is_final:  # it may still be there
                raise
            url = ""
        if order.get("status") == "invalid":
            url = ""
    if not url:
        answer = await _new_order(client, names, profile, replaces)
        url, order = answer.header("Location"), answer.json()
        await note(url)
    if order.get("status") == "pending":
        places = order["authorizations"]
        if not isinstance(places, list) or len(places) > len(names):
            raise ValueError(f"{len(places)} authorizations for {len(names)} names")
        solving = [Deferred.fromCoroutine(_authorize(client, str(place), names, solver)) for place in places]
        await _all(solving)
        order = await _until(client, url, ("pending",))
    if order.get("status") == "ready":
        csr = josepy.b64encode(_request_for(names, key)).decode()
        answer = await client.post(str(order.get("finalize")), {"csr": csr})
        order = answer.json()
    if order.get("status") in ("processing", "ready"):
        order = await _until(client, url, ("processing", "ready"))
    if order.get("status") != "valid":
        raise Problem(0, order.get("error") or {"detail": f"the order is {order.get('status')!s:.100}"})
    return (await client.post(str(order.get("certificate")), None)).body


async def _new_order(client: Client, names: Sequence[str], profile: str | None, replaces: str) -> Answer:
    directory = await client.directory()
    content: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
    if profile is not None:
        known = (directory.get("meta") or {}).get("profiles") or {}
        if profile not in known:
            offered = f"it has {', '.join(known)}" if known else "it has none"
            raise AcmeError(
                f"the certificate authority does not know the profile {profile!r} (--acme-profile); {offered}"
            )
        content["profile"] = profile
    if replaces and "renewalInfo" in directory:
        content["replaces"] = replaces
    return await client.post(await client.place("newOrder"), content)


async def _authorize(client: Client, url: str, names: Sequence[str], solver: Solver) -> None:
    authorization = (await client.post(url, None)).json()
    if authorization.get("status") == "valid":
        return
    if authorization.get("status") != "pending":
        raise Problem(0, {"detail": f"an authorization is {authorization.get('status')!s:.100}"})
    name = str(authorization["identifier"]["value"])
    if name not in names:
        raise ValueError(f"an authorization for {name:.100}")
    challenges = {str(each.get("type")): each for each in authorization["challenges"]}
    kind = solver.choose(name, list(challenges))
    if kind is None:
        raise AcmeError(f"the certificate authority offers no challenge for {name} that the server can answer")
    token = str(challenges[kind]["token"])
    if not _is_token(token):
        raise ValueError(f"the token {token:.100}")
    await solver.open(kind, name, token, client.key_authorization(token))
    try:
        await client.post(str(challenges[kind]["url"]), {})
        authorization = await _until(client, url, ("pending",))
    finally:
        solver.close(kind, name, token)
    if authorization.get("status") != "valid":
        errors = [each["error"] for each in authorization["challenges"] if each.get("error")]
        raise ChallengeFailed(name, kind, Problem(0, errors[0] if errors else {}))


async def _until(client: Client, url: str, unfinished: Sequence[str]) -> dict[str, Any]:
    """Ask for a resource until its status is another than those.

    :raises Unreachable: that takes too long.
    """
    seconds, ends = FIRST_POLL, client.clock.seconds() + PATIENCE
    while client.clock.seconds() < ends:
        await pause(client.clock, seconds)
        answer = await client.post(url, None)
        found = answer.json()
        if found.get("status") not in unfinished:
            return found
        seconds = min(max(2 * seconds, answer.retry_after), LONGEST_POLL)
    raise Unreachable(f"the certificate authority has not finished {url} in {PATIENCE:g} s")


async def _all(tasks: Sequence[Deferred[None]]) -> None:
    """Wait for all of them, so that none goes on alone; raise the first error."""
    failures: list[Any] = []
    await gatherResults([task.addErrback(failures.append) for task in tasks])
    if failures:
        failures[0].raiseException()


def _request_for(names: Sequence[str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request for a certificate (CSR, RFC 2986), as DER."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    return builder.add_extension(san, False).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
