"""Whether the server is ready, for load balancers and monitoring: answered without a worker thread.

Runs in the reactor thread; owns nothing that changes.

``ready`` (200); ``draining`` (503): the server stops and takes no new work; ``overloaded`` (503): the channel
``http.request`` is full, or its oldest message has waited for a worker longer than :data:`OVERLOADED_SECONDS`, or than
:data:`STALLED_SECONDS` while no worker thread moves; or none has moved for ``--hang-timeout``, whether or not requests
wait.

Requests with any ``Host`` field are answered, because health checks connect by address. Only clients in the networks of
``--health-figures`` also get the figures: nothing tells a client on this machine from a proxy that does not name its
clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from channelserver.processes.figures import UNANSWERED, add_up
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.proxy import FIELDS, ProxyPolicy
from channelserver.server.site import Site

#: Seconds a request may wait for a worker before the server calls itself overloaded.
OVERLOADED_SECONDS = 10.0
#: The same while no worker thread moves.
STALLED_SECONDS = 1.0

#: The channels whose queue lengths are reported.
CHANNELS = ("http.request", "websocket.connect", "websocket.receive", "websocket.disconnect")


class Health:
    """Answers requests for one path.

    :param busy: returns how many worker threads are on a job.
    """

    def __init__(self, site: Site, path: str, busy: Callable[[], int], threads: int) -> None:
        self._site = site
        self._path = path
        self._busy = busy
        self._threads = threads
        self._figures_for = ProxyPolicy(site.options.health_figures)  # the same notation
        #: Whether no worker thread has moved for a second.
        self.stalled: Callable[[], bool] = lambda: False
        #: The same for ``--hang-timeout``; or all threads for jobs are lost.
        self.hung: Callable[[], bool] = lambda: False
        #: Returns further figures.
        self.further: Callable[[], dict[str, Any]] = dict
        #: The same of certificates.
        self.certificates: Callable[[], dict[str, Any]] = dict
        #: Returns how many processes have been replaced, by reason.
        self.replaced: Callable[[], dict[str, int]] = dict
        #: Returns the figures of all processes of the server, if there are others.
        self.gather: Callable[[], Deferred[list[dict[str, Any]]]] | None = None

    def __call__(self, exchange: Exchange) -> bool:
        """Answer a request if it is for the path; return whether it was."""
        head = exchange.head
        if head.path != self._path:
            return False
        exchange.quiet = True  # some ask every second
        if head.method not in ("GET", "HEAD"):
            exchange.reply({"status": 405, "headers": [[b"Allow", b"GET, HEAD"]], "content": b""})
            return True
        queues = self._queues()
        status = self._status(queues.get("http.request", {}))
        if not self._may_see(exchange):
            self._answer(exchange, {"status": status})
        elif self.gather is None:
            self._answer(exchange, {"status": status, **self._figures(queues), **self._states()})
        else:
            self.gather().addCallbacks(
                lambda found: self._answer(exchange, {"status": status, **add_up(found), **self._states()}),
                lambda failure: self._answer(
                    exchange, {"status": status, **self._figures(queues), UNANSWERED: self._others(), **self._states()}
                ),
            )
        return True

    def _states(self) -> dict[str, Any]:
        """Return what each process does, by its number, if there are several."""
        shares = self._site.shares
        return {} if shares is None else {"processes": shares.states()}

    def _others(self) -> int:
        shares = self._site.shares
        return 0 if shares is None else len(shares.states()) - 1

    @staticmethod
    def _answer(exchange: Exchange, content: dict[str, Any]) -> None:
        exchange.reply(
            {
                "status": 200 if content["status"] == "ready" else 503,
                "headers": [[b"Content-Type", b"application/json"], [b"Cache-Control", b"no-store"]],
                "content": json.dumps(content).encode() + b"\n",
            }
        )

    def figures(self) -> dict[str, Any]:
        return self._figures(self._queues())

    def _queues(self) -> dict[str, dict[str, float]]:
        """Return the statistics of the channels, if the layer keeps any."""
        layer = self._site.layer
        statistics = getattr(layer, "own_channel_statistics", None) or getattr(layer, "channel_statistics", None)
        return {name: statistics(name) for name in CHANNELS} if statistics is not None else {}

    def _status(self, requests: dict[str, float]) -> str:
        if self._site.draining:
            return "draining"
        full = requests.get("messages_pending", 0) >= self._site.layer.get_capacity("http.request")
        oldest = requests.get("messages_max_age", 0.0)
        if not self._site.memory.has_room():
            return "overloaded"
        if full or oldest > OVERLOADED_SECONDS or (oldest > STALLED_SECONDS and self.stalled()) or self.hung():
            return "overloaded"
        return "ready"

    def _figures(self, queues: dict[str, dict[str, float]]) -> dict[str, Any]:
        site = self._site
        return {
            "connections": len(site.connections),
            "websockets": sum(connection.websocket is not None for connection in site.connections),
            "client_memory": site.memory.figures(),
            "threads": self._threads,
            "busy": self._busy(),
            **self.further(),
            **self.certificates(),
            "queues": {name: int(figures["messages_pending"]) for name, figures in queues.items()},
            "held_back": site.held_back,
            "oldest": round(max((figures["messages_max_age"] for figures in queues.values()), default=0.0), 3),
            "refused": site.throttled_log.totals(),
            "lost": site.layer.drops.lost(),
            **({"replaced": replaced} if (replaced := self.replaced()) else {}),
            **({"redis": problem} if (problem := site.layer.problem()) else {}),
        }

    def _may_see(self, exchange: Exchange) -> bool:
        """Whether the client gets the figures."""
        client = exchange.client
        if not FIELDS.isdisjoint(exchange.head.fields) and (client is None or not self._site.proxies):
            return False  # sent through a proxy that is not trusted, or does not name the client
        return self._figures_for.trusts(None if client is None else client[0])
