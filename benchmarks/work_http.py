"""HTTP: small answers with and without middleware, large answers, uploads, threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.apps.files import STATIC
from benchmarks.apps.sizes import LARGE, WAIT
from benchmarks.http_load import H2Load, HttpLoad
from benchmarks.meter import Meter
from benchmarks.peers import DJANGO_PEERS, PRODUCT, UNALTERED
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.work import Goal, Metric, Reading, Turn, Work

#: Connections that are kept alive, each with one request under way.
CONNECTIONS = 32
#: Seconds of single requests that are not counted: modules are imported, caches fill.
WARM_UP = 0.3

_RATE = Metric("rate", "requests/s")
_PLAIN, _DEFAULT = Site("http"), Site("http-default", middleware="default")
_THREADS = Site("threads")
_FILES, _TLS = Site("files", consumers=False, files=True), Site("h2", consumers=False, files=True, tls=True)
#: Requests in flight on each connection of HTTP/2.
SHARED = 4
#: Each server with and without our Django shortcuts (see :mod:`benchmarks.columns`). Not for bodies of 1 MiB: copying
#: them takes so long that the shortcuts do not matter.
_PEERS = (PRODUCT, *(peer.name for peer in DJANGO_PEERS), "bare-web")
_VARIANTS = (PRODUCT, UNALTERED, *(name for peer in DJANGO_PEERS for name in (peer.name, f"{peer.name}-shortcuts")))
_FEW, _MANY = "channelserver-2", "channelserver-16"


class Requests(Work):
    """Requests to one path, back to back.

    :param shared: over TLS and HTTP/2, so many requests are in flight on each connection; 0: HTTP/1.1.
    """

    load = "wrk"

    def __init__(
        self, name: str, title: str, path: str, answer: bytes, site: Site = _PLAIN, peers: Sequence[str] = _PEERS,
        goals: Sequence[Goal] = (), upload: bool = False, shared: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(name, title, site, (_RATE,), peers, goals)
        self.turns = (2 if UNALTERED in peers else 3) if goals else 1
        self.closely = bool(goals)
        self._path = path
        self._answer = answer
        self._upload = upload
        self._shared = shared
        if shared:
            self.load = "h2load"

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Check the view's answer; a turn counts requests."""
        body = b"x" * LARGE if self._upload else None
        server.expect(self._path, self._answer, body)
        server.warm_up(self._path, body, WARM_UP)

        def turn(seconds: int) -> Reading:
            with Meter(server) as meter:
                if self._shared:
                    rate = H2Load(server, self._path, CONNECTIONS // self._shared, self._shared, seconds).finish()
                else:
                    rate = HttpLoad(server, self._path, CONNECTIONS, seconds, self._upload).finish()
            return Reading({"rate": rate}, meter)

        yield turn


class Waiting(Work):
    """Requests to a view that waits: how many wait at the same time."""

    load = "wrk"
    number = 16

    def __init__(self) -> None:
        super().__init__(
            "threads-wait",
            f"{self.number} requests to a view that waits {WAIT * 1000:g} ms, 16 threads",
            _THREADS,
            (
                Metric("most", "views", "waiting at the same time, maximum"),
                Metric("mean", "views", "waiting at the same time, mean"),
            ),
            (_MANY,),
            (Goal("most", at_least=self.number),),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn has as many connections as there are threads, each with one request under way."""
        server.expect("/wait/", b"waited")

        def turn(seconds: int) -> Reading:
            rate = HttpLoad(server, "/wait/", self.number, seconds).finish()
            return Reading({"most": float(server.get("/most/")), "mean": rate * WAIT})

        yield turn


def _against(daphne: float, uvicorn: float, gunicorn: float, granian: float) -> tuple[Goal, ...]:
    limits = {"daphne": daphne, "uvicorn": uvicorn, "gunicorn": gunicorn, "granian": granian}
    return tuple(Goal("rate", at_least=limit, against=peer) for peer, limit in limits.items())


_ALIKE = (Goal("rate", at_least=0.9, at_most=1.1, against=_FEW),)

WORKS: tuple[Work, ...] = (
    Requests(
        "http-plain", "Django view without middleware", "/", b"Hello, world!", _PLAIN, (*_VARIANTS, "bare-web"),
        _against(9, 7, 2, 0.75),
    ),
    Requests("http-answer", "answer of 1 MiB", "/answer/", b"x" * LARGE),
    Requests("http-upload", "upload of 1 MiB", "/upload/", str(LARGE).encode(), upload=True),
    Requests(
        "http-default", "Django view, Django's default middleware, session", "/session/", b"Hello, world!", _DEFAULT,
        _VARIANTS, _against(11, 9, 1.5, 0.75),
    ),
    Requests(
        "static-small", "static file of 13 KB", "/static/small.css", STATIC["small.css"], _FILES,
        (PRODUCT, "nginx", "granian-files"), (Goal("rate", at_least=0.8, against="nginx"),),
    ),
    Requests(
        "static-large", "static file of 1 MiB", "/static/large.bin", STATIC["large.bin"], _FILES,
        (PRODUCT, "nginx", "granian-files"), (Goal("rate", at_least=0.95, against="nginx"),),
    ),
    Requests(
        "h2-plain", "Django view without middleware, HTTP/2 over TLS", "/", b"Hello, world!", _TLS,
        ("channelserver-tls-cert", "granian-tls", "granian-tls-shortcuts"), shared=SHARED,
    ),
    Requests(
        "h2-static", "static file of 13 KB, HTTP/2 over TLS", "/static/small.css", STATIC["small.css"], _TLS,
        ("channelserver-tls-cert", "nginx", "granian-tls"), (Goal("rate", at_least=0.15, against="nginx"),),
        shared=SHARED,
    ),
    Requests(
        "threads-plain", "view without middleware, 2 and 16 threads", "/", b"Hello, world!", _THREADS,
        (_MANY, _FEW), _ALIKE,
    ),
    Waiting(),
    Requests(
        "threads-default", "view, default middleware, 2 and 16 threads", "/session/", b"Hello, world!",
        Site("threads-default", middleware="default"), (_MANY, _FEW), _ALIKE,
    ),
)  # fmt: skip
