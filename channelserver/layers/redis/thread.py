"""A reactor for processes that have none: a shell, a cron job, a management command.

Owns one thread for the whole process, a daemon, started when it is first needed; a child process that was forked gets
its own. It is not Twisted's global reactor, which the process can still run.
"""

from __future__ import annotations

import functools
import os
import threading

from twisted.internet.pollreactor import PollReactor

from channelserver.bridge import Bridge

_lock = threading.Lock()
_current: ReactorThread | None = None


class ReactorThread:
    """A thread that runs a reactor."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.reactor = PollReactor()
        # Names are looked up in threads, which must not keep the process from ending.
        self.reactor.getThreadPool().threadFactory = functools.partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self.bridge = Bridge(self.reactor)
        self._thread = threading.Thread(target=self._run, name="channelserver-redis", daemon=True)
        self._thread.start()
        self.ident = self._thread.ident

    def _run(self) -> None:
        self.reactor.run(installSignalHandlers=False)


def reactor_thread() -> ReactorThread:
    """Return this process's thread; start it if it is not running. Any thread."""
    global _current
    with _lock:
        if _current is None or _current.owner != os.getpid():
            _current = ReactorThread()
        return _current


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_forked)
