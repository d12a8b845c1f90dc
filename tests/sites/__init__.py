"""Tests with real libraries and sites: monitoring, Wagtail and others. They need the extra ``sites``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable


def needs(*modules: str) -> Callable[[type], type]:
    """Return a decorator that skips a test case if one of `modules` is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]

    def mark(case: type) -> type:
        if missing:
            case.skip = f"{', '.join(missing)} not installed: pip install -e '.[test,sites]'"  # type: ignore[attr-defined]
        return case

    return mark
