"""The one format of log lines: text for people, JSON for programs.

Any thread; owns nothing but the second that was formatted last.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

#: The levels, in the words of ``logging``, and the colours of those that have one on a terminal.
LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = dict(zip(LEVELS, ("\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1;31m"), strict=True))

#: JSON of a text; a third of the time of ``json.dumps``.
_quote = json.encoder.encode_basestring_ascii

#: How values are written that need no look inside; others are written by ``json.dumps``.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: _quote,
    int: repr,
    float: lambda value: repr(value) if math.isfinite(value) else "null",
    bool: lambda value: "true" if value else "false",
}


def _dump(value: Any) -> str:
    return json.dumps(value, default=str)


class Lines:
    """Makes lines.

    :param as_json: one JSON object a line, with the keys ``ts``, ``level``, ``logger``, ``message`` and ``traceback``;
        else text.
    :param colours: whether a terminal shows the text.
    """

    def __init__(self, as_json: bool, colours: bool = False) -> None:
        self.as_json = as_json
        self.colours = colours and not as_json
        self._levels = {level: f"{level.upper():<7}" for level in LEVELS}
        if self.colours:
            self._levels = {level: f"{_COLOURS[level]}{text}\x1b[0m" for level, text in self._levels.items()}
        self._second = (-1, "", "")

    def line(
        self,
        level: str,
        logger: str,
        message: str,
        when: float | None = None,
        traceback: str | None = None,
        **more: Any,
    ) -> str:
        """Return a line, without its end.

        :param level: one of :data:`LEVELS`.
        :param when: seconds since the epoch; None: now.
        :param traceback: of an error.
        :param more: further keys of the JSON object.
        """
        stamp = self._stamp(time.time() if when is None else when)
        if self.as_json:
            error = "null" if traceback is None else _quote(traceback)
            line = f'{{"ts":"{stamp}","level":"{level}","logger":{_quote(logger)},"message":{_quote(message)}'
            line += f',"traceback":{error}'
            for key, value in more.items():
                line += f',"{key}":{_WRITERS.get(type(value), _dump)(value)}'
            return line + "}"
        text = f"{stamp} {self._levels[level]} {logger}: {message}"
        return f"{text}\n{traceback.rstrip()}" if traceback else text

    def _stamp(self, when: float) -> str:
        """Return a time as ISO 8601 has it, with milliseconds and the difference to UTC."""
        whole = int(when)
        second, before, after = self._second
        if second != whole:
            local = time.localtime(whole)
            zone = time.strftime("%z", local)
            before, after = time.strftime("%Y-%m-%dT%H:%M:%S.", local), f"{zone[:3]}:{zone[3:]}"
            self._second = (whole, before, after)
        return f"{before}{int((when - whole) * 1000):03d}{after}"
