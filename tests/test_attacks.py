"""``python -m benchmarks.attacks``: attackers and honest clients meet a real server, for a moment."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.attacks import over_http, over_http2, over_websocket, report
from benchmarks.attacks.attack import ATTACKS
from benchmarks.attacks.crowd import Attackers
from benchmarks.attacks.run import run
from benchmarks.attacks.victim import Victim
from benchmarks.machine import Cores
from tests.process import ROOT, TIMEOUT, wait_until


class CommandLineTests(SynchronousTestCase):
    """What happens before anything is attacked."""

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.attacks", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)

    def test_list(self) -> None:
        """``--list`` names the attacks of all modules."""
        done = self.run_command("--list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for name in ATTACKS:
            self.assertIn(name, done.stdout.split())
        for module in (over_http, over_http2, over_websocket):
            self.assertIn(module.__name__, {attack.act.__module__ for attack in ATTACKS.values()})

    def test_wrong_name(self) -> None:
        """An unknown attack is an error of one sentence."""
        done = self.run_command("--attack", "unreal")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no attack is called 'unreal'; see --list", done.stderr)


class AttackTests(SynchronousTestCase):
    """A small attack on a real server."""

    def setUp(self) -> None:
        self.usable = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, self.usable)

    def test_clients(self) -> None:
        """Attackers of all protocols keep their connections; those that stop leave none behind. They share no core with
        the server, if there are two.
        """
        cores = Cores.choose()
        cores.pin_load()
        attacks = [ATTACKS[name] for name in ("slow-heads", "tls-silent", "h2-silent", "ws-silent", "ws-silent")]
        with Victim(Cores.choose()) as victim:
            self.assertEqual(victim.cores(), {cores.server})
            self.assertEqual(cores.shared, len(self.usable) == 1)
            with Attackers(victim.target, attacks).process() as crowd:
                # Not counted by descriptors: those of the connections that found out that it is up may still be open.
                wait_until(lambda: victim.health().get("connections", 0) >= 1 + 5, "five connections")
                wait_until(lambda: victim.health().get("websockets") == 2, "two WebSockets")
                count = crowd.stop()
            self.assertEqual((count.opened, count.cut), (5, 0))
            wait_until(lambda: victim.health().get("connections") == 1, "the end of the attackers' connections")

    def test_outcome(self) -> None:
        """An attack has an outcome with all its figures, in a table that docutils reads."""
        outcome = run([ATTACKS["unread"]] * 2, "unread", 0.5, ["--threads=2"], 1)
        self.assertGreater(outcome.before, 2**20)
        self.assertGreaterEqual(outcome.most, outcome.before // 2)
        self.assertEqual(outcome.clients, 2)
        self.assertIn("unread:\n  clients 2", report.line(outcome))
        lines = report.table([outcome]).splitlines()
        self.assertEqual(len(lines), 5)
        self.assertEqual({line for line in lines if line.startswith("=")}, {lines[0]})
