"""Join the log of Django's side (``logging``) and of the reactor's side (``twisted.logger``) in one stream.

Set up before the reactor runs; the handler may be called from any thread.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from django.conf import settings
from twisted.logger import Logger, LogLevel

_LEVELS = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)


class TwistedHandler(logging.Handler):
    """Passes records on to ``twisted.logger``, under the name of their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            level = next((ours for theirs, ours in _LEVELS if record.levelno >= theirs), LogLevel.debug)
            Logger(record.name).emit(level, "{text}", text=self.format(record))
        except Exception:
            self.handleError(record)


def join_logs() -> None:
    """Send what reaches the root logger to ``twisted.logger``, unless the project has its own idea of that."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(TwistedHandler())
        if root.level == logging.WARNING:
            root.setLevel(logging.INFO)
    if not settings.LOGGING:
        # Django's default prints to the console under DEBUG; those lines are in the stream already.
        django = logging.getLogger("django")
        for handler in list(django.handlers):
            if isinstance(handler, logging.StreamHandler):
                django.removeHandler(handler)


def access_writer(target: str, daemon: bool) -> Any:
    """Return the function that writes a line of the access log, or None.

    :param target: a file's path; ``-`` for standard output; empty for none.
    :param daemon: there is no standard output; the lines go into the log.
    :raises OSError: the file cannot be opened.
    """
    if not target:
        return None
    if target == "-":
        if daemon or sys.__stdout__ is None:
            log = Logger("access")
            return lambda line: log.info("{line}", line=line)
        stream = sys.__stdout__
    else:
        stream = open(target, "a", encoding="utf-8")

    def write(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return write
