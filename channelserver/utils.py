"""Names of things and places, for error texts (Channels 1: ``channels.utils``).

Runs in any thread; owns nothing.
"""

from __future__ import annotations

import os
import traceback
import types
from typing import Any


def name_that_thing(thing: Any) -> str:
    """Return the dotted name of a function, class or method; of another object that of its class."""
    if hasattr(thing, "mock_calls"):
        return "<mock>"
    if isinstance(thing, types.MethodType):
        return f"{name_that_thing(thing.__self__)}.{thing.__func__.__name__}"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def place_of(error: BaseException) -> str:
    """Return where the project's code raised an error, as ``file, line``; empty: it was not in the project's code."""
    found = ""
    ours = os.path.dirname(os.path.abspath(__file__)) + os.sep
    for frame in traceback.extract_tb(error.__traceback__):
        foreign = frame.filename.startswith("<") or f"{os.sep}importlib{os.sep}" in frame.filename
        library = f"{os.sep}site-packages{os.sep}" in frame.filename or frame.filename.startswith(ours)
        if not foreign and not library:
            found = f"{frame.filename}, line {frame.lineno}"
    return found
