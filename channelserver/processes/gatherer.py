"""Collects the figures of all processes of a server.

Runs in the reactor thread, except where a docstring says otherwise; owns the counters of processes that have ended.

The first process asks its siblings (:class:`Gatherer`); a sibling asks the first process (:class:`SiblingFigures`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IReactorTime

from channelserver.bridge import Bridge
from channelserver.layers.local import LocalLayer
from channelserver.processes.connectors import Connector
from channelserver.processes.figures import UNANSWERED, add_up, counters
from channelserver.processes.link import IReactor, Link, ask_within

#: Questions about figures whose answers are kept.
QUESTIONS = 1000
#: Seconds in which a sibling must send its figures, and in which the first process must send those of all.
ANSWER_SECONDS, ALL_SECONDS = 1.0, 2.0


def own_figures(layer: LocalLayer) -> dict[str, Callable[..., Any]]:
    """Return functions that return figures of this process, by name."""
    return {
        "channel_statistics": layer.own_channel_statistics,
        "global_statistics": layer.own_global_statistics,
    }


class Sibling:
    """A sibling as the first process sees it.

    :param sibling: its number.
    """

    def __init__(self, link: Link, sibling: int) -> None:
        self.link = link
        self.sibling = sibling
        #: Its counters in earlier answers, by question.
        self.counters: dict[tuple[Any, ...], dict[str, Any]] = {}

    def answered(self, question: tuple[Any, ...], figures: dict[str, Any]) -> None:
        """Keep the counters of an answer."""
        _remember(self.counters, question, counters(figures))


class Gatherer:
    """Asks the siblings of the first process."""

    def __init__(self, layer: LocalLayer, bridge: Bridge, clock: IReactorTime) -> None:
        self.bridge = bridge
        self.clock = clock
        #: Functions that return this process's figures, by name.
        self.figures = own_figures(layer)
        #: Whether the sibling of that number does not move, so that there is no use in asking it.
        self.silent: Callable[[int], bool] = lambda number: False
        #: What siblings may call, by name.
        self.calls: dict[str, Callable[..., Any]] = {"gather": self.gather}
        #: Called with the link of a sibling that has joined. Default: no-op.
        self.when_joined: Callable[[Link], object] = lambda link: None
        self._joined: list[Sibling] = []
        self._past: dict[tuple[Any, ...], dict[str, Any]] = {}  # counters of processes that have ended, by question

    def join(self, link: Link, pid: int, sibling: int = 0) -> Any:
        """Let a sibling join."""
        joined = Sibling(link, sibling)
        self._joined.append(joined)
        link.handle = lambda name, arguments: self.calls[name](*arguments)
        link.when_lost = lambda _: self._lost(joined)

    def _lost(self, joined: Sibling) -> None:
        self._joined.remove(joined)
        self.keep_counters(joined.counters)

    def siblings(self) -> Sequence[Sibling]:
        """Return the siblings that run."""
        return tuple(self._joined)

    def gather(self, name: str, *arguments: Any) -> Deferred[list[Any]]:
        """Collect figures of this process and its siblings.

        :param name: ``figures``, ``channel_statistics`` or ``global_statistics``.
        :returns: a Deferred of a list, an entry for each process that answers within :data:`ANSWER_SECONDS`; for the
            others, the counters they had.
        """
        question = (name, *arguments)
        siblings = self.siblings()
        answers = [
            fail(TimeoutError())
            if self.silent(peer.sibling)
            else ask_within(ANSWER_SECONDS, self.clock, peer.link, "own_" + name, *arguments)
            for peer in siblings
        ]
        own = self.figures[name](*arguments)

        def collect(results: list[tuple[bool, Any]]) -> list[Any]:
            found = [own, self._past.get(question, {})]
            for peer, (success, result) in zip(siblings, results, strict=True):
                if success:
                    peer.answered(question, result)
                    found.append(result)
                else:
                    found.append({**peer.counters.get(question, {}), UNANSWERED: 1})
            return found

        return DeferredList(answers, consumeErrors=True).addCallback(collect)

    def tell(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Call a function of all siblings.

        :returns: a Deferred that fires when those that move have answered, or :data:`ANSWER_SECONDS` have passed.
        """
        moving = [peer.link for peer in self.siblings() if not self.silent(peer.sibling)]
        calls = [ask_within(ANSWER_SECONDS, self.clock, link, name, *arguments) for link in moving]
        return DeferredList(calls, consumeErrors=True)

    def keep_counters(self, counted: dict[tuple[Any, ...], dict[str, Any]]) -> None:
        """Let the counters of a process that has ended count on."""
        for question, figures in counted.items():
            _remember(self._past, question, add_up([self._past.get(question, {}), figures]))

    def add_up(self, name: str, *arguments: Any) -> Deferred[dict[str, Any]]:
        """Like :meth:`gather`, with the answers added up."""
        return self.gather(name, *arguments).addCallback(add_up)

    def gather_from_thread(self, name: str, *arguments: Any) -> list[Any]:
        """Like :meth:`gather`, but wait for the result; not for the reactor thread."""
        return _wait(self.bridge, self.gather, self.figures, name, *arguments)


class SiblingFigures:
    """A sibling whose layer is not the first process's: answers questions of that, and asks it for the sums.

    :param connector: of the connection to the first process.
    """

    def __init__(self, layer: LocalLayer, connector: Connector, bridge: Bridge, reactor: IReactor) -> None:
        self.figures = own_figures(layer)
        self._connector = connector
        self._bridge = bridge
        self._reactor = reactor
        self._link: Link | None = None

    def open(self) -> None:
        """Connect."""
        self._connector.open(self._reactor, self._joined, lambda link: None)

    def _joined(self, link: Link) -> None:
        self._link = link
        link.handle = lambda name, arguments: self.figures[name.removeprefix("own_")](*arguments)

    def ask(self, seconds: float, name: str, *arguments: Any) -> Deferred[Any]:
        """Call a function of the first process."""
        return ask_within(seconds, self._reactor, self._link, name, *arguments)

    def gather(self, name: str, *arguments: Any) -> Deferred[list[Any]]:
        """See :meth:`Gatherer.gather`; fails if the first process does not answer."""
        return ask_within(ALL_SECONDS, self._reactor, self._link, "gather", name, *arguments)

    def gather_from_thread(self, name: str, *arguments: Any) -> list[Any]:
        """Like :meth:`gather`, but wait; without an answer, those of this process alone."""
        return _wait(self._bridge, self.gather, self.figures, name, *arguments)


def _wait(
    bridge: Bridge, gather: Callable[..., Deferred[list[Any]]], own: dict[str, Callable[..., Any]], name: str,
    *arguments: Any,
) -> list[Any]:  # fmt: skip
    gathered: Future[list[Any]] = Future()

    def ask() -> None:
        gather(name, *arguments).addCallbacks(
            gathered.set_result, lambda failure: gathered.set_exception(failure.value)
        )

    bridge.post(ask)
    try:
        return gathered.result(2 * ALL_SECONDS)
    except Exception:
        return [{**own[name](*arguments), UNANSWERED: 1}]


def _remember(kept: dict[tuple[Any, ...], Any], question: tuple[Any, ...], answer: Any) -> None:
    """Keep the answer to a question; forget that to the oldest of too many."""
    kept[question] = answer
    if len(kept) > QUESTIONS:
        del kept[next(iter(kept))]
