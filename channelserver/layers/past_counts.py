"""What channels counted whose queues were forgotten, so that no counter goes back.

Safe under the lock of the queues (:mod:`channelserver.layers.queues`), which owns it.
"""

from __future__ import annotations

#: Channels whose counters are kept by name; beyond, the oldest are kept in the sum only.
KEPT = 100_000


class PastCounts:
    """The numbers of messages, and of refused ones, of channels without a queue."""

    def __init__(self) -> None:
        self._messages: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        #: Of all channels together.
        self.messages = self.refused = 0

    def keep(self, name: str, messages: int, refused: int) -> None:
        """Keep a channel's counters; in the sum only for a single-reader channel, whose name does not come again."""
        self.messages += messages
        self.refused += refused
        if "?" in name:
            return
        if messages:
            self._messages[name] = messages
        if refused:
            self._refused[name] = refused
        for counts in (self._messages, self._refused):
            if len(counts) > KEPT:
                del counts[next(iter(counts))]

    def look(self, name: str) -> tuple[int, int]:
        """Return a channel's counters."""
        return self._messages.get(name, 0), self._refused.get(name, 0)

    def take(self, name: str) -> tuple[int, int]:
        """Return a channel's counters, and keep them no longer."""
        messages, refused = self._messages.pop(name, 0), self._refused.pop(name, 0)
        self.messages -= messages
        self.refused -= refused
        return messages, refused
