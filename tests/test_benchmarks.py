"""The benchmarks' tables are consistent, and their command line answers at once; nothing is measured here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, chain, count, repeat, zip_longest
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import report
from benchmarks.__main__ import tell_missing_redis
from benchmarks.machine import Cores
from benchmarks.peers import PEERS
from benchmarks.plan import WORKS, Plan, PlanError
from benchmarks.results import Results
from benchmarks.run import Run
from benchmarks.servers import MeasuringError, Program, Redis, Server, find_redis
from benchmarks.site import Site
from benchmarks.sockets import ANSWER, QUESTION, client_frame
from benchmarks.sockets import TEXT as SAID
from benchmarks.work import Metric, Reading, Turn, Work
from channelserver.server.websocket.frames import Opcode, encode_frame
from tests.fakes import mask_frame
from tests.process import ROOT, TIMEOUT
from tests.redis_server import redis_program


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a Python that has no packages: it needs none before it measures."""
    command = [sys.executable, "-S", "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)


def first_core(test: SynchronousTestCase) -> Cores:
    """Return cores of which each is the first one; afterwards the test may use all of them again."""
    usable = os.sched_getaffinity(0)
    test.addCleanup(os.sched_setaffinity, 0, usable)
    first = min(usable)
    return Cores(first, first, first)


class CommandLineTests(SynchronousTestCase):
    """What happens before anything is measured."""

    def test_list(self) -> None:
        """``--list`` names all works and all servers."""
        done = run("--list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        words = done.stdout.split()
        for name in [*WORKS, *PEERS]:
            self.assertIn(name, words)

    def test_closed_pipe(self) -> None:
        """Who has read enough of the list, as ``head`` does, sees no traceback."""
        command = [sys.executable, "-S", "-m", "benchmarks", "--list"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            self.assertEqual(process.stderr.read(), b"")

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
                self.assertIn(goal.against or work.subject, work.peers, work.name)
                self.assertFalse(goal.at_least is None and goal.at_most is None, work.name)

    def test_every_peer_has_work(self) -> None:
        """No peer is in the table for nothing."""
        self.assertEqual(set(PEERS), {peer for work in WORKS.values() for peer in work.peers})

    def test_turns(self) -> None:
        """Each peer of a work has all its turns; each time the order is reversed; some sites are new in each round."""
        plan = Plan()
        done: dict[str, list[str]] = {}
        for stage in plan.stages(3):
            if stage.site.fresh:
                self.assertEqual((len(stage.peers), len(stage.rounds)), (1, 1))
            for work in stage.works:
                done.setdefault(work.name, []).extend(stage.turns(work))
        self.assertEqual(list(done), list(WORKS))
        for name, work in WORKS.items():
            wanted = dict.fromkeys(work.peers, 3 * work.turns)
            if work.closely and len(work.peers) > 1:
                wanted[work.subject] = (len(work.peers) - 1) * 3 * work.turns + 1
            self.assertEqual(Counter(done[name]), wanted, name)
        peers = list(WORKS["echo-50"].peers)
        self.assertEqual(done["echo-50"][: 2 * len(peers)], [*peers, *peers[::-1]])
        first, second, third = WORKS["memory"].peers
        self.assertEqual(done["memory"][:6], [first, second, third, third, second, first])

    def test_closely(self) -> None:
        """Where it matters, the subject has its turn before and after each turn of another."""
        own, one, other = WORKS["fan-out-5000"].peers
        (stage,) = Plan(["fan-out-5000"]).stages(1)
        self.assertEqual(stage.turns(WORKS["fan-out-5000"]), [own, one, own, other, own])
        (stage,) = Plan(["fan-out-5000"], [one, other]).stages(2)
        self.assertEqual(stage.turns(WORKS["fan-out-5000"]), [one, other, other, one])

    def test_sockets(self) -> None:
        """All peers have their sockets at once, where they are up at once."""
        self.assertEqual(Plan(["fan-out-5000"]).sockets, 15_000)
        self.assertEqual(Plan(["fan-out-5000"], ["bare-loop"]).sockets, 5000)
        self.assertEqual(Plan(["scale"]).sockets, 10_000)
        self.assertEqual(Plan(["accept"]).sockets, 3000)
        self.assertEqual(Plan(["delivery"]).sockets, 11_100)
        self.assertEqual(Plan(["delivery"], ["*-100-sockets"]).sockets, 100)

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
        for rates in zip_longest(own, daphne):
            for peer, rate in zip(("channelserver", "daphne"), rates, strict=True):
                if rate is not None:
                    results.add(work, peer, Reading({"rate": rate}))
        return results

    def test_median_of_ratios(self) -> None:
        """A goal is judged by the median of the ratios of turns; what was not measured is not reached."""
        verdict, *others = self.results([8000, 10000, 10000], [1000, 1000, 1250]).verdicts(WORKS["http-plain"])
        self.assertEqual((verdict.figure, verdict.write(9.0), verdict.wanted), (9.0, "9 ×", "at least 9 ×"))
        self.assertTrue(verdict.reached)
        self.assertEqual([(other.figure, other.reached) for other in others], [(None, False)] * 3)

    def test_neighbours(self) -> None:
        """A turn is compared with the nearest one of the subject, or with the mean of two that are as near."""
        results, work = Results(Plan(["http-plain"])), WORKS["http-plain"]
        for peer, rate in (
            ("channelserver", 90),
            ("daphne", 10),
            ("channelserver", 110),
            ("granian", 50),
            ("daphne", 20),
        ):
            results.add(work, peer, Reading({"rate": rate}))
        ratios = [results.ratio(work, "rate", peer) for peer in ("daphne", "granian", "uvicorn")]
        self.assertEqual(ratios, [(100 / 10 + 110 / 20) / 2, 110 / 50, None])

    def test_stolen(self) -> None:
        """Turns which the host has spoilt do not count, if there are three others."""
        results, work = Results(Plan(["http-plain"])), WORKS["http-plain"]
        for own, stolen in ((8000, 0.0), (100, 0.2), (8000, 0.05), (200, 0.06), (9000, 0.0)):
            results.add(work, "channelserver", Reading({"rate": own}, stolen=stolen))
            results.add(work, "daphne", Reading({"rate": 1000}, stolen=stolen if own != 9000 else 0.5))
        self.assertEqual(results.figure(work, "channelserver", "rate"), 8000)
        self.assertEqual(len(results.turns(work, "daphne")), 5)  # only two of them are good
        self.assertEqual(results.ratio(work, "rate", "daphne"), 8.0)
        self.assertEqual(results.set_aside, 2)
        self.assertIn("0 were had again and 2 do not count", report.as_text(results, {}, 1, 1))

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


class Count(Work):
    """A real server is started; the figures are numbers that are counted up, and a server may fail."""

    turns = 2

    def __init__(self, name: str, site: Site, peers: tuple[str, ...], fails: tuple[str, int] = ("", 0)) -> None:
        super().__init__(name, name, site, (Metric("number", "turns"),), peers, ())
        self.fails = fails
        self.log: list[str] = []

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """A turn counts."""
        name, numbers = server.peer.name, count(1)
        self.log.append(f"{name} begins")

        def turn(seconds: int) -> Reading:
            number = next(numbers)
            self.log.append(f"{name} {number}")
            if (name, number) == self.fails:
                raise server.failure("does not count any further")
            return Reading({"number": number})

        yield turn
        self.log.append(f"{name} ends")


class RunTests(SynchronousTestCase):
    """Who has a turn, and when; with real servers, those that need nothing but Python and Twisted."""

    peers = ("bare-loop", "bare-web", "bare-autobahn")

    def run_works(self, *works: Count, rounds: int, stolen: Sequence[float] = ()) -> tuple[Results, list[str]]:
        """Return the results, and what was told.

        :param stolen: seconds that the host takes during the first turns.
        """
        cores = first_core(self)
        losses = chain(*((0.0, lost) for lost in stolen), repeat(0.0))
        clock = accumulate(losses)
        with (
            mock.patch.object(Cores, "stolen", lambda self: (0.0, next(clock))),
            mock.patch.dict(WORKS, {work.name: work for work in works}),
            mock.patch("sys.stderr") as stderr,
        ):
            plan = Plan([work.name for work in works])
            results = Run(plan, cores, rounds, 1).go()
        told = [call.args[0] for call in stderr.write.call_args_list]
        return results, [line for line in told if line != "\n"]

    def numbers(self, results: Results, work: Work, peer: str) -> list[float]:
        """Return the figures of all turns."""
        return [reading.figures["number"] for reading in results.all_turns(work, peer).values()]

    def test_alternate(self) -> None:
        """All servers are up at once, and have their turns in this and that order, in all rounds."""
        work = Count("count", Site("count"), self.peers[:2])
        results, told = self.run_works(work, rounds=2)
        one, other = self.peers[:2]
        begun = [f"{one} begins", f"{other} begins"]
        turns = [f"{one} 1", f"{other} 1", f"{other} 2", f"{one} 2", f"{one} 3", f"{other} 3", f"{other} 4", f"{one} 4"]
        self.assertEqual(work.log, [*begun, *turns, f"{other} ends", f"{one} ends"])
        self.assertEqual([self.numbers(results, work, peer) for peer in (one, other)], [[1, 2, 3, 4]] * 2)
        self.assertEqual(len(told), 8)
        self.assertRegex(told[-1], r"^\[8/8, 0:\d\d passed, about 0:00 to go\] count, bare loop of send\(\): 4 turns$")

    def test_fresh(self) -> None:
        """Where each round has new servers, there is one at a time; each other round begins at the other end."""
        work = Count("count", Site("count", fresh=True), self.peers[:2])
        results, _ = self.run_works(work, rounds=2)
        one, other = self.peers[:2]
        once = {peer: [f"{peer} begins", f"{peer} 1", f"{peer} 2", f"{peer} ends"] for peer in (one, other)}
        self.assertEqual(work.log, [*once[one], *once[other], *once[other], *once[one]])
        self.assertEqual([self.numbers(results, work, peer) for peer in (one, other)], [[1, 2, 1, 2]] * 2)

    def test_failure(self) -> None:
        """A server that has failed has no more turns, and no other work; the rest goes on, and progress ends at all."""
        one, bad, other = self.peers
        first = Count("first", Site("count"), self.peers, (bad, 1))
        second = Count("second", Site("count"), self.peers)
        results, told = self.run_works(first, second, rounds=1)
        self.assertEqual(first.log[3:8], [f"{one} 1", f"{bad} 1", f"{other} 1", f"{other} 2", f"{one} 2"])
        self.assertEqual(self.numbers(results, first, bad), [])
        self.assertIn("bare twisted.web resource does not count any further", results.failures["first", bad])
        self.assertEqual(results.failures["second", bad], "the server had failed before")
        self.assertEqual(len([line for line in told if "FAILED" in line]), 2)
        self.assertFalse([line for line in second.log if line.startswith(bad)])
        self.assertEqual(self.numbers(results, second, one), [1, 2])
        self.assertTrue(told[-1].startswith("[12/12, "), told[-1])

    def test_does_not_start(self) -> None:
        """A server that does not come up fails in all its works; the others have theirs."""
        broken = replace(PEERS["bare-web"], command=lambda programs, port, pings: ["false"])
        works = [Count(name, Site("count"), self.peers[:2]) for name in ("first", "second")]
        with mock.patch.dict(PEERS, {"bare-web": broken}):
            results, told = self.run_works(*works, rounds=1)
        self.assertIn("ended with status 1 instead of serving", results.failures["first", "bare-web"])
        self.assertIn(("second", "bare-web"), results.failures)
        self.assertEqual([self.numbers(results, work, "bare-loop") for work in works], [[1, 2]] * 2)
        self.assertTrue(told[-1].startswith("[8/8, "), told[-1])

    def test_stolen(self) -> None:
        """A turn during which the host has taken a core is had again, unless that takes too long; and it is told."""
        work = Count("count", Site("count"), self.peers[:1])
        with mock.patch("benchmarks.run.REPEATED", 0.9):  # or there would not be time enough in a run as short as this
            results, _ = self.run_works(work, rounds=1, stolen=[0.0, 1.0])
        self.assertEqual(self.numbers(results, work, self.peers[0]), [1, 3])
        self.assertIn("1 were had again and 0 do not count", report.as_text(results, {}, 1, 1))
        endless = Count("count", Site("count"), self.peers[:1])
        results, _ = self.run_works(endless, rounds=1, stolen=[1.0] * 10_000)
        self.assertEqual(len(results.turns(endless, self.peers[0])), 2)

    def test_proc_stat(self) -> None:
        """What the host takes is told for both cores, in seconds."""
        text = "cpu  9 9 9 9 9 9 9 999 9 9\ncpu0 1 2 3 4 5 6 7 150 9 9\ncpu1 1 2 3 4 5 6 7 25 9 9\nintr 1 2\n"
        with mock.patch.object(Path, "read_text", return_value=text), mock.patch("benchmarks.machine._TICKS", 100):
            self.assertEqual(Cores(0, 1, 1).stolen(), (1.5, 0.25))
        self.assertEqual(len(first_core(self).stolen()), 2)

    def test_processor_time(self) -> None:
        """That of threads which have ended counts, too; Daphne and uvicorn have a new thread for each request."""
        program = Program("busy")
        code = (
            "import threading, time\n"
            "def burn():\n    while time.thread_time() < 0.3: pass\n"
            "thread = threading.Thread(target=burn); thread.start(); thread.join()\n"
            "open('ended', 'x').close(); time.sleep(60)"
        )
        program.start([sys.executable, "-c", code], first_core(self))
        self.addCleanup(program.end)
        while not (program.folder / "ended").exists():
            self.assertIsNone(program._process.poll())
        used = program.processor_time()
        self.assertGreaterEqual(used, 0.3)
        self.assertLess(used, 5)

    def test_quiet(self) -> None:
        """The next one has its turn when a server is done with its own, even if it is long without a core."""
        rival, busy = Program("rival"), Program("busy")
        for program, nice in ((rival, 0), (busy, 19)):
            code = f"import os, time\nos.nice({nice})\nopen('begun', 'x').close()\n"
            code += "while time.process_time() < 0.8: pass\ntime.sleep(60)"
            program.start([sys.executable, "-c", code], first_core(self))
            self.addCleanup(program.end)
            while not (program.folder / "begun").exists():
                self.assertIsNone(program._process.poll())
        busy.wait_until_quiet()
        self.assertGreaterEqual(busy.processor_time(), 0.75)


class RedisTests(SynchronousTestCase):
    """The Redis that is started for some works."""

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
        with mock.patch("benchmarks.servers.find_redis", redis_program), Redis(first_core(self)) as redis:
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
            self.assertEqual(client_frame(0x82, payload), mask_frame(Opcode.BINARY, payload))

    def test_answer(self) -> None:
        """The answer whose bytes are counted is what a server makes of the question's text."""
        self.assertEqual(QUESTION, mask_frame(Opcode.TEXT, SAID))
        self.assertEqual(ANSWER, encode_frame(Opcode.TEXT, SAID))
