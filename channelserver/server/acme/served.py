"""What each process serves: the certificates of the store, and the answers to challenges that are open.

Runs in the reactor thread; owns nothing but what it puts into the contexts and the tokens.

One process orders. It tells the others by :meth:`Served.state`, which always holds everything, so that it does not
matter which message is the first one that a process gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger

from channelserver.server.acme.challenges import HTTP_01, Tokens, alpn_certificate
from channelserver.server.acme.store import Pair, Store
from channelserver.server.tls.contexts import Contexts

_log = Logger("channelserver.server.acme")

Names = Sequence[str]


class Served:
    """The certificates and challenges of one process.

    :param wanted: the names of each certificate that is configured.
    """

    def __init__(self, contexts: Contexts, tokens: Tokens, store: Store, wanted: Sequence[Names]) -> None:
        self.contexts = contexts
        self.tokens = tokens
        self.store = store
        self.wanted = [tuple(names) for names in wanted]
        self._alpn: dict[str, list[bytes]] = {}
        self._serials: dict[tuple[str, ...], str] = {}

    def load(self, names: Names) -> Pair | None:
        """Serve the stored certificate for `names` from the next handshake on; return it.

        :raises StoreError: it must not be used.
        """
        pair = self.store.load(names)
        try:
            if pair is not None:
                self.use(names, pair)
        except ValueError as error:
            _log.error(
                "the stored certificate for {names} cannot be used: {error}", names=", ".join(names), error=error
            )
            return None
        return pair

    def use(self, names: Names, pair: Pair) -> None:
        """Serve a certificate from the next handshake on.

        :raises ValueError: OpenSSL finds it too weak.
        """
        if self._serials.get(tuple(names)) != pair.serial:
            entry = self.contexts.entry(pair.key, pair.chain)
            self.contexts.exchange(dict.fromkeys(names, entry))
            self._serials[tuple(names)] = pair.serial

    def drop(self, names: Names) -> None:
        """Serve a certificate no more."""
        self._serials.pop(tuple(names), None)
        for name in names:
            self.contexts.discard(name)

    def open(self, kind: str, name: str, token: str, key_authorization: str) -> Any:
        """Answer a challenge; return the answer: a text, or for ``tls-alpn-01`` a key and a certificate, as PEM."""
        if kind == HTTP_01:
            self.tokens.open[token] = key_authorization
            return key_authorization
        self._alpn[name] = list(alpn_certificate(name, key_authorization))
        self.contexts.challenge(name, *self._alpn[name])
        return self._alpn[name]

    def close(self, kind: str, name: str, token: str) -> None:
        """No longer answer it."""
        if kind == HTTP_01:
            self.tokens.open.pop(token, None)
        elif self._alpn.pop(name, None) is not None:
            self.contexts.end_challenge(name)

    def state(self) -> dict[str, Any]:
        """Return everything that another process needs."""
        return {
            "tokens": dict(self.tokens.open),
            "alpn": {name: list(pair) for name, pair in self._alpn.items()},
            "serials": [[list(names), serial] for names, serial in self._serials.items()],
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Serve what another process says, and what is stored."""
        self.tokens.open = dict(state["tokens"])
        for name in self._alpn.keys() - state["alpn"].keys():
            self.contexts.end_challenge(name)
        for name, pair in state["alpn"].items():
            if self._alpn.get(name) != list(pair):
                self.contexts.challenge(name, *pair)
        self._alpn = {name: list(pair) for name, pair in state["alpn"].items()}
        serials = {tuple(names): serial for names, serial in state["serials"]}
        for names in self._serials.keys() - serials.keys() - set(self.wanted):
            self.drop(names)  # the project does not allow it any more
        for names, serial in serials.items():
            if self._serials.get(names) != serial:
                self.load(names)
