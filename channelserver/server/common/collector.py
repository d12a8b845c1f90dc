"""Python's garbage collector while a server starts.

Nearly all that is made then stays: modules, classes, functions. With Python's usual thresholds the collector looks at
them a hundred times, which takes 5 % of the start.

Runs in the main thread; owns the usual thresholds, in between.
"""

from __future__ import annotations

import gc

#: New objects between two looks during the start; Python's own threshold is 700, or 2000 from 3.13 on.
OBJECTS = 10_000
#: Looks at new objects until older ones are looked at, too.
LOOKS = 1000

_usual: list[tuple[int, int, int]] = []


def look_seldom() -> None:
    """Let the collector look at new objects less often, until :func:`look_as_usual`; not if the environment has turned
    it off, or has it look less often still.
    """
    usual = gc.get_threshold()
    if gc.isenabled() and not _usual and 0 < usual[0] < OBJECTS:
        _usual.append(usual)
        gc.set_threshold(OBJECTS, LOOKS, usual[2])


def look_as_usual() -> None:
    """Put the thresholds back, unless the project has set its own."""
    if _usual:
        usual = _usual.pop()
        if gc.get_threshold() == (OBJECTS, LOOKS, usual[2]):
            gc.set_threshold(*usual)
