"""When a certificate is to be renewed, and when a failed order is tried again. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

#: Orders in an hour for names that are not configured.
DEMANDS_AN_HOUR = 5

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0

#: Seconds until the next try, after so many failures; then always the last of them.
PAUSES = (
    *(minutes * _MINUTE for minutes in (1, 2, 2, 5, 10, 10, 10, 20, 20, 20, 30, 30, 30)),
    *(hours * _HOUR for hours in (1, 1, 1, 2, 2, 3, 3, 6)),
)


@dataclass(frozen=True)
class Window:
    """When the authority wants a certificate to be renewed (RFC 9773).

    :param serial: the ID of the certificate that it is for.
    :param start: POSIX time at which the window begins.
    :param end: at which it ends.
    :param chosen: a random moment in it, drawn once.
    """

    serial: str
    start: float
    end: float
    chosen: float


def renewal(
    serial: str, begins: float, ends: float, obtained: float, window: Window | None = None
) -> tuple[float, str]:
    """Return when a certificate is to be renewed (POSIX time), and why then.

    That is the moment in the authority's window, else 2/3 of the lifetime, or 1/2 if that is under 10 days, ± 1/50. At
    the latest when 1/20 of the lifetime is left; but not before 1/10 of it has passed since the certificate came,
    whatever a window or the clock says.

    :param serial: the certificate's ID; a window for another one does not count.
    :param obtained: when the certificate came, by this machine's clock, which may be wrong.
    """
    lifetime = ends - begins
    latest = ends - lifetime / 20
    if window is not None and window.serial == serial:
        when, why = window.chosen, "the authority's renewal window"
    else:
        share, why = (1 / 2, "half of the lifetime") if lifetime < 10 * _DAY else (2 / 3, "2/3 of the lifetime")
        when = begins + lifetime * (share + _jitter(serial) / 50)
    if when > latest:
        when, why = latest, "1/20 of the lifetime is left"
    return max(when, obtained + lifetime / 10), why


def next_try(failures: int, retry_after: float = 0.0) -> float:
    """Return the seconds until the next try.

    :param failures: how many there were in a row.
    :param retry_after: what the authority asked for, which is kept to exactly, unless it is under a minute.
    """
    return retry_after if retry_after >= PAUSES[0] else PAUSES[min(max(failures, 1), len(PAUSES)) - 1]


def _jitter(serial: str) -> float:
    """Return a number from -1 to 1, always the same for a certificate."""
    return crc32(serial.encode()) % 2001 / 1000 - 1
