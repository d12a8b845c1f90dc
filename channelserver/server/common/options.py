"""Every option of the server, in one table: the fields of :class:`Settings`.

Flags of ``twistd channelserver``, keys of the setting ``CHANNELSERVER``, ``--help``, ``--check`` and the table in the
documentation are generated from it. Runs before the reactor; owns nothing that changes.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_network
from typing import Any

from channelserver.server.common.machine import memory_of_machine


class OptionError(ValueError):
    """An option has a wrong value; the text names the option, the value and the cure."""


@dataclass(frozen=True)
class Option:
    """One row of the table.

    ``name`` is the key in ``CHANNELSERVER``. ``kind``: ``str``, ``int``, ``float``, ``flag`` (off unless given) or
    ``no-flag`` (on unless ``--no-…`` is given). ``unit`` belongs to numbers. ``low`` and ``high`` are the limits of
    numbers. ``command_line_only`` options are not settings, because they say where the settings are.
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
        return ("--no-" if self.kind == "no-flag" else "--") + self.name.replace("_", "-")

    def convert(self, value: Any, where: str) -> Any:
        """Return `value` as this option's type.

        :param value: text from the command line, or any object from the settings.
        :param where: the flag or the setting, for the error.
        :raises OptionError: `value` has another type, or is out of range.
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
    """Enough threads to keep the cores busy while some wait, with few database connections."""
    return min(8, 2 * (os.cpu_count() or 1) + 2)


def _check_network(value: str) -> None:
    if value != "unix":
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError("a network such as 10.0.0.0/8, an address, or unix") from None


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare an option: a field of :class:`Settings`, whose type says of which kind the option is.

    :param details: other attributes of its :class:`Option`.
    """
    return field(default=default, metadata={"help": help, **details})


@dataclass
class Settings:
    """The values of all options."""

    settings: str | None = option(
        None, "dotted name of the Django settings; default: $DJANGO_SETTINGS_MODULE", short="s", command_line_only=True
    )
    pythonpath: str | None = option(
        None, "folder to import the project from; default: the current one", command_line_only=True
    )
    app: str | None = option(
        None,
        "module to import first, as for gunicorn and uvicorn, e.g. mysite.wsgi or mysite.asgi:application: what it "
        "sets up counts, its application object is not called",
        command_line_only=True,
    )
    demo: bool = option(False, "run the built-in chat site, stored in a temporary folder", command_line_only=True)
    demo_data: str | None = option(None, "keep the demo's database in this folder", command_line_only=True)
    check: bool = option(
        False, "validate options, settings, routing and layer, then exit with 0 or 1", command_line_only=True
    )
    port: int = option(8000, "port of the default listener; 0 takes a free one", short="p", low=0, high=65535)
    bind: str = option("127.0.0.1", "address of the default listener; 0.0.0.0 or :: for all", short="b")
    endpoint: tuple[str, ...] = option(
        (), "Twisted endpoint to listen on, e.g. tcp:8000, unix:/run/site.sock, systemd:domain=INET:index=0", short="e"
    )
    unix_socket: str | None = option(None, "path of a Unix socket to listen on", short="u")
    fd: int | None = option(None, "file descriptor of a listening socket to serve", low=0)
    tls_cert: str | None = option(
        None,
        "PEM file with the certificate and its chain: the default listener speaks HTTPS, and with channelserver[http2] "
        "HTTP/2; read again on SIGHUP",
    )
    tls_key: str | None = option(None, "PEM file with the private key, if it is not in the file of --tls-cert")
    redirect_http: bool = option(False, "also listen for plain HTTP, and redirect it to HTTPS")
    redirect_port: int = option(80, "port on which --redirect-http listens; 0 takes a free one", low=0, high=65535)
    threads: int = option(
        None,
        "worker threads, and so the most database connections; 0: this process only serves connections; "
        "default: min(8, 2 x cores + 2)",
        low=0,
        high=1000,
    )
    job_threads: int | None = option(
        None,
        "threads that run jobs, beside --threads; 0: this process runs none; default: half as many as --threads, "
        "if the project has jobs",
        low=0,
        high=1000,
    )
    max_streams: int = option(
        50,
        "responses with plain iterators that are streamed at a time, in threads beside --threads; as many more wait",
        low=1,
        high=10_000,
    )
    processes: int = option(
        1, "processes that share the listeners and one channel layer, each with its own worker threads", low=1, high=64
    )
    hang_timeout: float = option(
        30.0,
        "time without a sign of life after which one of --processes is killed and started again, and with all worker "
        "threads on the same job after which the health check is no longer ready; 0 = never",
        unit="seconds",
        low=0,
    )
    layer: str = option("default", "which of CHANNEL_LAYERS")
    root_path: str = option(
        "", "path under which the site is mounted, e.g. /app; default: the setting FORCE_SCRIPT_NAME"
    )
    auto_accept: bool = option(
        True, "accept a WebSocket only when a consumer says so, not when its connect consumer ends normally"
    )
    reject_unrouted: bool = option(
        False, "answer 404 to a WebSocket whose path no route matches, instead of accepting it"
    )
    requeue: bool = option(
        False,
        "give a message to another worker if its process dies, at most 3 times, so consumers must bear doubles; "
        "route(..., requeue=False) makes an exception",
    )
    allowed_origin: tuple[str, ...] = option(
        (), "origin of WebSockets to allow, beside the site itself and ALLOWED_HOSTS; * for any"
    )
    ws_protocol: tuple[str, ...] = option((), "WebSocket subprotocol the server may choose")
    trust_proxy: tuple[str, ...] = option(
        (),
        "network (CIDR) or address of a trusted proxy, whose X-Forwarded-* and Forwarded headers are used; "
        "unix: all peers of Unix sockets",
        check=_check_network,
    )
    max_connections: int = option(10_000, "open connections, else 503", low=1)
    max_connections_per_ip: int = option(
        0, "open connections of one address, trusted proxies excepted, else 503; 0 = no limit", low=0
    )
    max_message_bytes: int = option(
        1024 * 1024, "largest WebSocket message received, else closed with 1009", unit="bytes", low=1
    )
    max_body_bytes: int = option(100 * 1024 * 1024, "largest request body, else 413", unit="bytes", low=0)
    send_buffer_bytes: int = option(
        4 * 1024 * 1024, "bytes waiting for a slow WebSocket client, else it is closed with 1013", unit="bytes", low=1
    )
    client_memory: int = option(
        None,
        "memory for what is kept for all clients together: near it, those who hold most are disconnected, and new "
        "requests get 503; default: a quarter of the machine's memory, or of the container's",
        unit="bytes",
        low=1024 * 1024,
    )
    max_header_bytes: int = option(
        32 * 1024, "largest request head, else 431, or 414 if the request line alone is larger", unit="bytes", low=256
    )
    max_header_fields: int = option(128, "fields in a request head, else 431", low=4)
    compression: bool = option(
        False,
        "compress WebSocket messages over 1 KiB (permessage-deflate) if the client supports it; costs reactor time",
    )
    header_timeout: float = option(10.0, "time limit for a whole request head, else 408", unit="seconds", low=0.1)
    body_timeout: float = option(
        60.0, "time limit between two parts of a request body, else 408", unit="seconds", low=0.1
    )
    min_body_rate: int = option(
        240,
        "minimum average rate of a request body, per second, once body_timeout has passed, else 408; 0 = no limit",
        unit="bytes",
        low=0,
    )
    health_path: str = option("/-/health", "path of the health check; empty: none")
    health_figures: tuple[str, ...] = option(
        (),
        "network (CIDR) or address whose clients get the figures of the health check, not only the status; unix: all "
        "peers of Unix sockets",
        check=_check_network,
    )
    keep_alive: float = option(
        75.0, "time an idle connection is kept open; set it above the load balancer's", unit="seconds", low=0
    )
    http_timeout: float = option(
        120.0,
        "time limit for the first part of a response, else 503, and for the client to take each further part",
        unit="seconds",
        low=0.1,
    )
    connect_timeout: float = option(10.0, "time limit for accepting a WebSocket, else 403", unit="seconds", low=0.1)
    ping_interval: float = option(20.0, "silence after which a WebSocket is pinged; 0 = off", unit="seconds", low=0)
    ping_timeout: float = option(
        30.0, "silence after a ping until the WebSocket is closed; 0 = off", unit="seconds", low=0
    )
    drain_timeout: float = option(
        30.0, "time for requests to finish and WebSockets to close after SIGTERM", unit="seconds", low=0
    )
    static: bool = option(True, "leave STATIC_URL to Django; otherwise the reactor serves it from STATIC_ROOT")
    shortcuts: bool = option(
        True,
        "leave Django unchanged; otherwise quicker functions replace some of Django's, see What we change in Django",
    )
    media: bool = option(False, "have the reactor serve MEDIA_URL from MEDIA_ROOT: uploaded files, open to everybody")
    local_socket: str | None = option(
        None,
        "path of the Unix socket through which other processes of this machine use the layer; "
        "default: channelserver.sock in the project's folder; empty: none",
    )
    access_log: str = option("-", "file for the access log; - is standard output, empty is none")
    log_format: str | None = option(
        None, "access log as text or json; default: text on a terminal, else json", choices=("text", "json")
    )
    #: Not an option: whether the default listener is wanted (:func:`resolve`).
    simple_listener: bool = False


