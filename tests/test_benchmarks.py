"""The benchmarks: consistent tables, command line, order of turns, results; nothing is measured here."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate, chain, count, repeat, zip_longest
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import chart, own_site, raw, report, summary
from benchmarks.__main__ import tell_missing_redis
from benchmarks.columns import COLUMNS, FAMILIES, compared, ratios
from benchmarks.http_load import H2Load
from benchmarks.machine import Cores
from benchmarks.meter import Meter
from benchmarks.peers import OTHER_CHECKOUT, PEERS, PRODUCT, UNALTERED
from benchmarks.plan import WORKS, Plan, PlanError, compare_checkout
from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.run import Run
from benchmarks.servers import Commands, MeasuringError, Program, Redis, Server, find_redis, serving
from benchmarks.site import Site
from benchmarks.sockets import ANSWER, QUESTION, client_frame
from benchmarks.sockets import TEXT as SAID
from benchmarks.streams import EventStreams, SlowReaders
from benchmarks.work import Metric, Reading, Turn, Work
from channelserver.server.websocket.frames import Opcode, encode_frame
from tests.fakes import mask_frame
from tests.process import ROOT, TIMEOUT
from tests.redis_server import redis_program


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a Python without packages: it needs none before it measures."""
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
        """``--list | head`` prints no traceback."""
        command = [sys.executable, "-S", "-m", "benchmarks", "--list"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            self.assertEqual(process.stderr.read(), b"")

    def test_wrong_work(self) -> None:
        """An unknown work is an error of one sentence, with a suggestion."""
        done = run("--work", "http-plan")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no work is called 'http-plan'; did you mean http-plain?", done.stderr)

    def test_wrong_number(self) -> None:
        """So is a wrong number of rounds."""
        done = run("--rounds", "none")
        self.assertEqual(done.returncode, 2)
        self.assertIn("'none' is not a positive integer", done.stderr)

    def test_wrong_checkout(self) -> None:
        """So is a folder that is no checkout."""
        done = run("--against", "docs")
        self.assertEqual(done.returncode, 2)
        self.assertIn("docs is no checkout of channelserver: it has no channelserver/__init__.py", done.stderr)


class OwnSiteTests(SynchronousTestCase):
    """``--site``: a project of the user's, in the folder where it runs."""

    URLS = """
        from django.http import HttpResponse, HttpResponseRedirect
        from django.urls import path

        urlpatterns = [
            path("", lambda request: HttpResponse("hello")),
            path("moved/", lambda request: HttpResponseRedirect("/accounts/login/")),
            path("caf\u00e9/", lambda request: HttpResponse(request.GET["a"])),
            path("broken/", lambda request: 1 / 0),
        ]
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        command = [sys.executable, "-m", "django", "startproject", "mysite", "."]
        subprocess.run(command, cwd=self.folder, check=True, timeout=TIMEOUT)
        (self.folder / "mysite" / "urls.py").write_text(textwrap.dedent(self.URLS))

    def run_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=4 * TIMEOUT
        )

    def test_measured(self) -> None:
        """A new project, on all servers that are installed: a table, and one sentence. The others are named."""
        if shutil.which("wrk") is None:
            self.skipTest("wrk is not installed")
        done = self.run_here("--site", "mysite.settings", "--rounds", "1", "--path", "/caf\u00e9/?a=b&c")
        self.assertEqual(done.returncode, 0, done.stderr)
        there, missing = own_site.installed()
        _, *lines = done.stdout.splitlines()
        self.assertEqual(lines[-2], "")
        titles = [re.split(r"  +", line)[0] for line in lines[:-2]]
        ours = [peer.title for peer in own_site.OURS]
        self.assertEqual(titles, ours + [peer.title + more for peer in there for more in ("", " + shortcuts")])
        self.assertRegex(lines[-1], r"^(?=.*channelserver)(?=.*[Ff]or /caf%C3%A9/\?a=b&c[ ,:;]).*\.$")
        for name in missing:
            self.assertRegex(done.stderr, rf"not installed.*{name}.* -m pip install .*{name}")
        self.assertIn("DEBUG is on", done.stderr)

    def test_wrong_settings(self) -> None:
        """Settings that cannot be imported are named, with the folder that is meant; so are flags of other runs.

        That comes before the tools that are missing.
        """
        self.patch(os, "environ", {**os.environ, "PATH": self.mktemp()})
        done = self.run_here("--site", "nosite.settings")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(
            done.stderr, r"^benchmarks: the settings nosite.settings cannot be used .*folder of your manage.py"
        )
        self.assertEqual(done.stderr.count("\n"), 1)
        done = self.run_here("--site", "mysite.settings", "--path", "admin/")
        self.assertIn("--path admin/ is no path: it begins with a slash", done.stderr)
        self.assertIn("leave out --work", self.run_here("--site", "mysite.settings", "--work", "echo-50").stderr)

    def test_wrong_pages(self) -> None:
        """A page that is not answered by 200 is an error that says what to do."""
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        self.patch(os, "environ", {**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"})
        with own_site.SiteServer(own_site.OURS[0], first_core(self)) as server:
            server.check("/")
            for path, text in (
                ("/moved/", "302: it redirects to /accounts/login/"),
                ("/nosuch/", "404: name a page that exists"),
                ("/broken/", "500: the page is broken here"),
            ):
                error = self.assertRaises(MeasuringError, server.check, path)
                self.assertIn(text, str(error))

    def test_sentence(self) -> None:
        """It says what the figures say, also when another server is faster, or nothing can be said."""
        gunicorn, granian = (own_site.Turns(PEERS[name]) for name in ("gunicorn", "granian"))
        ours, plain = (own_site.Turns(peer) for peer in own_site.OURS)
        for rates, wanted in (
            (((200, 210, 205), (150, 150, 150), (90, 95, 92), (100, 102, 101)), "is 2 times as fast as granian for /x"),
            (((200, 210, 205), (90, 91, 90), (90, 95, 92), (100, 102, 101)), "all of it due to its Django shortcuts"),
            (((200, 210, 205), (90, 91, 90), (90, 95, 92), (400, 410, 420)), "Stay with granian if speed"),
            (((100, 103, 98), (90, 91, 90), (90, 95, 92), (99, 101, 102)), "equally fast"),
            (((100, 60, 98), (90, 91, 90), (90, 95, 92), (99, 120, 82)), "measure on a quiet machine"),
        ):  # fmt: skip
            for turns, figures in zip((ours, plain, gunicorn, granian), rates, strict=True):
                turns.rates = [float(figure) for figure in figures]
            sentence = own_site.verdict([ours, plain, gunicorn, granian], "/x")
            self.assertIn(wanted, sentence)
            self.assertIn("granian", sentence)
        self.assertIn("no other server was measured", own_site.verdict([ours, plain], "/x"))


class PlanTests(SynchronousTestCase):
    """Works, their peers and their goals."""

    def test_names(self) -> None:
        """Works name existing peers; goals name figures and peers of their work."""
        for work in WORKS.values():
            metrics = {metric.name for metric in work.metrics}
            self.assertLessEqual(set(work.peers), set(PEERS), work.name)
            self.assertTrue(work.subject.startswith("channelserver"), work.name)
            for goal in work.goals:
                self.assertIn(goal.metric, metrics, work.name)
                self.assertIn(goal.against or work.subject, work.peers, work.name)
                self.assertFalse(goal.at_least is None and goal.at_most is None, work.name)

    def test_every_peer_has_work(self) -> None:
        """Each peer takes part in a work."""
        self.assertEqual(set(PEERS), {peer for work in WORKS.values() for peer in work.peers})

    def test_turns(self) -> None:
        """Each peer has all its turns; every second pass is reversed; ``fresh`` sites start again in each round."""
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
            others = [name for name in work.peers if name not in (work.subject, UNALTERED)]
            if work.closely and others:
                unaltered = len(FAMILIES) if compared(work) else 0
                wanted[work.subject] = (len(others) - unaltered) * 3 * work.turns + 1
                if unaltered:
                    wanted[UNALTERED] = unaltered * 3 * work.turns
            self.assertEqual(Counter(done[name]), wanted, name)
        peers = list(WORKS["echo-50"].peers)
        self.assertEqual(done["echo-50"][: 2 * len(peers)], [*peers, *peers[::-1]])
        first, second, third = WORKS["memory"].peers
        self.assertEqual(done["memory"][:6], [first, second, third, third, second, first])

    def test_closely(self) -> None:
        """With ``closely``, the subject has a turn before and after each turn of another."""
        own, one, other = WORKS["fan-out-5000"].peers
        (stage,) = Plan(["fan-out-5000"]).stages(1)
        self.assertEqual(stage.turns(WORKS["fan-out-5000"]), [own, one, own, other, own])
        (stage,) = Plan(["fan-out-5000"], [one, other]).stages(2)
        self.assertEqual(stage.turns(WORKS["fan-out-5000"]), [one, other, other, one])

    def test_sockets(self) -> None:
        """The number of sockets includes those of all peers that run at once."""
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
        self.assertEqual(
            [peer.name for peer in plan.peers(WORKS["http-plain"])],
            ["channelserver", "channelserver-no-shortcuts", "granian"],
        )
        self.assertFalse(plan.whole)
        with self.assertRaisesRegex(PlanError, "none of the works idle runs with granian"):
            Plan(["idle"], ["granian"])


class CheckoutTests(SynchronousTestCase):
    """This server beside the same from another checkout."""

    def setUp(self) -> None:
        """Make another checkout, of which little is left."""
        for names in (WORKS, PEERS):
            patch: Any = mock.patch.dict(names)
            patch.start()
            self.addCleanup(patch.stop)
        self.checkout = Path(self.mktemp()).absolute()
        (self.checkout / "channelserver").mkdir(parents=True)
        (self.checkout / "channelserver" / "__init__.py").write_text("other = True\n")
        compare_checkout(self.checkout)

    def test_turns(self) -> None:
        """Each turn of the other checkout is between two of this one; there are no goals, and no other peers."""
        self.assertNotIn("processes", WORKS)
        for work in WORKS.values():
            self.assertEqual((work.peers, work.goals), ((PRODUCT, OTHER_CHECKOUT), ()))
        (stage,) = Plan(["echo-50"]).stages(1)
        self.assertEqual(stage.turns(WORKS["echo-50"]), [PRODUCT, OTHER_CHECKOUT] * 2 + [PRODUCT])

    def test_import(self) -> None:
        """Its package is imported, with the project of this checkout."""
        with mock.patch.object(Program, "start") as start:
            server = Server(PEERS[OTHER_CHECKOUT], first_core(self), Site("plain"))
        self.addCleanup(shutil.rmtree, server.folder)
        code = "import benchmarks, channelserver; print(channelserver.other, benchmarks.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=start.call_args.args[2], stdout=subprocess.PIPE, text=True,
            timeout=TIMEOUT, check=True,
        )  # fmt: skip
        self.assertEqual(done.stdout, f"True {ROOT / 'benchmarks' / '__init__.py'}\n")


class StreamTests(SynchronousTestCase):
    """The load of clients that stay, with this server."""

    def serve(self) -> Server:
        """Return a server whose project has coroutines and streams."""
        stack = ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(
            serving(PEERS["channelserver-streams"], first_core(self), Site("async", "async_urls"))
        )

    def test_events(self) -> None:
        """Each stream gets each event."""
        server = self.serve()
        for work in ("async-plain", "async-query"):
            with WORKS[work].session(server):
                pass  # its view answers
        before = server.threads()
        with EventStreams(server, "/events/") as streams:
            streams.grow(20)
            self.assertLess(streams.tick(1), TIMEOUT)
            self.assertEqual(server.threads(), before)
            with self.assertRaisesRegex(MeasuringError, "answered a request for /nowhere/ with b'HTTP/1.1 404"):
                with EventStreams(server, "/nowhere/") as others:
                    others.grow(1)

    def test_slow_readers(self) -> None:
        """They are counted when their answer begins, and read a part of it."""
        server = self.serve()
        for path in ("/file/", "/generated/"):
            with SlowReaders(server, path, 20) as readers:
                while readers.served < 20:
                    readers.read(0.1)
                self.assertEqual(server.get("/"), b"Hello, world!")
        with SlowReaders(server, "/nowhere/", 1) as readers:
            with self.assertRaisesRegex(MeasuringError, "answered a request for /nowhere/ with b'HTTP/1.1 404"):
                readers.read(TIMEOUT)


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
        """A goal is judged by the median of the ratios of turns; without turns it is not reached."""
        verdict, *others = self.results([8000, 10000, 10000], [1000, 1000, 1250]).verdicts(WORKS["http-plain"])
        self.assertEqual((verdict.figure, verdict.write(9.0), verdict.wanted), (9.0, "9 ×", "at least 9 ×"))
        self.assertTrue(verdict.reached)
        self.assertEqual([(other.figure, other.reached) for other in others], [(None, False)] * 3)

    def test_neighbours(self) -> None:
        """A turn is compared with the subject's nearest turn, or with the mean of two equally near."""
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
        """Turns with CPU steal do not count, if there are three others."""
        results, work = Results(Plan(["http-plain"])), WORKS["http-plain"]
        for own, stolen in ((8000, 0.0), (100, 0.2), (8000, 0.05), (200, 0.06), (9000, 0.0)):
            results.add(work, "channelserver", Reading({"rate": own}, stolen=stolen))
            results.add(work, "daphne", Reading({"rate": 1000}, stolen=stolen if own != 9000 else 0.5))
        self.assertEqual(results.figure(work, "channelserver", "rate"), 8000)
        self.assertEqual(len(results.turns(work, "daphne")), 5)  # only two of them are good
        self.assertEqual(results.ratio(work, "rate", "daphne"), 8.0)
        self.assertEqual(results.set_aside, 2)
        self.assertIn("turns with more than 5% CPU steal: 0 repeated, 2 left out", report.as_text(results, {}, 1, 1))

    def test_missed(self) -> None:
        """A missed goal is printed as such."""
        text = report.as_text(self.results([8000], [1000]), {}, 1, 1)
        self.assertRegex(text, r"Daphne +8 × +at least 9 × +MISSED")

    def test_failure(self) -> None:
        """A failure is printed with its reason."""
        results = self.results([8000], [])
        results.fail(WORKS["http-plain"], "daphne", "ended with status 1")
        text = report.as_text(results, {}, 1, 1)
        self.assertRegex(text, r"Daphne +failed")
        self.assertRegex(text, r"Daphne +at least 9 × +not measured")
        self.assertIn("http-plain failed with daphne: ended with status 1", text)


class ColumnTests(SynchronousTestCase):
    """Out of the box, and like for like."""

    work = WORKS["http-plain"]

    def test_servers(self) -> None:
        """Each column has our server and each peer once, either with or without the shortcuts."""
        peers = ("daphne", "uvicorn", "gunicorn", "granian")
        wanted = (
            {"channelserver", *peers},
            {"channelserver", *(f"{peer}-shortcuts" for peer in peers)},
            {"channelserver-no-shortcuts", *peers},
        )
        for column, names in zip(COLUMNS, wanted, strict=True):
            self.assertEqual({name for name in self.work.peers if column.has(PEERS[name])}, names, column.key)
            self.assertEqual({column.own, *(column.rival(family) for family in FAMILIES)}, names, column.key)

    def test_neighbours(self) -> None:
        """Two servers that a column compares have neighbouring turns, in either direction."""
        (stage,) = Plan(["http-plain"]).stages(3)
        turns = stage.turns(self.work)
        for column in COLUMNS:
            for family in FAMILIES:
                rival = column.rival(family)
                for index in (index for index, name in enumerate(turns) if name == rival):
                    self.assertIn(column.own, (turns[index - 1], turns[index + 1]), (column.key, family, index))
        rounds = [stage.round(self.work, index) for index in range(len(turns))]
        self.assertEqual(rounds, sorted(rounds))
        self.assertEqual(set(rounds), {0, 1, 2})

    def test_shortcuts(self) -> None:
        """The shortcuts are installed in peers that have them, and in no others."""
        code = "import {}, django.core.signals as s, django.dispatch as d; print(type(s.request_started) is d.Signal)"
        for module in ("benchmarks.apps.wsgi", "benchmarks.apps.asgi"):
            for name, untouched in (("granian", "True\n"), ("granian-shortcuts", "False\n")):
                with mock.patch.object(Program, "start") as start:
                    server = Server(PEERS[name], first_core(self), Site("plain", consumers=False))
                    self.addCleanup(server.folder.rmdir)
                done = subprocess.run(
                    [sys.executable, "-c", code.format(module)], env=start.call_args.args[2], stdout=subprocess.PIPE,
                    text=True, timeout=TIMEOUT, check=True,
                )  # fmt: skip
                self.assertEqual(done.stdout, untouched, (module, name))


class PublishTests(SynchronousTestCase):
    """The files that a run writes for the documentation."""

    machine: ClassVar = {"date": "2026-01-02 03:04 UTC", "processor": "a processor"}

    def results(self) -> Results:
        """Return a turn of each server without and with middleware, and some more."""
        results = Results(Plan(["http-plain", "http-default", "memory", "start"]))
        rates = {
            "channelserver": 12000, UNALTERED: 9000, "granian": 10000, "granian-shortcuts": 18000, "gunicorn": 4000,
            "gunicorn-shortcuts": 6000, "bare-web": 20000,
        }  # fmt: skip
        for peer, rate in rates.items():
            meter = Meter()
            meter.server, meter.load = 0.987, 0.25
            results.add(WORKS["http-plain"], peer, Reading({"rate": float(rate)}, meter, 0.01, 1))
        results.add(WORKS["http-default"], "channelserver", Reading({"rate": 6000.0}))
        results.add(WORKS["http-default"], "granian", Reading({"rate": 5000.0}))
        for peer, size in (("channelserver", 3.0), ("uvicorn-sync", 33.0), ("uvicorn-async", 30.0)):
            results.add(WORKS["memory"], peer, Reading({"each": size}))
        results.discarded.append(("http-plain", "granian", Reading({"rate": 2.0}, stolen=0.5, round=2)))
        return results

    def test_ratios(self) -> None:
        """Each column compares like with like."""
        found = ratios(self.results(), WORKS["http-plain"], "granian")
        self.assertEqual(list(found.values()), [1.2, 12000 / 18000, 0.9])
        self.assertEqual(set(ratios(self.results(), WORKS["http-plain"], "daphne").values()), {None})

    def test_sentences(self) -> None:
        """Words give the less favourable results beside the more favourable ones."""
        box, fair = summary.sentences(self.results())
        self.assertIn(
            "Out of the box, channelserver answers 1.2 × as many small requests as granian WSGI, 3 × as many", box
        )
        self.assertIn(
            "Like for like, channelserver answers 0.667 to 0.9 × as many small requests as granian WSGI, 2 to 2.25",
            fair,
        )

    def test_tables(self) -> None:
        """One table has each server's best variant out of the box; the other has three columns."""
        head, rows = summary.out_of_the_box(self.results())
        self.assertEqual(head[1:4], ("channelserver", "granian WSGI", "gunicorn gthread"))
        self.assertEqual(rows[0][1:5], ["12000", "10000 (1.2 ×)", "4000 (3 ×)", "n/a"])
        self.assertEqual(rows[2], ["memory of an idle WebSocket, KiB", "3", "n/a", "n/a", "30 (0.1 ×)", "n/a"])
        self.assertEqual(len(rows), 3)
        text = summary.as_rst(self.results(), self.machine, 3, 1)
        self.assertNotIn("(?)", text["like-for-like"])
        busy = self.results()
        meter = Meter()
        meter.server, meter.load = 0.5, 0.1
        busy.add(WORKS["http-plain"], "daphne", Reading({"rate": 500.0}, meter))
        self.assertNotIn("list-table", "".join(summary.as_rst(Results(Plan(["idle"])), self.machine, 3, 1).values()))
        self.assertNotIn("Goals:", report.as_rst(Results(Plan(["weight"])), self.machine, 3, 1))
        for part in ("out-of-the-box", "like-for-like"):
            text = summary.as_rst(busy, self.machine, 3, 1)[part]
            self.assertIn("- 500 (?)", text)
            self.assertIn("\n| (?) server below 85% CPU", text)
            self.assertNotIn("(!)", text)
        rows = summary.like_for_like(self.results())[1]
        self.assertEqual(rows[0], ("``http-plain``", "channelserver", "9000", "12000", "", "", ""))
        self.assertEqual(rows[2], ("", "granian WSGI", "10000", "18000", "1.2 ×", "0.667 ×", "0.9 ×"))

    def test_json(self) -> None:
        """The JSON has every turn, one a line, with its round, CPU use and steal; repeated turns, too."""
        text = raw.as_json(self.results(), self.machine, 3, 1)
        read = json.loads(text)
        own = {
            "work": "http-plain", "server": "channelserver", "columns": ["out-of-the-box", "shortcuts-in-all"],
            "round": 2, "figures": {"rate": 12000.0}, "steal": 0.01, "server_cpu": 0.987, "load_cpu": 0.25,
            "place": 0, "counts": True,
        }  # fmt: skip
        self.assertEqual(read["turns"][0], own)
        self.assertIn(json.dumps(own), text.splitlines()[text.splitlines().index(' "turns": [') + 1])
        self.assertEqual([turn["place"] for turn in read["turns"][:7]], list(range(7)))
        last = read["turns"][-1]
        self.assertEqual((last["discarded"], last["steal"], last["round"]), (True, 0.5, 3))
        plain = read["works"][0]
        self.assertEqual(plain["load"], "wrk")
        self.assertEqual(plain["servers"]["granian"]["medians"], {"rate": 10000.0})
        self.assertEqual(plain["like_for_like"]["granian"]["shortcuts-in-none"], 0.9)
        self.assertNotIn("like_for_like", read["works"][-1])

    def test_chart(self) -> None:
        """The chart is well-formed SVG with a bar for each server, as long as its figure, in light and in dark."""
        path = Path(self.mktemp())
        chart.draw(self.results(), path)
        root = ElementTree.fromstring(path.read_text())
        bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("height") == "13"]
        kinds = ["own", "unaltered", "peer", "altered", "peer", "altered", "peer"]
        self.assertEqual(len(bars), 7 + 2 + 3)  # start was not measured
        plain = {kind: float(bar.get("width", 0)) for kind, bar in zip(kinds, bars, strict=False)}
        self.assertAlmostEqual(plain["own"] / float(bars[6].get("width", 0)), 12 / 20, 2)
        self.assertEqual(sorted(bar.get("class", "") for bar in bars[:7]), sorted(kinds))
        self.assertIn("prefers-color-scheme: dark", path.read_text())
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        for wanted in ("granian WSGI + shortcuts", "18000", "memory of an idle WebSocket, KiB (less is better)"):
            self.assertIn(wanted, texts)

    def test_files(self) -> None:
        """One call writes tables, turns and chart; the pages include each part of the tables once."""
        folder = Path(self.mktemp())
        folder.mkdir()
        publish(self.results(), folder, self.machine, 3, 1)
        names = ["performance-results.json", "performance-results.txt", "performance.svg"]
        self.assertEqual(sorted(path.name for path in folder.iterdir()), names)
        text = (folder / names[1]).read_text()
        self.assertIn("2026-01-02 03:04 UTC: 3 rounds with turns of 1 s, only http-plain, ", text)
        marks = [line for line in text.splitlines() if line.startswith(".. part: ")]
        self.assertEqual(
            marks, [f".. part: {name}" for name in ("out-of-the-box", "like-for-like", "all-works", "end")]
        )
        pages = [(ROOT / "docs" / name).read_text() for name in ("performance.rst", "performance-journal.rst")]
        for mark in marks[1:]:
            self.assertIn(f"   :end-before: {mark}", "".join(pages))
        for mark in marks[:-1]:
            self.assertIn(f"   :start-after: {mark}\n", "".join(pages))
        self.assertEqual(sum(f":start-after: {mark}" in page for page in pages for mark in marks), 3)


