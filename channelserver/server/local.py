"""The server's Unix socket, by which other processes of this machine use its layer.

Runs in the reactor thread; owns what the processes at the other end wait for. The other end is
:mod:`channelserver.layers.local`, or, in a process with worker threads, :mod:`channelserver.server.remote`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver

from channelserver.bridge import Bridge
from channelserver.layers import ChannelFull, InMemoryChannelLayer, MessageTooLarge, wire
from channelserver.server.waits import Waits

_log = Logger("channelserver.server.local")

#: What may be asked for, and with how many arguments.
CALLS = {
    "send": 2,
    "send_group": 2,
    "send_waiting": 3,
    "receive": 2,
    "room": 3,
    "new_channel": 1,
    "group_add": 2,
    "group_discard": 2,
    "group_channels": 1,
    "forget": 1,
    "flush": 0,
    "channel_statistics": 1,
    "global_statistics": 0,
}

#: Errors of a request that are the asker's business; any other is a fault of the server's, and logged.
EXPECTED = (ChannelFull, MessageTooLarge, TypeError, ValueError)


class LocalProtocol(Int32StringReceiver):
    """One process that uses the layer. Requests are begun in the order they come in; one that waits lets later ones
    pass.
    """

    MAX_LENGTH = wire.MAX_FRAME
    factory: LocalFactory

    def __init__(self) -> None:
        self._waiting: set[Any] = set()

    def connectionMade(self) -> None:
        """Let in the owner of the server, and root."""
        uid = peer_uid(self.transport)
        if uid not in (os.getuid(), 0):
            _log.warn("a process of user {uid} was turned away from the local socket", uid=uid)
            self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        """The process has gone: nobody waits any longer."""
        for deferred in tuple(self._waiting):
            deferred.cancel()

    def stringReceived(self, string: bytes) -> None:
        """Act on one request."""
        number: Any = None
        try:
            version, number, name, arguments = wire.unpack_request(string)
            if version != wire.VERSION:
                raise ValueError(f"this server speaks version {wire.VERSION} of the local protocol, not {version!r}")
            result = self.factory.call(name, arguments)
        except Exception as problem:
            self._refuse(number, problem)
            return
        if isinstance(result, Deferred):
            self._waiting.add(result)
            result.addCallbacks(
                self._answer_later, self._fail_later, callbackArgs=(number, result), errbackArgs=(number, result)
            )
        else:
            self._answer(number, result)

    def _answer_later(self, value: Any, number: Any, deferred: Any) -> None:
        self._waiting.discard(deferred)
        self._answer(number, value)

    def _fail_later(self, failure: Any, number: Any, deferred: Any) -> None:
        self._waiting.discard(deferred)
        if self.connected:  # else the wait was cancelled, and nobody wants to know
            self._refuse(number, failure.value)

    def _answer(self, number: Any, result: Any) -> None:
        try:
            data = wire.pack([number, None, result])
        except ValueError as problem:
            self._refuse(number, MessageTooLarge(f"the answer is too large: {problem}"))
        else:
            self.sendString(data)

    def _refuse(self, number: Any, problem: BaseException) -> None:
        if not isinstance(problem, EXPECTED):
            _log.error(
                "error in a request on the local socket: {kind}: {problem}",
                kind=type(problem).__name__,
                problem=problem,
            )
        self.sendString(wire.pack([number, [type(problem).__name__, str(problem)], None]))

    def lengthLimitExceeded(self, length: int) -> None:
        """See ``IntNStringReceiver``."""
        _log.warn("a frame of {length} bytes on the local socket was refused", length=length)
        self.transport.abortConnection()  # type: ignore[union-attr]


class LocalFactory(Factory):
    """Makes :class:`LocalProtocol`.

    :param layer: the layer that is offered.
    :param alias: its alias; a request for another one is refused.
    :param bridge: the way from threads into the reactor.
    :param clock: an ``IReactorTime`` provider.
    """

    noisy = False
    protocol: Any = LocalProtocol

    def __init__(self, layer: InMemoryChannelLayer, alias: str, bridge: Bridge, clock: Any) -> None:
        self._alias = alias
        waits = Waits(layer, bridge, clock)
        others: dict[str, Callable[..., Any]] = {
            "send": layer.dispatch,
            "send_group": layer.dispatch_group,
            "send_waiting": waits.put,
            "receive": waits.receive,
            "room": waits.room,
        }
        self._calls = {name: others.get(name) or getattr(layer, name) for name in CALLS}

    def call(self, name: Any, arguments: Any) -> Any:
        """Do what a request asks for.

        :returns: the answer, or a Deferred of it.
        :raises ValueError: there is no such call, or no such layer.
        """
        if name not in CALLS or not isinstance(arguments, list) or len(arguments) != CALLS[name] + 1:
            raise ValueError(f"the local protocol has no call {name!r} with these arguments")
        alias, *rest = arguments
        if alias != self._alias:
            raise ValueError(f"the running server serves the layer {self._alias!r}, not {alias!r}")
        return self._calls[name](*rest)


def peer_uid(transport: Any) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    credentials = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
