"""Log what can happen very often in a few lines, and count all of it.

Safe from any thread: one lock, held for moments. Owns the counters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Seconds between two lines about the same thing.
QUIET_SECONDS = 60.0


class ThrottledLog:
    """Counts events by kind. The first one is logged at once, further ones as a sum once a minute.

    :param now: returns seconds, monotonic.
    :param write: writes one line of the log.
    """

    def __init__(self, now: Callable[[], float], write: Callable[[str], object]) -> None:
        self._now = now
        self._write = write
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._recent: dict[tuple[str, str], list[float]] = {}  # (kind, name) -> [time of the last line, count since]

    def count(self, kind: str, text: str, name: str = "", number: int = 1) -> None:
        """Count `number` events, and log them unless others like them were logged in the last minute.

        :param kind: a short phrase, one of a few; also the name of the counter.
        :param text: this event; characters that do not belong in a log are escaped.
        :param name: events of one kind are logged for each name separately.
        """
        now = self._now()
        since = 0.0
        with self._lock:
            self._add(kind, number)
            recent = self._recent.get((kind, name))
            if recent is None:
                if len(self._recent) >= 1000:  # names are many where reply channels fill; the totals stay exact
                    self._recent.clear()
                self._recent[kind, name] = [now, 0]
            else:
                recent[1] += number
                since = now - recent[0]
                if since < QUIET_SECONDS:
                    return
                number = int(recent[1])
                recent[:] = now, 0
        self._write(printable(self._line(kind, name, number, since, text)))

    def _add(self, kind: str, number: int) -> None:
        """Count events. The lock is held."""
        self._totals[kind] = self._totals.get(kind, 0) + number

    def flush(self, due: bool = False) -> None:
        """Log the sums that are due, or all of them. Call it every few seconds."""
        now = self._now()
        sums: list[tuple[str, str, int, float]] = []
        with self._lock:
            for (kind, name), recent in tuple(self._recent.items()):
                since = now - recent[0]
                if since < QUIET_SECONDS and not (due and recent[1]):
                    continue
                if recent[1]:
                    sums.append((kind, name, int(recent[1]), since))
                    recent[:] = now, 0
                else:
                    del self._recent[kind, name]
        for kind, name, number, since in sums:
            self._write(self._line(kind, name, number, since, ""))

    def totals(self) -> dict[str, int]:
        """Return the number of events by kind."""
        with self._lock:
            return dict(self._totals)

    def _line(self, kind: str, name: str, number: int, since: float, text: str) -> str:
        return f"{kind}: {number} more in {since:.0f} s" if since else f"{kind}: {text}"


def printable(text: str) -> str:
    """Return `text` as one line: what is not printable, a line's end above all, is escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