def _row(entry: Field[Any]) -> Option:
    kind = str(entry.type).removesuffix(" | None")
    if kind == "bool":
        kind = "no-flag" if entry.default else "flag"
    repeatable = kind == "tuple[str, ...]"
    return Option(entry.name, "str" if repeatable else kind, entry.default, repeatable=repeatable, **entry.metadata)


OPTIONS = tuple(_row(entry) for entry in fields(Settings) if entry.metadata)
BY_NAME = {option.name: option for option in OPTIONS}


def resolve(command_line: Mapping[str, Any], configured: object) -> Settings:
    """Return the values of all options: a flag beats the setting, which beats the default.

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
            raise OptionError(f"CHANNELSERVER[{name!r}] is not a setting; give it on the command line as {option.flag}")
        if option is None:
            near = closest(str(name))
            hint = f"; did you mean {near!r}?" if near else ""
            raise OptionError(f"the setting CHANNELSERVER[{name!r}] is unknown{hint}")
        values[name] = option.convert(value, f"the setting CHANNELSERVER[{name!r}]")
    for name, value in command_line.items():
        values[name] = BY_NAME[name].convert(value, BY_NAME[name].flag)
    if values["threads"] is None:
        values["threads"] = default_threads()
    if values["client_memory"] is None:
        values["client_memory"] = memory_of_machine() // 4
    if values["processes"] > 1 and not values["threads"]:
        raise OptionError(
            "--processes needs worker threads in each process, and --threads is 0; start one process, and "
            "'manage.py runworker' beside it"
        )
    # As in Daphne: one of the two alone brings the other's default; none, beside other listeners, no default listener.
    values["simple_listener"] = any(
        name in given for given in (command_line, configured) for name in ("port", "bind", "tls_cert")
    )
    return Settings(**values)


def closest(name: str) -> str:
    """Return the name of the option that is most similar to `name`, or an empty text."""
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), BY_NAME, 1)), "")
