"""SIGINT and SIGTERM for processes whose main thread runs the reactor.

Runs in the main thread; owns the handlers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def stop_on_signals(reactor: Any, post: Callable[[Callable[[], object]], object], stop: Callable[[], object]) -> None:
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
