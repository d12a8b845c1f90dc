"""The access log: a line for each request, and one when a WebSocket opens, closes or is refused.

Runs in the reactor thread; owns the log file.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

from twisted.logger import Logger

_log = Logger("channelserver.server.access")

Write = Callable[[str], object]


class AccessLog:
    """Writes access lines.

    :param write: called with each line, without its end; None: nothing is logged.
    :param as_json: write JSON objects instead of text.
    """

    with_handshakes = False
    #: Called with the reason when a line cannot be written: a full disk must not cost a request, nor fill another log.
    on_error: Callable[[str], object] = staticmethod(lambda reason: None)

    def __init__(self, write: Write | None, as_json: bool = False) -> None:
        self._write = write
        self._as_json = as_json

    def http(self, exchange: Any, seconds: float, complete: bool = True) -> None:
        """Log a request at its end.

        :param seconds: from the request to the end of its response.
        :param complete: False if the client left or the response was cut short.
        """
        if self._write is None:
            return
        head = exchange.head
        self._line(
            "http", head.method, _target(head.path, head.query_string), exchange.client,
            status=exchange.status or 499, size=exchange.size, seconds=seconds, complete=complete,
        )  # fmt: skip

    def socket(self, event: str, path: str, client: Any, **figures: Any) -> None:
        """Log an event of a WebSocket: ``handshake`` (only under ``runserver``), ``open``, ``close`` or ``refuse``."""
        if self._write is not None and (event != "handshake" or self.with_handshakes):
            self._line("websocket", event.upper(), path, client, **figures)

    def _line(self, protocol: str, what: str, path: str, client: Any, **figures: Any) -> None:
        address = f"{client[0]}:{client[1]}" if client else "-"
        if self._as_json:
            entry = {
                "time": time.time(),
                "protocol": protocol,
                "event": what,
                "path": path,
                "client": address,
                **figures,
            }
            line = json.dumps(entry, default=str)
        else:
            line = self.text(protocol, what, _word(path), address, figures)
        try:
            assert self._write is not None
            self._write(line)
        except OSError as error:
            self.on_error(f"a line cannot be written: {error}")
        except Exception:
            _log.failure("cannot write to the access log")

    def text(self, protocol: str, what: str, path: str, address: str, figures: dict[str, Any]) -> str:
        if protocol == "http":
            broken = "" if figures["complete"] else " broken off"
            seconds = f"{figures['seconds']:.3f} s"
            return f"HTTP {what} {path} {figures['status']} {figures['size']} [{seconds}, {address}]{broken}"
        rest = " ".join(
            f"{key}={round(value, 3) if isinstance(value, float) else value}" for key, value in figures.items()
        )
        return f"WebSocket {what} {path} [{address}]" + (f" {rest}" if rest else "")


#: Names of query parameters that hold secrets.
_is_secret = re.compile(
    r"session|token|secret|passw|pwd|signature|credential|jwt|api[-_]?key|^code$"
    r"|(?<![a-z0-9])(?:key|auth|authorization|sig|sid)(?![a-z0-9])",
    re.IGNORECASE,
).search
#: Whether a query may have such a name, which may be percent-encoded.
_may_be_secret = re.compile(
    r"%|session|token|secret|passw|pwd|credential|jwt|key|code|auth|sig|sid", re.IGNORECASE
).search


def _target(path: str, query_string: bytes) -> str:
    """Return path and query, without the values of parameters that hold secrets."""
    query = query_string.decode("latin-1")
    if query and _may_be_secret(query):
        query = "&".join(map(_hide, query.split("&")))
    return f"{path}?{query}" if query else path


def _hide(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=…" if equals and _is_secret(unquote_plus(name)) else parameter


def _word(target: str) -> str:
    """Return a path as one printable word, so that no client can forge log lines."""
    return target if target.isprintable() and " " not in target else json.dumps(target)
