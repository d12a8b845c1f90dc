"""Start listening, and graceful shutdown.

Runs in the reactor thread; owns the listening ports.

Stopping: no new connections; idle ones are closed; running requests finish; WebSockets are closed with 1012, some at a
time, so that their clients do not come back all at once; consumers finish what waits. After ``drain_timeout`` whatever
is left is cut off, and named in the log.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from channelserver.processes import descriptors
from channelserver.processes.gatherer import Gatherer
from channelserver.processes.link import IReactor
from channelserver.processes.local import LocalFactory
from channelserver.processes.shares import Shares
from channelserver.processes.siblings import Siblings
from channelserver.server.common.activation import systemd_endpoint
from channelserver.server.common.endpoint import Endpoint
from channelserver.server.common.listening import BACKLOG, SharedListening, limit_accepting, watch_accepting
from channelserver.server.common.machine import give_memory_back
from channelserver.server.common.options import Settings
from channelserver.server.common.unix import Listening, OccupiedError, clear_stale_socket
from channelserver.server.edge.redirect import BesideFactory, RedirectFactory
from channelserver.server.http.connection import HTTPFactory
from channelserver.server.site import Site
from channelserver.server.websocket.frames import CloseCode

if TYPE_CHECKING:
    from channelserver.server.acme.service import Certificates
    from channelserver.server.edge.certificates import ServerTLS

_log = Logger("channelserver.server")

#: WebSockets closed in one go, and the seconds between two goes.
DRAIN_BATCH, DRAIN_PAUSE = 100, 0.05
#: Seconds which a sibling gets beside its own time-out, to end.
GRACE = 3.0


_CURE = "choose another address with --port, --bind, --unix-socket or --endpoint"
_PRIVILEGED = (
    "ports below 1024 need AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or a socket unit; or choose a "
    "higher one"
)


class ListenError(Exception):
    """A listener cannot be opened; the text says which and why."""


class Workers(Protocol):
    """The worker threads as the server sees them."""

    def start(self) -> None:
        """Begin to serve."""

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call back, from any thread, when there is nothing to do."""

    def drain(self) -> None:
        """The server stops: begin nothing that no client waits for."""

    def stop(self) -> None:
        """Take no more work."""

    def join(self, timeout: float) -> list[str]:
        """Wait for the end of the threads; name those that do not end."""


