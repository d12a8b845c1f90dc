"""The example site's own tests, as somebody who copied it runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.process import ROOT, TIMEOUT, environment


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
