"""Set a header of a response."""

import sys

from django.conf import settings
from django.http.response import ResponseHeaders
from measure import start

settings.configure()

original = ResponseHeaders.__setitem__


def set_item(self, key, value):
    if type(key) is type(value) is str and (both := key + value).isascii() and both.isprintable():
        self._store[key.lower()] = (key, value)
    else:
        original(self, key, value)


variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    ResponseHeaders.__setitem__ = set_item
headers = ResponseHeaders({})
start()
for _ in range(count):
    headers["X-Frame-Options"] = "DENY"
