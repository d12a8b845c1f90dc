"""The servers under test: this one and its peers, with the command that starts each.

All serve the same Django project from one process, unless their names say otherwise. Servers with a thread pool have
the same number of threads.
Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import certificates
from benchmarks.apps.files import NGINX, STATIC_FOLDER

#: Worker threads of each server with a thread pool.
THREADS = 8
#: Ping interval in seconds that stands for "off", for peers that cannot turn pings off.
NEVER = 86400
#: This server's connection limit: the work with most sockets needs more than the default.
MAX_CONNECTIONS = 20_000
#: Clients of the works with slow readers. This server's limit of responses streamed by threads is lower by default.
SLOW_READERS = 200

#: Returns a command line, given the folder of the virtual environment's programs, the port, and whether to ping.
CommandLine = Callable[[Path, int, bool], list[str]]


@dataclass(frozen=True)
class Peer:
    """One server, with the options it is measured with."""

    name: str
    title: str
    command: CommandLine
    #: The framework and the kind of the project's consumers; see :mod:`benchmarks.apps`.
    framework: str = "channelserver"
    consumers: str = "sync"
    #: The channel layer of Channels 4: ``memory``, or ``core`` or ``pubsub`` of channels_redis.
    layer: str = "memory"
    #: Processes that serve.
    processes: int = 1
    #: Whether Django runs with our Django shortcuts: ours has them by default, peers have them installed by
    #: :mod:`benchmarks.apps.wsgi` and :mod:`benchmarks.apps.asgi`.
    shortcuts: bool = False
    #: The checkout whose ``channelserver`` runs; None: this one.
    checkout: Path | None = None

    @property
    def family(self) -> str:
        """The server it is a variant of."""
        return self.name.partition("-")[0]


def _channelserver(threads: int, *options: str) -> CommandLine:
    def command(programs: Path, port: int, pings: bool) -> list[str]:
        own = ["--settings=benchmarks.apps.settings", f"--port={port}", f"--threads={threads}", "--access-log="]
        own += ["--local-socket=", f"--max-connections={MAX_CONNECTIONS}"]
        own += [] if pings else ["--ping-interval=0"]
        return [str(programs / "twistd"), "--nodaemon", "--pidfile=", "channelserver", *own, *options]

    return command


def _daphne(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--port", str(port), "--verbosity", "0", "--websocket_connect_timeout", "60"]
    own += [] if pings else ["--ping-interval", str(NEVER)]
    return [str(programs / "daphne"), *own, "benchmarks.apps.asgi:application"]


def _uvicorn(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    own += [] if pings else ["--ws-ping-interval", str(NEVER)]
    return [str(programs / "uvicorn"), *own, "benchmarks.apps.asgi:application"]


def _gunicorn(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "1", "--threads", str(THREADS)]
    own += ["--log-level", "warning"]
    return [str(programs / "gunicorn"), *own, "benchmarks.apps.wsgi:application"]


def _gunicorn_asgi(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--bind", f"127.0.0.1:{port}", "--worker-class", "asgi", "--workers", "1", "--log-level", "warning"]
    return [str(programs / "gunicorn"), *own, "benchmarks.apps.asgi:application"]


def _granian(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--interface", "wsgi", "--port", str(port), "--workers", "1", "--blocking-threads", str(THREADS)]
    own += ["--log-level", "warning"]
    return [str(programs / "granian"), *own, "benchmarks.apps.wsgi:application"]


def _granian_files(programs: Path, port: int, pings: bool) -> list[str]:
    return [*_granian(programs, port, pings), "--static-path-mount", STATIC_FOLDER]


def _granian_tls(programs: Path, port: int, pings: bool) -> list[str]:
    certificate, key = certificates.files(0)
    return [*_granian_files(programs, port, pings), "--ssl-certificate", certificate, "--ssl-keyfile", key]


def _nginx(programs: Path, port: int, pings: bool) -> list[str]:
    return ["nginx", "-p", ".", "-e", "stderr", "-c", NGINX]


def _bare(module: str) -> CommandLine:
    def command(programs: Path, port: int, pings: bool) -> list[str]:
        return [str(programs / "python"), "-m", f"benchmarks.apps.{module}", str(port)]

    return command


#: The number of certificates of the servers that speak TLS.
CERTIFICATES = {"channelserver-https-1": 1, "channelserver-https-100": 100, "channelserver-tls-cert": 1}


def _tls(name: str) -> Peer:
    """Return a server that speaks TLS, with certificates that it got by itself or with files."""

    def command(programs: Path, port: int, pings: bool) -> list[str]:
        own = [
            "serve",
            "--settings=benchmarks.apps.settings",
            f"--threads={THREADS}",
            "--access-log=",
            "--local-socket=",
        ]
        own += [f"--max-connections={MAX_CONNECTIONS}", "--bind=127.0.0.1"]
        if name == "channelserver-tls-cert":
            certificate, key = certificates.files(0)
            own += [f"--port={port}", f"--tls-cert={certificate}", f"--tls-key={key}"]
        else:
            names = ",".join(certificates.name_of(number) for number in range(CERTIFICATES[name]))
            own += [f"--https={names}", f"--https-port={port}", "--http-port=0"]
            own += [f"--acme-store={certificates.store(CERTIFICATES[name])}", f"--acme-directory={certificates.NOBODY}"]
        return [str(programs / "python"), "-m", "channelserver", *own]

    return Peer(name, name.replace("channelserver-", "channelserver, ").replace("-", " "), command, shortcuts=True)


_SYNC, _ASYNC = ("channels", "sync"), ("channels", "async")

#: The server that the others are compared with.
PRODUCT = "channelserver"
#: The same without our Django shortcuts.
UNALTERED = "channelserver-no-shortcuts"
#: The same from another checkout; see :func:`benchmarks.plan.compare_checkout`.
OTHER_CHECKOUT = "channelserver-other-checkout"

#: The peers that serve Django over HTTP.
DJANGO_PEERS = (
    Peer("daphne", "Daphne", _daphne, *_SYNC),
    Peer("uvicorn", "uvicorn", _uvicorn, *_SYNC),
    Peer("gunicorn", "gunicorn gthread", _gunicorn),
    Peer("granian", "granian WSGI", _granian),
)


def _own(name: str, title: str, threads: int = THREADS, *options: str, processes: int = 1) -> Peer:
    return Peer(name, title, _channelserver(threads, *options), processes=processes, shortcuts=True)


def _with_shortcuts(peer: Peer) -> Peer:
    return replace(peer, name=f"{peer.name}-shortcuts", title=f"{peer.title} + shortcuts", shortcuts=True)


PEERS = {
    peer.name: peer
    for peer in (
        _own(PRODUCT, "channelserver"),
        Peer(UNALTERED, "channelserver --no-shortcuts", _channelserver(THREADS, "--no-shortcuts")),
        _own("channelserver-1000-sockets", "channelserver, 1000 sockets"),
        _own("channelserver-100-sockets", "channelserver, 100 sockets"),
        _own("channelserver-2", "channelserver, 2 threads", 2),
        _own("channelserver-16", "channelserver, 16 threads", 16),
        _own("channelserver-deflate", "channelserver --compression", THREADS, "--compression"),
        _own("channelserver-processes", "channelserver --processes 2", THREADS, "--processes=2", processes=2),
        _own("channelserver-streams", "channelserver --max-streams", THREADS, f"--max-streams={SLOW_READERS}"),
        replace(_own("channelserver-async", "channelserver, async def consumer"), consumers="async"),
        *map(_tls, CERTIFICATES),
        *DJANGO_PEERS,
        *(_with_shortcuts(peer) for peer in DJANGO_PEERS),
        Peer("granian-files", "granian WSGI, static files", _granian_files),
        Peer("granian-tls", "granian WSGI, TLS", _granian_tls),
        _with_shortcuts(Peer("granian-tls", "granian WSGI, TLS", _granian_tls)),
        Peer("nginx", "nginx", _nginx),
        Peer("gunicorn-asgi", "gunicorn asgi", _gunicorn_asgi, *_SYNC),
        Peer("bare-web", "bare twisted.web resource", _bare("bare_web")),
        Peer("daphne-sync", "Daphne, Channels 4 WebsocketConsumer", _daphne, *_SYNC),
        Peer("daphne-async", "Daphne, Channels 4 AsyncWebsocketConsumer", _daphne, *_ASYNC),
        Peer("uvicorn-sync", "uvicorn, Channels 4 WebsocketConsumer", _uvicorn, *_SYNC),
        Peer("uvicorn-async", "uvicorn, Channels 4 AsyncWebsocketConsumer", _uvicorn, *_ASYNC),
        # Each layer with the kind of consumer that is faster with it.
        Peer("uvicorn-core", "uvicorn, Channels 4 WebsocketConsumer, core", _uvicorn, *_SYNC, "core"),
        Peer("uvicorn-pubsub", "uvicorn, Channels 4 AsyncWebsocketConsumer, pubsub", _uvicorn, *_ASYNC, "pubsub"),
        Peer("bare-autobahn", "bare Autobahn", _bare("bare_autobahn")),
        Peer("bare-loop", "bare loop of send()", _bare("bare_loop")),
    )
}
