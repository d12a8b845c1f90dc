"""Every option of the server, in one table: the fields of :class:`Settings`.

Flags of the command line, variables of the environment, keys of the setting ``CHANNELSERVER``, ``--help`` and the list
in the documentation are generated from it. Runs before the reactor; owns nothing that changes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import Any

from channelserver.server.common.host_names import certificate_names, names_of
from channelserver.server.common.lines import LEVELS
from channelserver.server.common.machine import every_address, memory_of_machine
from channelserver.server.common.option import Option, OptionError

#: The headings of ``--help`` and the documentation, each by the first option under it.
GROUPS = {
    "settings": "Project", "port": "Listen", "https": "HTTPS", "auto_accept": "WebSocket", "threads": "Workers",
    "max_connections": "Limits", "header_timeout": "Timeouts", "trust_proxy": "Proxy", "static": "Files",
    "access_log": "Logs",
}  # fmt: skip

#: The ACME directories that have a name here.
ACME_DIRECTORIES = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


def default_threads() -> int:
    """Enough threads to keep the cores busy while some wait, with few database connections."""
    return min(8, 2 * (os.cpu_count() or 1) + 2)


def _check_network(value: str) -> None:
    if value != "unix":
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError("a network such as 10.0.0.0/8, an address, or unix") from None


def _check_https(value: str) -> None:
    if not names_of(value):
        raise ValueError("a host name such as example.org")


def _check_email(value: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
        raise ValueError("an e-mail address")


def _check_base64url(value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+=*", value) or len(value.rstrip("=")) % 4 == 1:
        raise ValueError("base64url: letters, digits, - and _")


def _check_directory(value: str) -> None:
    if value not in ACME_DIRECTORIES and not value.startswith("https://"):
        raise ValueError("letsencrypt, staging, or a URL with https://")


def _check_origin(value: str) -> None:
    if not re.fullmatch(r"([a-z][a-z0-9+.-]*://)?(\.?[\w.-]+|\[[a-f0-9:.]+\])(:\d*)?|\*", value, re.IGNORECASE):
        raise ValueError("a host, or an origin such as https://app.example.org, without a path or a slash at its end")


def _check_protocol(value: str) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", value, re.ASCII):
        raise ValueError("a token (RFC 9110): letters, digits, and no spaces, commas or slashes")


def _check_health_path(value: str) -> None:
    if value and not value.startswith("/"):
        raise ValueError("a path that begins with a slash, such as /-/health, or empty")


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare an option: a field of :class:`Settings`, whose type says of which kind the option is.

    :param details: other attributes of its :class:`Option`.
    """
    return field(default=default, metadata={"help": help, **details})


