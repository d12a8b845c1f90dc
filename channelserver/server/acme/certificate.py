"""One certificate of ``--https``: its state, its times, and what is kept about it.

Runs in the reactor thread; owns the entry in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from twisted.logger import Logger

from channelserver.server.acme.renewal import Window, renewal
from channelserver.server.acme.store import Pair, Store, StoreError

_log = Logger("channelserver.server.acme")

#: What hosts share of what is kept: the certificate, the order, its failures; not when each of them asks for windows.
SHARED = ("serial", "obtained", "order", "failures", "failed", "next", "reason", "avoid")
#: Seconds by which clocks differ, and by which something may be noted ahead of time.
SKEW = 300.0
#: Seconds after which the authority is asked again when to renew, at most.
MOST_ARI_SECONDS = 24 * 3600.0


class Certificate:
    """What is known of a certificate.

    The states, and how one follows from the other::

        absent ──► ordering ──► valid ──► due ──► renewing ──► valid …
                     │  ▲                           │  ▲
                     ▼  │                           ▼  │
                    failing                        failing ──► expired

    Until the first certificate is there, handshakes get a self-signed placeholder. A certificate that fails to be
    renewed is served until it expires, and after that, too.

    :param names: what it is for.
    """

    def __init__(self, names: Sequence[str], store: Store, now: Callable[[], float]) -> None:
        self.names = tuple(names)
        self.pair: Pair | None = None
        #: Whether a process is on it, whether that has come to an order, whether the authority is being asked when to
        #: renew it.
        self.working = self.ordering = self.asking = False
        #: When other hosts were last asked (POSIX time).
        self.learned = 0.0
        #: Whether it is not configured, and the project has allowed it.
        self.demanded = False
        #: Whether the rehearsal at the staging authority has succeeded since the last failure.
        self.rehearsed = False
        self._store = store
        self._now = now
        self._record = store.record(names)
        self._postponed = 0.0
        self.logged = ("", 0.0)

    @property
    def label(self) -> str:
        """Its names, for people."""
        return ", ".join(self.names)

    @property
    def lasts(self) -> bool:
        """Whether there is one that has not expired."""
        return self.pair is not None and self.pair.ends > self._now()

    @property
    def failures(self) -> int:
        """How many tries in a row have failed."""
        return int(self._number("failures"))

    @property
    def reason(self) -> str:
        """Why the last try failed; empty: it did not."""
        return str(self._record.get("reason", ""))

    @property
    def order(self) -> str:
        """The URL of an order that was not finished; empty: there is none."""
        return str(self._record.get("order", ""))

    @property
    def replaces(self) -> str:
        """The ID of the certificate that a new one replaces (RFC 9773); empty: none.

        The second try leaves it out, in case that the authority refuses the order because of it.
        """
        return "" if self.pair is None or self.failures == 1 else self.pair.serial

    @property
    def avoided(self) -> str:
        """The kind of challenge that failed the last time."""
        return str(self._record.get("avoid", ""))

    @property
    def window(self) -> Window | None:
        """When the authority wants it to be renewed, if it has said so."""
        found: Any = self._record.get("ari")
        try:
            start, end, chosen = (float(found[key]) for key in ("start", "end", "chosen"))
            return Window(str(found["serial"]), start, end, chosen) if isfinite(start + end + chosen) else None
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    @property
    def ask_again(self) -> float:
        """When the authority is to be asked for its window (POSIX time)."""
        when = self._number("ari_next")
        return when if when <= self._now() + MOST_ARI_SECONDS + SKEW else 0.0

    @property
    def ari_answered(self) -> float:
        """When it has last answered; 0.0: never."""
        return self._number("ari_answered")

    @property
    def state(self) -> str:
        """One of those above."""
        expired = self.pair is not None and self.pair.ends <= self._now()
        if self.ordering:
            return "ordering" if self.pair is None else "renewing"
        if expired:
            return "expired"
        if self.failures:
            return "failing"
        if self.pair is None:
            return "absent"
        return "due" if self.due()[0] <= self._now() else "valid"

    def due(self) -> tuple[float, str]:
        """Return when something is to be done (POSIX time), and why."""
        when, why = 0.0, "there is none yet"
        if self.pair is not None:
            obtained = self._number("obtained")
            if not 0.0 < obtained <= self._now() + SKEW:
                obtained = self.pair.begins
            when, why = renewal(self.pair.serial, self.pair.begins, self.pair.ends, obtained, self.window)
        # What was noted in the future, before the clock was set back, does not count.
        pauses = [self._number("next")] if self._number("failed") <= self._now() + SKEW else []
        pauses += [self._postponed] if self._postponed <= self._now() + SKEW else []
        return max([when, *pauses]), why

    def adopt(self, pair: Pair, new: bool = False) -> None:
        """Take a certificate as the present one; what was known of another one is forgotten.

        :param new: it has just been ordered.
        """
        self.pair = pair
        if self._record.get("serial") != pair.serial:
            self.rehearsed = False
            self._keep({"serial": pair.serial, "obtained": self._now() if new else pair.begins})

    def ordered(self, url: str) -> None:
        """Keep the URL of an order."""
        self._keep({**self._record, "order": url})

    def failed(self, reason: str, pause: float, avoid: str = "") -> None:
        """Note a failure.

        :param pause: seconds until the next try.
        :param avoid: the kind of challenge that failed; empty: none did.
        """
        self._keep(
            {
                **self._record,
                "failures": self.failures + 1,
                "failed": self._now(),
                "next": self._now() + pause,
                "reason": reason,
                "avoid": avoid or self.avoided,
            }
        )

    def postpone(self, pause: float) -> None:
        """Do nothing for so many seconds: another process is on it."""
        self._postponed = self._now() + pause

    def read(self) -> None:
        """Read what is kept again: another process may have changed it."""
        self._record = self._store.record(self.names)

    @property
    def shared(self) -> dict[str, Any]:
        """What other hosts need to know of it."""
        return {key: self._record[key] for key in SHARED if key in self._record}

    def learn(self, shared: dict[str, Any]) -> None:
        """Take what another host knows of it."""
        self._keep({**{key: value for key, value in self._record.items() if key not in SHARED}, **shared})

    def asked(self, window: Window | None, pause: float) -> None:
        """Note what the authority says about the time of renewal.

        :param window: None: nothing.
        :param pause: seconds until it is asked again.
        """
        record = {**self._record, "ari_next": self._now() + pause}
        if window is not None:
            record["ari"] = vars(window)
            record["ari_answered"] = self._now()
        self._keep(record)

    def _keep(self, record: dict[str, Any]) -> None:
        self._record = record
        try:
            self._store.keep(self.names, record)
        except StoreError as error:  # it holds in memory
            _log.error(
                "what is known of the certificate for {names} is not kept: {error}", names=self.label, error=error
            )

    def _number(self, key: str) -> float:
        value = self._record.get(key, 0.0)
        return float(value) if isinstance(value, (int, float)) and isfinite(value) else 0.0
