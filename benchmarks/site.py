"""How a server is started for a work.

Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """How a server is started for a work; works with the same site share its process.

    ``urls`` is the module of :mod:`benchmarks.apps` with the URLconf: ``urls``, or ``async_urls`` with coroutines.

    ``middleware`` is ``none``, or ``default``: what Django's ``startproject`` writes. With ``consumers`` off, the site
    is plain Django. With ``groups`` off, Channels 4 has no channel layer. With ``pings``, the server pings its sockets
    at its default interval; otherwise never.

    With ``files``, the folder has static files, a certificate, and a configuration of nginx that serves the files; with
    ``tls``, the server speaks TLS.

    ``servers`` is the number of server processes. With ``redis``, their channel layers are in one Redis, started for
    them. With ``spread``, a server has two cores instead of one.

    The servers of all peers run at once, for all rounds. With ``fresh``, each round starts a new server of each peer,
    with no other beside it: for works that depend on what a server has done before.
    """

    name: str
    urls: str = "urls"
    middleware: str = "none"
    consumers: bool = True
    groups: bool = True
    pings: bool = False
    files: bool = False
    tls: bool = False
    servers: int = 1
    redis: bool = False
    spread: bool = False
    fresh: bool = False
