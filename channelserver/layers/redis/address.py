"""The address of a Redis server, and how to connect to it.

Parsed from the settings before the reactor runs; :meth:`Address.connect` runs in the reactor's thread. Owns nothing.

A server is given as

* ``redis://[[user]:password@]host[:port][/database]``, ``rediss://…`` for TLS, ``unix://[[user]:password@]/path[?db=0]``;
* ``(host, port)``, as for ``asgi_redis``;
* ``{"sentinels": [...], "service_name": name}``: the master of that service, which the Sentinels name. A further key
  ``url`` gives user, password, database and TLS of the master: ``rediss://:password@/0``.

TLS always verifies the certificate and the host's name. Settings for it are given in ``connection_kwargs`` or in the
URL's query: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from twisted.internet import defer
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory

from channelserver.layers.redis.protocol import CommandProtocol

#: Seconds to make a connection.
CONNECT_SECONDS = 5.0

#: What ``connection_kwargs`` or a URL's query may hold.
_KNOWN = frozenset(
    {
        "db", "username", "password", "ssl", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
        "socket_timeout", "socket_connect_timeout", "sentinel_username", "sentinel_password",
    }
)  # fmt: skip


class NoMasterError(Exception):
    """No Sentinel names a master."""


class Address:
    """One Redis server.

    :param place: ``(host, port)``, or the path of a Unix socket.
    :param options: ``username``, ``password``, ``db``, ``ssl…``.
    """

    def __init__(self, place: tuple[str, int] | str, options: Mapping[str, Any]) -> None:
        self.place = place
        self.options = dict(options)
        self.username: str | None = options.get("username") or None
        self.password: str | None = options.get("password") or None
        self.database = _number(options.get("db", 0) or 0, "db")
        self.tls = bool(options.get("ssl")) and not isinstance(place, str)
        if self.tls:
            _tls("localhost", options)  # so that an unreadable file is an error in the settings

    @property
    def name(self) -> str:
        """Identifies the server; a failover does not change it."""
        return str(self)

    def __str__(self) -> str:
        """The address as a URL, without a password."""
        if isinstance(self.place, str):
            return f"unix://{self.place}"
        host, port = self.place
        return f"{'rediss' if self.tls else 'redis'}://{f'[{host}]' if ':' in host else host}:{port}/{self.database}"

    #: Whether to ask the server if it is a master.
    checks_role = False

    def connect(self, reactor: IReactorTime, protocol: Protocol) -> defer.Deferred[Any]:
        """Connect `protocol`; return a Deferred of it."""
        return _connect(reactor, self.place, self.options if self.tls else None, protocol)


class SentinelAddress(Address):
    """The master of a service that Sentinels watch.

    :param options: of the master, see :class:`Address`.
    """

    checks_role = True

    def __init__(self, sentinels: Sequence[Address], service: str, options: Mapping[str, Any]) -> None:
        super().__init__(("localhost", 6379), options)
        self.sentinels = sentinels
        self.service = service
        self.found = ""

    @property
    def name(self) -> str:
        return f"master {self.service!r}"

    def __str__(self) -> str:
        return f"master {self.service!r}" + (f" at {self.found}" if self.found else "")

    @defer.inlineCallbacks
    def connect(self, reactor: IReactorTime, protocol: Protocol) -> Generator[Any, Any, Any]:
        problems = []
        for sentinel in self.sentinels:
            try:
                place = yield self._ask(reactor, sentinel)
            except Exception as error:
                problems.append(f"{sentinel}: {describe(error)}")
                continue
            if place is not None:
                self.found = f"{place[0]}:{place[1]}"
                result = yield _connect(reactor, place, self.options if self.tls else None, protocol)
                return result
            problems.append(f"{sentinel} does not know it")
        raise NoMasterError(f"no Sentinel names the master of {self.service!r}: " + "; ".join(problems))

    @defer.inlineCallbacks
    def _ask(self, reactor: IReactorTime, sentinel: Address) -> Generator[Any, Any, tuple[str, int] | None]:
        protocol = CommandProtocol(reactor.seconds, lambda protocol, why: None)
        yield sentinel.connect(reactor, protocol)
        try:
            if sentinel.password is not None:
                yield protocol.auth(sentinel.password, sentinel.username).addTimeout(CONNECT_SECONDS, reactor)
            asked = protocol.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            answer = yield asked.addTimeout(CONNECT_SECONDS, reactor)
        finally:
            protocol.transport.abortConnection()
        return (answer[0].decode(), int(answer[1])) if isinstance(answer, list) else None


def _connect(
    reactor: IReactorTime, place: tuple[str, int] | str, tls: Mapping[str, Any] | None, protocol: Protocol
) -> defer.Deferred[Any]:
    endpoint: IStreamClientEndpoint
    plain = Factory.forProtocol(lambda: protocol)
    plain.noisy = False
    factory: IProtocolFactory = plain
    if isinstance(place, str):
        endpoint = UNIXClientEndpoint(reactor, place, timeout=CONNECT_SECONDS)
    else:
        endpoint = HostnameEndpoint(reactor, place[0], place[1], timeout=CONNECT_SECONDS)
        if tls is not None:
            # Not wrapClientTLS(), whose transports flush by timers of the global reactor.
            factory = TLSMemoryBIOFactory(_tls(place[0], tls), True, plain, reactor)
    return endpoint.connect(factory)


def _tls(host: str, options: Mapping[str, Any]) -> IOpenSSLClientConnectionCreator:
    trust = None
    try:
        if options.get("ssl_ca_certs"):
            with open(options["ssl_ca_certs"], "rb") as stream:
                parts = stream.read().split(b"-----BEGIN CERTIFICATE-----")[1:]
            trust = trustRootFromCertificates(
                [Certificate.loadPEM(b"-----BEGIN CERTIFICATE-----" + part) for part in parts]
            )
        own = None
        if options.get("ssl_certfile"):
            with open(options["ssl_certfile"], "rb") as stream:
                pem = stream.read()
            if options.get("ssl_keyfile"):
                with open(options["ssl_keyfile"], "rb") as stream:
                    pem += b"\n" + stream.read()
            own = PrivateCertificate.loadPEM(pem)
    except OSError as error:
        raise ValueError(f"the certificate file {error.filename!r} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise ValueError(f"a certificate file is invalid: {error}") from error
    return optionsForClientTLS(host, trustRoot=trust, clientCertificate=own)


# -- from the settings -------------------------------------------------------------------------------------------------


def read_hosts(hosts: Any, options: Mapping[str, Any] | None, services: Any = None) -> list[Address]:
    """Return the servers that the settings name.

    :param hosts: a list as the module's docstring describes; None: the server on this machine.
    :param options: ``connection_kwargs``, for all of them.
    :param services: names of services; then `hosts` are Sentinels (``asgi_redis.RedisSentinelChannelLayer``).
    :raises ValueError: a setting is invalid; the text says which, and the cure.
    """
    options = dict(options or {})
    _check(options, "connection_kwargs")
    if hosts is None:
        hosts = [("localhost", 26379 if services else 6379)]
    if isinstance(hosts, (str, bytes, dict)) or not isinstance(hosts, Sequence) or not hosts:
        raise ValueError(f"hosts must be a list, such as ['redis://localhost:6379/0'], not {hosts!r}")
    if services:
        if isinstance(services, str):
            raise ValueError(f"services must be a list of names, not {services!r}")
        return [read_host({"sentinels": hosts, "service_name": name}, options) for name in services]
    return [read_host(host, options) for host in hosts]


def read_host(host: Any, options: Mapping[str, Any]) -> Address:
    """Return the server that one entry of ``hosts`` names.

    :raises ValueError: it is invalid.
    """
    if isinstance(host, Mapping):
        return _from_dict(host, options)
    if isinstance(host, str):
        place, found = _from_url(host)
        return Address(place, {**options, **found})
    if isinstance(host, (tuple, list)) and len(host) == 2 and isinstance(host[0], str):
        return Address((host[0], _port(host[1])), options)
    raise ValueError(f"hosts has {_safe(host)}; write a URL, such as 'redis://localhost:6379/0', or (host, port)")


def _from_dict(host: Mapping[str, Any], options: Mapping[str, Any]) -> Address:
    more = {
        key: value
        for key, value in host.items()
        if key not in ("sentinels", "service_name", "master_name", "url", "address")
    }
    _check(more, "a dict in hosts")
    if "sentinels" not in host:
        url = host.get("url", host.get("address"))
        if url is None:
            raise ValueError("a dict in hosts needs 'url', or 'sentinels' and 'service_name'")
        return read_host(url, {**options, **more})
    service = host.get("service_name") or host.get("master_name")
    if not isinstance(service, str):
        raise ValueError("a dict in hosts with 'sentinels' needs 'service_name', the name of the service they watch")
    own = {
        "username": options.get("sentinel_username", more.get("sentinel_username")),
        "password": options.get("sentinel_password", more.get("sentinel_password")),
    }
    sentinels = [read_host(entry, own) for entry in host["sentinels"]]
    if not sentinels:
        raise ValueError("'sentinels' must name at least one")
    found = _from_url(host["url"])[1] if "url" in host else {}
    return SentinelAddress(sentinels, service, {**options, **more, **found})


def _from_url(url: str) -> tuple[tuple[str, int] | str, dict[str, Any]]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"hosts has a URL that cannot be understood: {error}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"hosts has {_safe(url)}; a URL begins with redis://, rediss:// or unix://")
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    _check(options, "the query of a URL in hosts")
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password is not None:
        options["password"] = unquote(parts.password)
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("hosts has a unix:// URL without a path; write for example unix:///run/redis.sock")
        return unquote(parts.path), options
    if parts.path.strip("/"):
        options["db"] = _number(parts.path.strip("/"), "the database in a URL of hosts")
    if parts.scheme == "rediss":
        options["ssl"] = True
    return (parts.hostname or "localhost", 6379 if port is None else port), options


def _check(options: Mapping[str, Any], where: str) -> None:
    for name in options:
        if name not in _KNOWN:
            raise ValueError(f"{where} has {name!r}, which is not understood; there are {', '.join(sorted(_KNOWN))}")


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError(f"hosts has the port {value!r}; write a number from 1 to 65535")
    return value


def _number(value: Any, what: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise ValueError(f"{what} must be a number from 0, not {value!r}")
    return number


def _safe(host: Any) -> str:
    """Return the entry without a password."""
    text = repr(host)
    head, at, tail = text.rpartition("@")
    return f"'…@{tail}" if at and "://" in head else text


def describe(error: BaseException) -> str:
    """Return an error as a phrase."""
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}" if text.startswith(("[(", "(")) else text.splitlines()[0].rstrip(".")
