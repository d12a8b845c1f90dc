"""Tells which tests take long, for the summary of ``.ci/run``.

If the environment variable ``CHANNELSERVER_TEST_DURATIONS`` names a file, each test that takes a second or more adds a
line to it: its seconds and its name.
"""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.trial.reporter import TestResult

#: Seconds of the shortest test that is noted.
LEAST = 1.0


def note(path: str) -> None:
    """Have all tests of this process noted in a file. The process that deals tests out to others (``trial -j``) reports
    each in no time, so it adds nothing.
    """
    start, stop = TestResult.startTest, TestResult.stopTest
    began = 0.0

    def start_test(self: Any, test: Any) -> None:
        nonlocal began
        began = time.monotonic()
        start(self, test)

    def stop_test(self: Any, test: Any) -> None:
        seconds = time.monotonic() - began
        if seconds >= LEAST:
            with open(path, "a") as file:
                file.write(f"{seconds:.1f} {test.id()}\n")
        stop(self, test)

    TestResult.startTest, TestResult.stopTest = start_test, stop_test


def note_if_asked() -> None:
    """Do so if the environment says it."""
    path = os.environ.get("CHANNELSERVER_TEST_DURATIONS")
    if path:
        note(path)
