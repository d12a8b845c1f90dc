"""Messages that another process has handed over, and how that process learns what became of them.

Safe from any thread. :class:`TicketQueues` owns the tickets; a :class:`Ledger` is memory that both processes see.

A handed-over message stays in the books of the process whose queue it was in, under its ticket, until it is reported
finished. When the process that got it dies, each such message has either been *begun* (a consumer may have seen it: it
is lost) or not (it goes back to its place). A note about that sent on a socket might be lost with the process; one in
shared memory is not, and costs no system call.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any

from channelserver.layers.content import Content
from channelserver.layers.queues import Delivery, WorkQueues

_ENTRY = struct.Struct("=Q")


class Ledger:
    """Which messages have been begun, in memory shared by two processes.

    The process which begins messages makes it and passes the descriptor on; the other one opens that, and reads.

    :param descriptor: of an open file with room for the entries; closed here.
    :param slots: messages which may be under way at the same time.
    """

    def __init__(self, descriptor: int, slots: int) -> None:
        try:
            self._memory = mmap.mmap(descriptor, slots * _ENTRY.size)
        finally:
            os.close(descriptor)

    @classmethod
    def make(cls, slots: int) -> tuple[Ledger, int]:
        """Return a new one, and a descriptor of its memory, which the caller closes."""
        descriptor = os.memfd_create("channelserver-ledger")
        os.ftruncate(descriptor, slots * _ENTRY.size)
        return cls(os.dup(descriptor), slots), descriptor

    def begin(self, slot: int, number: int) -> None:
        """Note that message `number` in `slot` has been begun."""
        _ENTRY.pack_into(self._memory, slot * _ENTRY.size, number)

    def begun(self, slot: int, number: int) -> bool:
        """Whether message `number` in `slot` has been begun."""
        return bool(_ENTRY.unpack_from(self._memory, slot * _ENTRY.size)[0] == number)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class Ticket:
    """One message in the books of another process.

    ``link`` is the connection by which it came; ``number`` and ``slot`` are its names there.
    """

    __slots__ = ("link", "number", "slot")

    def __init__(self, link: Any, number: int, slot: int) -> None:
        self.link = link
        self.number = number
        self.slot = slot


class TicketQueues(WorkQueues):
    """Queues that also hold messages of another process.

    The parameters are those of :class:`WorkQueues`.
    """

    #: Where begun messages are noted.
    ledger: Ledger | None = None
    #: Called with a ticket, and a word for what became of its message: ``("finish",)``, ``("put_back", tries)`` or
    #: ``("postpone", tries, seconds)``. From any thread.
    report: Callable[[Ticket, tuple[Any, ...]], object]

    def hand_over(self, channel: str, content: Content, ticket: Ticket, tries: int, attachment: Any) -> None:
        """Take in a message of another process."""
        # Its time to wait is over: it never expires here.
        delivery = Delivery(channel, content, self._clock(), float("inf"), attachment)
        delivery.ticket = ticket
        delivery.tries = tries
        self.add(delivery)

    def take(self, channels: Iterable[str]) -> Delivery | None:
        """See :class:`WorkQueues`."""
        delivery = super().take(channels)
        if delivery is not None and delivery.ticket is not None and self.ledger is not None:
            self.ledger.begin(delivery.ticket.slot, delivery.ticket.number)
        return delivery

    def finish(self, delivery: Delivery) -> None:
        """See :class:`WorkQueues`."""
        if not self._report(delivery, "finish"):
            super().finish(delivery)

    def put_back(self, delivery: Delivery) -> None:
        """See :class:`WorkQueues`."""
        if not self._report(delivery, "put_back", delivery.tries):
            super().put_back(delivery)

    def postpone(self, delivery: Delivery, seconds: float, call_later: Callable[..., object]) -> None:
        """See :class:`WorkQueues`. The other process does the waiting, so that this one can take another message."""
        attachment = delivery.attachment
        if not self._report(delivery, "postpone", delivery.tries, seconds):
            super().postpone(delivery, seconds, call_later)
        elif attachment is not None:
            attachment.close()

    def lose(self, link: Any) -> None:
        """The connection has gone, and the other process takes back what has not been begun here: forget that."""
        self.withdraw(lambda delivery: delivery.ticket is not None and delivery.ticket.link is link)

    def _report(self, delivery: Delivery, *what: Any) -> bool:
        """Report what became of a message, once; return False if it is none of another process."""
        ticket = delivery.ticket
        if ticket is None:
            return False
        delivery.ticket = None
        self.report(ticket, what)
        return True
