"""Where Channels 1 has :func:`name_that_thing`: ``channels.utils``."""

from __future__ import annotations

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
