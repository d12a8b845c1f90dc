"""Sessions that several processes save at the same time (rule 7)."""

from __future__ import annotations

import sys

from tests.process import ServerTestCase, project


class RaceTests(ServerTestCase):
    """What each process has changed is kept, whatever the engine."""

    files = project("session_merge")
    migrate = True
    extra_settings = """
        import os
        SESSION_ENGINE = "django.contrib.sessions.backends." + os.environ.get("ENGINE", "db")
        SESSION_FILE_PATH = os.path.dirname(os.path.abspath(__file__))
        CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                "LOCATION": SESSION_FILE_PATH + "/cache",
            }
        }
    """

    def race(self, engine: str) -> None:
        process = self.run_process([sys.executable, "race.py"], ENGINE=engine)
        self.assertEqual((process.wait(), process.output), (0, "121 of 121"))

    def test_database(self) -> None:
        """The row is replaced only if it is still what was read."""
        self.race("db")

    def test_cached_database(self) -> None:
        """The row decides, not what the cache has of it."""
        self.race("cached_db")

    def test_files(self) -> None:
        """Their folder is locked."""
        self.race("file")

    def test_cache(self) -> None:
        """A lock, also around a cache that cannot add a key in one step."""
        self.race("cache")
