"""What the start of a server costs."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: A plain site needs none of these, and each takes time and memory.
LATE = {
    "autobahn",
    "channelserver.layers.conformance",
    "channelserver.layers.redis",
    "channelserver.server.edge.static",
    "channelserver.server.http2",
    "channelserver.staticfiles",
    "h2",
    "txredisapi",
    "whitenoise",
}


class ImportTests(SynchronousTestCase):
    """The modules that are loaded before the options are read."""

    def test_late(self) -> None:
        """What only some sites use is imported when they do."""
        code = "import sys, channelserver.start.twistd; print(*sys.modules)"
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        loaded = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        self.assertIn("channelserver.start.application", loaded)
        self.assertEqual(LATE.intersection(loaded), set())

    def test_checks(self) -> None:
        """The checks in the background, whose modules stay in memory, do without Django's commands."""
        code = """
import sys, threading
import django
django.setup()
from channelserver.start.check import look_in_background
look_in_background([])
for thread in threading.enumerate():
    if thread.name == "checks":
        thread.join()
print(*sys.modules)
"""
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        loaded = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        self.assertIn("channelserver.start.check", loaded)
        self.assertNotIn("django.core.management.commands.makemigrations", loaded)
