"""What a request does with the URLconf and the script prefix, if a middleware chooses a URLconf."""

import sys
from contextvars import ContextVar

from django.conf import settings
from django.urls import base, get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from measure import start

settings.configure()


class Variable:
    """What Django uses of an ``asgiref.local.Local``, in a context variable."""

    def __init__(self):
        self.variable = ContextVar("value")

    @property
    def value(self):
        value = self.variable.get(None)
        if value is None:
            raise AttributeError("value")
        return value

    @value.setter
    def value(self, value):
        self.variable.set(value)

    @value.deleter
    def value(self):
        self.variable.set(None)


variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    base._urlconfs, base._prefixes = Variable(), Variable()
start()
for _ in range(count):
    set_script_prefix("/")
    set_urlconf("urls")
    get_urlconf()
    get_script_prefix()
    set_urlconf(None)
