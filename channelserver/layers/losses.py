"""Count what was lost, and log it without flooding the log.

Runs in any thread (one lock, held for moments); owns the counters.
"""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("channelserver.layers")

#: After a first line about a loss, further ones of the same kind are added up for this many seconds.
QUIET_SECONDS = 60.0


class Losses:
    """Counters of lost messages, by reason and channel or group.

    :param clock: returns seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total: dict[str, int] = {}
        self._recent: dict[tuple[str, str], list[float]] = {}  # (reason, name) -> [time of last line, count since]

    def count(self, reason: str, name: str, number: int = 1, hint: str = "") -> None:
        """Count `number` messages as lost and log it: the first at once, further ones as a sum once a minute.

        :param reason: why, as a short phrase; also the name of the counter.
        :param name: the channel or group.
        :param hint: what the reader of the log may do about it.
        """
        now = self._clock()
        with self._lock:
            self._total[reason] = self._total.get(reason, 0) + number
            recent = self._recent.get((reason, name))
            if recent is None:
                if len(self._recent) >= 1000:  # names are many where reply channels fill; the totals stay exact
                    self._recent.clear()
                self._recent[reason, name] = [now, 0]
                lost, since = number, 0.0
            elif now - recent[0] >= QUIET_SECONDS:
                lost, since = int(recent[1]) + number, now - recent[0]
                recent[0], recent[1] = now, 0
            else:
                recent[1] += number
                return
        period = f" in {since:.0f} s" if since else ""
        logger.warning("%d message(s) to %r lost%s: %s%s", lost, name, period, reason, f"; {hint}" if hint else "")

    def add(self, reason: str, number: int) -> None:
        """Count losses which the caller logs."""
        with self._lock:
            self._total[reason] = self._total.get(reason, 0) + number

    def sweep(self) -> None:
        """Log the sums that no further loss has brought to the log. Call it every few seconds."""
        now = self._clock()
        due: list[tuple[str, str, int, float]] = []
        with self._lock:
            for (reason, name), recent in tuple(self._recent.items()):
                if now - recent[0] >= QUIET_SECONDS:
                    if recent[1]:
                        due.append((reason, name, int(recent[1]), now - recent[0]))
                    del self._recent[reason, name]
        for reason, name, lost, since in due:
            logger.warning("%d message(s) to %r lost in %.0f s: %s", lost, name, since, reason)

    def totals(self) -> dict[str, int]:
        """Return the number of lost messages by reason."""
        with self._lock:
            return dict(self._total)
