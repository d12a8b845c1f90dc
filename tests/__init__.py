"""The unit tests. Importing the package sets Django up with :mod:`tests.settings`.

A test that needs the database derives from :class:`tests.DatabaseTestCase`; the first one to run makes the tables.
"""

from __future__ import annotations

import functools
import os
import unittest
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import django
from django.core.management import call_command
from django.test import TestCase
from twisted.trial._dist import disttrial

from tests.durations import note_if_asked

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()


def examples(number: int) -> int:
    """Return how many examples hypothesis tries.

    With ``CHANNELSERVER_TEST_FEWER``, a quarter: for further Pythons, when one tries them all.
    """
    return max(5, number // 4) if os.environ.get("CHANNELSERVER_TEST_FEWER") else number


def _keep_classes_together() -> None:
    """Have ``trial -j`` give the tests of a class to one worker.

    It gives each test to the next worker that is free, and so each worker would start the server of a class whose tests
    share one. Where trial is built in another way than in Twisted 26, it goes on as it does.
    """
    runner: Any = disttrial.DistTrialRunner
    iterate, drive = getattr(disttrial, "_iterateTests", None), getattr(runner, "_driveWorker", None)
    if iterate is None or drive is None:
        return

    async def drive_worker(self: Any, result: Any, classes: Iterable[list[Any]], worker: Any) -> None:
        await drive(self, result, (case for cases in classes for case in cases), worker)

    disttrial._iterateTests = lambda suite: [list(cases) for _, cases in groupby(iterate(suite), type)]
    runner._driveWorker = drive_worker


_keep_classes_together()
note_if_asked()


@functools.cache
def make_tables() -> None:
    """Make the tables of all installed applications, once."""
    call_command("migrate", run_syncdb=True, verbosity=0)


class DatabaseTestCase(TestCase):
    """A test with the database, which is as before when the test has ended. For the main thread."""

    @classmethod
    def setUpClass(cls) -> None:
        """Make the tables before Django opens the transaction around the tests."""
        make_tables()
        super().setUpClass()

    _prepared = False

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test inside a transaction, which is rolled back.

        Django sees to that in ``setUpClass`` and in ``__call__``, which then calls ``run``. Trial calls ``run`` alone,
        its workers (``trial -j``) call ``__call__`` alone.
        """
        return super().run(result) if self._prepared else self(result)

    def __call__(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test inside what ``setUpClass`` prepares."""
        kind = type(self)
        self._prepared = True
        kind.setUpClass()
        try:
            return super().__call__(result)
        finally:
            kind.tearDownClass()
            kind.doClassCleanups()
