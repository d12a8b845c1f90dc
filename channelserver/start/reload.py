"""The server under Django's autoreloader: a thread of a process that begins anew when code changes.

Runs in the main thread; the server's reactor runs in another.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.utils import autoreload

from channelserver.server.service import ServerService

#: Drain timeout of a server under development, in seconds.
DRAIN_SECONDS = 2.0


def run_with_reloader(run: Callable[[], object]) -> None:
    """Call `run` in a thread of a process of its own, which is started again when the project's code changes."""
    if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
        let_the_child_finish()
    autoreload.run_with_reloader(run)


def let_the_child_finish() -> None:
    """Make the autoreloader's outer process wait after Control-C, which reaches the inner one, too.

    Otherwise it kills the server after 250 ms, even in the middle of a consumer. A second Control-C still does.
    """

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, handle)


def run_reactor(reactor: Any, service: ServerService) -> None:
    """Run the reactor until the server has stopped: in the main thread, or in the autoreloader's.

    There, the end of the process closes the connections properly.
    """
    stopped = threading.Event()

    def stop() -> None:
        with suppress(KeyboardInterrupt):  # a second one ends the process at once
            service.from_signal_handler(reactor.stop)
            stopped.wait(DRAIN_SECONDS + 1)

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main:
        atexit.register(stop)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    try:
        reactor.run(installSignalHandlers=in_main)
    finally:
        stopped.set()
