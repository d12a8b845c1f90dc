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
    """

    name: str
    middleware: str = "none"
    groups: bool = True
    pings: bool = False
