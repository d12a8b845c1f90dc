"""The plan of a run: all works with all their peers, or those that the command line selects.

Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import (
    work_async,
    work_echo,
    work_group,
    work_http,
    work_idle,
    work_mixed,
    work_processes,
    work_redis,
    work_start,
    work_streams,
    work_tls,
)
from benchmarks.peers import OTHER_CHECKOUT, PEERS, PRODUCT, UNALTERED, Peer
from benchmarks.site import Site
from benchmarks.work import Work

WORKS: dict[str, Work] = {
    work.name: work
    for module in (
        work_http, work_async, work_processes, work_echo, work_group, work_streams, work_redis, work_mixed, work_idle,
        work_start, work_tls,
    )
    for work in module.WORKS
}  # fmt: skip


class PlanError(ValueError):
    """The command line names an unknown work or server; the text suggests a similar name."""


def compare_checkout(checkout: Path) -> None:
    """Replace all works by those of this server and the same server from another checkout, turn by turn.

    :raises PlanError: the folder is no checkout.
    """
    if not (checkout / "channelserver" / "__init__.py").is_file():
        raise PlanError(f"{checkout} is no checkout of channelserver: it has no channelserver/__init__.py")
    PEERS[OTHER_CHECKOUT] = replace(
        PEERS[PRODUCT], name=OTHER_CHECKOUT, title=f"channelserver of {checkout}", checkout=checkout.resolve()
    )
    for name, work in list(WORKS.items()):
        if work.subject == PRODUCT:
            WORKS[name] = work.between((PRODUCT, OTHER_CHECKOUT))
        else:
            del WORKS[name]


@dataclass(frozen=True)
class Stage:
    """Works done one after the other by the same processes of some peers, which all run at once."""

    site: Site
    peers: tuple[Peer, ...]
    works: tuple[Work, ...]
    rounds: range

    def turns(self, work: Work) -> list[str]:
        """Return the servers in the order of their turns; every second pass runs in reverse order."""
        names = [peer.name for peer in self.peers if peer.name in work.peers]
        closely = self._closely(work, names)
        turns: list[str] = []
        for number in range(self.rounds.start * work.turns, self.rounds.stop * work.turns):
            order = names[::-1] if number % 2 else names
            turns += self._interleave(order, work.subject) if closely else order
        return [*turns, work.subject] if closely else turns

    def round(self, work: Work, index: int) -> int:
        """Return the round, from 0 on, of a turn in the order of :meth:`turns`."""
        each = len(self.turns(work)) // len(self.rounds)
        return self.rounds.start + min(index // each, len(self.rounds) - 1)

    @staticmethod
    def _closely(work: Work, names: list[str]) -> bool:
        return work.closely and work.subject in names and len(names) > 1

    @staticmethod
    def _interleave(order: list[str], subject: str) -> list[str]:
        """Put a turn of our server next to each turn of another.

        Between a peer without and the same peer with our Django shortcuts, ours runs without them, so that each column
        compares neighbours.
        """
        turns: list[str] = []
        before = ""
        for name in order:
            if name not in (subject, UNALTERED):
                family = PEERS[name].family
                turns += [UNALTERED if UNALTERED in order and family == before else subject, name]
                before = family
        return turns


class Plan:
    """The chosen works, and the peers of each.

    :param works: names or patterns such as ``http-*``; none: all.
    :param peers: the same for servers.
    :raises PlanError: a pattern matches nothing, or no work remains.
    """

    def __init__(self, works: Sequence[str] = (), peers: Sequence[str] = ()) -> None:
        chosen = _choose("work", works, WORKS)
        allowed = _choose("peer", peers, PEERS)
        self.whole = not works and not peers
        self.works = [WORKS[name] for name in chosen if any(peer in allowed for peer in WORKS[name].peers)]
        self._allowed = set(allowed)
        if not self.works:
            raise PlanError(f"none of the works {', '.join(chosen)} runs with {', '.join(allowed)}; see --list")

    def peers(self, work: Work) -> list[Peer]:
        """Return the peers of a work."""
        return [PEERS[name] for name in work.peers if name in self._allowed]

    def stages(self, rounds: int) -> Iterator[Stage]:
        """Return the stages, site after site."""
        for site in dict.fromkeys(work.site for work in self.works):
            works = tuple(work for work in self.works if work.site == site)
            peers = tuple(dict.fromkeys(peer for work in works for peer in self.peers(work)))
            if not site.fresh:
                yield Stage(site, peers, works, range(rounds))
                continue
            for number in range(rounds):
                for peer in reversed(peers) if number % 2 else peers:
                    own = tuple(work for work in works if peer.name in work.peers)
                    yield Stage(site, (peer,), own, range(number, number + 1))

    @property
    def sockets(self) -> int:
        """The highest number of sockets open at once."""
        return max(work.open_sockets([peer.name for peer in self.peers(work)]) for work in self.works)


def _choose(kind: str, patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            close = difflib.get_close_matches(pattern, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise PlanError(f"no {kind} is called {pattern!r}; {hint}")
    return [name for name in known if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
