"""How a server is started for a work.

Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """How the server is started for a work; works with the same site share a process.

    ``middleware`` is ``none``, or ``default``: what Django's ``startproject`` writes. Without ``groups``, Channels 4 is
    given no channel layer. With ``pings``, sockets are pinged as often as the server does by itself, else never.

    ``servers`` is how many are started, each a process of its own. With ``redis`` they have their channel layers in one
    Redis, which is started for them. With ``spread`` a server has two cores instead of one.

    The servers of all peers are up at once, for all rounds. With ``fresh``, each round has a new server of each peer,
    with no other beside it: where it matters what a server has done before.
    """

    name: str
    middleware: str = "none"
    groups: bool = True
    pings: bool = False
    servers: int = 1
    redis: bool = False
    spread: bool = False
    fresh: bool = False
