"""The ledger of ``benchmarks.chaos``: what it calls lost, twice or silent. Nothing is killed here."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.chaos.clients import Socket
from benchmarks.chaos.ledger import Ledger, missing_echoes, missing_groups


class LedgerTests(SynchronousTestCase):
    """Sums that are right, and sums that are not."""

    def ledger(self, **changes: Any) -> Ledger:
        """Return a ledger in which one of four messages was lost, and counted."""
        values: dict[str, Any] = {
            "sent": {"work.1", "work.2", "work.3", "delayed.4"}, "unknown": set(), "echoes_missing": set(),
            "received": Counter(["work.1", "work.2", "delayed.4"]), "begun": set(), "cut_with_connection": 0,
            "group_missing": 0, "group_received": 0, "lost": {"its worker process ended": 1, "process gone": 7},
            "requeue": False, "exact": True,
        }  # fmt: skip
        ledger = Ledger(**{**values, **changes})
        ledger.check()
        return ledger

    def test_adds_up(self) -> None:
        """What is missing was counted; counters of closed connections do not matter."""
        ledger = self.ledger()
        self.assertEqual(ledger.problems, [])
        self.assertIn("its worker process ended                1", ledger.text())

    def test_does_not_add_up(self) -> None:
        """Silence, a count too many, doubles, and losses despite requeue are found."""
        one = {"its worker process ended": 2}
        for changes, words in (
            ({"lost": {}}, "1 messages were lost in silence"),
            ({"echoes_missing": {"socket1-1.1"}}, "1 messages were lost in silence"),
            ({"group_missing": 2}, "2 group messages were lost in silence"),
            ({"lost": one}, "1 messages were counted as lost, though they were received"),
            ({"received": Counter(["work.1", "work.1", "work.2", "delayed.4"])}, "1 messages came twice"),
            ({"requeue": True}, "1 background messages were lost with requeue"),
        ):
            self.assertEqual(self.ledger(**changes).problems, [words])
        self.assertEqual(self.ledger(lost=one, unknown={"http.9"}).problems, [])

    def test_sockets(self) -> None:
        """A text is missing if a later one was echoed, or the socket is open; else it was cut off."""
        closed, opened = Socket(), Socket()
        closed.is_open = False
        for socket in (closed, opened):
            socket.sent, socket.echoes, socket.groups = ["a", "b", "c", "d"], ["a", "c"], [2, 4]
        self.assertEqual(missing_echoes([closed]), ({"b"}, 1))
        self.assertEqual(missing_echoes([opened]), ({"b", "d"}, 0))
        self.assertEqual(missing_groups([closed], [1, 2, 3, 4, 5]), (1, 2))
        self.assertEqual(missing_groups([opened], [1, 2, 3, 4, 5]), (2, 2))
