"""Validate the Host header of a request."""

import re
import sys

from django.conf import settings
from django.http import request
from measure import start

settings.configure(ALLOWED_HOSTS=["example.com"])

variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    pattern = request.host_validation_re
    request.host_validation_re = re.compile(pattern.pattern, pattern.flags)
start()
for _ in range(count):
    request.split_domain_port("example.com:8000")
