"""The ledger: what was sent, what was received, what was counted as lost, reason by reason; and whether that adds up.

The counters are the server's. Which messages each of them should have counted follows from what the others wrote down:
senders, views, consumers, sockets, and the faults, which note what a process had in its hands when it was killed, and
what waited in Redis when it was emptied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.clients import Socket
from channelserver.layers.losses import Reason

#: Counters that do not count messages one by one, or messages to connections that have gone.
NOT_MESSAGES = frozenset({"gap", "host deaf", "host gone", "process gone"})
#: How many messages a problem names.
NAMED = 5


@dataclass
class Records:
    """What consumers and views wrote down."""

    #: How often each message, or request, was received to the end.
    received: Counter[str] = field(default_factory=Counter)
    #: What was begun, and whose end was noted.
    begun: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)


@dataclass
class Ledger:
    """All sums of a run.

    :param sent: the messages that have left their senders, consumers and views.
    :param unknown: those of which nobody knows that.
    :param unanswered: those of `sent` that a view has sent whose client got no answer, because its process was killed.
    :param in_hand: how often a process was killed with a message in its hands.
    :param emptied: what waited in Redis when that was emptied.
    :param echoes_missing: texts of sockets that stayed open, without an echo.
    :param group_missing: missing group messages of sockets whose host had, and had not, a gap.
    :param lost: the counters.
    """

    sent: set[str]
    unknown: set[str]
    unanswered: set[str]
    records: Records
    in_hand: Counter[str]
    emptied: set[str]
    echoes_missing: set[str]
    cut_with_connection: int
    group_missing: tuple[int, int]
    group_received: int
    lost: dict[str, int]
    requeue: bool
    redis: bool
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> set[str]:
        """The messages that nobody received, as far as anybody can know."""
        return {*(self.sent - self.records.received.keys()), *self.echoes_missing}

    def expected(self) -> dict[str, set[str]]:
        """Return the messages that each counter should have counted."""
        received = self.records.received
        died, emptied = set(self.in_hand), self.emptied
        if self.requeue:  # what a death, or an emptied Redis, took comes again
            died, emptied = died - received.keys(), emptied - received.keys()
        missing = self.sent - received.keys() - died - emptied
        from_views = {name for name in missing if name.startswith("http.") and name not in self.records.begun}
        unsent = {name for name in self.echoes_missing - died if name in received}
        return {
            Reason.DIED.value: set() if self.requeue else died,
            Reason.DIED_AGAIN.value: died if self.requeue else set(),
            Reason.EMPTIED.value: emptied,
            Reason.NO_REDIS.value: from_views if self.redis else set(),
            Reason.UNSENT.value: unsent if self.redis else from_views | unsent,
        }

    def check(self) -> None:
        """Find what does not add up."""
        received, expected = self.records.received, self.expected()
        silent = self.missing.difference(*expected.values())
        if silent:
            self.problems.append(f"{len(silent)} messages were lost in silence: {_some(silent)}")
        for reason in sorted(expected.keys() | self.lost.keys() - NOT_MESSAGES):
            counted, names = self.lost.get(reason, 0), expected.get(reason, set())
            if counted != len(names):
                self.problems.append(f"{reason!r} counts {counted}, but lost were {len(names)}: {_some(names)}")
        for reason, names in expected.items():
            if alive := {name for name in names if name in received and name not in self.echoes_missing}:
                self.problems.append(f"{len(alive)} messages count as {reason!r}, but were received: {_some(alive)}")
        doubles = {name for name, number in received.items() if number > 1}
        if doubles and not self.requeue:
            self.problems.append(f"{len(doubles)} messages came twice: {_some(doubles)}")
        background = self.missing - self.echoes_missing - self.unanswered  # whose views had not ended for their clients
        if self.requeue and background:
            self.problems.append(f"{len(background)} background messages were lost with requeue: {_some(background)}")
        if self.group_missing[1]:
            self.problems.append(f"{self.group_missing[1]} group messages were lost in silence")

    def text(self) -> str:
        """Return the ledger as lines for people."""
        received = self.records.received
        kinds = Counter(_kind(name) for name in self.sent)
        lost = Counter(_kind(name) for name in self.sent - received.keys())
        doubles = Counter(_kind(name) for name, number in received.items() for _ in range(number - 1))
        lines = [f"{'kind':28}{'sent':>9}{'received':>10}{'lost':>6}{'twice':>7}"]
        for kind, number in sorted(kinds.items()):
            lines.append(f"{kind:28}{number:9}{number - lost[kind]:10}{lost[kind]:6}{doubles[kind]:7}")
        lines += [
            f"{'echoes missing':28}{len(self.echoes_missing):25}   (sockets that stayed open)",
            f"{'group messages':28}{self.group_received:19}{sum(self.group_missing):6}",
            f"{'cut with their connections':28}{self.cut_with_connection:25}   (texts after the last echo)",
            f"{'of views without an answer':28}{len(self.unanswered):9}{len(self.unanswered & received.keys()):10}",
            f"{'unknown to their senders':28}{len(self.unknown):9}{len(self.unknown & received.keys()):10}",
            f"{'lost, by reason':36}{'counted':>9}{'should be':>12}",
        ]
        expected = self.expected()
        for reason in sorted(expected.keys() | self.lost.keys()):
            should = str(len(expected[reason])) if reason in expected else "-"
            if self.lost.get(reason) or should not in "0-":
                lines.append(f"  {reason:34}{self.lost.get(reason, 0):9}{should:>12}")
        return "\n".join(lines)


def _kind(name: str) -> str:
    return name.partition(".")[0]


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED]) + (", …" if len(ordered) > NAMED else "")


def read_records(folder: Path) -> Records:
    """Return what all processes wrote."""
    records = Records()
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            kind, _, name = line.partition(" ")
            if kind == "e":
                records.received[name] += 1
            elif kind in "bf":
                (records.begun if kind == "b" else records.finished).add(name)
    return records


def read_sent(path: Path) -> tuple[set[str], set[str], list[int], dict[str, int]]:
    """Return what the sender has sent, what it does not know, the numbers of the group messages it sent, and what it
    has counted as lost.
    """
    sent: set[str] = set()
    unknown: set[str] = set()
    groups: list[int] = []
    lost: dict[str, int] = {}
    for line in path.read_text().splitlines():
        outcome, _, name = line.partition(" ")
        if outcome == "l":
            number, _, reason = name.partition(" ")
            lost[reason] = int(number)
        elif name.startswith("group."):
            if outcome == "s":
                groups.append(int(name.partition(".")[2]))
        elif outcome in "su":
            (sent if outcome == "s" else unknown).add(name)
    return sent, unknown, groups, lost


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
