"""One log stream from ``logging`` (Django) and ``twisted.logger`` (the reactor thread).

Set up before the reactor runs; the handler runs in any thread.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from typing import Any

from django.conf import settings
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)

from channelserver.server.common.access import AccessLog
from channelserver.server.common.options import Settings
from channelserver.start.project import StartError

_LEVELS = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)


class TwistedHandler(logging.Handler):
    """Passes records to ``twisted.logger``, under the name of their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((ours for theirs, ours in _LEVELS if record.levelno >= theirs), LogLevel.debug)
            Logger(record.name).emit(level, "{text}", text=self.format(record))
        except Exception:
            self.handleError(record)


def join_logs() -> None:
    """Pass the records of the root logger to ``twisted.logger``, unless the project has configured handlers."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(TwistedHandler())
        if root.level == logging.WARNING:
            root.setLevel(logging.INFO)
    if not settings.LOGGING:
        # Django's default handler prints to the console under DEBUG: each line would appear twice.
        django = logging.getLogger("django")
        for handler in list(django.handlers):
            if isinstance(handler, logging.StreamHandler):
                django.removeHandler(handler)


def show_reactor_log(level: int) -> None:
    """Pass the log of the reactor thread to ``logging``, and show it on the console; for management commands."""
    logger = logging.getLogger("channelserver")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        if level < logging.WARNING:
            logger.setLevel(level)
    observer = reactor_observer(LogLevel.warn if level >= logging.WARNING else LogLevel.info)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)


def reactor_observer(level: Any) -> FilteringLogObserver:
    """Return what passes the log of the reactor thread, from ``LogLevel`` `level` on, to ``logging``."""
    threshold = LogLevelFilterPredicate(defaultLogLevel=level)
    return FilteringLogObserver(STDLibLogObserver("channelserver.reactor"), [threshold])


def access_log(values: Settings, daemon: bool) -> AccessLog:
    """Return the access log that the options configure.

    :param daemon: whether the process has no standard output.
    :raises StartError: its file cannot be opened.
    """
    try:
        write = access_writer(values.access_log, daemon)
    except OSError as error:
        raise StartError(f"--access-log {values.access_log!r} cannot be opened: {error.strerror}") from error
    terminal = values.access_log == "-" and sys.__stdout__ is not None and sys.__stdout__.isatty()
    return AccessLog(write, as_json=values.log_format == "json" if values.log_format else not terminal)


def access_writer(target: str, daemon: bool) -> Any:
    """Return a function that writes a line to the access log, or None.

    :param target: a file's path; ``-`` for standard output; empty for none.
    :param daemon: whether the process has no standard output, so that the lines go to the log.
    :raises OSError: the file cannot be opened.
    """
    if not target:
        return None
    if target == "-":
        if daemon or sys.__stdout__ is None:
            log = Logger("access")
            return lambda line: log.info("{line}", line=line)
        stream = sys.__stdout__

        def write(line: str) -> None:
            stream.write(line + "\n")
            stream.flush()

        return write
    return AccessFile(target).write


class AccessFile(WatchedFileHandler):
    """A log file that can be rotated: if it was moved or removed, the next line opens a new one.

    So ``logrotate`` needs neither a signal nor ``copytruncate``.

    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._torn = False  # a part of the last line is in the file

    def write(self, line: str) -> None:
        """Write a line, whole or not at all as far as the disk allows; nothing is buffered for later.

        :raises OSError: it cannot be written.
        """
        self.reopenIfNeeded()
        if self.stream is None:  # it could not be opened again for an earlier line
            self.stream = self._open()
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        if self._torn:
            data = b"\n" + data
        written = os.write(self.stream.fileno(), data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
