"""The server's Unix socket, over which other processes of this machine use its layer.

Runs in the reactor thread; owns nothing that lasts. At the other end is :mod:`channelserver.processes.local_client` or,
in a process with worker threads, :mod:`channelserver.processes.remote`, which *joins*: from then on
:mod:`channelserver.processes.hub` handles its requests.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from channelserver.bridge import Bridge
from channelserver.layers import InMemoryChannelLayer
from channelserver.processes.hub import Hub, layer_calls
from channelserver.processes.link import ILinkTransport, Link
from channelserver.processes.waits import Waits

_log = Logger("channelserver.processes.local")

#: The calls of the protocol, and the number of their arguments.
CALLS = {
    "send": 2,
    "send_group": 2,
    "send_waiting": 3,
    "send_once": 4,
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
    """The connection of one process that uses the layer."""

    def __init__(self, factory: LocalFactory) -> None:
        super().__init__(self._handle)
        self.factory = factory
        self._joined = False

    def connectionMade(self) -> None:
        """Refuse all users but the server's own and root."""
        uid = peer_credentials(self.transport)[1]
        if uid not in (os.getuid(), 0):
            _log.warn("the local socket refused a process of user {uid}", uid=uid)
            self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """The other process does not read its answers: read no more of its requests. (Who has joined gets more.)"""
        super().pauseProducing()
        if not self._joined:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if not self.transport.disconnecting:
            self.transport.resumeProducing()

    def _handle(self, name: str, arguments: list[Any]) -> Any:
        if name == "join":
            self._joined = True
            return self.factory.join(self, arguments)
        return self.factory.call(name, arguments)


class LocalFactory(Factory):
    """Makes :class:`LocalProtocol`.

    :param layer: the layer that other processes may use.
    :param alias: its alias; requests for another one are refused.
    :param hub: processes can join it; None: they cannot.
    """

    noisy = False

    def __init__(
        self, layer: InMemoryChannelLayer, alias: str, bridge: Bridge, clock: IReactorTime, hub: Hub | None = None
    ) -> None:
        self._alias = alias
        self._hub = hub
        self._calls = layer_calls(layer, Waits(layer, bridge, clock), hub)

    def buildProtocol(self, addr: IAddress | None) -> LocalProtocol:
        return LocalProtocol(self)

    def call(self, name: Any, arguments: Any) -> Any:
        """Handle a request.

        :returns: the answer, or a Deferred of it.
        :raises ValueError: there is no such call, or no such layer.
        """
        if name not in CALLS or not isinstance(arguments, list) or len(arguments) != CALLS[name] + 1:
            raise ValueError(f"the local protocol has no call {name!r} with these arguments")
        alias, *rest = arguments
        self._check(alias)
        return self._calls[name](*rest)

    def join(self, link: LocalProtocol, arguments: Any) -> Any:
        """Let a process with worker threads join the hub.

        :param arguments: the alias of the layer it works for.
        :returns: the options for its consumers.
        :raises ValueError: it cannot join.
        """
        if self._hub is None or not isinstance(arguments, list) or len(arguments) != 1:
            raise ValueError("this server takes no worker processes")
        self._check(arguments[0])
        return self._hub.join(link, peer_credentials(link.transport)[0])

    def _check(self, alias: Any) -> None:
        if alias != self._alias:
            raise ValueError(f"the running server serves the layer {self._alias!r}, not {alias!r}")


def peer_credentials(transport: ILinkTransport) -> tuple[int, int]:
    """Return the process id and the user id of the process at the other end of a Unix socket.

    :param transport: Twisted's; its socket is in no interface.
    """
    size = struct.calcsize("3i")
    credentials = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid
