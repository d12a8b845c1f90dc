"""A layer that another process of this machine holds, for a process with a reactor and worker threads.

Safe from any thread: calls to the other process cross the bridge, in order. Owns, in the reactor thread, the connection
to that process; and this process's own part of the layer: the group memberships and messages of its own connections,
and the messages that the other process has handed over.

A *worker process* (``manage.py runworker``) connects to the server's local socket, waits for a server that does not
run yet, and reconnects to a restarted one. A *sibling* (``--processes``) inherits its connection, and ends with it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any, cast

from twisted.internet import defer
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from channelserver.layers import DeliveryUnknown, InMemoryChannelLayer, MessageTooLarge, NotSendable
from channelserver.layers.base import SESSION, Reactor, ReactorBridge
from channelserver.layers.content import Content
from channelserver.layers.local import SERVER_CHANNELS
from channelserver.layers.losses import Reason
from channelserver.layers.names import check_channel_name, check_group_name
from channelserver.layers.waiting import Delivery
from channelserver.processes.connectors import Connector
from channelserver.processes.figures import UNANSWERED, add_up
from channelserver.processes.link import IReactor, Link, LinkLost, NoLink, ask, ask_within
from channelserver.processes.local_client import ANSWER_SECONDS, NoServerError
from channelserver.processes.remote_process import size_of
from channelserver.processes.tickets import Ledger, Ticket, TicketQueues, is_message

#: Notes with a message of the application.
_MESSAGES = frozenset({"reply", "send_patiently", "send_group"})
#: Seconds in which the other process must send its figures, for which it may ask further ones.
FIGURES_SECONDS = 3.0

_NO_SERVER = "there is no connection to the server"


class RemoteLayer(InMemoryChannelLayer):
    """An in-memory layer whose queues and groups are another process's.

    Beside the connector, the parameters are those of the in-memory layer.
    """

    queues: TicketQueues
    queues_class = TicketQueues

    def __init__(self, connector: Connector, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.queues.report = self._report
        self.queues.report_release = lambda delivery: self._started().post(self._release_now, delivery)
        self._connector = connector
        self._bridge: ReactorBridge | None = None
        self._reactor: IReactor  # once it is open
        self._thread: int | None = None
        self._link: Link | None = None
        self._served: tuple[list[str], int] | None = None
        self._descriptor: int | None = None
        self._counted: dict[str, int] = {}  # the losses that the other process has counted, too
        self._sending = threading.Lock()
        self._sent = self._written = 0  # messages for the other process: given to the bridge, and taken from it
        self._handlers: dict[str, Callable[..., Any]] = {
            "take": self._taken,
            "reply": super().dispatch,
            "reply_waiting": self._reply_waiting,
            "send_group": self.broadcast,
            "group_added": self._group_added,
            "group_discarded": self.groups.discard,
            "flushed": super().flush,
            "own_channel_statistics": self.own_channel_statistics,
            "own_global_statistics": self.own_global_statistics,
            "client_gone": lambda reply_channel: None,
        }

    # -- the connection, in the reactor thread -------------------------------------------------------------------------

    def open(self, reactor: Reactor, bridge: ReactorBridge) -> None:
        self._bridge = bridge
        self._reactor = process_reactor = cast(IReactor, reactor)
        self._thread = threading.get_ident()
        self._connector.open(process_reactor, self._joined, self._left)

    def _joined(self, link: Link) -> None:
        self._link = link
        link.handle = self._handle
        for prefix in self._outlets:
            link.note("attach", prefix)
        self._announce()

    def _left(self, link: Link) -> None:
        self.drops.record(Reason.NO_SERVER, "replies and groups", link.unread_messages, "the server has ended")
        # The other process takes back what it had handed over, or counts it as lost.
        if self._link is link:
            self._link = None
            self._counted = self.drops.totals()
            self.queues.lose(link)

    def serve(self, channels: Collection[str], threads: int) -> None:
        # The messages of a process's own connections never leave it.
        wanted = [channel for channel in channels if not (self._outlets and channel in SERVER_CHANNELS)]
        self._served = wanted, threads
        self._announce()

    def _announce(self) -> None:
        if self._link is None or self._served is None:
            return
        channels, threads = self._served
        self._close_descriptor()
        self.queues.ledger, self._descriptor = Ledger.make()
        if not self._outlets:  # a sibling has other memory for that
            self.drops.keep_in(self.queues.ledger.losses, self._counted)
        self._count_sent(0)
        self._link.note("serve", channels, threads, self._written, sorted(self.requeued), descriptor=self._descriptor)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def retire(self) -> None:
        self._served = None
        if self._link is not None:
            self._link.note("retire")

    def close(self) -> Any:
        self.drops.flush(due=True)
        self._close_descriptor()
        return self._connector.close()

    def problem(self) -> str:
        return "" if self._link is not None else _NO_SERVER

    # -- requests of the other process, in the reactor thread ----------------------------------------------------------

    def _handle(self, name: str, arguments: list[Any]) -> Any:
        handler = self._handlers.get(name)
        if handler is None:
            raise ValueError(f"the local protocol has no call {name!r}")
        return handler(*arguments)

    def _taken(self, number: int, slot: int, channel: str, content: Content, tries: int, has_file: bool) -> None:
        link = self._link
        assert link is not None
        attachment = os.fdopen(link.take_descriptor(), "rb") if has_file else None
        self.queues.hand_over(channel, content, Ticket(link, number, slot), tries, attachment)

    def _reply_waiting(self, channel: str, content: Content) -> Any:
        outlet = self.outlet_of(channel)
        if outlet is None:
            return False
        room: Deferred[bool] = Deferred()
        outlet.deliver_then(channel, content, room.callback)
        return room

    def _group_added(self, group: str, channel: str) -> None:
        if not self.groups.add(group, channel) and self._link is not None:
            self._link.note("forget", channel)  # has closed in the meantime

    # -- to the other process, from any thread -------------------------------------------------------------------------

    def _report(self, ticket: Ticket, what: tuple[Any, ...]) -> None:
        assert self._bridge is not None
        self._bridge.post(self._report_now, ticket, what)

    def _report_now(self, ticket: Ticket, what: tuple[Any, ...]) -> None:
        if ticket.link is self._link and self._link is not None:
            self._link.note(what[0], ticket.number, *what[1:])

    def _release_now(self, delivery: Delivery) -> None:
        if delivery.ticket is not None:  # else it is finished already, and its report comes next
            self._report_now(delivery.ticket, ("release",))

    def _note(self, name: str, *arguments: Any, size: int = 0) -> None:
        bridge = self._started()
        message = is_message(name, arguments)
        if message:
            self._count_sent(1)
        bridge.post_data(size, self._note_now, name, arguments, message)

    def _count_sent(self, number: int) -> None:
        """Count messages in memory that outlives this process, so that the other one knows what it has not got."""
        with self._sending:
            self._sent += number
            if self.queues.ledger is not None:
                self.queues.ledger.sent = self._sent

    def _note_now(self, name: str, arguments: tuple[Any, ...], message: bool) -> None:
        written = self._written_note(name, arguments)
        if message and written:
            self._written += 1
        elif message:
            self._count_sent(-1)

    def _written_note(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Write a note; return False if that is not possible, and it counts as lost."""
        try:
            if self._link is None:
                self.drops.record(Reason.NO_SERVER, arguments[0], hint=_NO_SERVER)
            elif name not in _MESSAGES:
                self._link.note(name, *arguments)
                return True
            elif self._link.message(name, *arguments):
                self._link.flush()  # before the client of the view that has sent it gets an answer
                return True
            else:
                self.drops.record(Reason.PROCESS_DEAF, arguments[0])
        except (MessageTooLarge, NotSendable) as problem:
            self.drops.record(problem.reason, arguments[0], hint=str(problem))
        return False

    def _ask(self, name: str, *arguments: Any, patience: float = 0.0, size: int = 0, limit: float | None = None) -> Any:
        """Send a request to the other process and wait for the answer; not for the reactor thread.

        :param patience: seconds that the other process may wait before it answers.
        :param limit: seconds for the answer itself; default: :data:`ANSWER_SECONDS`.
        :raises DeliveryUnknown: there was no answer; the other process may have handled the request.
        :raises NoServerError: it was not asked: there is no connection, or it has not answered before.
        """
        link = self._link
        if link is not None and link.deaf:
            raise NoServerError("the server does not answer, so it was not asked")
        bridge = self._started()
        if self._in_reactor():
            raise RuntimeError(f"{name!r} waits for another process, so the reactor thread must not call it")
        answer: Future[Any] = Future()

        def failed(failure: Failure) -> None:
            answer.set_exception(failure.value)

        bridge.post_data(size, lambda: ask(self._link, name, *arguments).addCallbacks(answer.set_result, failed))
        patience += ANSWER_SECONDS if limit is None else limit
        try:
            return answer.result(patience)
        except TimeoutError:
            if link is not None:
                link.deaf = True
            raise DeliveryUnknown(
                f"the server did not answer within {patience:g} s; it may have got the message, or not"
            ) from None
        except LinkLost as problem:
            raise DeliveryUnknown(f"{problem}; it may have got the message, or not") from None
        except NoLink as problem:
            raise NoServerError(str(problem)) from None

    def _started(self) -> ReactorBridge:
        if self._bridge is None:
            raise NoServerError(f"{_NO_SERVER}: the layer is not open yet")
        return self._bridge

    def _in_reactor(self) -> bool:
        return threading.get_ident() == self._thread

    # -- the layer, from any thread ------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        names = list(channels)
        self.valid_channel_names(names, receive=True)
        patience = self.receive_seconds if block else 0.0
        channel, content = self._ask("receive", names, patience, patience=patience)
        return channel, content

    def new_channel(self, pattern: str) -> str:
        return str(self._ask("new_channel", pattern))

    def group_add(self, group: str, channel: str) -> None:
        check_group_name(group)
        outlet = self.outlet_of(check_channel_name(channel))
        if outlet is not None and not self.groups.add(group, channel):
            return
        self._note("group_add", group, channel)
        # If the connection closed just before that, the other process would keep the membership for ever.
        if outlet is not None and channel not in outlet:
            self._note("forget", channel)

    def group_discard(self, group: str, channel: str) -> None:
        check_group_name(group)
        if self.outlet_of(check_channel_name(channel)) is not None:
            self.groups.discard(group, channel)
        self._note("group_discard", group, channel)

    def group_channels(self, group: str) -> list[str]:
        return list(self._ask("group_channels", check_group_name(group)))

    def forget(self, channel: str) -> None:
        if self.groups.drop(channel) or self.outlet_of(channel) is None:
            self._note("forget", channel)

    def flush(self) -> None:
        self._ask("flush")  # it answers with the note "flushed"

    def channel_statistics(self, channel: str) -> dict[str, float]:
        return self._gather("channel_statistics", self.own_channel_statistics, check_channel_name(channel))

    def global_statistics(self) -> dict[str, Any]:
        return self._gather("global_statistics", self.own_global_statistics)

    def _gather(self, name: str, own: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """Return the figures of all processes, or, marked as such, those of this one."""
        try:
            return add_up(self._ask("gather", name, *arguments, limit=FIGURES_SECONDS))
        except (DeliveryUnknown, NoServerError):
            return {**own(*arguments), UNANSWERED: 1}

    def own_global_statistics(self) -> dict[str, Any]:
        # The other process counts the groups.
        return {**super().own_global_statistics(), "groups": 0, "group_members": 0}

    def gather_figures(self) -> Deferred[Any]:
        """Return a Deferred of the figures of all processes; for the reactor thread."""
        if self._link is not None and self._link.deaf:
            return fail(NoLink("the first process does not answer"))
        return ask_within(FIGURES_SECONDS, self._reactor, self._link, "gather", "figures").addErrback(self._deaf)

    def _deaf(self, failure: Failure) -> Failure:
        if self._link is not None and failure.check(defer.TimeoutError):
            self._link.deaf = True
        return failure

    def ask_first(self, seconds: float, name: str, *arguments: Any) -> Deferred[Any]:
        """Call a function of the other process; for the reactor thread."""
        return ask_within(seconds, self._reactor, self._link, name, *arguments)

    def provide(self, name: str, function: Callable[..., Any]) -> None:
        """Answer the other process's requests of that name with what `function` returns."""
        self._handlers["own_" + name] = function

    def when_client_gone(self, call: Callable[[str], object]) -> None:
        """Have `call` called with the name of each request whose client has left before its answer was complete."""
        self._handlers["client_gone"] = call

    def dispatch(self, channel: str, content: Content) -> None:
        if self._in_reactor() or _is_reply_channel(channel) or self.outlet_of(channel) is not None:
            self.dispatch_unasked(channel, content)
        else:
            self._ask("send", channel, content, size=size_of(content))

    def dispatch_once(self, token: str, is_group: bool, name: str, content: Content) -> None:
        self._ask("send_once", token, is_group, name, content, size=size_of(content))

    def dispatch_unasked(self, channel: str, content: Content) -> None:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, content)
        elif _is_reply_channel(channel):
            self._note("reply", channel, content, size=size_of(content))
        else:
            # The other process waits for room, and counts what is lost.
            self._note("send_patiently", channel, content, size=size_of(content))

    def session_stored(self, channel: str) -> None:
        if self.outlet_of(channel) is not None:
            super().session_stored(channel)
        elif _is_reply_channel(channel) and self._link is not None:  # else its connection has closed
            self._note("reply", channel, {SESSION: True})

    def dispatch_group(self, group: str, content: Content) -> None:
        self.broadcast(group, content)
        self._note("send_group", group, content, size=size_of(content))

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        outlet = self.outlet_of(channel)
        if outlet is not None:
            return outlet.deliver_waiting(channel, content, timeout)
        try:
            return bool(self._ask("send_waiting", channel, content, timeout, patience=timeout, size=size_of(content)))
        except (NoServerError, DeliveryUnknown):
            return False

    def dispatch_then(self, channel: str, content: Content, timeout: float, done: Callable[[bool], object]) -> None:
        def send() -> None:
            asked = ask_within(
                timeout + ANSWER_SECONDS, self._reactor, self._link, "send_waiting", channel, content, timeout
            )
            asked.addBoth(lambda answer: done(answer is True))

        self._started().post_data(size_of(content), send)

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        if channel in SERVER_CHANNELS and self._outlets:
            return super().when_room(channel, content, callback)
        if self.outlet_of(channel) is not None or _is_reply_channel(channel):
            return True
        limit = 2 * ANSWER_SECONDS

        def wait() -> None:
            asked = ask_within(limit, self._reactor, self._link, "room", channel, content, ANSWER_SECONDS)
            asked.addBoth(lambda _: callback())

        self._started().post(wait)
        return False


def _is_reply_channel(channel: str) -> bool:
    """Whether a channel belongs to a connection, so that it has no capacity."""
    return "!" in channel and channel.startswith(("http.response.", "websocket.send."))
