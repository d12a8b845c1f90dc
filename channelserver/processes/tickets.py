"""Messages that another process has handed over, and the reports about them.

Safe from any thread. :class:`TicketQueues` owns the tickets; a :class:`Ledger` is memory that two processes share.

The process whose queue a message was in keeps it, under its ticket, until the process that got it reports it finished.
If that process dies, the message is either *begun* (a consumer may have seen it: it is lost) or not (it returns to its
place), or its consumer has *ended*. A report over a socket could be lost with the process; a mark in shared memory
cannot, and costs no system call.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from channelserver.layers.content import Content
from channelserver.layers.losses import REASONS
from channelserver.layers.queues import MAX_IN_HAND, Taker, WorkQueues
from channelserver.layers.waiting import Delivery
from channelserver.processes.link import Link

#: Bytes of an entry.
_SIZE = 8
#: Entries of a ledger.
SLOTS = MAX_IN_HAND
#: Its numbers: entries, losses, and how many messages have been sent to the other process.
_NUMBERS = SLOTS + len(REASONS) + 1


class Ledger:
    """Marks which messages have begun and ended, in memory that two processes share; and counts losses.

    The process that runs the consumers makes it and sends its descriptor to the other process, which reads it. It has
    :data:`SLOTS` entries: the number of the message last begun there, or its complement if that has ended.

    :param descriptor: of the memory; closed here.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self._memory = mmap.mmap(descriptor, _NUMBERS * _SIZE)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._memory).cast("q")
        #: The process's losses: a number for each reason.
        self.losses: memoryview[int] = self._numbers[SLOTS:-1]

    @classmethod
    def make(cls) -> tuple[Ledger, int]:
        """Return a new ledger, and the descriptor of its memory, which the caller closes."""
        descriptor = os.memfd_create("channelserver-ledger")
        os.ftruncate(descriptor, _NUMBERS * _SIZE)
        return cls(os.dup(descriptor)), descriptor

    def begin(self, slot: int, number: int) -> None:
        """Mark message `number` in `slot` as begun."""
        self._numbers[slot] = number

    def begun(self, slot: int, number: int) -> bool:
        """Whether message `number` in `slot` has begun."""
        return self._numbers[slot] == number

    def end(self, slot: int, number: int) -> None:
        """Mark message `number` in `slot` as ended."""
        self._numbers[slot] = ~number

    def ended(self, slot: int, number: int) -> bool:
        """Whether message `number` in `slot` has ended."""
        return self._numbers[slot] == ~number

    @property
    def sent(self) -> int:
        """How many messages the process has sent, whether or not they have left it."""
        return self._numbers[-1]

    @sent.setter
    def sent(self, number: int) -> None:
        self._numbers[-1] = number

    def close(self) -> None:
        """Release the memory."""
        self.losses.release()
        self._numbers.release()
        self._memory.close()


def is_message(call: str, arguments: Sequence[Any]) -> bool:
    """Whether a note is a message that can be lost: not a membership, nor a reply to a client that gets 502 instead."""
    if call == "reply":
        channel, content = arguments
        data = content.get("text") is not None or content.get("bytes") is not None
        return data and str(channel).startswith("websocket.send.")
    return call in ("send_group", "send_patiently")


class Ticket(NamedTuple):
    """Identifies a message of another process: the connection over which it came, its number there, its ledger slot."""

    link: Link
    number: int
    slot: int
    released: bool = False


class HandedOver(Delivery):
    """A message of another process, which has seen to its order."""

    foreign = True

    __slots__ = ()


class TicketQueues(WorkQueues):
    """Queues that also hold messages of another process.

    The parameters are those of :class:`WorkQueues`.
    """

    #: Marks the begun messages.
    ledger: Ledger | None = None
    #: Called in any thread with a ticket and its report: ``("finish",)``, ``("put_back", tries)`` or
    #: ``("postpone", tries, seconds)``.
    report: Callable[[Ticket, tuple[Any, ...]], object]
    #: Called in any thread with a message that no longer occupies a thread.
    report_release: Callable[[Delivery], object]

    def hand_over(self, channel: str, content: Content, ticket: Ticket, tries: int, attachment: Any) -> None:
        """Queue a message of another process; it does not expire here."""
        delivery = HandedOver(channel, content, self._clock(), float("inf"), attachment)
        delivery.ticket = ticket
        delivery.tries = tries
        self.add(delivery)

    def take(self, channels: Iterable[str], taker: Taker | None = None, quick_only: bool = False) -> Delivery | None:
        delivery = super().take(channels, taker, quick_only)
        if delivery is not None:
            self._begin(delivery)
        return delivery

    def take_this(self, delivery: Delivery) -> bool:
        taken = super().take_this(delivery)
        if taken:
            self._begin(delivery)
        return taken

    def _begin(self, delivery: Delivery) -> None:
        """Note in the ledger that a message of another process has been begun."""
        if delivery.ticket is not None and self.ledger is not None:
            self.ledger.begin(delivery.ticket.slot, delivery.ticket.number)

    def release(self, delivery: Delivery) -> None:
        ticket = delivery.ticket
        if ticket is not None and not ticket.released:
            delivery.ticket = ticket._replace(released=True)
            self.report_release(delivery)

    def finish(self, delivery: Delivery) -> None:
        if not self._report(delivery, "finish"):
            super().finish(delivery)

    def put_back(self, delivery: Delivery) -> None:
        if not self._report(delivery, "put_back", delivery.tries):
            super().put_back(delivery)

    def postpone(self, delivery: Delivery, seconds: float, call_later: Callable[..., object]) -> None:
        # The other process waits, so that this one can take another message.
        attachment = delivery.attachment
        if not self._report(delivery, "postpone", delivery.tries, seconds):
            super().postpone(delivery, seconds, call_later)
        elif attachment is not None:
            attachment.close()

    def lose(self, link: Link) -> None:
        """Forget the messages of a lost connection that have not begun: the other process takes them back."""
        self.withdraw(lambda delivery: delivery.ticket is not None and delivery.ticket.link is link)

    def _report(self, delivery: Delivery, *what: Any) -> bool:
        """Report what became of a message, once; return False if the message is this process's own."""
        ticket = delivery.ticket
        if ticket is None:
            return False
        delivery.ticket = None
        if self.ledger is not None:
            if what[0] == "finish":
                self.ledger.end(ticket.slot, ticket.number)
            else:
                self.ledger.begin(ticket.slot, 0)  # as if it had not begun
        super().finish(delivery)
        self.report(ticket, what)
        return True
