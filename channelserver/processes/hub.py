"""The processes that have joined this process's layer: worker processes and siblings.

Runs in the reactor thread; owns the messages that these processes have in hand.

A joined process says which channels it serves and how many messages it takes at a time; each time it finishes one, or
releases one that no longer occupies a thread (a coroutine), it gets the next. Until it finishes a message, this process
keeps it, and its lane stays busy: the socket's next message waits. When a process dies, messages it had started are
lost and counted; the others return to their places in the queue.

A *worker process* (``manage.py runworker``) takes its channels over: as long as it is joined, this process's own
threads do not serve them. A *sibling* (``--processes``) shares them.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer, MessageTooLarge, NotSendable
from channelserver.layers.base import FAILED, ChannelFull
from channelserver.layers.content import Content
from channelserver.layers.losses import BY_NAME, MOST_REQUEUES, Reason, named
from channelserver.layers.names import local_prefix
from channelserver.layers.turns import Client
from channelserver.layers.waiting import Delivery
from channelserver.processes.gatherer import Gatherer, Sibling
from channelserver.processes.link import Link
from channelserver.processes.remote_process import Gone, RemoteProcess
from channelserver.processes.tickets import SLOTS, Ledger, is_message
from channelserver.processes.waits import Waits

_log = Logger("channelserver.processes.hub")

#: Seconds that a message of an outbox (:mod:`channelserver.workers.outbox`) waits for room in its channel.
PATIENCE = 2.0
#: Kinds of connections of processes that have ended for which messages are still counted.
REMEMBERED = 100


class Hub(Gatherer):
    """All joined processes.

    :param options: this process's options for consumers, which hold in worker processes, too.
    """

    def __init__(
        self, layer: InMemoryChannelLayer, bridge: Bridge, clock: IReactorTime, options: dict[str, Any]
    ) -> None:
        super().__init__(layer, bridge, clock)
        self.layer = layer
        self.waits = Waits(layer, bridge, clock)
        self._options = options
        self._peers: list[Peer] = []
        self._listening: tuple[str, ...] = ()
        self._looking = False
        self._idle_callbacks: list[Callable[[], object]] = []
        self._gone: deque[str] = deque()
        layer.queues.threads.holders.append(self._held)
        layer.drops.collect = self._count_losses
        #: Called with the channels that worker processes serve whenever these may have changed. Default: no-op.
        self.when_taken_over: Callable[[frozenset[str]], object] = lambda channels: None
        #: Channels that the threads of this process do not serve any more.
        self.left: frozenset[str] = frozenset()

    def join(self, link: Link, pid: int, sibling: int = 0) -> dict[str, Any]:
        """Let a process join.

        :param sibling: the number of a sibling, which serves connections, too; 0: it is a worker process.
        :returns: the options for its consumers.
        """
        peer = Peer(self, link, pid, sibling)
        self._peers.append(peer)
        link.handle = peer.handle
        link.when_lost = lambda _: self._left(peer)
        return self._options

    def _left(self, peer: Peer) -> None:
        self._peers.remove(peer)
        if peer.channels and not peer.sibling:
            _log.info("worker process {pid} has left", pid=peer.pid)
        peer.close()
        self.changed()

    def remember(self, prefix: str) -> None:
        """Count what is sent to the connections of a process that has ended; the last :data:`REMEMBERED` such."""
        self._gone.append(prefix)
        self.layer.attach(prefix, Gone(self.layer.drops))
        if len(self._gone) > REMEMBERED:
            self.layer.detach(self._gone.popleft())

    def changed(self) -> None:
        """React to a process that serves other channels than before, or has left."""
        wanted = tuple(sorted({channel for peer in self._peers for channel in peer.channels}))
        if wanted != self._listening:
            # look() below finds messages that arrive in between.
            self.layer.queues.unlisten(self._listening, self.work_ready)
            self.layer.queues.listen(wanted, self.work_ready)
            self._listening = wanted
        self.when_taken_over(self.taken_over() | self.left)
        self.look()

    def taken_over(self) -> frozenset[str]:
        """Return the channels that worker processes serve."""
        return frozenset(channel for peer in self._peers if not peer.sibling for channel in peer.channels)

    # -- work ----------------------------------------------------------------------------------------------------------

    def work_ready(self) -> None:
        """Called by the queues, in any thread, when a message waits."""
        if not self._looking:
            self._looking = True  # two threads may get here at once: a second look is harmless
            self.bridge.post(self.look)

    def look(self) -> None:
        """Hand waiting messages to the processes with the most room."""
        self._looking = False
        peers = [peer for peer in self._peers if peer.room > 0]
        while peers:
            peer = max(peers, key=lambda peer: peer.room)
            channels = peer.channels
            if peer.sibling:
                own = self.taken_over()
                channels = tuple(channel for channel in channels if channel not in own)
            delivery = self.layer.queues.take(channels) if channels else None
            if delivery is not None:
                peer.hand_over(delivery)
            if delivery is None or peer.room <= 0:
                peers.remove(peer)
        self._check_idle()

    def _held(self, channel: str) -> tuple[list[Client], int]:
        peers = [peer for peer in self._peers if channel in peer.channels]
        clients = [peer.in_hand[number].client for peer in peers for number in tuple(peer.occupying)]
        return clients, sum(peer.places for peer in peers)

    def client_gone(self, reply_channel: str) -> None:
        """Tell worker processes that the client of a request has left."""
        for peer in self._peers:
            if peer.channels and not peer.sibling:
                peer.link.note("client_gone", reply_channel)

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, when no joined process has a message in hand and none waits for one."""
        self._idle_callbacks.append(callback)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._idle_callbacks or any(peer.in_hand for peer in self._peers):
            return
        if self.layer.queues.has_work(self.taken_over()):
            return
        callbacks, self._idle_callbacks = self._idle_callbacks, []
        for callback in callbacks:
            callback()

    def busy(self) -> list[str]:
        """Return a line for each message that a joined process has in hand."""
        return [
            f"process {peer.pid}: on a message from {delivery.channel!r}"
            for peer in self._peers
            for delivery in peer.in_hand.values()
        ]

    # -- figures -------------------------------------------------------------------------------------------------------

    def _count_losses(self) -> None:
        for peer in tuple(self._peers):
            peer.count_losses()

    def siblings(self) -> list[Sibling]:
        return [peer for peer in self._peers if peer.sibling]

    def close(self) -> None:
        for peer in tuple(self._peers):
            peer.link.transport.loseConnection()