class ServerService(service.Service):
    """The server as a Twisted service.

    :param started: called when everything listens, with one line for each listener.
    :param tls: the certificate of the default listener; None: it speaks plain HTTP.
    """

    name = "channelserver"

    def __init__(
        self,
        site: Site,
        workers: Workers,
        reactor: IReactor,
        started: Callable[[list[str]], object],
        tls: ServerTLS | None = None,
    ) -> None:
        self._site = site
        self._workers = workers
        self._reactor = reactor
        self._started = started
        self._ports: list[Any] = []  # IListeningPort lacks the factory and the descriptor
        #: Called when a listener cannot be opened; does not return.
        self.on_listen_error: Callable[[ListenError], object] = self._raise
        #: Called before the process serves, in its main thread; when it has begun to stop, in a thread; and when
        #: everything serves, with the lines for `started`.
        self.before_start: Callable[[], object] = lambda: None
        self.before_stop: Callable[[], object] | None = None
        self.after_start: Callable[[list[str]], object] = lambda lines: None
        #: Called when the listeners have their addresses, with the lines for `started`.
        self.on_bound: Callable[[list[str]], object] = lambda lines: None
        self._local: tuple[str, LocalFactory] | None = None
        #: The certificate, if there is one.
        self.tls = tls
        self._http_port, self._https_port = 80, 443
        #: Whether the plain port of ``--https`` redirects; False: the site does it.
        self.redirects_to_https = True
        #: Gets the certificates, if they are not files; only in the first process.
        self.certificates: Certificates | None = None
        #: The further processes, if there are any; and those which use the layer, if that is in memory.
        self.siblings: Siblings | None = None
        self.hub: Gatherer | None = None
        self._listener = Listening(reactor)
        self._lines: list[str] = []
        #: Has the workers leave the application's own channels to other processes, see :meth:`retire`.
        self.when_retired: Callable[[], object] = lambda: None

    @property
    def options(self) -> Settings:
        """The values of all options."""
        return self._site.options

    @property
    def draining(self) -> bool:
        return self._site.draining

    def share(self, shares: Shares, descriptors: Iterable[int] | None = None) -> None:
        """Share the listeners with other processes. None accepts a connection before :meth:`listen` is called.

        :param descriptors: of the listeners, if this process inherits them.
        """
        self._site.shares = shares
        drops = self._site.layer.drops
        drops.keep_in(shares.losses, {})
        drops.all_totals = shares.lost
        drops.note_unsent = shares.note_unsent
        self._listener = SharedListening(self._reactor, shares, descriptors)

    def descriptors(self) -> list[int]:
        """Return the descriptors of the listening sockets, in the order in which they were opened; without the local
        socket's.
        """
        return [port.fileno() for port in self._shared_ports()]

    @property
    def port(self) -> int:
        """The number of the first TCP port it listens on; 0 if there is none."""
        return next((number for port in self._ports for number in [getattr(port.getHost(), "port", 0)] if number), 0)

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, from any thread, when the worker threads have nothing to do."""
        self._workers.when_idle(callback)

    def from_signal_handler(self, function: Callable[[], object]) -> None:
        """Call `function` in the reactor thread; for signal handlers."""
        self._site.bridge.from_signal_handler(function)

    def serve_locally(self, path: str, factory: LocalFactory) -> None:
        """Also listen on a Unix socket that only this user can open.

        :raises ListenError: there can be no such socket.
        """
        _check_local_socket(path)
        self._local = path, factory

    # -- start ---------------------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the listeners, while the process may still have the rights for it."""
        super().privilegedStartService()
        factory: Factory = HTTPFactory(self._site)
        options = self._site.options
        try:
            wanted = endpoints(options, self._listener, self._secured)
        except ListenError as problem:
            self.on_listen_error(problem)
            return
        opened = [self._listen(description, endpoint, factory) for description, endpoint in wanted]
        if options.redirect_http or options.https:
            flag, number = ("http", options.http_port) if options.https else ("redirect", options.redirect_port)
            description = f"port {number} of {options.bind} (--{flag}-port)"
            endpoint = _tcp_endpoint(self._listener, options.bind, number)
            redirects = RedirectFactory(self._site, lambda: self._https_port)
            if options.https and self.tls is not None:
                redirects = BesideFactory(
                    self._site, lambda: self._https_port, self.tls.contexts, self.redirects_to_https
                )
            opened.append(self._listen(description, endpoint, redirects))
        if self._local is not None:
            path, local_factory = self._local
            opened.append(
                self._listen(
                    f"local socket {path!r}",
                    Endpoint(Listening(self._reactor).listenUNIX, path, mode=0o600),
                    local_factory,
                )
            )
        results: list[Any] = []
        defer.gatherResults(opened, consumeErrors=True).addBoth(results.append)
        if not results:
            self.on_listen_error(
                ListenError("one of the endpoints does not listen at once, as the start of a server needs it")
            )
            return
        if isinstance(results[0], Failure):
            # Outside of the Deferred, which would swallow what the caller wants to raise.
            first: Any = results[0].value
            self.on_listen_error(first.subFailure.value)
        else:
            self._lines = [line for line in results[0] if line is not None]
            self.on_bound(self._lines)
            if self._site.shares is None:
                self._started(self._lines)

    def _all_serve(self) -> None:
        self._started(self._lines)
        self._begun()

    def _begun(self) -> None:
        """All processes serve."""
        if self.certificates is not None:
            self.certificates.ports.http, self.certificates.ports.https = self._http_port, self._https_port
            self.certificates.startService()
        self.after_start(self._lines)

    def listen(self) -> None:
        """Accept connections from now on: all processes that share the listeners serve."""
        if self.draining:
            return
        for port in self._shared_ports():
            port.startReading()
        self._all_serve()

    @defer.inlineCallbacks
    def retire(self) -> Any:
        """Serve nothing any more, and keep layer and listeners for the other processes, which have new code.

        :returns: a Deferred that fires when all connections have closed.
        """
        for port in self._shared_ports():
            port.retired = True
            port.stopReading()
        self._site.draining = True
        self.be_patient()
        self.when_retired()
        yield self._close_connections(self._reactor.seconds() + self._site.options.drain_timeout)

    def be_patient(self) -> None:
        """Let idle connections ask once more before they are closed: other processes take this one's place."""
        self._site.patient = True

    def _shared_ports(self) -> list[Any]:
        return [port for port in self._ports if not isinstance(port.factory, LocalFactory)]

    def sockets(self) -> list[socket.socket]:
        """Return the listening sockets, which forked children must not keep."""
        return [port.socket for port in self._ports if port.connected]

    def _secured(self, endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        if self.tls is None:
            return endpoint
        from channelserver.server.edge.tls import TLSEndpoint  # it imports OpenSSL

        return TLSEndpoint(endpoint, self.tls.contexts, self._site, self._reactor)

    @defer.inlineCallbacks
    def _listen(self, description: str, endpoint: IStreamServerEndpoint, factory: Factory) -> Any:
        try:
            port = yield endpoint.listen(factory)
        except Exception as problem:  # CannotListenError has the reason inside
            reason = getattr(problem, "socketError", problem)
            cure = _PRIVILEGED if isinstance(reason, PermissionError) and description.startswith("port ") else _CURE
            raise ListenError(f"cannot listen on {description}: {_reason(reason)}; {cure}") from problem
        self._ports.append(port)
        if self._site.shares is not None and not isinstance(factory, LocalFactory):
            port.stopReading()
        limit_accepting(port)
        watch_accepting(port, self._site.throttled_log, self._reactor)
        if getattr(endpoint, "encrypts", False):
            self._https_port = port.getHost().port
        elif isinstance(factory, RedirectFactory):
            self._http_port = port.getHost().port
        return None if isinstance(factory, LocalFactory) else _describe(port)

    @staticmethod
    def _raise(problem: ListenError) -> None:
        raise problem

    def startService(self) -> None:
        """Start the worker threads: after the process has become a daemon, for threads do not survive that."""
        super().startService()
        give_memory_back()
        self.before_start()
        self._site.start()
        descriptors.sockets.watch(self._reactor, self)
        self._site.layer.open(self._reactor, self._site.bridge)
        self._workers.start()
        if self.siblings is not None:
            self.siblings.start()
        elif self._site.shares is None:
            self._site.bridge.post(self._begun)

    # -- stop ----------------------------------------------------------------------------------------------------------

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Drain and stop; see the module's text."""
        yield super().stopService()
        site, seconds = self._site, self._reactor.seconds
        ends = seconds() + site.options.drain_timeout
        site.draining = True
        if self.certificates is not None:
            self.certificates.stopService()
        if self.before_stop is not None:
            yield self._within(self._in_thread(self.before_stop), max(0.0, ends - seconds()))
        site.layer.retire()
        self._workers.drain()
        others = self.siblings.stop() if self.siblings is not None else defer.succeed(None)
        yield defer.gatherResults([defer.maybeDeferred(port.stopListening) for port in self._ports], consumeErrors=True)
        if site.connections:
            _log.info("stopping: {count} connections are open", count=len(site.connections))
        yield self._close_connections(ends)
        if self.siblings is not None:
            # They keep to the same time-out, and may need the layer until then.
            yield self._within(others, max(0.0, ends - seconds()) + GRACE)
            self.siblings.signal(signal.SIGKILL)
        yield self._idle(max(0.0, ends - seconds()))
        self._workers.stop()
        for line in self._workers.join(max(0.1, ends - seconds())):
            _log.warn("cut off at the end: {line}", line=line)
        site.stop()
        yield defer.maybeDeferred(site.layer.close)

    @defer.inlineCallbacks
    def _close_connections(self, ends: float) -> Any:
        site = self._site
        site.replies.fan_outs.finish()
        emptied = self._when_empty()
        sockets = []
        for connection in list(site.connections):
            if connection.websocket is not None:
                sockets.append(connection)
            else:
                connection.drain()
        for start in range(0, len(sockets), DRAIN_BATCH):
            for connection in sockets[start : start + DRAIN_BATCH]:
                if connection.websocket is not None:
                    connection.websocket.close(CloseCode.SERVICE_RESTART, "server is stopping")
            if start + DRAIN_BATCH < len(sockets):
                yield task.deferLater(self._reactor, DRAIN_PAUSE)
        yield self._within(emptied, max(0.0, ends - self._reactor.seconds()))
        if site.connections:
            _log.warn(
                "{count} connections cut off after {timeout:g} s",
                count=len(site.connections),
                timeout=site.options.drain_timeout,
            )
            emptied = self._when_empty()
            for connection in list(site.connections):
                connection.abort()
            yield self._within(emptied, 1.0)

    def _in_thread(self, function: Callable[[], object]) -> Any:
        done: Any = defer.Deferred()

        def run() -> None:
            try:
                function()
            finally:
                self._site.bridge.post(lambda: None if done.called else done.callback(None))

        try:
            threading.Thread(target=run, name="stopping", daemon=True).start()
        except RuntimeError:  # there can be no more threads: the interpreter ends, or the system is full
            run()
        return done

    def _when_empty(self) -> Any:
        emptied: Any = defer.Deferred()
        if self._site.connections:
            self._site.when_empty = lambda: emptied.callback(None)
        else:
            emptied.callback(None)
        return emptied

    @defer.inlineCallbacks
    def _idle(self, timeout: float) -> Any:
        idle: Any = defer.Deferred()
        post = self._site.bridge.post
        self._workers.when_idle(lambda: post(lambda: None if idle.called else idle.callback(None)))
        yield self._within(idle, timeout)

    def _within(self, deferred: Any, timeout: float) -> Any:
        """Wait for `deferred`, successful or not, no longer than `timeout` seconds."""
        return deferred.addTimeout(timeout, self._reactor).addErrback(lambda _: None)


def endpoints(
    options: Settings,
    reactor: IReactor | Listening,
    secured: Callable[[IStreamServerEndpoint], IStreamServerEndpoint] = lambda endpoint: endpoint,
) -> Sequence[tuple[str, IStreamServerEndpoint]]:
    """Return the listeners that the options ask for, as (description, endpoint).

    The default listener is one of them if an option asks for it, or for no other.

    :param secured: adds TLS to the default listener.
    :raises ListenError: an endpoint's description cannot be understood.
    """
    found: list[tuple[str, IStreamServerEndpoint]] = []
    for description in options.endpoint:
        try:
            if description.startswith("systemd:"):
                endpoint: Any = systemd_endpoint(reactor, description)
            else:
                from twisted.internet.endpoints import serverFromString  # it imports OpenSSL

                endpoint = serverFromString(reactor, _with_backlog(description))
            found.append((f"endpoint {description!r}", endpoint))
        except TypeError as problem:
            raise ListenError(
                f"--endpoint {description!r} lacks something, perhaps its port; write for example tcp:8000"
            ) from problem
        except Exception as problem:
            if description.startswith("systemd:"):
                raise ListenError(f"--endpoint {description!r}: {problem}") from problem
            raise ListenError(
                f"--endpoint {description!r} cannot be understood: {problem}; write for example tcp:8000"
            ) from problem
    if options.unix_socket is not None:
        path = options.unix_socket
        found.append((f"Unix socket {path!r}", Endpoint(reactor.listenUNIX, path, backlog=BACKLOG)))
    if options.fd is not None:
        try:
            with socket.socket(fileno=os.dup(options.fd)) as probe:
                family = probe.family
        except OSError as problem:
            raise ListenError(f"--fd {options.fd} is no open socket: {_reason(problem)}") from problem
        from twisted.internet.endpoints import AdoptedStreamServerEndpoint

        found.append((f"file descriptor {options.fd}", AdoptedStreamServerEndpoint(reactor, options.fd, family)))
    if options.https:
        description = f"port {options.https_port} of {options.bind} (--https-port)"
        found.append((description, secured(_tcp_endpoint(reactor, options.bind, options.https_port))))
    if options.simple_listener or not found:
        simple = _tcp_endpoint(reactor, options.bind, options.port)
        found.append((f"port {options.port} of {options.bind}", secured(simple)))
    return found


def _with_backlog(description: str) -> str:
    """Return an endpoint's description with our backlog, unless it has one or is of a kind that cannot have any."""
    kind = description.removeprefix("haproxy:").partition(":")[0]
    if kind not in ("tcp", "tcp6", "ssl", "unix") or ":backlog=" in description:
        return description
    return f"{description}:backlog={BACKLOG}"


def _tcp_endpoint(reactor: IReactor | Listening, address: str, port: int) -> IStreamServerEndpoint:
    return Endpoint(reactor.listenTCP, port, backlog=BACKLOG, interface=address)


def _check_local_socket(path: str) -> None:
    """Remove the local socket of a server that crashed.

    :raises ListenError: a server listens on it, or there can be no socket.
    """
    if len(os.fsencode(path)) > 107:
        raise ListenError(
            f"the path of the local socket is longer than 107 bytes: {path!r}; name another with --local-socket"
        )
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK):
        problem = "cannot be written" if os.path.isdir(folder) else "does not exist"
        raise ListenError(f"the folder of the local socket {path!r} {problem}; name another with --local-socket")
    try:
        clear_stale_socket(path)
    except OccupiedError as error:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(
                f"another server of this project is running, it has {path!r}; stop it, or give this one its own "
                "--local-socket"
            ) from error
        raise ListenError(
            f"the local socket cannot be {path!r}: {error}; remove it, or name another path with --local-socket"
        ) from error


def _describe(port: Any) -> str:
    host = port.getHost()
    if hasattr(host, "port"):
        name = f"[{host.host}]" if ":" in host.host else host.host
        tls = sys.modules.get("twisted.protocols.tls")  # what is not imported made no factory
        scheme = "https" if tls is not None and isinstance(port.factory, tls.TLSMemoryBIOFactory) else "http"
        suffix = " (redirects to https)" if isinstance(port.factory, RedirectFactory) else ""
        return f"{scheme}://{name}:{host.port}/{suffix}"
    return f"unix:{os.fsdecode(host.name)}" if host.name else str(host)


def _reason(problem: Any) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    return str(problem)
