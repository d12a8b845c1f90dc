"""Starts threads, for which the system may have no room.

Any thread. Owns the log of what failed: a line at once, then sums.
"""

from __future__ import annotations

import logging
import threading
import time

from channelserver.layers.throttled_log import ThrottledLog

#: Seconds until another attempt.
RETRY_SECONDS = 0.5

#: Failed starts.
thread_log = ThrottledLog(time.monotonic, logging.getLogger("channelserver.workers").error)


class NoThreadError(RuntimeError):
    """The system has no room for another thread."""


def start_thread(thread: threading.Thread) -> bool:
    """Start a thread; return False, and log it, if the system has no room for it."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:  # RuntimeError: can't start new thread
        thread_log.count("threads", f"no room for the thread {thread.name!r}: {error or 'no memory'}; trying again")
        return False
    return True