class Peer(Sibling):
    """One joined process.

    :param sibling: the number of a sibling, which serves connections, too; 0: it is a worker process.
    """

    def __init__(self, hub: Hub, link: Link, pid: int, sibling: int) -> None:
        self._hub = hub
        self._layer = layer = hub.layer
        super().__init__(link, sibling)
        self.pid = pid
        self.channels: tuple[str, ...] = ()
        #: The messages it has not finished, by number, oldest first.
        self.in_hand: dict[int, Delivery] = {}
        self._requeued: frozenset[str] = frozenset()  # the channels whose messages may come twice
        self.places = 0  # how many messages it takes at a time
        self.occupying: set[int] = set()  # those that may occupy a thread
        self._slots: dict[int, int] = {}  # in the ledger
        self._free = list(range(SLOTS))
        self._losses: dict[str, int] = {}  # that are counted here
        self._received = 0  # of the messages that it has sent
        self._counting = threading.Lock()
        self._number = 0
        self._ledger: Ledger | None = None
        self._prefixes: list[str] = []
        self._outlet = RemoteProcess(link, hub.bridge, hub.clock, layer.drops)
        self._lines: dict[str, deque[tuple[Content, float]]] = {}
        self._calls: dict[str, Callable[..., Any]] = {
            **layer_calls(layer, hub.waits, hub),
            "serve": self._serve,
            "retire": self._retire,
            "release": self._release,
            "finish": self._finish,
            "put_back": self._put_back,
            "postpone": self._put_back,
            "reply": self._reply,
            "send_patiently": self._send_patiently,
            "gather": hub.gather,
            "attach": self._attach,
            "send_group": self._send_group,
            "group_add": self._group_add,
            "group_discard": self._group_discard,
        }

    def handle(self, name: str, arguments: list[Any]) -> Any:
        if is_message(name, arguments):
            self._received += 1
        call = self._calls.get(name) or (self._hub.calls.get(name) if self.sibling else None)
        if call is None:
            raise ValueError(f"the local protocol has no call {name!r}")
        return call(*arguments)

    # -- work ----------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more messages it can take."""
        return min(self.places - len(self.occupying), len(self._free))

    def hand_over(self, delivery: Delivery) -> None:
        """Give it a message; one that cannot be sent is counted as lost."""
        number = self._number = self._number + 1
        slot = self._free.pop()
        attachment = delivery.attachment
        descriptor = None
        try:
            if attachment is not None:
                attachment.flush()
                attachment.seek(0)
                descriptor = attachment.fileno()
            self.link.note(
                "take", number, slot, delivery.channel, delivery.content, delivery.tries, descriptor is not None,
                descriptor=descriptor,
            )  # fmt: skip
        except (MessageTooLarge, NotSendable, OSError, ValueError) as problem:
            self._free.append(slot)
            reason = getattr(problem, "reason", Reason.ERROR)  # else the file with the request's body is broken
            self._layer.drops.record(reason, delivery.channel, hint=str(problem))
            self._give_up(delivery)
            return
        self.in_hand[number] = delivery
        self._slots[number] = slot
        self.occupying.add(number)

    def _serve(self, channels: list[str], number: int, sent: int, requeued: list[str]) -> None:
        ledger = self.link.take_descriptor()
        self._ledger = Ledger(ledger)
        self._received = sent
        self._requeued = self._layer.requeued.union(requeued)
        self.places = number = max(1, min(number, SLOTS))
        self.channels = tuple(channels)
        if not self.sibling:
            _log.info(
                "worker process {pid} takes {number} messages at a time from {channels}",
                pid=self.pid, number=number, channels=", ".join(channels),
            )  # fmt: skip
        self._hub.changed()

    def _retire(self) -> None:
        self.channels, self.places = (), 0
        self._hub.changed()

    def _take_back(self, number: int) -> Delivery | None:
        self.occupying.discard(number)
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._free.append(slot)
        return self.in_hand.pop(number, None)

    def _release(self, number: int) -> None:
        self.occupying.discard(number)
        self._hub.look()

    def _finish(self, number: int) -> None:
        delivery = self._take_back(number)
        if delivery is not None:
            self._layer.queues.finish(delivery)
            if delivery.attachment is not None:
                delivery.attachment.close()
        self._hub.look()

    def _put_back(self, number: int, tries: int, seconds: float = 0.0) -> None:
        delivery = self._take_back(number)
        if delivery is not None:
            delivery.tries = tries
            if seconds:
                self._layer.queues.postpone(delivery, seconds, self._hub.bridge.call_later)
            else:
                self._layer.queues.put_back(delivery)
        self._hub.look()

    def close(self) -> None:
        """The process has left. Return messages that it had not started, or that may come twice, to the queue;
        count the others as lost, unless their consumers have ended.
        """
        untouched: list[Delivery] = []
        begun: list[Delivery] = []
        ended: list[Delivery] = []
        ledger, layer = self._ledger, self._layer
        for number, delivery in self.in_hand.items():
            assert ledger is not None
            slot = self._slots[number]
            state = begun if ledger.begun(slot, number) else ended if ledger.ended(slot, number) else untouched
            state.append(delivery)
        self.in_hand.clear()
        layer.queues.restore(untouched)
        may_repeat = [delivery for delivery in begun if local_prefix(delivery.channel) in self._requeued]
        again = [delivery for delivery in may_repeat if delivery.deaths < MOST_REQUEUES]
        layer.queues.requeue(again)
        if again:
            channels = ", ".join(sorted({delivery.channel for delivery in again}))
            _log.warn(
                "{count} message(s) of process {pid}, which has ended, go to other workers: {channels}",
                count=len(again), pid=self.pid, channels=channels,
            )  # fmt: skip
        for delivery in again:
            begun.remove(delivery)
        lost = [(Reason.DIED_AGAIN if one in may_repeat else Reason.DIED, one.channel) for one in begun]
        for (reason, channel), count in Counter(lost).items():
            layer.drops.record(reason, channel, count, f"it was process {self.pid}")
        for delivery in begun + ended:
            self._give_up(delivery)
        if ledger is not None:
            unsent = ledger.sent - self._received
            layer.drops.record(Reason.UNSENT, "replies and groups", unsent, f"it was process {self.pid}")
        self.count_losses()
        with self._counting:
            self._ledger = None
        if ledger is not None:
            ledger.close()
        for prefix in self._prefixes:
            self._layer.detach(prefix)
            self._layer.groups.drop_prefix(prefix)
            self._hub.remember(prefix)
        layer.drops.record(
            Reason.PROCESS_GONE, "its connections", self.link.unread_messages, f"it was process {self.pid}"
        )
        if self.sibling:
            self._hub.keep_counters(self.counters)

    def count_losses(self) -> None:
        """Count here what the process has lost itself; any thread. A sibling's losses are in other memory."""
        with self._counting:
            if self._ledger is not None:
                found = named(self._ledger.losses)
                for reason, number in found.items():
                    self._layer.drops.add(BY_NAME[reason], number - self._losses.get(reason, 0))
                self._losses = found

    def _give_up(self, delivery: Delivery) -> None:
        """Tell the client that its message is lost, and free the lane."""
        reply_channel = delivery.content.get("reply_channel")
        if delivery.channel in ("http.request", "websocket.connect") and reply_channel:
            self._layer.dispatch(reply_channel, {FAILED: 502})
        if delivery.attachment is not None:
            delivery.attachment.close()
        self._layer.queues.finish(delivery)

    # -- its sends -----------------------------------------------------------------------------------------------------

    def _reply(self, channel: str, content: Content) -> None:
        try:
            self._layer.dispatch(channel, content)
        except ChannelFull as error:
            self._layer.drops.record(Reason.FULL, channel, hint=str(error))

    def _send_patiently(self, channel: str, content: Content) -> None:
        """Put a message into a channel as soon as the channel has room; later messages wait behind it."""
        self._put_patiently(channel, content, self._hub.clock.seconds() + PATIENCE)

    def _put_patiently(self, channel: str, content: Content, ends: float) -> None:
        line = self._lines.get(channel)
        if line is not None:
            line.append((content, ends))
            return
        result = self._hub.waits.put(channel, content, max(0.0, ends - self._hub.clock.seconds()))
        if isinstance(result, Deferred):
            self._lines[channel] = deque()
            result.addBoth(self._sent_patiently, channel)
        elif result is not True:
            self._count_full(channel)

    def _sent_patiently(self, result: Any, channel: str) -> None:
        if result is not True:
            self._count_full(channel)
        for content, ends in self._lines.pop(channel):
            self._put_patiently(channel, content, ends)

    def _count_full(self, channel: str) -> None:
        self._layer.drops.record(Reason.FULL, channel, hint=f"tried again for {PATIENCE:.0f} s")

    def _send_group(self, group: str, content: Content) -> None:
        self._layer.broadcast(group, content, self._outlet)

    # -- its connections -----------------------------------------------------------------------------------------------

    def _attach(self, prefix: str) -> None:
        self._prefixes.append(prefix)
        self._layer.attach_remote(prefix, self._outlet)

    def _is_own(self, channel: str) -> bool:
        return self._layer.remote_outlet_of(channel) is self._outlet

    def _group_add(self, group: str, channel: str) -> None:
        if self._is_own(channel):  # so it has noted this itself
            self._layer.groups.add(group, channel)
        else:
            self._layer.group_add(group, channel)

    def _group_discard(self, group: str, channel: str) -> None:
        if self._is_own(channel):
            self._layer.groups.discard(group, channel)
        else:
            self._layer.group_discard(group, channel)


def layer_calls(layer: InMemoryChannelLayer, waits: Waits, hub: Hub | None) -> dict[str, Callable[..., Any]]:
    """Return the layer's methods for requests of other processes, by name. None blocks the reactor thread."""
    statistics: dict[str, Callable[..., Any]] = {
        name: getattr(layer, "own_" + name) if hub is None else partial(hub.add_up, name)
        for name in ("channel_statistics", "global_statistics")
    }
    return {
        "send": layer.dispatch,
        "send_group": layer.dispatch_group,
        "send_waiting": waits.put,
        "send_once": layer.dispatch_once,
        "receive": waits.receive,
        "room": waits.room,
        "new_channel": layer.new_channel,
        "group_add": layer.group_add,
        "group_discard": layer.group_discard,
        "group_channels": layer.group_channels,
        "forget": layer.forget,
        "flush": layer.flush,
        "session_stored": layer.session_stored,
        **statistics,
    }
