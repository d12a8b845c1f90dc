"""Adding up the figures of several processes.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from typing import Any

#: Ages, and the largest of something: the total is the largest.
_LARGEST = frozenset({"oldest", "messages_max_age", "loop_lag", "largest"})


def add_up(all_figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of the figures, and the largest of those that are ages; dicts are added up by key."""
    total: dict[str, Any] = {}
    for figures in all_figures:
        for name, value in figures.items():
            if isinstance(value, dict):
                total[name] = add_up([total.get(name, {}), value])
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                total[name] = max(total.get(name, 0), value) if name in _LARGEST else total.get(name, 0) + value
            else:
                total.setdefault(name, value)
    return total