class Count(Work):
    """Starts a real server; the figures count turns, and a server can fail."""

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
    """Order of turns, with the real servers that need only Python and Twisted."""

    peers = ("bare-loop", "bare-web", "bare-autobahn")

    def run_works(self, *works: Count, rounds: int, stolen: Sequence[float] = ()) -> tuple[Results, list[str]]:
        """Return the results and the progress lines.

        :param stolen: seconds of CPU steal in the first turns.
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
        """All servers run at once, and have their turns in both orders, in all rounds."""
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
        """With ``fresh``, one server runs at a time; every second round is reversed."""
        work = Count("count", Site("count", fresh=True), self.peers[:2])
        results, _ = self.run_works(work, rounds=2)
        one, other = self.peers[:2]
        once = {peer: [f"{peer} begins", f"{peer} 1", f"{peer} 2", f"{peer} ends"] for peer in (one, other)}
        self.assertEqual(work.log, [*once[one], *once[other], *once[other], *once[one]])
        self.assertEqual([self.numbers(results, work, peer) for peer in (one, other)], [[1, 2, 1, 2]] * 2)

    def test_failure(self) -> None:
        """A failed server has no further turns and works; the others go on, and progress reaches the total."""
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
        """A server that does not start fails in all its works; the others do theirs."""
        broken = replace(PEERS["bare-web"], command=lambda programs, port, pings: ["false"])
        works = [Count(name, Site("count"), self.peers[:2]) for name in ("first", "second")]
        with mock.patch.dict(PEERS, {"bare-web": broken}):
            results, told = self.run_works(*works, rounds=1)
        self.assertIn("ended with status 1 instead of serving", results.failures["first", "bare-web"])
        self.assertIn(("second", "bare-web"), results.failures)
        self.assertEqual([self.numbers(results, work, "bare-loop") for work in works], [[1, 2]] * 2)
        self.assertTrue(told[-1].startswith("[8/8, "), told[-1])

    def test_stolen(self) -> None:
        """A turn with CPU steal is repeated, unless repeating takes too long; the report says so."""
        work = Count("count", Site("count"), self.peers[:1])
        with mock.patch("benchmarks.run.REPEATED", 0.9):  # a run this short allows no repeated turn
            results, _ = self.run_works(work, rounds=1, stolen=[0.0, 1.0])
        self.assertEqual(self.numbers(results, work, self.peers[0]), [1, 3])
        self.assertIn("1 repeated, 0 left out", report.as_text(results, {}, 1, 1))
        endless = Count("count", Site("count"), self.peers[:1])
        results, _ = self.run_works(endless, rounds=1, stolen=[1.0] * 10_000)
        self.assertEqual(len(results.turns(endless, self.peers[0])), 2)

    def test_discarded(self) -> None:
        """A repeated turn is kept apart from those that count; each turn has its round."""
        work = Count("count", Site("count"), self.peers[:1])
        with mock.patch("benchmarks.run.REPEATED", 0.9):
            results, _ = self.run_works(work, rounds=2, stolen=[1.0])
        ((name, peer, reading),) = results.discarded
        self.assertEqual((name, peer, reading.figures), ("count", self.peers[0], {"number": 1}))
        rounds = [turn.round for turn in results.all_turns(work, self.peers[0]).values()]
        self.assertEqual(rounds, [0, 0, 1, 1])

    def test_start(self) -> None:
        """A turn of ``start`` times a new process; ``weight`` reads the memory of the one that is up."""
        cores = first_core(self)
        with serving(PEERS["bare-web"], cores, Site("plain")) as server:
            with WORKS["start"].session(server) as turn, mock.patch.object(Program, "end", autospec=True) as end:
                figures = turn(1).figures
                (started,) = end.call_args.args
            started.end()
            self.assertNotEqual(started.port, server.port)
            self.assertGreater(figures["time"], 10)
            self.assertLess(figures["time"], 60_000)
            with WORKS["weight"].session(server) as turn:
                figures = turn(1).figures
            self.assertAlmostEqual(figures["rss"], server.memory() / 2**20, delta=2)
            self.assertTrue(1 < figures["pss"] <= figures["rss"], figures)

    def test_proc_stat(self) -> None:
        """CPU steal is read for both cores, in seconds."""
        text = "cpu  9 9 9 9 9 9 9 999 9 9\ncpu0 1 2 3 4 5 6 7 150 9 9\ncpu1 1 2 3 4 5 6 7 25 9 9\nintr 1 2\n"
        with mock.patch.object(Path, "read_text", return_value=text), mock.patch("benchmarks.machine._TICKS", 100):
            self.assertEqual(Cores(0, 1, 1).stolen(), (1.5, 0.25))
        self.assertEqual(len(first_core(self).stolen()), 2)

    def test_processor_time(self) -> None:
        """CPU time includes threads that have ended; Daphne and uvicorn use a new thread for each request."""
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
        """The next turn begins when a server has finished its work, even if it waits long for a core."""
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


class OtherProgramTests(SynchronousTestCase):
    """Programs that some works need."""

    def test_missing(self) -> None:
        """Without one of them, a message says what to install."""
        with mock.patch("shutil.which", return_value=None):
            self.assertRaisesRegex(
                MeasuringError, "install nginx", Server, PEERS["nginx"], first_core(self), WORKS["h2-static"].site
            )
            self.assertRaisesRegex(MeasuringError, "install nghttp2-client", H2Load, mock.Mock(), "/", 1, 1, 1)


class RedisTests(SynchronousTestCase):
    """The Redis of some works."""

    def test_missing(self) -> None:
        """Without Redis, a message says what to install and which works need it."""
        with mock.patch("shutil.which", return_value=None):
            self.assertRaisesRegex(MeasuringError, "apt-get install redis-server", find_redis)
            with mock.patch("sys.stderr") as stderr:
                tell_missing_redis(Plan(["redis-*", "idle"]))
                tell_missing_redis(Plan(["idle"]))
        told = "".join(call.args[0] for call in stderr.write.call_args_list)
        self.assertTrue(told.endswith("; without it, not measured: redis-fan-out, redis-idle\n"), told)
        self.assertEqual(told.count("\n"), 1)

    def test_commands(self) -> None:
        """Commands are counted without our own queries, those inside of scripts, too; the folder is removed."""
        with mock.patch("benchmarks.servers.find_redis", redis_program), Redis(first_core(self)) as redis:
            with redis.counting() as counted:
                pass
            self.assertEqual(counted, Commands(0, 0))
            with (
                redis.counting() as counted,
                socket.create_connection(("127.0.0.1", redis.port), TIMEOUT) as connection,
            ):
                connection.sendall(b"PING\r\n")
                self.assertEqual(connection.recv(100), b"+PONG\r\n")
                connection.sendall(b"EVAL \"redis.call('PING') return redis.call('DBSIZE')\" 0\r\n")
                self.assertEqual(connection.recv(100), b":0\r\n")
            self.assertEqual(counted, Commands(sent=2, executed=4))
        self.assertFalse(redis.folder.exists())


class FrameTests(SynchronousTestCase):
    """The load generator's frames are correct."""

    def test_short_and_long(self) -> None:
        """A client's frame is masked as RFC 6455 says, with either form of its length."""
        for size in (0, 1, 99, 125, 126, 4000):
            payload = bytes(number % 251 for number in range(size))
            self.assertEqual(client_frame(0x82, payload), mask_frame(Opcode.BINARY, payload))

    def test_answer(self) -> None:
        """The expected answer is the server's frame for the question's text."""
        self.assertEqual(QUESTION, mask_frame(Opcode.TEXT, SAID))
        self.assertEqual(ANSWER, encode_frame(Opcode.TEXT, SAID))
