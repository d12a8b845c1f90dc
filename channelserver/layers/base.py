"""The interface of a channel layer: that of asgiref 1, and what the server and the workers need beside it.

Called from any thread. A layer's own docstring says how it keeps its state safe.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import translate
from typing import Any, ClassVar, Protocol

from channelserver.layers.content import Content, copy_content
from channelserver.layers.losses import DropCounter, Reason
from channelserver.layers.names import check_channel_name, check_group_name, local_prefix
from channelserver.layers.turns import Client

#: The key of a reply that stands for a missing answer. Its value is the HTTP status for the client.
FAILED = "channelserver.failed"
#: A reply with this key has its body in a file: an open one, from its position to its end. Whoever sends it closes it.
FILE = "channelserver.file"
#: A reply with this key begins an event stream. Its value: milliseconds after which clients come back, or None.
EVENTS = "channelserver.events"

#: A reply with this key says that the channel session of its connection has been stored.
SESSION = "channelserver.session"
#: The server's own messages about channel sessions: each has a ``reply_channel``, and ``open``: whether its connection
#: is open, so that the session is to be renewed, or has closed, so that it is to be deleted.
SESSION_CHANNEL = "websocket.session"


class ChannelFull(Exception):
    """The channel holds as many messages as its capacity allows (asgiref 1: ``BaseChannelLayer.ChannelFull``)."""

    #: Whether the message may be sent again: it did not arrive.
    retry = True
    #: Under which the message counts as lost if nobody sends it again.
    reason = Reason.FULL


class DeliveryUnknown(ChannelFull):
    """Another process, or Redis, did not answer: the message may have arrived. Sent again, it might arrive twice."""

    retry = False
    reason = Reason.UNKNOWN


class MessageTooLarge(Exception):
    """The message is larger than the layer can carry (asgiref 1: ``BaseChannelLayer.MessageTooLarge``)."""

    reason = Reason.TOO_LARGE


class NotSendable(TypeError):
    """The message holds what cannot be sent to another process, or by a socket."""

    reason = Reason.NOT_SENDABLE


class Reactor(Protocol):
    """What a layer uses of Twisted's reactor (``IReactorTime``)."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> Any: ...


class ReactorBridge(Protocol):
    """What a layer uses of :class:`channelserver.bridge.Bridge`, which calls functions in the reactor thread."""

    def post(self, function: Callable[..., object], *arguments: Any) -> None: ...
    def post_data(self, size: int, function: Callable[..., object], *arguments: Any) -> None: ...
    def call_later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None: ...


class Outlet(Protocol):
    """Receives the messages to a process's own reply channels: the server's open connections.

    All methods may be called from any thread and return at once.
    """

    def __contains__(self, channel: object) -> bool:
        """Whether the connection behind `channel` is open."""

    def client_of(self, channel: str) -> Any:
        """Return [address, port] of the client behind `channel`, if it is open and known; else None."""

    def deliver(self, channel: str, content: Content) -> None:
        """Pass one message to one connection; a message to a closed one is dropped."""

    def deliver_group(self, channels: Collection[str], content: Content) -> None:
        """Pass one message to many connections."""

    def deliver_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """Pass one message to one connection, waiting up to `timeout` seconds while it has no room.

        :returns: False if the connection has closed, or had no room in time.
        """

    def deliver_then(self, channel: str, content: Content, done: Callable[[bool], object]) -> None:
        """Pass one message to one connection, and call ``done(True)`` when it has room for another, or ``done(False)``
        if it has closed. For the reactor thread, which does not wait.
        """


class RemoteOutlet(Outlet, Protocol):
    """The connections of another process that shares this one's layer. It knows which of them are in which groups."""

    def group_added(self, group: str, channel: str) -> None:
        """A third process has made one of its channels a member."""

    def group_discarded(self, group: str, channel: str) -> None:
        """A third process has ended the membership of one of its channels."""

    def send_group(self, group: str, content: Content) -> None:
        """Pass one message to those of its connections that are members; it is sent once, however many they are."""

    def flushed(self) -> None:
        """The layer has forgotten all messages and groups."""


