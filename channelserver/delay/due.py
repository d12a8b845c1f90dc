"""When a delayed message is due.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone


def due_in(seconds: float) -> datetime:
    """Return the time `seconds` from now.

    :raises TypeError: `seconds` is no number.
    :raises ValueError: it is negative, or beyond the calendar.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"a delay must be a number, not {seconds!r}")
    try:
        if not seconds >= 0:
            raise ValueError
        return timezone.now() + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        raise ValueError(f"a delay must be a number from 0 to some thousand years, not {seconds!r}") from None
