"""The signals around a request, in a thread with one open database connection."""

import sys

import django
from django.conf import settings
from measure import start

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": None}}
)
django.setup()

from django.core.cache import close_caches  # noqa: E402
from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import close_old_connections, connection, connections, reset_queries  # noqa: E402
from django.utils.connection import BaseConnectionHandler  # noqa: E402


def all_(self, initialized_only=False):
    if not initialized_only:
        return [self[alias] for alias in self]
    found = (getattr(self._connections, alias, None) for alias in self)
    return [conn for conn in found if conn is not None]


def begin(**kwargs):
    for conn in connections.all(initialized_only=True):
        conn.queries_log.clear()
        conn.close_if_unusable_or_obsolete()


variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    BaseConnectionHandler.all = all_
    request_started.disconnect(reset_queries)
    request_started.disconnect(close_old_connections)
    request_started.connect(begin)
    request_finished.disconnect(close_caches)
connection.ensure_connection()
start()
for _ in range(count):
    request_started.send(sender=None)
    request_finished.send(sender=None)
