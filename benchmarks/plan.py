"""What is to be measured: all works with all their peers, or what the command line picks out of them.

Plain data; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from benchmarks import work_echo, work_group, work_http, work_idle, work_mixed, work_processes, work_redis
from benchmarks.peers import PEERS, Peer
from benchmarks.site import Site
from benchmarks.work import Work

WORKS: dict[str, Work] = {
    work.name: work
    for module in (work_http, work_processes, work_echo, work_group, work_redis, work_mixed, work_idle)
    for work in module.WORKS
}  # fmt: skip


class PlanError(ValueError):
    """The command line names something that is not there; the text says so, and what may have been meant."""


@dataclass(frozen=True)
class Stage:
    """Works that are done one after the other, with the same processes of some peers, which are up at once."""

    site: Site
    peers: tuple[Peer, ...]
    works: tuple[Work, ...]
    rounds: range

    def turns(self, work: Work) -> list[str]:
        """Return who has a turn, one after the other; each other time the order is reversed."""
        names = [peer.name for peer in self.peers if peer.name in work.peers]
        subject = work.subject
        closely = work.closely and subject in names and len(names) > 1
        turns: list[str] = []
        for number in range(self.rounds.start * work.turns, self.rounds.stop * work.turns):
            order = names[::-1] if number % 2 else names
            if closely:
                order = [each for name in order if name != subject for each in (subject, name)]
            turns += order
        return [*turns, subject] if closely else turns


class Plan:
    """The chosen works, and the peers of each.

    :param works: names or patterns such as ``http-*``; none: all.
    :param peers: the same for peers.
    :raises PlanError: one of them fits nothing, or nothing is left to do.
    """

    def __init__(self, works: Sequence[str] = (), peers: Sequence[str] = ()) -> None:
        chosen = _choose("work", works, WORKS)
        allowed = _choose("peer", peers, PEERS)
        self.whole = not works and not peers
        self.works = [WORKS[name] for name in chosen if any(peer in allowed for peer in WORKS[name].peers)]
        self._allowed = set(allowed)
        if not self.works:
            raise PlanError(f"none of the works {', '.join(chosen)} is done with {', '.join(allowed)}; see --list")

    def peers(self, work: Work) -> list[Peer]:
        """Return the peers that do a work."""
        return [PEERS[name] for name in work.peers if name in self._allowed]

    def stages(self, rounds: int) -> Iterator[Stage]:
        """Return what is done, site after site."""
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
        """The most sockets that are open at once."""
        return max(work.open_sockets([peer.name for peer in self.peers(work)]) for work in self.works)


def _choose(kind: str, patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            close = difflib.get_close_matches(pattern, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise PlanError(f"no {kind} is called {pattern!r}; {hint}")
    return [name for name in known if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
