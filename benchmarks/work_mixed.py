"""Echo latency while the server has other work; and a channel as a task queue."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.http_load import HttpLoad
from benchmarks.peers import PRODUCT
from benchmarks.servers import ANSWER_TIMEOUT, Server
from benchmarks.site import Site
from benchmarks.sockets import Crowd
from benchmarks.work import Goal, Metric, Reading, Turn, Work, percentile

#: Sockets that echo, one message in flight each.
ECHOES = 10
#: Turns are longer by this factor: slow echoes are few, and p99 needs many.
LONGER = 2


class Mixed(Work):
    """An echo on some sockets, beside other sockets with slow consumers.

    :param path: of the other sockets.
    :param others: their number.
    """

    def __init__(self, name: str, title: str, path: str, others: int, goals: tuple[Goal, ...] = ()) -> None:
        super().__init__(
            name,
            f"echo on {ECHOES} sockets {title}",
            Site("mixed"),
            (
                Metric("p99", "ms", "p99", more_is_better=False),
                Metric("p50", "ms", "median", more_is_better=False),
            ),
            (PRODUCT, "uvicorn-sync"),
            goals,
        )
        self._path = path
        self._others = others

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Open the sockets; a turn uses both kinds at the same time."""
        with Crowd(server, "/echo/") as echoes, Crowd(server, self._path) as others:
            echoes.grow(ECHOES)
            others.grow(self._others)
            echoes.check()
            others.check()
            yield lambda seconds: self._talk(server, echoes, others, LONGER * seconds)

    def _talk(self, server: Server, echoes: Crowd, others: Crowd, seconds: int) -> Reading:
        heard = echoes.talk(seconds, others=others)
        figures = {name: percentile(heard.latencies, part) * 1000 for name, part in (("p99", 0.99), ("p50", 0.5))}
        return Reading(figures)


class MixedAnswers(Mixed):
    """An echo on some sockets, while four other connections download large answers."""

    load = "benchmarks/sockets.py and wrk"

    def __init__(self) -> None:
        super().__init__("mixed-answers", "while 4 connections download answers of 1 MiB", "/echo/", 0)

    def _talk(self, server: Server, echoes: Crowd, others: Crowd, seconds: int) -> Reading:
        answers = HttpLoad(server, "/answer/", 4, seconds + 1)
        time.sleep(0.5)  # until the downloads run
        reading = super()._talk(server, echoes, others, seconds)
        answers.finish()
        return reading


class Tasks(Work):
    """A view sends messages to a channel; a consumer receives them; the last one is reported to a socket."""

    #: Messages sent by one request; a channel holds 1000.
    number = 500
    turns = 2

    def __init__(self) -> None:
        super().__init__(
            "task-queue",
            f"task queue: {self.number} messages from a view to a consumer",
            Site("tasks"),
            (Metric("rate", "messages/s"),),
            (PRODUCT,),
            (),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn calls the view again when all tasks are done."""
        yield lambda seconds: self._ask(server, seconds)

    def _ask(self, server: Server, seconds: int) -> Reading:
        lots = 0
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_TIMEOUT)
        with Crowd(server, "/group/") as watchers, contextlib.closing(connection):
            watchers.grow(1)
            begun = time.monotonic()
            while time.monotonic() < begun + seconds or not lots:
                connection.request("GET", f"/tasks/{self.number}/")
                answer = connection.getresponse().read()
                (told,) = watchers.hear()
                if answer != b"sent" or not told.endswith(b"done"):
                    raise server.failure(f"answered {answer[:50]!r} and sent {told[:50]!r} after its tasks")
                lots += 1
            passed = time.monotonic() - begun
        return Reading({"rate": lots * self.number / passed})


WORKS: tuple[Work, ...] = (
    Mixed(
        "mixed-burn",
        "while the consumers of 2 others compute without pause",
        "/burn/",
        2,
        (Goal("p99", at_most=50), Goal("p99", at_most=0.5, against="uvicorn-sync")),
    ),
    Mixed("mixed-sleep", "while the consumers of 4 others wait for the database", "/sleep/", 4),
    MixedAnswers(),
    Tasks(),
)
