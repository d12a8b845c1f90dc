"""Tests with real libraries and sites: monitoring, Wagtail and others. They need the extra ``sites``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable


def needs(*modules: str) -> Callable[[type], type]:
    """Return a decorator that skips a test case if one of `modules` is not installed."""
    missing = [name for name in modules if not _is_installed(name)]

    def mark(case: type) -> type:
        if missing:
            case.skip = f"{', '.join(missing)} not installed: pip install -e '.[test,sites]'"  # type: ignore[attr-defined]
        return case

    return mark


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is the package that it is in
        return False
