"""Every option of the server, in one table.

Flags of ``twistd channelserver``, keys of the setting ``CHANNELSERVER``, ``--help``, ``--check`` and the table in the
documents are all made from :data:`OPTIONS`. Runs before the reactor; owns nothing that changes.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any


class OptionError(ValueError):
    """An option has a value it cannot have; the text names the option, the value and the cure."""


@dataclass(frozen=True)
class Option:
    """One option.

    ``name`` is the key in ``CHANNELSERVER``. ``kind``: ``str``, ``int``, ``float``, ``flag`` (off unless given) or
    ``no-flag`` (on unless ``--no-…`` is given). ``unit`` belongs to numbers. ``low`` and ``high`` are the limits of
    numbers. ``command_line_only`` options are no setting, for they tell where the settings are.
    """

    name: str
    kind: str
    default: Any
    help: str
    unit: str = ""
    short: str | None = None
    repeatable: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    command_line_only: bool = False
    #: Called with each value; raises ValueError, whose text says what the value should be.
    check: Callable[[str], object] | None = None

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return ("--no-" if self.kind == "no-flag" else "--") + self.name.replace("_", "-")

    def convert(self, value: Any, where: str) -> Any:
        """Return `value` as this option's type.

        :param value: what a user gave: text from the command line, or any object from the settings.
        :param where: how the user wrote the option, for the error.
        :raises OptionError: it cannot be that.
        """
        if self.repeatable:
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise OptionError(f"{where} must be a list, not {value!r}")
            return tuple(self._convert_one(item, where) for item in value)
        return self._convert_one(value, where)

    def _convert_one(self, value: Any, where: str) -> Any:
        if value is None and self.default is None:
            return None
        if self.kind in ("flag", "no-flag"):
            if not isinstance(value, bool):
                raise OptionError(f"{where} must be True or False, not {value!r}")
            return value
        if self.kind == "str":
            if not isinstance(value, (str, os.PathLike)):
                raise OptionError(f"{where} must be text, not {value!r}")
            value = os.fspath(value)
            if self.check is not None:
                try:
                    self.check(value)
                except ValueError as error:
                    raise OptionError(f"{where} must be {error}, not {value!r}") from None
            if self.choices and value not in self.choices:
                raise OptionError(f"{where} must be one of {', '.join(self.choices)}, not {value!r}")
            return value
        return self._convert_number(value, where)

    def _convert_number(self, value: Any, where: str) -> Any:
        kind: type[int] | type[float] = int if self.kind == "int" else float
        noun = "a whole number" if kind is int else "a number"
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError
            number = kind(value)
            if not math.isfinite(number) or number != float(value):  # 0.5 where a whole number is needed
                raise ValueError
        except (ValueError, OverflowError):
            raise OptionError(f"{where} must be {noun}{self._of_unit()}, not {value!r}") from None
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            limits = f"from {self.low:g}" + (f" to {self.high:g}" if self.high is not None else " up")
            raise OptionError(f"{where} must be {noun}{self._of_unit()} {limits}, not {value!r}")
        return number

    def _of_unit(self) -> str:
        return f" of {self.unit}" if self.unit else ""


def default_threads() -> int:
    """As many threads as keep the cores busy while some wait, and no more database connections than a site has."""
    return min(8, 2 * (os.cpu_count() or 1) + 2)


def _check_network(value: str) -> None:
    if value != "unix":
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError("a network such as 10.0.0.0/8, an address, or unix") from None


OPTIONS: tuple[Option, ...] = (
    Option(
        "settings",
        "str",
        None,
        "dotted name of the Django settings; default: $DJANGO_SETTINGS_MODULE",
        short="s",
        command_line_only=True,
    ),
    Option(
        "pythonpath", "str", None, "folder to import the project from; default: the current one", command_line_only=True
    ),
    Option("demo", "flag", False, "run the built-in chat site, stored in a temporary folder", command_line_only=True),
    Option("demo_data", "str", None, "keep the demo's database in this folder", command_line_only=True),
    Option(
        "check",
        "flag",
        False,
        "validate options, settings, routing and layer, then exit with 0 or 1",
        command_line_only=True,
    ),
    Option("port", "int", 8000, "port of the simple listener; 0 takes a free one", short="p", low=0, high=65535),
    Option("bind", "str", "127.0.0.1", "address of the simple listener; 0.0.0.0 or :: for all", short="b"),
    Option(
        "endpoint",
        "str",
        (),
        "Twisted endpoint to listen on, e.g. tcp:8000, unix:/run/site.sock, systemd:domain=INET:index=0",
        short="e",
        repeatable=True,
    ),
    Option("unix_socket", "str", None, "path of a Unix socket to listen on", short="u"),
    Option("fd", "int", None, "number of an open, listening socket to serve", low=0),
    Option(
        "tls_cert",
        "str",
        None,
        "PEM file with the certificate and its chain: the simple listener speaks HTTPS, with channelserver[http2] also "
        "HTTP/2, which browsers speak over TLS only; read again on SIGHUP",
    ),
    Option("tls_key", "str", None, "PEM file with the private key, if it is not in the file of --tls-cert"),
    Option("redirect_http", "flag", False, "also listen for plain HTTP, and redirect all of it to HTTPS"),
    Option("redirect_port", "int", 80, "port on which --redirect-http listens; 0 takes a free one", low=0, high=65535),
    Option(
        "threads",
        "int",
        None,
        "worker threads, and so the largest number of database connections; 0: none, interface only; "
        "default: min(8, 2 x cores + 2)",
        low=0,
        high=1000,
    ),
    Option(
        "processes",
        "int",
        1,
        "processes which serve the same listeners and share one layer, each with its own worker threads",
        low=1,
        high=64,
    ),
    Option("layer", "str", "default", "which of CHANNEL_LAYERS"),
    Option("root_path", "str", "", "where the site is mounted, e.g. /app"),
    Option(
        "auto_accept",
        "no-flag",
        True,
        "a WebSocket is accepted only when a consumer says so, not when its connect consumer ends normally",
    ),
    Option(
        "reject_unrouted",
        "flag",
        False,
        "answer 404 to a WebSocket whose path no route matches, instead of accepting it",
    ),
    Option(
        "allowed_origin",
        "str",
        (),
        "host a browser's WebSocket may come from, beside the site's own and ALLOWED_HOSTS; * for any",
        repeatable=True,
    ),
    Option("ws_protocol", "str", (), "WebSocket subprotocol the server may choose", repeatable=True),
    Option(
        "trust_proxy",
        "str",
        (),
        "network (CIDR) or address of a proxy whose X-Forwarded-* and Forwarded are believed; unix: the peers of Unix "
        "sockets",
        repeatable=True,
        check=_check_network,
    ),
    Option("max_connections", "int", 10_000, "open connections, else 503", low=1),
    Option(
        "max_connections_per_ip", "int", 0, "open connections of one address but a proxy's, else 503; 0 = any", low=0
    ),
    Option(
        "max_message_bytes",
        "int",
        1024 * 1024,
        "largest WebSocket message received, else closed with 1009",
        unit="bytes",
        low=1,
    ),
    Option("max_body_bytes", "int", 100 * 1024 * 1024, "largest request body, else 413", unit="bytes", low=0),
    Option(
        "send_buffer_bytes",
        "int",
        4 * 1024 * 1024,
        "what may wait for a WebSocket client that does not read, else it is closed with 1013",
        unit="bytes",
        low=1,
    ),
    Option(
        "max_header_bytes",
        "int",
        32 * 1024,
        "largest request head, else 431, or 414 if the request line alone is larger",
        unit="bytes",
        low=256,
    ),
    Option("max_header_fields", "int", 128, "fields in a request head, else 431", low=4),
    Option(
        "compression",
        "flag",
        False,
        "compress WebSocket messages over 1 KiB (permessage-deflate) for clients that can; costs the reactor time",
    ),
    Option("header_timeout", "float", 10.0, "for a whole request head", unit="seconds", low=0.1),
    Option("body_timeout", "float", 60.0, "between two parts of a request body", unit="seconds", low=0.1),
    Option(
        "min_body_rate",
        "int",
        240,
        "per second which a request body must average once body_timeout has passed, else 408; 0 = any",
        unit="bytes",
        low=0,
    ),
    Option("health_path", "str", "/-/health", "path at which the server tells whether it is ready; empty: none"),
    Option(
        "keep_alive", "float", 75.0, "an idle connection is kept; must exceed a load balancer's", unit="seconds", low=0
    ),
    Option(
        "http_timeout",
        "float",
        120.0,
        "for the first part of an answer, else 503, and for a client to take the next part",
        unit="seconds",
        low=0.1,
    ),
    Option("connect_timeout", "float", 10.0, "for the acceptance of a WebSocket, else 403", unit="seconds", low=0.1),
    Option(
        "ping_interval",
        "float",
        20.0,
        "without a received byte until a WebSocket is pinged; 0 = off",
        unit="seconds",
        low=0,
    ),
    Option(
        "ping_timeout",
        "float",
        30.0,
        "after a ping without a received byte until the WebSocket is closed; 0 = off",
        unit="seconds",
        low=0,
    ),
    Option(
        "drain_timeout",
        "float",
        30.0,
        "SIGTERM: for running requests to finish and WebSockets to close",
        unit="seconds",
        low=0,
    ),
    Option(
        "static", "no-flag", True, "leave STATIC_URL to Django; otherwise it is served from STATIC_ROOT by the reactor"
    ),
    Option(
        "shortcuts",
        "no-flag",
        True,
        "leave Django as it is; otherwise quicker functions replace some of Django's (see the page What we change in "
        "Django)",
    ),
    Option("media", "flag", False, "serve MEDIA_URL from MEDIA_ROOT by the reactor: uploaded files, open to everybody"),
    Option(
        "local_socket",
        "str",
        None,
        "path of the Unix socket by which other processes of this machine use the layer; "
        "default: channelserver.sock in the project's folder; empty: none",
    ),
    Option("access_log", "str", "-", "file for the access log; - is standard output, empty is none"),
    Option(
        "log_format",
        "str",
        None,
        "access log as text or json; default: text on a terminal, else json",
        choices=("text", "json"),
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}


class Settings(SimpleNamespace):
    """The values of all options: attributes with the options' names."""


