"""The ledger: what was sent, what was received, what was counted as lost; and whether that adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.clients import Socket

#: Counters that do not count messages one by one, or messages of connections that have gone.
NOT_MESSAGES = frozenset({"gap", "host deaf", "host gone", "process gone"})


@dataclass
class Ledger:
    """All sums of a run."""

    sent: set[str]
    unknown: set[str]
    received: Counter[str]
    begun: set[str]
    echoes_missing: set[str]
    cut_with_connection: int
    group_missing: int
    group_received: int
    lost: dict[str, int]
    requeue: bool
    exact: bool
    problems: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Find what does not add up."""
        missing = self.sent - set(self.received)
        counted = sum(number for reason, number in self.lost.items() if reason not in NOT_MESSAGES)
        gone = len(missing) + len(self.echoes_missing)
        doubtful = len(self.unknown - set(self.received))
        doubles = sum(number - 1 for number in self.received.values() if number > 1)
        if counted < gone:
            self.problems.append(f"{gone - counted} messages were lost in silence")
        if self.exact and counted > gone + doubtful:
            self.problems.append(
                f"{counted - gone - doubtful} messages were counted as lost, though they were received"
            )
        if doubles and not self.requeue:
            self.problems.append(f"{doubles} messages came twice")
        if self.requeue and missing:
            self.problems.append(f"{len(missing)} background messages were lost with requeue")
        if self.group_missing and not self.lost.keys() & {"gap", "no Redis", "unknown", "host deaf", "Redis emptied"}:
            self.problems.append(f"{self.group_missing} group messages were lost in silence")

    def text(self) -> str:
        """Return the ledger as lines for people."""
        background = {name for name in self.sent if not name.startswith("socket")}
        missing = self.sent - set(self.received)
        kinds = Counter(name.partition(".")[0] for name in background)
        lost_kinds = Counter(name.partition(".")[0] for name in missing)
        doubles = Counter(name.partition(".")[0] for name, number in self.received.items() for _ in range(number - 1))
        lines = [f"{'kind':28}{'sent':>9}{'received':>10}{'lost':>6}{'twice':>7}"]
        for kind, number in sorted(kinds.items()):
            lines.append(f"{kind:28}{number:9}{number - lost_kinds[kind]:10}{lost_kinds[kind]:6}{doubles[kind]:7}")
        lines += [
            f"{'echoes missing':28}{len(self.echoes_missing):25}   (sockets that stayed open)",
            f"{'group messages':28}{self.group_received:19}{self.group_missing:6}",
            f"{'cut with their connections':28}{self.cut_with_connection:25}   (texts after the last echo)",
            f"{'unknown to their senders':28}{len(self.unknown):9}{len(self.unknown & set(self.received)):10}",
            "counted as lost:",
        ]
        lines += [f"  {reason:34}{number:7}" for reason, number in sorted(self.lost.items())] or ["  nothing"]
        return "\n".join(lines)


def read_records(folder: Path) -> tuple[Counter[str], set[str]]:
    """Return how often each message was received to the end, and which consumers have begun."""
    received: Counter[str] = Counter()
    begun: set[str] = set()
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            kind, _, name = line.partition(" ")
            if kind == "e":
                received[name] += 1
            elif kind == "b":
                begun.add(name)
    return received, begun


def read_sent(path: Path) -> tuple[set[str], set[str], list[int]]:
    """Return what the sender has sent, what it does not know, and the numbers of the group messages it sent."""
    sent: set[str] = set()
    unknown: set[str] = set()
    groups: list[int] = []
    for line in path.read_text().splitlines():
        outcome, _, name = line.partition(" ")
        if name.startswith("group."):
            if outcome == "s":
                groups.append(int(name.partition(".")[2]))
        elif outcome in "su":
            (sent if outcome == "s" else unknown).add(name)
    return sent, unknown, groups


def missing_echoes(sockets: Iterable[Socket]) -> tuple[set[str], int]:
    """Return texts without an echo though a later one has one, or the socket is open; and how many came after the last
    echo of a closed socket.
    """
    missing: set[str] = set()
    cut = 0
    for socket in sockets:
        echoes = set(socket.echoes)
        last = max((index for index, text in enumerate(socket.sent) if text in echoes), default=-1)
        certain = socket.sent if socket.is_open else socket.sent[: last + 1]
        missing.update(text for text in certain if text not in echoes)
        cut += len(socket.sent) - len(certain)
    return missing, cut


def missing_groups(sockets: Iterable[Socket], sent: list[int]) -> tuple[int, int]:
    """Return how many group messages are missing between the first and the last one that a socket got, or to the end if
    it is open; and how many arrived.
    """
    missing = received = 0
    for socket in sockets:
        if not socket.groups:
            continue
        received += len(socket.groups)
        got, first = set(socket.groups), socket.groups[0]
        last = sent[-1] if socket.is_open else socket.groups[-1]
        missing += sum(first <= number <= last and number not in got for number in sent)
    return missing, received
