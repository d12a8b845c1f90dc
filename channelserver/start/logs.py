"""One log from ``logging`` (Django, the project) and ``twisted.logger`` (the reactor thread).

Set up before the reactor runs; the handler and the observers run in any thread.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from logging.handlers import WatchedFileHandler
from typing import Any, cast

from django.conf import settings
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    STDLibLogObserver,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure

from channelserver.server.common.access import LOGGER, AccessLog
from channelserver.server.common.lines import LEVELS, Lines
from channelserver.server.common.options import Settings
from channelserver.start.project import StartError

_LEVELS = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)

#: Where the reactor's levels are in :data:`LEVELS`.
_RANKS = {LogLevel.debug: 0, LogLevel.info: 1, LogLevel.warn: 2, LogLevel.error: 3, LogLevel.critical: 4}

#: What Twisted says of ports and of itself.
_is_noise = re.compile(
    r"\S*(Factory|Site)\b.* starting on |\((TCP|UNIX|TLS)? ?Port .* Closed\)$|(Starting|Stopping) factory "
).match

#: The namespace of events from ``twisted.python.log``.
_LEGACY = "log_legacy"

_tracebacks = logging.Formatter()


class TwistedHandler(logging.Handler):
    """Passes records to ``twisted.logger``, under the name of their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((ours for theirs, ours in _LEVELS if record.levelno >= theirs), LogLevel.debug)
            traceback = _tracebacks.formatException(record.exc_info) if record.exc_info else record.exc_text
            if record.stack_info:
                traceback = f"{traceback}\n{record.stack_info}" if traceback else record.stack_info
            try:
                text = record.getMessage()
            except Exception as error:
                place = f"{record.pathname}, line {record.lineno}"
                text = f"{record.msg!r} does not fit its arguments {record.args!r}: {error} ({place})"
            Logger(record.name).emit(level, "{text}", text=text, traceback=traceback)
        except Exception:
            self.handleError(record)


def join_logs(level: str = "info") -> None:
    """Pass the records of the root logger to ``twisted.logger``, unless the project has configured handlers.

    :param level: of those that count, unless the project has configured one.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(TwistedHandler())
        if root.level == logging.WARNING:
            root.setLevel(level.upper())
    if not settings.LOGGING:
        # Django's default handler prints to the console under DEBUG: each line would appear twice.
        django = logging.getLogger("django")
        for handler in list(django.handlers):
            if isinstance(handler, logging.StreamHandler):
                django.removeHandler(handler)


def lines_for(values: Settings, stream: Any) -> Lines:
    """Return the format for what is written to a stream; None: to a file."""
    terminal = stream is not None and stream.isatty()
    return Lines(values.log_format == "json" if values.log_format else not terminal, terminal)


def _wanted(level: str) -> Any:
    """Return a filter for events: what is as important as `level`, but nothing that Twisted says of its own doings."""
    lowest = LEVELS.index(level)

    def choose(event: dict[str, Any]) -> Any:
        rank = _RANKS.get(cast(LogLevel, event.get("log_level")), 1)
        if rank < lowest:
            return PredicateResult.no
        if rank < 2 and lowest:
            namespace = event.get("log_namespace", "")
            if namespace.startswith("twisted.") or (namespace == _LEGACY and _is_noise(formatEvent(event))):
                return PredicateResult.no
        return PredicateResult.maybe

    return choose


def filtered(observer: Any, level: str) -> FilteringLogObserver:
    """Return an observer that passes on the wanted events."""
    return FilteringLogObserver(observer, [_wanted(level)])


def observer(values: Settings, stream: Any, out: Any = None) -> Any:
    """Return an observer that writes the log to a stream, as the options say.

    :param stream: standard output; None: the log goes to `out`, which is no terminal.
    """
    lines = lines_for(values, stream)

    def format_event(event: dict[str, Any]) -> str:
        if "line" in event and event.get("whole"):
            return f"{event['line']}\n"
        return _format(lines, event) + "\n"

    return filtered(FileLogObserver(stream if out is None else out, format_event), values.log_level)


def _format(lines: Lines, event: dict[str, Any]) -> str:
    name, number = event.get("log_namespace") or "-", event.get("process")
    message, traceback = formatEvent(event), traceback_of(event)
    if event.get("banner") and lines.colours:
        return message
    if traceback and name == _LEGACY:  # the message has it all
        message = str(event.get("why") or "")
    if traceback and not message:
        message = traceback.rstrip().rpartition("\n")[2]
    more = {}
    if number is not None and lines.as_json:
        more["process"] = number
    elif number is not None:
        name = f"{name}[{number}]"
    level = LEVELS[_RANKS.get(cast(LogLevel, event.get("log_level")), 1)]
    return lines.line(level, name, message, event.get("log_time"), traceback, **more)


def traceback_of(event: dict[str, Any]) -> str | None:
    """Return the traceback of an event, if it is an error's."""
    failure = event.get("log_failure") or event.get("failure")
    if isinstance(failure, Failure):
        return failure.getTraceback()
    return cast("str | None", event.get("traceback"))


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
    if values.access_log == "-" and LEVELS.index(values.log_level) > LEVELS.index("info"):
        write = None
    stdout = values.access_log == "-" and not daemon
    log = AccessLog(write, lines_for(values, sys.__stdout__ if stdout else None), values.access_format)
    if values.access_log == "logging":
        logger = logging.getLogger(LOGGER)
        log.pass_on = lambda message, figures: logger.info("%s", message, extra=figures)
    return log


def access_writer(target: str, daemon: bool) -> Any:
    """Return a function that writes a line to the access log, or None.

    :param target: a file's path; ``-`` for standard output; empty for none, ``logging`` for none of ours.
    :param daemon: whether the process has no standard output, so that the lines go to the log.
    :raises OSError: the file cannot be opened.
    """
    if target in ("", "logging"):
        return None
    if target == "-":
        if daemon or sys.__stdout__ is None:
            log = Logger(LOGGER)
            return lambda line: log.info("{line}", line=line, whole=True)
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
