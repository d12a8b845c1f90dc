"""Warnings that the network can cause, without letting the network flood the log.

Runs in the reactor thread; owns the counters.

What a client can repeat at will (bad requests, refused origins, too many connections, answers it does not read) is
logged at once the first time, and then as a sum once a minute. The totals are exact.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

_log = Logger("channelserver.server.throttled_log")

#: After a line about a kind of trouble, further ones of the kind are added up for so many seconds.
QUIET_SECONDS = 60.0


class Complaints:
    """Counts and logs, by kind.

    :param now: returns seconds, monotonic.
    :param warn: writes one line of the log.
    """

    def __init__(self, now: Callable[[], float], warn: Callable[[str], object] | None = None) -> None:
        self._now = now
        self._warn = warn if warn is not None else lambda text: _log.warn("{text}", text=text)
        self._total: dict[str, int] = {}
        self._recent: dict[str, list[float]] = {}  # kind -> [time of the last line, count since]

    def count(self, kind: str, text: str) -> None:
        """Count one case, and log it if it is the first in a while.

        :param kind: a short phrase, one of a few; also the name of the counter.
        :param text: this case. Characters that do not belong in a log are escaped.
        """
        self._total[kind] = self._total.get(kind, 0) + 1
        recent = self._recent.get(kind)
        if recent is not None:
            recent[1] += 1
            return
        self._recent[kind] = [self._now(), 0]
        self._warn(f"{kind}: {printable(text)}")

    def flush(self) -> None:
        """Log the sums that are due. To be called every few seconds."""
        now = self._now()
        for kind, (since, number) in list(self._recent.items()):
            if now - since < QUIET_SECONDS:
                continue
            if number:
                self._recent[kind] = [now, 0]
                self._warn(f"{kind}: {number:.0f} more in {now - since:.0f} s")
            else:
                del self._recent[kind]

    def totals(self) -> dict[str, int]:
        """Return the number of cases by kind."""
        return dict(self._total)


def printable(text: str) -> str:
    """Return `text` as one line: what is not printable, a line's end above all, is escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
