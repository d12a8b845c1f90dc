"""The server's Unix socket, by which other processes of this machine use its layer.

Runs in the reactor thread; owns nothing that lasts. The other end is :mod:`channelserver.processes.local_client`, or,
in a process with worker threads, :mod:`channelserver.processes.remote`: that one asks to *join*, and
:mod:`channelserver.processes.hub` takes over.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer
from channelserver.processes.hub import Hub, layer_calls
from channelserver.processes.link import Link
from channelserver.processes.waits import Waits

_log = Logger("channelserver.processes.local")

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


class LocalProtocol(Link):
    """One process that uses the layer.

    :param factory: the factory.
    """

    def __init__(self, factory: LocalFactory) -> None:
        super().__init__(self._handle)
        self.factory = factory

    def connectionMade(self) -> None:
        """Let in the owner of the server, and root."""
        uid = peer_credentials(self.transport)[1]
        if uid not in (os.getuid(), 0):
            _log.warn("a process of user {uid} was turned away from the local socket", uid=uid)
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _handle(self, name: str, arguments: list[Any]) -> Any:
        if name == "join":
            return self.factory.join(self, arguments)
        return self.factory.call(name, arguments)


class LocalFactory(Factory):
    """Makes :class:`LocalProtocol`.

    :param layer: the layer that is offered.
    :param alias: its alias; a request for another one is refused.
    :param bridge: the way from threads into the reactor.
    :param clock: an ``IReactorTime`` provider.
    :param hub: keeps those that join; None: nobody can.
    """

    noisy = False

    def __init__(
        self, layer: InMemoryChannelLayer, alias: str, bridge: Bridge, clock: Any, hub: Hub | None = None
    ) -> None:
        self._alias = alias
        self._hub = hub
        self._calls = layer_calls(layer, Waits(layer, bridge, clock), hub)

    def buildProtocol(self, addr: Any) -> LocalProtocol:
        """See ``IProtocolFactory``."""
        return LocalProtocol(self)

    def call(self, name: Any, arguments: Any) -> Any:
        """Do what a request asks for.

        :returns: the answer, or a Deferred of it.
        :raises ValueError: there is no such call, or no such layer.
        """
        if name not in CALLS or not isinstance(arguments, list) or len(arguments) != CALLS[name] + 1:
            raise ValueError(f"the local protocol has no call {name!r} with these arguments")
        alias, *rest = arguments
        self._check(alias)
        return self._calls[name](*rest)

    def join(self, link: LocalProtocol, arguments: Any) -> Any:
        """Let a process with worker threads take its share of the work.

        :param arguments: the alias of the layer it works for.
        :returns: what it should know.
        :raises ValueError: it cannot join.
        """
        if self._hub is None or not isinstance(arguments, list) or len(arguments) != 1:
            raise ValueError("no process can join this one")
        self._check(arguments[0])
        return self._hub.join(link, peer_credentials(link.transport)[0])

    def _check(self, alias: Any) -> None:
        if alias != self._alias:
            raise ValueError(f"the running server serves the layer {self._alias!r}, not {alias!r}")


def peer_credentials(transport: Any) -> tuple[int, int]:
    """Return the process id and the user id of the process at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    credentials = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid
