"""The files of a measured site: a database of one table, and a large file.

Plain Python: the benchmark program writes them before the server starts.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.apps.sizes import FILE

DATABASE, LARGE_FILE = "db.sqlite3", "large"


def make_files(folder: Path) -> None:
    """Write them into a folder."""
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.execute("CREATE TABLE django_content_type (id INTEGER PRIMARY KEY, app_label TEXT, model TEXT)")
        database.execute("INSERT INTO django_content_type VALUES (1, 'auth', 'user')")
    with (folder / LARGE_FILE).open("wb") as stream:
        stream.truncate(FILE)
