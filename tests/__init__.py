"""The unit tests. Importing the package sets Django up with :mod:`tests.settings`.

A test that needs the database derives from :class:`tests.DatabaseTestCase`; the first one to run makes the tables.
"""

from __future__ import annotations

import functools
import os
import unittest

import django
from django.core.management import call_command
from django.test import TestCase

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()


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

    def _setup_and_call(self, result: unittest.TestResult, debug: bool = False) -> None:
        self._prepared = True
        super()._setup_and_call(result, debug)

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test inside a transaction, which is rolled back.

        Django sees to that in ``setUpClass`` and in ``__call__``, which then calls ``run``. Trial calls ``run`` alone.
        """
        if self._prepared:
            return super().run(result)
        kind = type(self)
        kind.setUpClass()
        try:
            return self(result)
        finally:
            kind.tearDownClass()
            kind.doClassCleanups()