class BaseChannelLayer:
    """Base of all channel layers: names, contents, capacities.

    :param expiry: seconds a message waits for a reader before it is dropped.
    :param group_expiry: seconds a group membership lasts after the last ``group_add``, unless it is an open
        connection's: that lasts as long as the connection.
    :param capacity: messages which may wait in one channel.
    :param channel_capacity: other capacities: a dict of glob (or compiled regular expression) to number; the first
        match counts.
    :param clock: returns seconds, monotonic; for tests.
    :raises ValueError: a number is out of its range.
    """

    #: Names of the optional parts a layer offers, as in asgiref 1.
    extensions: ClassVar[list[str]] = []
    #: Seconds for which a blocking receive waits (Channels 1: about five).
    receive_seconds: ClassVar[float] = 5.0

    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("expiry", expiry), ("group_expiry", group_expiry), ("capacity", capacity)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.capacity = capacity
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.drops = DropCounter(clock)
        #: Channels whose messages are given to another worker if the process dies that consumes them, at most three
        #: times.
        self.requeued: frozenset[str] = frozenset()

    # -- asgiref 1 -----------------------------------------------------------------------------------------------------

    def send(self, channel: str, message: Content) -> None:
        """Put a copy of `message` into `channel`.

        :raises ChannelFull: the channel is at its capacity.
        :raises TypeError: the name or the content is invalid.
        """
        check_channel_name(channel)
        self.dispatch(channel, copy_content(message))

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        """Take the next message from any of `channels`.

        :param block: wait for a message, for a few seconds at most.
        :returns: ``(channel, message)``, or ``(None, None)`` if there was none.
        """
        raise NotImplementedError(f"{type(self).__name__}.receive")

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        """The older name of :meth:`receive` (asgiref 1.0)."""
        return self.receive(channels, block)

    def receive_twisted(self, channels: Iterable[str]) -> Any:
        """Like :meth:`receive`, for the reactor thread (asgiref 1, extension ``twisted``).

        :returns: a Deferred of what :meth:`receive` returns; see :mod:`channelserver.layers.receive`.
        """
        # Not at the top: whoever calls this has Twisted, and the layers do without.
        from channelserver.layers.receive import receive_in_thread

        return receive_in_thread(self, channels)

    def new_channel(self, pattern: str) -> str:
        """Return an unused single-reader name that starts with `pattern`, which must end in ``?``."""
        raise NotImplementedError(f"{type(self).__name__}.new_channel")

    def group_add(self, group: str, channel: str) -> None:
        """Make `channel` a member of `group`, or renew its membership."""
        raise NotImplementedError(f"{type(self).__name__}.group_add")

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of `channel` in `group`, if there is one."""
        raise NotImplementedError(f"{type(self).__name__}.group_discard")

    def group_channels(self, group: str) -> list[str]:
        """Return the members of `group`."""
        raise NotImplementedError(f"{type(self).__name__}.group_channels")

    def send_group(self, group: str, message: Content) -> None:
        """Send a copy of `message` to every member of `group`. Count and log what cannot be delivered.

        :raises TypeError: the name or the content is invalid.
        """
        check_group_name(group)
        self.dispatch_group(group, copy_content(message))

    def flush(self) -> None:
        """Forget all messages and all groups."""
        raise NotImplementedError(f"{type(self).__name__}.flush")

    # -- for Channel, Group and the server: names and contents are checked, and the content is given away --------------

    def dispatch(self, channel: str, content: Content) -> None:
        """Like ``send``, without checks and without a copy."""
        raise NotImplementedError(f"{type(self).__name__}.dispatch")

    def dispatch_group(self, group: str, content: Content) -> None:
        """Like ``send_group``, without checks and without a copy."""
        raise NotImplementedError(f"{type(self).__name__}.dispatch_group")

    #: Whether :meth:`dispatch_once` knows what it has sent.
    sends_once: ClassVar[bool] = False

    def dispatch_once(self, token: str, is_group: bool, name: str, content: Content) -> None:
        """Like :meth:`dispatch` or :meth:`dispatch_group`, but a second call with the same token does nothing.

        For messages that are kept until they are sent: a process may die before it can note that it has sent one.
        Default: nothing is remembered.
        """
        (self.dispatch_group if is_group else self.dispatch)(name, content)

    def dispatch_unasked(self, channel: str, content: Content) -> None:
        """Like :meth:`dispatch`, for a consumer that has ended: do not wait for the answer of another process, which
        counts what is lost.
        """
        self.dispatch(channel, content)

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        """Like :meth:`dispatch`, but wait up to `timeout` seconds for room; the calling thread waits.

        :returns: False if the receiver has gone, or had no room in time.
        """
        raise NotImplementedError(f"{type(self).__name__}.dispatch_waiting")

    def dispatch_then(self, channel: str, content: Content, timeout: float, done: Callable[[bool], object]) -> None:
        """Like :meth:`dispatch_waiting`, but the calling thread does not wait.

        :param done: called with the result, in any thread.
        """
        thread = threading.Thread(target=lambda: done(self.dispatch_waiting(channel, content, timeout)), daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system has no room for another thread
            done(False)

    def submit(
        self, channel: str, content: Content, attachment: Any = None, urgent: bool = False,
        client: Client = None, size: int | None = None,
    ) -> None:  # fmt: skip
        """Like :meth:`dispatch`, for the server's own messages.

        :param attachment: travels with the message to a consumer of the same process.
        :param urgent: ignore the capacity and never expire; for messages bounded by something else.
        :param client: whose message it is; None: its content or its reply channel tells.
        :param size: bytes of its large values, as ``waiting.size_of()`` counts; None: not known.
        :raises ChannelFull: the channel is at its capacity.
        """
        raise NotImplementedError(f"{type(self).__name__}.submit")

    def attach(self, prefix: str, outlet: Outlet) -> None:
        """Deliver messages to channels that start with `prefix`, which ends in ``!``, to `outlet`."""
        raise NotImplementedError(f"{type(self).__name__}.attach")

    def detach(self, prefix: str) -> None:
        """Undo ``attach``."""
        raise NotImplementedError(f"{type(self).__name__}.detach")

    def forget(self, channel: str) -> None:
        """End all memberships of `channel`: its connection has closed."""
        raise NotImplementedError(f"{type(self).__name__}.forget")

    def session_stored(self, channel: str) -> None:
        """Tell the process that has the connection behind `channel` that its channel session was stored.

        For worker threads. Default: there is no connection, so nobody deletes the session.
        """

    def sweep(self) -> bool:
        """Drop what has expired, or a part of it. The server calls it every few seconds.

        :returns: whether there is more to do: then the server calls it again in its next turn.
        """
        return False

    # -- in a process that has a reactor and worker threads: the server, a worker process ------------------------------

    def open(self, reactor: Reactor, bridge: ReactorBridge) -> None:
        """Connect to other processes. Called once, in the reactor thread, before the first message.

        :param reactor: an ``IReactorTime`` and ``IReactorTCP`` provider.
        :param bridge: a :class:`channelserver.bridge.Bridge`.
        """

    def serve(self, channels: Collection[str], threads: int) -> None:
        """Fetch messages of `channels` from elsewhere into this process's ``queues``, at most one for each of its
        `threads`. Called once, in the reactor thread, after :meth:`open`.
        """

    def retire(self) -> None:
        """Fetch no more messages: this process stops when it has consumed those it has."""

    def forked(self) -> None:
        """This is a child process: connections and threads are its parent's."""

    def close(self) -> Any:
        """Disconnect, after the last message.

        :returns: None, or a Deferred that fires when that is done.
        """

    def problem(self) -> str:
        """Return why the layer cannot reach other processes, for the health report; empty: it can."""
        return ""

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        """Return True if a message that did not fit fits now; else call `callback` once, from any thread, when it may.

        :returns: True if there is room now; then `callback` is never called.
        """
        raise NotImplementedError(f"{type(self).__name__}.when_room")

    # -- names and numbers ---------------------------------------------------------------------------------------------

    def valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Return True, or raise ``TypeError`` for an invalid name (asgiref 1)."""
        check_channel_name(name, receive)
        return True

    def valid_channel_names(self, names: object, receive: bool = False) -> bool:
        """Return True if `names` is a non-empty list of valid names (asgiref 1).

        :raises AssertionError: it is no list, or empty.
        :raises TypeError: a name in it is invalid.
        """
        if not isinstance(names, (list, tuple, set, frozenset)) or not names:
            raise AssertionError(f"channel names must be a non-empty list, not {names!r}")
        return all(self.valid_channel_name(name, receive) for name in names)

    def valid_group_name(self, name: object) -> bool:
        """Return True, or raise ``TypeError`` for an invalid name (asgiref 1)."""
        check_group_name(name)
        return True

    def non_local_name(self, name: str) -> str:
        """Return a process-specific name's part up to and with ``!``, any other name as it is (asgiref 1)."""
        return local_prefix(name)

    @staticmethod
    def compile_capacities(
        channel_capacity: Mapping[str | re.Pattern[str], int],
    ) -> list[tuple[Callable[[str], Any], int]]:
        """Return `channel_capacity` as a list of (match function, capacity).

        :raises ValueError: a capacity is no whole number above 0.
        """
        compiled: list[tuple[Callable[[str], Any], int]] = []
        for pattern, number in channel_capacity.items():
            if isinstance(number, bool) or not isinstance(number, int) or number <= 0:
                raise ValueError(f"channel_capacity[{pattern!r}] must be a whole number above 0, not {number!r}")
            regex = re.compile(translate(pattern)) if isinstance(pattern, str) else pattern
            compiled.append((regex.match, number))
        return compiled

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait in `channel`: the first match of ``channel_capacity``, or ``capacity``."""
        for match, number in self.channel_capacity:
            if match(channel):
                return number
        return self.capacity
