"""A layer which another process of this machine holds, for a process with a reactor and worker threads.

Safe from any thread: what goes to the other process goes through the bridge, in the order of the calls. Owns, in the
reactor thread, the connection; and this process's own part of the layer: its connections' memberships, the messages of
its own connections, and those that the other process has handed over.

A *worker process* (``manage.py runworker``) finds the server at its Unix socket, waits for one that is not there yet,
and comes back to one that was started again. A *sibling* (``--processes``) inherits its connection, and ends with it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer, MessageTooLarge
from channelserver.layers.content import Content
from channelserver.layers.local import ORDERED_CHANNELS, RECEIVE_SECONDS
from channelserver.layers.names import check_channel_name, check_group_name
from channelserver.processes.figures import add_up
from channelserver.processes.link import Link, LinkLost, ask
from channelserver.processes.local_client import ANSWER_SECONDS, NoServerError
from channelserver.processes.remote_process import size_of
from channelserver.processes.tickets import Ledger, Ticket, TicketQueues

#: Channels whose messages a serving process makes itself, for its own connections. They never leave it.
OWN_CHANNELS = frozenset({"http.request", "http.disconnect", *ORDERED_CHANNELS})

_NO_SERVER = "there is no connection to the server"


class Way(Protocol):
    """How this process gets its connection to the one that holds the layer."""

    def open(self, reactor: Any, layer: RemoteLayer) -> None:
        """Connect; call :meth:`RemoteLayer.joined` and :meth:`RemoteLayer.left`."""

    def close(self) -> Any:
        """Let go of the connection; return None or a Deferred."""


class RemoteLayer(InMemoryChannelLayer):
    """See the module's text.

    :param way: how to connect.

    The other parameters are those of the in-memory layer.
    """

    queues: TicketQueues

    def __init__(self, way: Way, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.queues = TicketQueues(self.get_capacity, self.expiry, self._clock, self.drops, ORDERED_CHANNELS)
        self.queues.report = self._report
        self._way = way
        self._bridge: Bridge | None = None
        self._thread: int | None = None
        self._link: Link | None = None
        self._served: tuple[list[str], int] | None = None
        self._descriptor: int | None = None
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
        }

    # -- the connection, in the reactor thread -------------------------------------------------------------------------

    def open(self, reactor: Any, bridge: Any) -> None:
        """See :meth:`BaseChannelLayer.open`."""
        self._bridge = bridge
        self._thread = threading.get_ident()
        self._way.open(reactor, self)

    def joined(self, link: Link) -> None:
        """There is a connection, and the other process has agreed."""
        self._link = link
        link.handle = self._handle
        for prefix in self._outlets:
            link.note("attach", prefix)
        self._announce()

    def left(self, link: Link) -> None:
        """The connection has gone: the other process takes back, or counts as lost, what it had handed over."""
        if self._link is link:
            self._link = None
            self.queues.lose(link)

    def serve(self, channels: Collection[str], threads: int) -> None:
        """See :meth:`BaseChannelLayer.serve`."""
        wanted = [channel for channel in channels if not (self._outlets and channel in OWN_CHANNELS)]
        self._served = wanted, threads
        self._announce()

    def _announce(self) -> None:
        if self._link is None or self._served is None:
            return
        channels, threads = self._served
        self._close_descriptor()
        self.queues.ledger, self._descriptor = Ledger.make(threads)
        self._link.note("serve", channels, threads, descriptor=self._descriptor)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def retire(self) -> None:
        """See :meth:`BaseChannelLayer.retire`."""
        self._served = None
        if self._link is not None:
            self._link.note("retire")

    def close(self) -> Any:
        """See :meth:`BaseChannelLayer.close`."""
        self._close_descriptor()
        return self._way.close()

    def problem(self) -> str:
        """See :meth:`BaseChannelLayer.problem`."""
        return "" if self._link is not None else _NO_SERVER

    # -- what the other process asks for, in the reactor thread --------------------------------------------------------

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
        room: Any = Deferred()
        outlet.deliver_then(channel, content, room.callback)
        return room

    def _group_added(self, group: str, channel: str) -> None:
        if not self.groups.add(group, channel) and self._link is not None:
            self._link.note("forget", channel)  # closed meanwhile

    # -- to the other process, from any thread -------------------------------------------------------------------------

    def _report(self, ticket: Ticket, what: tuple[Any, ...]) -> None:
        assert self._bridge is not None
        self._bridge.post(self._report_now, ticket, what)

    def _report_now(self, ticket: Ticket, what: tuple[Any, ...]) -> None:
        if ticket.link is self._link and self._link is not None:
            self._link.note(what[0], ticket.number, *what[1:])

    def _tell(self, name: str, *arguments: Any, size: int = 0) -> None:
        """Tell the other process something, and wait for nothing."""
        self._started().post_data(size, self._tell_now, name, arguments)

    def _tell_now(self, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            if self._link is None:
                self.drops.record("no server", arguments[0], hint=_NO_SERVER)
            else:
                self._link.note(name, *arguments)
        except MessageTooLarge as problem:
            self.drops.record("too large for another process", arguments[0], hint=str(problem))

    def _ask(self, name: str, *arguments: Any, patience: float = 0.0, size: int = 0) -> Any:
        """Ask the other process for something, and wait for the answer. Not in the reactor thread.

        :param patience: seconds for which it may wait before it answers.
        """
        bridge = self._started()
        if self._in_reactor():
            raise RuntimeError(f"the reactor thread cannot wait for the answer to {name!r}")
        answered = threading.Event()
        answers: list[Any] = []

        def take(answer: Any) -> None:
            answers.append(answer)
            answered.set()

        bridge.post_data(size, lambda: ask(self._link, name, *arguments).addBoth(take))
        if not answered.wait(ANSWER_SECONDS + patience):
            raise NoServerError(f"the server has not answered within {ANSWER_SECONDS + patience:g} s")
        answer = answers[0]
        if not isinstance(answer, Failure):
            return answer
        problem: Any = answer.value
        if isinstance(problem, LinkLost):
            raise NoServerError(str(problem))
        raise problem

    def _started(self) -> Bridge:
        if self._bridge is None:
            raise NoServerError(f"{_NO_SERVER}: this process has only begun to start")
        return self._bridge

    def _in_reactor(self) -> bool:
        return threading.get_ident() == self._thread

    # -- the layer, from any thread ------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        """See :meth:`InMemoryChannelLayer.receive`."""
        names = list(channels)
        self.valid_channel_names(names, receive=True)
        patience = RECEIVE_SECONDS if block else 0.0
        channel, content = self._ask("receive", names, patience, patience=patience)
        return channel, content

    def new_channel(self, pattern: str) -> str:
        """See :meth:`InMemoryChannelLayer.new_channel`."""
        return str(self._ask("new_channel", pattern))

    def group_add(self, group: str, channel: str) -> None:
        """See :meth:`BaseChannelLayer.group_add`."""
        check_group_name(group)
        outlet = self.outlet_of(check_channel_name(channel))
        if outlet is not None and not self.groups.add(group, channel):
            return
        self._tell("group_add", group, channel)
        # Had it closed just before that, the other process would think of it as a member for ever.
        if outlet is not None and channel not in outlet:
            self._tell("forget", channel)

    def group_discard(self, group: str, channel: str) -> None:
        """See :meth:`BaseChannelLayer.group_discard`."""
        check_group_name(group)
        if self.outlet_of(check_channel_name(channel)) is not None:
            self.groups.discard(group, channel)
        self._tell("group_discard", group, channel)

    def group_channels(self, group: str) -> list[str]:
        """See :meth:`BaseChannelLayer.group_channels`."""
        return list(self._ask("group_channels", check_group_name(group)))

    def forget(self, channel: str) -> None:
        """See :meth:`BaseChannelLayer.forget`."""
        if self.groups.drop(channel) or self.outlet_of(channel) is None:
            self._tell("forget", channel)

    def flush(self) -> None:
        """See :meth:`InMemoryChannelLayer.flush`."""
        self._ask("flush")  # and what is here, when the other process says so

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """See :meth:`InMemoryChannelLayer.channel_statistics`."""
        return add_up(self._ask("gather", "channel_statistics", channel))

    def global_statistics(self) -> dict[str, Any]:
        """See :meth:`InMemoryChannelLayer.global_statistics`."""
        return add_up(self._ask("gather", "global_statistics"))

    def own_global_statistics(self) -> dict[str, Any]:
        """See :meth:`InMemoryChannelLayer.own_global_statistics`. The other process has all groups in its books."""
        return {**super().own_global_statistics(), "groups": 0, "group_members": 0}

    def gather_figures(self) -> Any:
        """Return a Deferred of the figures of all processes; in the reactor thread."""
        return ask(self._link, "gather", "figures")

    def tell_figures(self, figures: Callable[[], dict[str, Any]]) -> None:
        """Have the other process told this one's figures when it asks."""
        self._handlers["own_figures"] = figures

    def dispatch(self, channel: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch`."""
        outlet = self.outlet_of(channel)
        if outlet is not None:
            outlet.deliver(channel, content)
        elif _is_reply_channel(channel):
            self._tell("reply", channel, content, size=size_of(content))
        elif self._in_reactor():
            # The rest of an outbox (workers/outbox.py): what does not fit waits there, and is counted if it must.
            self._tell("send_patiently", channel, content, size=size_of(content))
        else:
            self._ask("send", channel, content, size=size_of(content))

    def dispatch_group(self, group: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch_group`. This process's own members get it without a detour."""
        self.broadcast(group, content)
        self._tell("send_group", group, content, size=size_of(content))

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """See :meth:`BaseChannelLayer.dispatch_waiting`."""
        outlet = self.outlet_of(channel)
        if outlet is not None:
            return outlet.deliver_waiting(channel, content, timeout)
        try:
            return bool(self._ask("send_waiting", channel, content, timeout, patience=timeout, size=size_of(content)))
        except NoServerError:
            return False

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        """See :meth:`BaseChannelLayer.when_room`."""
        if channel in OWN_CHANNELS and self._outlets:
            return super().when_room(channel, content, callback)
        if self.outlet_of(channel) is not None or _is_reply_channel(channel):
            return True
        self._started().post(
            lambda: ask(self._link, "room", channel, content, ANSWER_SECONDS).addBoth(lambda _: callback())
        )
        return False


def _is_reply_channel(channel: str) -> bool:
    """Whether a channel is a connection's, which has no capacity to ask for."""
    return "!" in channel and channel.startswith(("http.response.", "websocket.send."))
