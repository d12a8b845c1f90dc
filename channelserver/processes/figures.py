"""Adding up the figures of several processes.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from typing import Any

#: What each process knows of all of them: the total is the largest, for it may have grown between two answers.
_COMMON = frozenset({"lost"})
#: Ages, and the largest of something: the total is the largest.
_LARGEST = frozenset({"oldest", "messages_max_age", "loop_lag", "largest"})
#: Figures that only grow, beside the lost messages: they count on when their process has ended.
_COUNTERS = frozenset({"messages_count", "channel_full_count", "refused"})

#: The figure that says how many processes did not answer; of these, only counters of an earlier answer are in the sums.
UNANSWERED = "unanswered"


def add_up(all_figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of the figures, and the largest of those that are ages; dicts are added up by key."""
    total: dict[str, Any] = {}
    for figures in all_figures:
        for name, value in figures.items():
            if name in _COMMON:
                known = total.get(name, {})
                total[name] = {key: max(known.get(key, 0), value.get(key, 0)) for key in {**known, **value}}
            elif isinstance(value, dict):
                total[name] = add_up([total.get(name, {}), value])
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                total[name] = max(total.get(name, 0), value) if name in _LARGEST else total.get(name, 0) + value
            else:
                total.setdefault(name, value)
    return total


def counters(figures: dict[str, Any]) -> dict[str, Any]:
    """Return those of the figures that only grow."""
    return {name: value for name, value in figures.items() if name in _COUNTERS}