def resolve(command_line: Mapping[str, Any], configured: object) -> Settings:
    """Put together the values of all options: a flag beats the setting, which beats the default.

    :param command_line: options given as flags, by name.
    :param configured: the setting ``CHANNELSERVER``.
    :raises OptionError: an option is unknown or has a wrong value.
    """
    if not isinstance(configured, Mapping):
        raise OptionError(f"the setting CHANNELSERVER must be a dict, not {configured!r}")
    values = {option.name: option.default for option in OPTIONS}
    for name, value in configured.items():
        option = BY_NAME.get(name)
        if option is not None and option.command_line_only:
            raise OptionError(f"CHANNELSERVER[{name!r}] is no setting; give it on the command line as {option.flag}")
        if option is None:
            near = closest(str(name))
            hint = f"; did you mean {near!r}?" if near else ""
            raise OptionError(f"the setting CHANNELSERVER[{name!r}] is unknown{hint}")
        values[name] = option.convert(value, f"the setting CHANNELSERVER[{name!r}]")
    for name, value in command_line.items():
        values[name] = BY_NAME[name].convert(value, BY_NAME[name].flag)
    if values["threads"] is None:
        values["threads"] = default_threads()
    if values["processes"] > 1 and not values["threads"]:
        raise OptionError(
            "--processes needs worker threads in each process, and --threads is 0; start one process, and "
            "'manage.py runworker' beside it"
        )
    # As in Daphne: one of the two alone brings the other's default; none, beside other listeners, brings no simple one.
    values["simple_listener"] = any(
        name in given for given in (command_line, configured) for name in ("port", "bind", "tls_cert")
    )
    return Settings(**values)


def closest(name: str) -> str:
    """Return the name of the option that is closest to `name`, or nothing."""
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), BY_NAME, 1)), "")
