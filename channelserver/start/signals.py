"""Signals to processes whose main thread runs the reactor.

Runs in the main thread; owns the handlers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

_log = Logger("channelserver")

Post = Callable[[Callable[[], object]], object]


def stop_on_signals(reactor: IReactorCore, post: Post, stop: Callable[[], object]) -> None:
    """Stop gracefully at the first signal; a second one ends the process at once.

    :param reactor: the reactor, which is not running yet.
    :param post: calls a function in the reactor thread; safe in a signal handler.
    :param stop: called in the reactor thread.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)
        post(stop)

    def install() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)

    install()
    # Again after the reactor has installed its own handlers, after which the exit code would not be 0.
    reactor.callWhenRunning(install)


def other_signals(post: Post, reload: Callable[[], object] | None) -> None:
    """Reload on SIGHUP; log SIGUSR1, SIGUSR2, and a SIGHUP with nothing to reload, whose default is the process's end.

    :param post: calls a function in the reactor thread; safe in a signal handler.
    :param reload: called in the reactor thread.
    """

    def ignore(number: int, frame: Any) -> None:
        post(lambda: _log.info("{name} ignored: it has no meaning here", name=signal.Signals(number).name))

    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_DFL:  # else it is twistd's, which rotates its log file
            signal.signal(number, ignore)
    if reload is not None:
        wanted = reload
        signal.signal(signal.SIGHUP, lambda number, frame: post(wanted))
