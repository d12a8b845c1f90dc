"""Look for a header that a response has not: ``in`` and ``get``."""

import sys

from django.conf import settings
from django.http.response import ResponseHeaders
from django.utils.datastructures import CaseInsensitiveMapping
from measure import start

settings.configure()


def contains(self, key):
    return key.lower() in self._store


def get(self, key, default=None):
    field = self._store.get(key.lower())
    return default if field is None else field[1]


variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    CaseInsensitiveMapping.__contains__ = contains
    CaseInsensitiveMapping.get = get
headers = ResponseHeaders({"Content-Type": "text/html"})
start()
for _ in range(count):
    "Vary" in headers  # noqa: B015
    headers.get("Vary")
