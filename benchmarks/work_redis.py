"""Servers over one Redis: a message to all sockets of a group, and the commands of an idle server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.meter import Meter
from benchmarks.peers import PRODUCT
from benchmarks.servers import Server
from benchmarks.site import Site
from benchmarks.sockets import Crowd
from benchmarks.work import Goal, Metric, Reading, Turn, Work, percentile

#: Seconds of load that are not counted.
WARM_UP = 0.2
#: Seconds until the servers' subscriptions have reached Redis.
SETTLE = 1.0

_PEERS = ("uvicorn-core", "uvicorn-pubsub")


class RedisFanOut(Work):
    """One send after the other to a group with members on two servers, each when all have received the one before."""

    #: Sockets on each server; and at warm-up.
    each, first = 500, 100
    sockets = 2 * each
    turns = 2

    def __init__(self) -> None:
        super().__init__(
            "redis-fan-out",
            f"one message to a group of {self.each} on each of two servers, over Redis",
            Site("redis-fan-out", servers=2, redis=True),
            (
                Metric("rate", "deliveries/s"),
                Metric("last", "ms", "until the last member has it", more_is_better=False),
            ),
            (PRODUCT, *_PEERS),
            tuple(Goal("rate", at_least=10, against=peer) for peer in _PEERS),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets of both; a turn sends through the first server."""
        (other,) = server.others
        assert server.redis is not None
        redis = server.redis
        with Crowd(server, "/group/") as near, Crowd(other, "/group/") as far, Crowd(server, "/speak/") as speaker:
            speaker.grow(1)
            for size in (self.first, self.each):
                near.grow(size)
                far.grow(size)
                time.sleep(SETTLE)
                near.listen(speaker, WARM_UP, far)

            def turn(seconds: int) -> Reading:
                with Meter(server, other, redis) as meter:
                    heard = near.listen(speaker, seconds, far)
                last = percentile(heard.latencies, 0.5) * 1000
                return Reading({"rate": heard.number / heard.seconds, "last": last}, meter)

            yield turn


class RedisIdle(Work):
    """The commands a server sends to Redis while its sockets are idle."""

    sockets = 100
    #: Length of a turn in seconds.
    period = 10

    def __init__(self) -> None:
        super().__init__(
            "redis-idle",
            f"{self.sockets} idle sockets, members of a group, and Redis",
            Site("redis-idle", redis=True),
            (
                Metric("sent", "commands/s", "sent to Redis", more_is_better=False),
                Metric(
                    "executed",
                    "commands/s",
                    "executed by Redis, those inside of scripts included",
                    more_is_better=False,
                ),
            ),
            (PRODUCT,),
            (Goal("sent", at_most=2),),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn counts the commands."""
        assert server.redis is not None
        redis = server.redis
        with Crowd(server, "/group/") as crowd:
            crowd.grow(self.sockets)
            crowd.idle(SETTLE)

            def turn(seconds: int) -> Reading:
                with redis.counting() as counted:
                    begun = time.monotonic()
                    crowd.idle(self.period)
                    passed = time.monotonic() - begun
                return Reading({"sent": counted.sent / passed, "executed": counted.executed / passed})

            yield turn


WORKS: tuple[Work, ...] = (RedisFanOut(), RedisIdle())
