"""The access log: a line for each request, and one when a WebSocket opens, closes or is refused.

Runs in the reactor thread; owns the log file.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_plus

from twisted.logger import Logger

from channelserver.server.common.lines import Lines

_log = Logger("channelserver.server.access")

#: The name of the logger.
LOGGER = "channelserver.access"

Write = Callable[[str], object]


class AccessLog:
    """Writes access lines.

    :param write: called with each line, without its end; None: nothing is logged.
    :param lines: their format.
    :param style: ``short``; ``full``, with the user agent and the referer; or ``combined``, the format of Apache and
        nginx, which GoAccess and fail2ban read.
    """

    with_handshakes = False
    #: Called with the reason when a line cannot be written: a full disk must not cost a request, nor fill another log.
    on_error: Callable[[str], object] = staticmethod(lambda reason: None)
    #: Called instead of `write`, with the message and the figures.
    pass_on: Callable[[str, dict[str, Any]], object] | None = None

    def __init__(self, write: Write | None, lines: Lines | None = None, style: str = "short") -> None:
        self._write = write
        self._lines = lines or Lines(as_json=False)
        self._full = style == "full"
        self._combined = style == "combined"

    @property
    def wanted(self) -> bool:
        """Whether anything is logged."""
        return self._write is not None or self.pass_on is not None

    def http(self, exchange: Any, seconds: float, complete: bool = True) -> None:
        """Log a request at its end.

        :param seconds: from the request to the end of its response.
        :param complete: False if the client left or the response was cut short.
        """
        if not self.wanted:
            return
        head = exchange.head
        figures = {"status": exchange.status or 499, "size": exchange.size, "seconds": seconds, "complete": complete}
        self._event("http", head.method, _target(head.path, head.query_string), exchange.client, head, figures)

    def socket(self, event: str, path: str, client: Any, head: Any = None, **figures: Any) -> None:
        """Log an event of a WebSocket: ``handshake`` (only under ``runserver``), ``open``, ``close`` or ``refuse``.

        :param head: of the handshake, if it is still there.
        """
        if not self.wanted:
            return
        if event != "handshake" or self.with_handshakes:
            self._event("websocket", event.upper(), path, client, head, figures)

    def _event(self, protocol: str, what: str, path: str, client: Any, head: Any, figures: dict[str, Any]) -> None:
        try:
            if self._combined:
                if what != "CLOSE":
                    self._put(_combined(protocol, what, path, client, head, figures))
                return
            if self._full and head is not None:
                figures["referer"], figures["agent"] = _field(head, b"referer"), _field(head, b"user-agent")
            address = f"{client[0]}:{client[1]}" if client else "-"
            message = self.text(protocol, what, _word(path), address, figures)
            if self._write is not None and not self._lines.as_json:
                self._write(self.line(message))
                return
            entry = {"protocol": protocol, "event": what, "path": path, "client": address, **figures}
            if self.pass_on is not None:
                self.pass_on(message, entry)
            elif self._write is not None:
                self._write(self._lines.line("info", LOGGER, message, **entry))
        except OSError as error:
            self.on_error(f"a line cannot be written: {error}")
        except Exception:
            _log.failure("cannot write to the access log")

    def _put(self, line: str) -> None:
        if self.pass_on is not None:
            self.pass_on(line, {})
        elif self._write is not None:
            self._write(line)

    def line(self, message: str) -> str:
        """Return the whole line of a message, as text."""
        return self._lines.line("info", LOGGER, message)

    def text(self, protocol: str, what: str, path: str, address: str, figures: dict[str, Any]) -> str:
        """Return the message for an event."""
        if protocol == "http":
            broken = "" if figures["complete"] else " broken off"
            seconds = f"{figures['seconds']:.3f} s"
            seen = f' "{_quotable(figures["referer"])}" "{_quotable(figures["agent"])}"' if "agent" in figures else ""
            return f"HTTP {what} {path} {figures['status']} {figures['size']} [{seconds}, {address}]{seen}{broken}"
        rest = "".join(f" {key}={_shown(value)}" for key, value in figures.items())
        return f"WebSocket {what} {path} [{address}]{rest}"


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return f'"{_quotable(value)}"'
    return round(value, 3) if isinstance(value, float) else value


def _combined(protocol: str, what: str, path: str, client: Any, head: Any, figures: dict[str, Any]) -> str:
    """Return a line as Apache and nginx write it: a WebSocket has one, when it opens or is refused."""
    status, size = (figures["status"], figures["size"]) if protocol == "http" else (figures.get("status", 101), 0)
    method = what if protocol == "http" else "GET"
    version = "1.1" if head is None else head.version
    referer, agent = (_field(head, name) if head is not None else "" for name in (b"referer", b"user-agent"))
    now = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime())
    return (
        f'{client[0] if client else "-"} - - [{now}] "{method} {quote(path, _SAFE)} HTTP/{version}" {status} {size} '
        f'"{_quotable(referer) or "-"}" "{_quotable(agent) or "-"}"'
    )


def _field(head: Any, name: bytes) -> str:
    """Return the value of a header field, empty if there is none."""
    return next((value.decode("latin-1") for key, value in head.headers if key == name), "")


def _quotable(text: str) -> str:
    """Return a text that can stand between quotation marks on one line: nobody can forge a line by it."""
    if text.isprintable() and text.isascii() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        character if character.isprintable() and character.isascii() and character not in '"\\' else _hex(character)
        for character in text
    )


#: What need not be encoded in a path with a query.
_SAFE = "/%?&=:@!$'()*+,;~"


def _hex(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "backslashreplace"))


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
