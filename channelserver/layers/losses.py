"""Why messages are lost: the one list of reasons, and their counters.

Safe from any thread: one lock, held for moments. Owns the counters of a layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from channelserver.layers.throttled_log import ThrottledLog

logger = logging.getLogger("channelserver.layers")

#: Channels that the log names in a sum.
NAMED = 3

#: A message of a route with ``requeue`` is given to another worker after a death at most so often.
MOST_REQUEUES = 3


class Reason(Enum):
    """A reason: its value is the counter's name, its ``text`` the explanation in the documentation."""

    text: str

    def __new__(cls, value: str, text: str) -> Reason:
        reason = object.__new__(cls)
        reason._value_ = value
        reason.text = text
        return reason

    EXPIRED = "expired", "No consumer took the message within ``expiry`` seconds."
    FULL = "channel full", "The channel held as many messages as its capacity allows."
    CROWDED_OUT = "crowded out", "The channel was full; the message made room for another client's. Its client got 503."
    SLOW_READER = "slow reader", "The client did not read, so the server closed its socket."
    RAISED = "consumer raised", "The consumer raised, and nobody waits for an answer; the log has the traceback."
    TOO_OFTEN = "ConsumeLater too often", "The consumer raised ``ConsumeLater`` 11 times."
    NO_ROUTE = "no route", "No route matched the message."
    BAD_CLIENT = "bad client message", "A client sent what a ``WebsocketBinding`` or a demultiplexer cannot read."
    DIED = "its worker process ended", "The process died while its consumer was running."
    UNSENT = "unsent", "A consumer or view had sent the message; its process died before the message left that."
    DIED_AGAIN = "its worker processes ended", "``requeue`` is on, and four processes died while consuming the message."
    STOPPED = "server stopped", "The message was waiting when the server stopped."
    NO_SERVER = "no server", "The worker process had no connection to its server."
    TOO_LARGE = "too large for another process", "The message does not fit into 16 MiB."
    NOT_SENDABLE = "not sendable", "The message held what cannot be packed for another process, or sent by a socket."
    NO_REDIS = "no Redis", "Redis was unreachable or refused the message."
    UNKNOWN = "unknown", "The connection broke while the message was in transit; it may have arrived."
    GAP = "gap", "A connection to Redis was down, or Redis was emptied. The counter counts gaps, not messages."
    EMPTIED = "Redis emptied", "The message was waiting in Redis when that was emptied or restarted."
    PROCESS_GONE = "process gone", "The connection was that of one of ``--processes``, which had ended."
    PROCESS_DEAF = "process does not read", "32 MiB waited for one of the server's processes, which did not read."
    HOST_GONE = "host gone", "The host with the reply channel is no longer there."
    HOST_DEAF = "host deaf", "A host with members of the group does not listen. The counter counts hosts."
    REJECTED = "rejected", "What came from Redis was no message, or was altered."
    REPLAYED = (
        "replayed",
        "What came from Redis was genuine, but too old, seen before, or meant for another place.",
    )
    ERROR = "error", "The send failed for another reason; the log has the traceback."


REASONS = tuple(reason.value for reason in Reason)
BY_NAME = {reason.value: reason for reason in Reason}
INDEX = {reason: index for index, reason in enumerate(REASONS)}


def named(numbers: Iterable[int]) -> dict[str, int]:
    """Return counters by reason, those above 0.

    :param numbers: one for each reason.
    """
    return {reason: number for reason, number in zip(REASONS, numbers, strict=True) if number}


class DropCounter(ThrottledLog):
    """Counts lost messages by reason. Logs the first of a reason at once, further ones as a sum once a minute.

    :param now: returns seconds, monotonic.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now, logger.warning)
        self._names: dict[str, set[str]] = {}
        self._shared: memoryview[int] | None = None
        #: Returns the losses of all processes that count in the same memory, by reason.
        self.all_totals: Callable[[], dict[str, int]] = self.totals
        #: Called before that: counts here what other processes have lost. Default: no-op.
        self.collect: Callable[[], object] = lambda: None
        #: Called with the number of messages that wait in this process, and are lost if it is killed. Default: no-op.
        self.note_unsent: Callable[[int], object] = lambda number: None

    def record(self, reason: Reason, name: str, number: int = 1, hint: str = "") -> None:
        """Count `number` messages as lost.

        :param name: the channel or group.
        :param hint: for the log: more about the reason, or the cure.
        """
        if number > 0:
            names = self._names.setdefault(reason.value, set())
            if len(names) < NAMED:
                names.add(name)
            self.count(reason.value, hint, number=number)

    def add(self, reason: Reason, number: int = 1) -> None:
        """Count messages which the caller logs."""
        with self._lock:
            self._add(reason.value, number)

    def lost(self) -> dict[str, int]:
        """Return how many messages were lost by reason, in all processes that are known here."""
        self.collect()
        return self.all_totals()

    def keep_in(self, shared: memoryview[int], without: Mapping[str, int]) -> None:
        """Count in memory, too, that is shared with a process which outlives this one.

        :param shared: a number for each reason.
        :param without: what is not to be counted there.
        """
        with self._lock:
            for reason in REASONS:
                shared[INDEX[reason]] += self._totals.get(reason, 0) - without.get(reason, 0)
            self._shared = shared

    def _add(self, kind: str, number: int) -> None:
        super()._add(kind, number)
        if self._shared is not None:
            self._shared[INDEX[kind]] += number

    def _line(self, kind: str, name: str, number: int, since: float, text: str) -> str:
        names = self._names.pop(kind, set())
        listed = ", ".join(map(repr, sorted(names))) + (", …" if len(names) >= NAMED else "")
        period = f" in {since:.0f} s" if since else ""
        return f"{number} message(s) to {listed} lost{period}: {kind}{f'; {text}' if text else ''}"
