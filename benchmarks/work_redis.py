"""Several servers over one Redis: a message to all sockets of a group, and what an idle server asks of Redis."""

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
#: Seconds until the servers have told each other, through Redis, what they have just begun.
SETTLE = 1.0

_PEERS = ("uvicorn-core", "uvicorn-pubsub")


class RedisFanOut(Work):
    """One send to a group whose members are on two servers after the other, each when all have got the one before."""

    #: Sockets on each of the servers; and those which it has when it is warmed up.
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
                Metric("last", "ms", "until the last one has it", more_is_better=False),
            ),
            (PRODUCT, *_PEERS),
            tuple(Goal("rate", at_least=10, against=peer) for peer in _PEERS),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets of both; a turn speaks to them by way of the first one."""
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
    """What a server asks of Redis while its sockets are silent."""

    sockets = 100
    #: Seconds that are looked at.
    period = 20

    def __init__(self) -> None:
        super().__init__(
            "redis-idle",
            f"{self.sockets} idle sockets, members of a group, and Redis",
            Site("redis-idle", redis=True),
            (Metric("commands", "commands/s", "that Redis carries out", more_is_better=False),),
            (PRODUCT,),
            (Goal("commands", at_most=2),),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn counts what Redis has to do, in a time of its own choice."""
        assert server.redis is not None
        redis = server.redis
        with Crowd(server, "/group/") as crowd:
            crowd.grow(self.sockets)
            crowd.idle(SETTLE)

            def turn(seconds: int) -> Reading:
                before, begun = redis.commands(), time.monotonic()
                crowd.idle(self.period)
                done, passed = redis.commands() - before, time.monotonic() - begun
                return Reading({"commands": done / passed})

            yield turn


WORKS: tuple[Work, ...] = (RedisFanOut(), RedisIdle())
