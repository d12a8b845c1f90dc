"""The example sites, as somebody who copied them runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.process import ROOT, TIMEOUT, ServerTestCase, environment


class ExampleTests(SynchronousTestCase):
    """``examples/chat``."""

    def test_its_own_tests(self) -> None:
        """``manage.py test`` passes, and does test something."""
        folder = self.mktemp()
        os.mkdir(folder)
        done = subprocess.run(
            [sys.executable, "manage.py", "test"],
            cwd=ROOT / "examples" / "chat",
            env=environment(CHATSITE_DATA=os.path.abspath(folder)),
            capture_output=True, text=True, timeout=4 * TIMEOUT,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        found = re.search(r"Ran (\d+) tests", done.stderr)
        self.assertTrue(found and int(found[1]) >= 6, done.stderr)


class AnswersTests(ServerTestCase):
    """``examples/answers``: a hundred users read slow answers at once, six threads serve."""

    def crowd(self, seconds: float) -> tuple[int, int]:
        """Let the crowd ask; return how many answers there were at once, and how often the plain view answered."""
        folder = ROOT / "examples" / "answers"
        arguments = ("--settings", "answers.settings", "--pythonpath", str(folder), "--threads", "6", "--port", "0")
        variables = {"ANSWERS_SECONDS": str(seconds), "ANSWERS_DATA": str(self.folder)}
        server = self.run_process(self.twistd(*arguments, "--log-format", "text"), **variables).wait_until_up()
        done = subprocess.run(
            [sys.executable, "crowd.py", "--url", server.url(), "--users", "100"],
            cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=2 * TIMEOUT,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = re.search(
            r"^100 answers, complete and in order, .* at most (\d+) at once$", done.stdout, re.MULTILINE
        )
        plain = re.search(r"^plain view meanwhile: (\d+) requests, ", done.stdout, re.MULTILINE)
        assert answers is not None and plain is not None, done.stdout
        self.assertEqual(server.stop(), 0)
        return int(answers[1]), int(plain[1])

    def test_crowd(self) -> None:
        """All are answered word by word, at the same time, and the plain view in between."""
        at_once, requests = self.crowd(seconds=6)
        self.assertEqual(at_once, 100)
        self.assertGreater(requests, 0)
