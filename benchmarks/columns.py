"""Which servers are compared with which: out of the box, and like for like.

Only our server replaces functions of Django at start ("our Django shortcuts"). So HTTP works have three columns: what a
user gets out of the box; the shortcuts installed in all servers; the shortcuts in none.
Plain data and sums; imported by whatever Python starts the benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import DJANGO_PEERS, PRODUCT, UNALTERED, Peer
from benchmarks.results import Results
from benchmarks.work import Work


@dataclass(frozen=True)
class Column:
    """One comparison.

    :param key: its name in the JSON.
    :param own: our server, with or without the shortcuts.
    :param shortcuts: whether the peers have them.
    """

    key: str
    title: str
    own: str
    shortcuts: bool

    def has(self, peer: Peer) -> bool:
        """Whether a server belongs to this column."""
        if peer.family == PRODUCT:
            return peer.name == self.own
        return peer.family in FAMILIES and peer.shortcuts == self.shortcuts

    def rival(self, family: str) -> str:
        """Return the name of a family's server in this column."""
        return f"{family}-shortcuts" if self.shortcuts else family


COLUMNS = (
    Column("out-of-the-box", "out of the box", PRODUCT, False),
    Column("shortcuts-in-all", "shortcuts in all", PRODUCT, True),
    Column("shortcuts-in-none", "shortcuts in none", UNALTERED, False),
)

#: The peers' names.
FAMILIES = tuple(peer.name for peer in DJANGO_PEERS)


def compared(work: Work) -> bool:
    """Whether a work is measured in all three columns."""
    return UNALTERED in work.peers


def ratios(results: Results, work: Work, family: str) -> dict[str, float | None]:
    """Return how many times as much our server does as a peer, by the keys of the columns."""
    metric = work.metrics[0].name
    return {column.key: results.ratio(work, metric, column.rival(family), column.own) for column in COLUMNS}