@dataclass(init=False, repr=False, eq=False)  # each method takes time at the start
class Settings:
    """The values of all options.

    :param values: other ones than the defaults, by name.
    :raises TypeError: there is no such option.
    """

    settings: str | None = option(
        None,
        "dotted name of the Django settings; default: $DJANGO_SETTINGS_MODULE, or that of manage.py",
        short="s",
        command_line_only=True,
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
    reload: bool = option(False, "start again when the project's code changes, for development", command_line_only=True)
    check: bool = option(
        False,
        "validate options, settings, routing and layer, then exit with 0 or 1",
        command_line_only=True,
        action=True,
    )
    layer: str = option("default", "which of CHANNEL_LAYERS")
    root_path: str = option(
        "", "path under which the site is mounted, e.g. /app; default: the setting FORCE_SCRIPT_NAME"
    )
    port: int = option(8000, "port of the default listener; 0 takes a free one", short="p", low=0, high=65535)
    bind: str = option(
        "127.0.0.1",
        "address of the default listener; 0.0.0.0 for all of IPv4, :: for all of IPv6 and IPv4, which --https has by "
        "default",
        short="b",
    )
    endpoint: tuple[str, ...] = option(
        (), "Twisted endpoint to listen on, e.g. tcp:8000, unix:/run/site.sock, systemd:domain=INET:index=0", short="e"
    )
    unix_socket: str | None = option(None, "path of a Unix socket to listen on", short="u")
    fd: int | None = option(None, "file descriptor of a listening socket to serve", low=0)
    local_socket: str | None = option(
        None,
        "path of the Unix socket through which other processes of this machine use the layer; "
        "default: channelserver.sock in the project's folder; empty: none",
        may_be_empty=True,
    )
    https: tuple[str, ...] = option(
        (),
        "host name to get and renew a certificate for: serves HTTPS and plain HTTP on --https-port and --http-port; "
        "a.org,b.org are two certificates, a.org+b.org is one for both",
        check=_check_https,
    )
    email: str | None = option(None, "address that the certificate authority may write to", check=_check_email)
    https_port: int = option(443, "port on which --https serves HTTPS; 0 takes a free one", low=0, high=65535)
    http_port: int = option(80, "port on which --https serves plain HTTP; 0 takes a free one", low=0, high=65535)
    acme_directory: str = option(
        "letsencrypt",
        "URL of the ACME directory of the certificate authority; letsencrypt, or staging, its test system",
        check=_check_directory,
    )
    acme_ca_file: str | None = option(
        None, "PEM file with the root certificates to trust when talking to --acme-directory; default: the system's"
    )
    acme_profile: str | None = option(
        None, "profile of the certificate, e.g. tlsserver or shortlived (6 days); default: the authority's"
    )
    acme_store: str | None = option(
        None,
        "folder for certificates, keys and accounts, in Caddy's layout; default: certificates in $STATE_DIRECTORY, "
        "else in ~/.local/state/channelserver",
    )
    acme_eab_kid: str | None = option(None, "key ID of an external account, if the authority wants one (EAB)")
    acme_eab_key: str | None = option(None, "MAC key of that account, as base64url", check=_check_base64url)
    tls_cert: tuple[str, ...] = option(
        (),
        "PEM file with a certificate and its chain: the default listener, or that of --https, speaks HTTPS and HTTP/2; "
        "of several, clients get the one for the name that they ask for, else the first; read again on SIGHUP",
        lone=True,
    )
    tls_key: tuple[str, ...] = option(
        (),
        "PEM file with the private key, if it is not in the file of --tls-cert; one for each --tls-cert, in order",
        lone=True,
    )
    tls_self_signed: bool = option(
        False, "for development: the default listener speaks HTTPS with a certificate that the server signs itself"
    )
    hsts: int = option(
        0,
        "time for which browsers that have seen the site by HTTPS use nothing else (Strict-Transport-Security); sent "
        "with a valid certificate only, and not if SECURE_HSTS_SECONDS is set; begin with 300; 0 = off",
        unit="seconds",
        low=0,
    )
    redirect_http: bool = option(False, "also listen for plain HTTP, and redirect it to HTTPS")
    redirect_port: int = option(80, "port on which --redirect-http listens; 0 takes a free one", low=0, high=65535)
    auto_accept: bool = option(
        True, "accept a WebSocket only when a consumer says so, not when its connect consumer ends normally"
    )
    reject_unrouted: bool = option(
        False, "answer 404 to a WebSocket whose path no route matches, instead of accepting it"
    )
    allowed_origin: tuple[str, ...] = option(
        (),
        "origin of WebSockets to allow, beside the site itself and ALLOWED_HOSTS; * for any",
        check=_check_origin,
    )
    ws_protocol: tuple[str, ...] = option((), "WebSocket subprotocol the server may choose", check=_check_protocol)
    ping_interval: float = option(20.0, "silence after which a WebSocket is pinged; 0 = off", unit="seconds", low=0)
    ping_timeout: float = option(
        30.0, "silence after a ping until the WebSocket is closed; 0 = off", unit="seconds", low=0
    )
    compression: bool = option(
        False,
        "compress WebSocket messages over 1 KiB (permessage-deflate) if the client supports it; costs reactor time",
    )
    max_message_bytes: int = option(
        1024 * 1024, "largest WebSocket message received, else closed with 1009", unit="bytes", low=1
    )
    send_buffer_bytes: int = option(
        4 * 1024 * 1024, "bytes waiting for a slow WebSocket client, else it is closed with 1013", unit="bytes", low=1
    )
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
    max_requests: int = option(
        0,
        "requests after which one of --processes is drained and started again, and up to a tenth more; 0 = no limit",
        low=0,
    )
    hang_timeout: float = option(
        30.0,
        "time without a sign of life after which one of --processes is killed and started again; with all worker "
        "threads on the same job so long, one is drained and started again, and the health check is not ready; "
        "with all threads for jobs lost to overdue jobs so long, the only process stops, too; 0 = never",
        unit="seconds",
        low=0,
    )
    requeue: bool = option(
        False,
        "give a message to another worker if its process dies, at most 3 times, so consumers must bear doubles; "
        "route(..., requeue=False) makes an exception",
    )
    shortcuts: bool = option(
        True,
        "leave Django unchanged; otherwise quicker functions replace some of Django's, see What we change in Django",
    )
    max_connections: int = option(10_000, "open connections, else 503", low=1)
    max_connections_per_ip: int = option(
        0, "open connections of one address, trusted proxies excepted, else 503; 0 = no limit", low=0
    )
    max_body_bytes: int = option(100 * 1024 * 1024, "largest request body, else 413", unit="bytes", low=0)
    max_header_bytes: int = option(
        32 * 1024, "largest request head, else 431, or 414 if the request line alone is larger", unit="bytes", low=256
    )
    body_disk: int = option(
        4 * 1024**3,
        "disk space for the temporary files of all request bodies together, else 507; --processes share it equally",
        unit="bytes",
        low=0,
    )
    max_header_fields: int = option(128, "fields in a request head, else 431", low=4)
    client_memory: int = option(
        None,
        "memory for what is kept for all clients together: near it, those who hold most are disconnected, and new "
        "requests get 503; default: a quarter of the machine's memory, or of the container's",
        unit="bytes",
        low=1024 * 1024,
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
    drain_timeout: float = option(
        30.0, "time for requests to finish and WebSockets to close after SIGTERM", unit="seconds", low=0
    )
    trust_proxy: tuple[str, ...] = option(
        (),
        "network (CIDR) or address of a trusted proxy, whose X-Forwarded-* and Forwarded headers are used; "
        "unix: all peers of Unix sockets",
        check=_check_network,
    )
    health_path: str = option(
        "/-/health", "path of the health check; empty: none", may_be_empty=True, check=_check_health_path
    )
    health_figures: tuple[str, ...] = option(
        (),
        "network (CIDR) or address whose clients get the figures of the health check, not only the status; unix: all "
        "peers of Unix sockets",
        check=_check_network,
    )
    static: bool = option(True, "leave STATIC_URL to Django; otherwise the reactor serves it from STATIC_ROOT")
    media: bool = option(False, "have the reactor serve MEDIA_URL from MEDIA_ROOT: uploaded files, open to everybody")
    access_log: str = option(
        "-",
        "file for the access log; - is standard output, logging is the logger channelserver.access, empty is none",
        may_be_empty=True,
    )
    access_format: str = option(
        "short",
        "lines of the access log: short; full, with user agent and referer; combined, which GoAccess and fail2ban read",
        choices=("short", "full", "combined"),
    )
    log_format: str | None = option(
        None, "log as text or json; default: text on a terminal, else json", choices=("text", "json")
    )
    log_level: str = option("info", "what is less important is not logged", choices=LEVELS)
    #: Not an option: whether the default listener is wanted (:func:`resolve`).
    simple_listener: bool = False

    def __init__(self, **values: Any) -> None:
        for entry in fields(self):
            setattr(self, entry.name, values.pop(entry.name, entry.default))
        if values:
            raise TypeError(f"there is no option {next(iter(values))!r}")


def _rows() -> Iterator[Option]:
    group = ""
    for entry in fields(Settings):
        if not entry.metadata:
            continue
        group = GROUPS.get(entry.name, group)
        kind = str(entry.type).removesuffix(" | None")
        if kind == "bool":
            kind = "no-flag" if entry.default else "flag"
        repeatable = kind == "tuple[str, ...]"
        kind = "str" if repeatable else kind
        yield Option(entry.name, kind, entry.default, repeatable=repeatable, group=group, **entry.metadata)


OPTIONS = tuple(_rows())
BY_NAME = {option.name: option for option in OPTIONS}


def resolve(
    command_line: Mapping[str, Any], configured: object, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the values of all options: a flag beats the environment, which beats the setting, which beats the default.

    :param command_line: options given as flags, by name.
    :param configured: the setting ``CHANNELSERVER``.
    :param environment: the variables of the process.
    :raises OptionError: an option is unknown or has a wrong value.
    """
    if not isinstance(configured, Mapping):
        raise OptionError(f"the setting CHANNELSERVER must be a dict, not {configured!r}")
    given: dict[str, Any] = {}
    for name, value in configured.items():
        option = BY_NAME.get(name)
        if option is not None and option.command_line_only:
            raise OptionError(f"CHANNELSERVER[{name!r}] is not a setting; give it on the command line as {option.flag}")
        if option is None:
            near = closest(str(name))
            hint = f"; did you mean {near!r}?" if near else ""
            raise OptionError(f"the setting CHANNELSERVER[{name!r}] is unknown{hint}")
        given[name] = option.convert(value, f"the setting CHANNELSERVER[{name!r}]")
    given.update(read_environment(environment))
    for name, value in command_line.items():
        given[name] = BY_NAME[name].convert(value, BY_NAME[name].flag)
    # As in Daphne: one of the two alone brings the other's default; none, beside other listeners, no default listener.
    # With --https, there are other ports instead, and an address is theirs.
    simple_listener = not given.get("https") and (
        "port" in given or "bind" in given or bool(given.get("tls_cert")) or bool(given.get("tls_self_signed"))
    )
    if given.get("https") and "port" in command_line:
        raise OptionError("--https has ports of its own, --https-port and --http-port; leave out --port")
    if "port" not in given and environment.get("PORT"):
        # A platform's: it counts as the number only, so that other listeners stay alone.
        given["port"] = BY_NAME["port"].read(environment["PORT"], "the environment variable PORT")
    values = {option.name: option.default for option in OPTIONS} | given
    if values["threads"] is None:
        values["threads"] = default_threads()
    if values["client_memory"] is None:
        values["client_memory"] = memory_of_machine() // 4
    if values["processes"] > 1 and not values["threads"]:
        raise OptionError(
            "--processes needs worker threads in each process, and --threads is 0; start one process, and "
            "'manage.py runworker' beside it"
        )
    if values["max_requests"] and values["processes"] == 1:
        raise OptionError("--max-requests replaces one of several processes, so it needs --processes 2 or more")
    if values["tls_self_signed"] and (values["https"] or values["tls_cert"] or values["tls_key"]):
        raise OptionError(
            "--tls-self-signed is for development, in place of a certificate; leave it out, or leave out --https, "
            "--tls-cert and --tls-key"
        )
    _resolve_https(values, given)
    return Settings(**values, simple_listener=simple_listener)


def _resolve_https(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Check the options of certificates against each other; the address of their ports is the world's.

    :raises OptionError: they contradict each other.
    """
    names = certificate_names(values["https"])
    if not names:
        for name in ("email", "https_port", "http_port", *(key for key in BY_NAME if key.startswith("acme_"))):
            if name in given and given[name] is not None:
                raise OptionError(f"{BY_NAME[name].flag} needs --https, the names to get certificates for")
        return
    for name in ("redirect_http", "redirect_port"):
        if given.get(name):
            raise OptionError(f"--https redirects plain HTTP by itself, on --http-port; leave out {BY_NAME[name].flag}")
    if values["https_port"] == values["http_port"] != 0:
        raise OptionError(f"--https-port and --http-port are both {values['http_port']}; give one of them another port")
    if (values["acme_eab_kid"] is None) != (values["acme_eab_key"] is None):
        raise OptionError("--acme-eab-kid and --acme-eab-key belong together; give both")
    seen: dict[str, tuple[str, ...]] = {}
    for joined in names:
        for name in joined:
            if seen.setdefault(name, joined) != joined:
                raise OptionError(f"--https has {name!r} in two certificates; name it once")
    if "bind" not in given:
        values["bind"] = every_address()


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that variables ``CHANNELSERVER_…`` set, by name.

    :raises OptionError: one has a wrong value.
    """
    given = {}
    for option in OPTIONS:
        variable = next(iter(option.variables), "")
        text = environment.get(variable, "")
        # Kubernetes sets CHANNELSERVER_PORT to tcp://10.0.0.1:8000 where a service has that name.
        if (text and not text.startswith("tcp://")) or (option.may_be_empty and variable in environment):
            given[option.name] = option.read(text, f"the environment variable {variable}")
    return given


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable ``CHANNELSERVER_…`` that looks like a misspelt option."""
    known = {variable for option in OPTIONS for variable in option.variables}
    found = []
    for variable in sorted(name for name in environment if name.startswith("CHANNELSERVER_") and name not in known):
        near = closest(variable.removeprefix("CHANNELSERVER_").lower())
        if near:
            near = f"CHANNELSERVER_{near.upper()}"
            found.append(f"the environment variable {variable} sets no option; did you mean {near}?")
    return found


def closest(name: str) -> str:
    """Return the name of the option that is most similar to `name`, or an empty text."""
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), BY_NAME, 1)), "")
