"""The claimers of this process, for those who enqueue in it.

Changed in the reactor thread, read in any.
"""

from __future__ import annotations

import os
from typing import Protocol


class LocalClaimer(Protocol):
    """A claimer as those see it who have stored a job."""

    @property
    def id(self) -> str:
        """Names its process in the folder of the database."""

    @property
    def is_full(self) -> bool:
        """Whether further jobs would wait here."""

    def wake(self) -> None:
        """A job may be ready."""

    def look_soon(self) -> None:
        """Something in the table has changed."""

    def expect(self, at: float) -> None:
        """A job is due at `at` (Unix time)."""


#: By the alias of their database.
claimers: dict[str, LocalClaimer] = {}
# Their threads stay in the parent process; a forked child wakes them as any other process does.
os.register_at_fork(after_in_child=claimers.clear)
