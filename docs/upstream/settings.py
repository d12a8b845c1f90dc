"""One access to a setting that has been looked up before."""

import sys

from django.conf import LazySettings, settings
from measure import start

settings.configure(DEBUG=False)

variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    LazySettings.__getattribute__ = object.__getattribute__
start()
for _ in range(count):
    settings.DEBUG  # noqa: B018
