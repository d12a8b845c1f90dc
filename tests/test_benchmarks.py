"""The benchmarks' tables are consistent, and their command line answers at once; nothing is measured here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import report
from benchmarks.__main__ import tell_missing_redis
from benchmarks.machine import Cores
from benchmarks.peers import PEERS
from benchmarks.plan import WORKS, Plan, PlanError
from benchmarks.results import Results
from benchmarks.servers import MeasuringError, Redis, find_redis
from benchmarks.sockets import ANSWER, QUESTION, client_frame
from benchmarks.sockets import TEXT as SAID
from benchmarks.work import Reading
from channelserver.server.frames import BINARY, TEXT, encode_frame
from tests.fakes import mask_frame
from tests.process import ROOT, TIMEOUT
from tests.redis_server import redis_program


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a Python that has no packages: it needs none before it measures."""
    command = [sys.executable, "-S", "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)


class CommandLineTests(SynchronousTestCase):
    """What happens before anything is measured."""

    def test_list(self) -> None:
        """``--list`` names all works and all servers."""
        done = run("--list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        words = done.stdout.split()
        for name in [*WORKS, *PEERS]:
            self.assertIn(name, words)

    def test_wrong_work(self) -> None:
        """A work that there is not is told in one sentence, with the one that may have been meant."""
        done = run("--work", "http-plan")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no work is called 'http-plan'; did you mean http-plain?", done.stderr)

    def test_wrong_number(self) -> None:
        """So is a number of rounds that is none."""
        done = run("--rounds", "none")
        self.assertEqual(done.returncode, 2)
        self.assertIn("'none' is not a whole number from 1 on", done.stderr)


class PlanTests(SynchronousTestCase):
    """Works, their peers and their goals."""

    def test_names(self) -> None:
        """Works name peers that there are; goals name figures and peers of their work."""
        for work in WORKS.values():
            metrics = {metric.name for metric in work.metrics}
            self.assertLessEqual(set(work.peers), set(PEERS), work.name)
            self.assertTrue(work.subject.startswith("channelserver"), work.name)
            for goal in work.goals:
                self.assertIn(goal.metric, metrics, work.name)
                self.assertIn(goal.against_metric or goal.metric, metrics, work.name)
                self.assertIn(goal.against or work.subject, work.peers, work.name)
                self.assertFalse(goal.at_least is None and goal.at_most is None, work.name)

    def test_every_peer_has_work(self) -> None:
        """No peer is in the table for nothing."""
        self.assertEqual(set(PEERS), {peer for work in WORKS.values() for peer in work.peers})

    def test_rounds_alternate(self) -> None:
        """Every round does every work with each of its peers, some twice; every other turn begins at the other end."""
        plan = Plan()
        rounds = [
            [(work.name, stage.peer.name) for stage in plan.stages(number) for work in stage.works] for number in (0, 1)
        ]
        wanted = Counter({(work.name, peer): work.site.turns for work in WORKS.values() for peer in work.peers})
        for done in rounds:
            self.assertEqual(Counter(done), wanted)
        few, many = reversed(WORKS["threads-plain"].peers)
        for done, order in zip(rounds, ([many, few, few, many], [few, many, many, few]), strict=True):
            self.assertEqual([peer for work, peer in done if work == "threads-plain"], order)
        self.assertEqual([peer for work, peer in rounds[0] if work == "accept"], list(WORKS["accept"].peers))
        self.assertEqual([peer for work, peer in rounds[1] if work == "accept"], list(WORKS["accept"].peers)[::-1])

    def test_choice(self) -> None:
        """Patterns choose works and peers; a work without any of the peers is left out."""
        plan = Plan(["http-*", "echo-50"], ["granian", "channel*"])
        works = ["http-plain", "http-answer", "http-upload", "http-default", "echo-50"]
        self.assertEqual([work.name for work in plan.works], works)
        self.assertEqual([peer.name for peer in plan.peers(WORKS["http-plain"])], ["channelserver", "granian"])
        self.assertFalse(plan.whole)
        with self.assertRaisesRegex(PlanError, "none of the works idle is done with granian"):
            Plan(["idle"], ["granian"])


class ResultsTests(SynchronousTestCase):
    """Medians, ratios, goals."""

    def results(self, own: list[float], daphne: list[float]) -> Results:
        """Return results of one work."""
        results, work = Results(Plan(["http-plain"])), WORKS["http-plain"]
        for peer, rates in (("channelserver", own), ("daphne", daphne)):
            for rate in rates:
                results.add(work, peer, Reading({"rate": rate}))
        return results

    def test_ratio_of_medians(self) -> None:
        """A goal is judged by the ratio of the medians; what was not measured is not reached."""
        verdict, *others = self.results([9000, 1, 9900], [1000, 5000, 900]).verdicts(WORKS["http-plain"])
        self.assertEqual((verdict.figure, verdict.write(9.0), verdict.wanted), (9.0, "9 ×", "at least 9 ×"))
        self.assertTrue(verdict.reached)
        self.assertEqual([(other.figure, other.reached) for other in others], [(None, False)] * 3)

    def test_missed(self) -> None:
        """A goal that is missed is printed so."""
        text = report.as_text(self.results([8000], [1000]), {}, 1, 1)
        self.assertRegex(text, r"Daphne +8 × +at least 9 × +MISSED")

    def test_failure(self) -> None:
        """What a server could not do is printed, with its reason."""
        results = self.results([8000], [])
        results.fail(WORKS["http-plain"], "daphne", "ended with status 1")
        text = report.as_text(results, {}, 1, 1)
        self.assertRegex(text, r"Daphne +failed")
        self.assertRegex(text, r"Daphne +at least 9 × +not measured")
        self.assertIn("http-plain failed with daphne: ended with status 1", text)


class RedisTests(SynchronousTestCase):
    """The Redis that is started for some works."""

    def cores(self) -> Cores:
        """Return cores of which each is the first one; afterwards the test may use all of them again."""
        usable = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, usable)
        first = min(usable)
        return Cores(first, first, first)

    def test_missing(self) -> None:
        """A machine without it is told what to install, and which works need it."""
        with mock.patch("shutil.which", return_value=None):
            self.assertRaisesRegex(MeasuringError, "apt-get install redis-server", find_redis)
            with mock.patch("sys.stderr") as stderr:
                tell_missing_redis(Plan(["redis-*", "idle"]))
                tell_missing_redis(Plan(["idle"]))
        told = "".join(call.args[0] for call in stderr.write.call_args_list)
        self.assertTrue(told.endswith("; without it, not measured: redis-fan-out, redis-idle\n"), told)
        self.assertEqual(told.count("\n"), 1)

    def test_commands(self) -> None:
        """Commands are counted, but those that ask for the count; its folder goes with it."""
        with mock.patch("benchmarks.servers.find_redis", redis_program), Redis(self.cores()) as redis:
            self.assertEqual([redis.commands() for _ in range(3)], [0, 0, 0])
            with socket.create_connection(("127.0.0.1", redis.port), TIMEOUT) as connection:
                connection.sendall(b"PING\r\n")
                self.assertEqual(connection.recv(100), b"+PONG\r\n")
            self.assertEqual(redis.commands(), 1)
        self.assertFalse(redis.folder.exists())


class FrameTests(SynchronousTestCase):
    """The load generator's frames are what it takes them for."""

    def test_short_and_long(self) -> None:
        """A client's frame is masked as RFC 6455 says, with either form of its length."""
        for size in (0, 1, 99, 125, 126, 4000):
            payload = bytes(number % 251 for number in range(size))
            self.assertEqual(client_frame(0x82, payload), mask_frame(BINARY, payload))

    def test_answer(self) -> None:
        """The answer whose bytes are counted is what a server makes of the question's text."""
        self.assertEqual(QUESTION, mask_frame(TEXT, SAID))
        self.assertEqual(ANSWER, encode_frame(TEXT, SAID))
