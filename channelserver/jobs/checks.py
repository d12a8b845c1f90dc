"""System checks of the jobs: what would lose or delay them, each with its cure.

Runs before the reactor, and in ``manage.py check``; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import connections

#: Seconds for which SQLite should wait for its lock.
BUSY_SECONDS = 20


def check_backend(backend: Any) -> Iterator[checks.CheckMessage]:
    """Check a :class:`~channelserver.jobs.backend.JobBackend` and its database."""
    where = f"TASKS[{backend.alias!r}]"
    if not apps.is_installed("channelserver.jobs"):
        yield checks.Error(
            f"{where} uses the jobs of channelserver, but their tables are not installed.",
            hint='Add "channelserver.jobs" to INSTALLED_APPS and run manage.py migrate.',
            id="channelserver.E020",
        )
    if backend.database not in connections.settings:
        yield checks.Error(
            f"{where}['OPTIONS']['database'] is {backend.database!r}, which DATABASES does not have.",
            hint=f"Use one of {', '.join(sorted(connections.settings))}.",
            id="channelserver.E021",
        )
        return
    connection: Any = connections[backend.database]
    if connection.vendor not in ("sqlite", "postgresql"):
        yield checks.Error(
            f"{where}: jobs are not promised to work on {connection.display_name}.",
            hint="Use PostgreSQL or SQLite; the jobs may have a database of their own: OPTIONS['database'].",
            id="channelserver.E022",
        )
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        options = connection.settings_dict.get("OPTIONS", {})
        if options.get("timeout", 5) < BUSY_SECONDS or options.get("transaction_mode") != "IMMEDIATE":
            yield checks.Warning(
                f"DATABASES[{backend.database!r}]: under load, transactions may fail with 'database is locked'.",
                hint=f'Add "OPTIONS": {{"timeout": {BUSY_SECONDS}, "transaction_mode": "IMMEDIATE", '
                '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
                id="channelserver.W020",
            )
