"""What Channels 1 did, as tests: each is run with the names of Channels 1 and with this package's own.

The modules are written as a project for Channels 1 would be: ``from channels import Group``. Their last line,
``by_own_names_too(globals())``, adds each test case a second time, with ``channelserver`` in the place of ``channels``.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import unittest
from typing import Any

import channelserver.compat  # noqa: F401  (importing it brings the old names)
from channelserver.test import ChannelTestCase
from tests import DatabaseTestCase

_IMPORT = re.compile(r"^(\s*(?:from|import)\s+)channels\b", re.MULTILINE)
#: What has another place here.
_ELSEWHERE = {
    "from asgiref.base_layer import": "from channelserver.layers import",
    "from asgiref.conformance import": "from channelserver.layers import",
    "from asgiref.inmemory import": "from channelserver.layers.memory import InMemoryChannelLayer as",
}


class ChannelCase(ChannelTestCase, DatabaseTestCase):
    """A ``ChannelTestCase`` for trial."""

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """See :class:`DatabaseTestCase`: the settings of the class come first, then the layers."""
        return (ChannelTestCase if self._prepared else DatabaseTestCase).run(self, result)


def by_own_names_too(namespace: dict[str, Any]) -> None:
    """Add to a module its test cases a second time, with imports from ``channelserver``.

    :param namespace: the module's ``globals()``.
    """
    source = inspect.getsource(sys.modules[namespace["__name__"]])
    text = source.replace("by_own_names_too(globals())", "")
    for old, own in _ELSEWHERE.items():
        text = text.replace(old, own)
    text = _IMPORT.sub(r"\1channelserver", text)
    if text.count("channelserver") == source.count("channelserver"):
        raise AssertionError(f"{namespace['__name__']} imports nothing by the names of Channels 1")
    twin = types.ModuleType(namespace["__name__"] + "_by_own_names")
    sys.modules[twin.__name__] = twin  # consumers are found there by dotted name
    exec(compile(text, namespace["__file__"], "exec"), twin.__dict__)
    for name, value in tuple(twin.__dict__.items()):
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == twin.__name__:
            value.__name__ = value.__qualname__ = name + "ByOwnNames"
            value.__module__ = namespace["__name__"]
            namespace[value.__name__] = value
