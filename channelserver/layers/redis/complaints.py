"""What goes wrong with Redis again and again, in a few lines of the log.

Runs in the thread of the reactor, but for :meth:`Complaints.sweep`, which runs in any; owns the counters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("channelserver.layers.redis")

#: After a first line, further cases of the kind are added up for so many seconds.
QUIET_SECONDS = 60.0


class Complaints:
    """Logs by kind.

    :param clock: returns seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: dict[str, tuple[float, int]] = {}

    def count(self, kind: str, text: str) -> None:
        """Count one case, and log it if it is the first in a while."""
        now = self._clock()
        since, number = self._recent.get(kind, (0.0, -1))
        if number >= 0 and now - since < QUIET_SECONDS:
            self._recent[kind] = since, number + 1
            return
        more = f" (and {number} times before)" if number > 0 else ""
        self._recent[kind] = now, 0
        logger.error("%s%s", text, more)
