"""Which test runner has started in this process: tests never connect to a running server.

That a process has imported pytest or trial does not tell: a program may use one function of them. Nothing but tests
uses :mod:`channelserver.test`.
Runs in any thread; owns nothing.
"""

from __future__ import annotations

import os
import sys

from django.core import mail

#: The environment variables that pytest sets while it runs; children inherit them, but do not import pytest.
_PYTEST = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")
#: Packages whose ``__main__`` is a runner (``python -m``), and names of programs.
_PACKAGES = {"twisted.trial": "trial", "twisted.trial._dist": "trial", "unittest": "unittest"}
_PROGRAMS = {"trial": "trial", "workertrial.py": "trial"}


def started() -> str:
    """Return the name of the test runner that runs in this process; empty: there is none."""
    if hasattr(mail, "outbox"):  # by django.test.utils.setup_test_environment
        return "Django's test runner"
    if "_pytest" in sys.modules and any(name in os.environ for name in _PYTEST):
        return "pytest"
    if "channelserver.test" in sys.modules:
        return "a test with channelserver.test"
    main = sys.modules.get("__main__")
    package, file = getattr(main, "__package__", None), getattr(main, "__file__", None)
    return _PACKAGES.get(package or "") or _PROGRAMS.get(os.path.basename(file or ""), "")
