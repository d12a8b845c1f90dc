"""Who is measured: this server and its peers, with the command that starts each.

All serve the same Django project, from one process unless their names say otherwise. Those that have threads have as
many as we have.
Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Worker threads of each server that has some.
THREADS = 8
#: Seconds between pings where none are wanted, because a peer cannot turn them off.
NEVER = 86400
#: The product's limit of connections, above its default for the sake of the largest crowd.
MAX_CONNECTIONS = 20_000

#: Makes a command line from the folder of the virtual environment's programs, the port, and whether to ping.
CommandLine = Callable[[Path, int, bool], list[str]]


@dataclass(frozen=True)
class Peer:
    """One server, with the options it is measured with."""

    name: str
    title: str
    command: CommandLine
    #: Whose consumers the Django project has, and of which kind; see :mod:`benchmarks.apps`.
    framework: str = "channelserver"
    consumers: str = "sync"
    #: Which layer Channels 4 has: ``memory``, or one of the two of channels_redis.
    layer: str = "memory"
    #: Processes that serve.
    processes: int = 1


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


def _granian(programs: Path, port: int, pings: bool) -> list[str]:
    own = ["--interface", "wsgi", "--port", str(port), "--workers", "1", "--blocking-threads", str(THREADS)]
    own += ["--log-level", "warning"]
    return [str(programs / "granian"), *own, "benchmarks.apps.wsgi:application"]


def _bare(module: str) -> CommandLine:
    def command(programs: Path, port: int, pings: bool) -> list[str]:
        return [str(programs / "python"), "-m", f"benchmarks.apps.{module}", str(port)]

    return command


_SYNC, _ASYNC = ("channels", "sync"), ("channels", "async")

#: The server that all this is about.
PRODUCT = "channelserver"

PEERS = {
    peer.name: peer
    for peer in (
        Peer(PRODUCT, "channelserver", _channelserver(THREADS)),
        Peer("channelserver-1000-sockets", "channelserver, 1000 sockets", _channelserver(THREADS)),
        Peer("channelserver-100-sockets", "channelserver, 100 sockets", _channelserver(THREADS)),
        Peer("channelserver-2", "channelserver, 2 threads", _channelserver(2)),
        Peer("channelserver-16", "channelserver, 16 threads", _channelserver(16)),
        Peer("channelserver-deflate", "channelserver --compression", _channelserver(THREADS, "--compression")),
        Peer(
            "channelserver-processes",
            "channelserver --processes 2",
            _channelserver(THREADS, "--processes=2"),
            processes=2,
        ),
        Peer("daphne", "Daphne", _daphne, *_SYNC),
        Peer("uvicorn", "uvicorn", _uvicorn, *_SYNC),
        Peer("gunicorn", "gunicorn gthread", _gunicorn),
        Peer("granian", "granian WSGI", _granian),
        Peer("bare-web", "bare twisted.web resource", _bare("bare_web")),
        Peer("daphne-sync", "Daphne, Channels 4 WebsocketConsumer", _daphne, *_SYNC),
        Peer("daphne-async", "Daphne, Channels 4 AsyncWebsocketConsumer", _daphne, *_ASYNC),
        Peer("uvicorn-sync", "uvicorn, Channels 4 WebsocketConsumer", _uvicorn, *_SYNC),
        Peer("uvicorn-async", "uvicorn, Channels 4 AsyncWebsocketConsumer", _uvicorn, *_ASYNC),
        # With each layer the kind of consumer that is faster with it.
        Peer("uvicorn-core", "uvicorn, Channels 4 WebsocketConsumer, core", _uvicorn, *_SYNC, "core"),
        Peer("uvicorn-pubsub", "uvicorn, Channels 4 AsyncWebsocketConsumer, pubsub", _uvicorn, *_ASYNC, "pubsub"),
        Peer("bare-autobahn", "bare Autobahn", _bare("bare_autobahn")),
        Peer("bare-loop", "bare loop of send()", _bare("bare_loop")),
    )
}
