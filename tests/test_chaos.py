"""The ledger of ``benchmarks.chaos``: what it calls lost, twice or silent. Nothing is killed here."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.chaos.clients import Socket
from benchmarks.chaos.ledger import Ledger, Records, missing_echoes, missing_groups


class LedgerTests(SynchronousTestCase):
    """Sums that are right, and sums that are not."""

    def ledger(self, **changes: Any) -> Ledger:
        """Return a ledger in which one of four messages was lost, and counted."""
        values: dict[str, Any] = {
            "sent": {"work.1", "work.2", "work.3", "delayed.4"}, "unknown": set(), "unanswered": set(),
            "echoes_missing": set(),
            "records": Records(Counter(["work.1", "work.2", "delayed.4"]), {"work.1", "work.2", "work.3", "delayed.4"}),
            "in_hand": Counter(["work.3"]), "emptied": set(), "cut_with_connection": 0, "group_missing": (0, 0),
            "group_received": 0, "lost": {"its worker process ended": 1, "process gone": 7}, "requeue": False,
            "redis": False,
        }  # fmt: skip
        ledger = Ledger(**{**values, **changes})
        ledger.check()
        return ledger

    def test_adds_up(self) -> None:
        """What is missing was counted; counters of closed connections do not matter."""
        ledger = self.ledger()
        self.assertEqual(ledger.problems, [])
        self.assertIn("its worker process ended                  1           1", ledger.text())

    def test_each_reason(self) -> None:
        """A message counts under the reason why it was lost: in a process, before it left one, in Redis."""
        twice = Records(Counter(["socket1-1.1"]), {"socket1-1.1"})
        for changes in (
            {"sent": {"http.1"}, "records": Records(), "in_hand": Counter(), "lost": {"unsent": 1}},
            {"sent": {"http.1"}, "records": Records(), "in_hand": Counter(), "lost": {"no Redis": 1}, "redis": True},
            {"sent": set(), "records": twice, "in_hand": Counter(), "echoes_missing": {"socket1-1.1"},
             "lost": {"unsent": 1}},
            {"emptied": {"work.3"}, "in_hand": Counter(), "lost": {"Redis emptied": 1}, "redis": True},
            {"sent": {"work.1"}, "in_hand": Counter({"work.3": 4}), "lost": {"its worker processes ended": 1},
             "requeue": True},
            {"sent": {"http.1"}, "records": Records(), "in_hand": Counter(), "lost": {"unsent": 1}, "requeue": True,
             "unanswered": {"http.1"}},
            {"emptied": {"work.1"}, "lost": {}, "requeue": True, "in_hand": Counter({"work.2": 1}), "redis": True,
             "sent": {"work.1", "work.2"}},
            {"group_missing": (9, 0)},
        ):  # fmt: skip
            self.assertEqual(self.ledger(**changes).problems, [], changes)

    def test_does_not_add_up(self) -> None:
        """Silence, wrong counts, doubles, and losses despite requeue are found."""
        received = Records(Counter(["work.1", "work.2", "delayed.4"]), set())
        again = Records(Counter(["work.1", "work.1", "work.2", "delayed.4"]), set())
        for changes, words in (
            ({"lost": {}}, "'its worker process ended' counts 0, but lost were 1: work.3"),
            ({"lost": {"its worker process ended": 2}}, "'its worker process ended' counts 2, but lost were 1: work.3"),
            ({"lost": {"unsent": 1, "its worker process ended": 1}}, "'unsent' counts 1, but lost were 0: "),
            ({"sent": {"work.1", "work.9"}}, "1 messages were lost in silence: work.9"),
            ({"echoes_missing": {"socket1-1.1"}}, "1 messages were lost in silence: socket1-1.1"),
            ({"group_missing": (0, 2)}, "2 group messages were lost in silence"),
            ({"in_hand": Counter(["work.1"]), "records": received, "sent": {"work.1"}},
             "1 messages count as 'its worker process ended', but were received: work.1"),
            ({"records": again}, "1 messages came twice: work.1"),
            ({"requeue": True, "in_hand": Counter(), "lost": {}, "records": received},
             "1 background messages were lost with requeue: work.3"),
            ({"sent": {"http.1"}, "records": Records(), "in_hand": Counter(), "lost": {"no Redis": 1}, "requeue": True,
              "redis": True}, "1 background messages were lost with requeue: http.1"),
            ({"emptied": {"work.3"}, "in_hand": Counter(), "lost": {"Redis emptied": 1}, "requeue": True,
              "redis": True}, "1 background messages were lost with requeue: work.3"),
        ):  # fmt: skip
            self.assertIn(words, self.ledger(**changes).problems)

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
