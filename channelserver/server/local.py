"""The server's Unix socket, by which other processes of this machine use its layer.

Runs in the reactor thread; owns nothing that lasts. The other end is :mod:`channelserver.layers.local`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver

from channelserver.layers import BaseChannelLayer, wire

_log = Logger("channelserver.server.local")

#: What may be called, and with how many arguments.
CALLS = {"send": 2, "send_group": 2, "group_add": 2, "group_discard": 2, "group_channels": 1}


class LocalProtocol(Int32StringReceiver):
    """One process that uses the layer."""

    MAX_LENGTH = wire.MAX_FRAME
    factory: LocalFactory

    def connectionMade(self) -> None:
        """Let in the owner of the server, and root."""
        uid = peer_uid(self.transport)
        if uid not in (os.getuid(), 0):
            _log.warn("a process of user {uid} was turned away from the local socket", uid=uid)
            self.transport.abortConnection()  # type: ignore[union-attr]

    def stringReceived(self, string: bytes) -> None:
        """Answer one request."""
        number: Any = None
        error = None
        result = None
        try:
            version, number, name, arguments = wire.unpack(string)
            if version != wire.VERSION:
                raise ValueError(f"this server speaks version {wire.VERSION} of the local protocol, not {version!r}")
            result = self.factory.call(name, arguments)
        except Exception as problem:
            kind = type(problem).__name__
            error = [kind, str(problem)]
            if kind not in ("ChannelFull", "TypeError", "ValueError"):
                _log.failure("error in a request on the local socket")
        self.sendString(wire.pack([number, error, result]))

    def lengthLimitExceeded(self, length: int) -> None:
        """See ``IntNStringReceiver``."""
        _log.warn("a frame of {length} bytes on the local socket was refused", length=length)
        self.transport.abortConnection()  # type: ignore[union-attr]


class LocalFactory(Factory):
    """Makes :class:`LocalProtocol`.

    :param layer: the layer that is offered.
    :param alias: its alias; a request for another one is refused.
    """

    noisy = False
    protocol: Any = LocalProtocol

    def __init__(self, layer: BaseChannelLayer, alias: str) -> None:
        self._alias = alias
        self._calls: dict[str, Callable[..., Any]] = {name: getattr(layer, name) for name in CALLS}

    def call(self, name: Any, arguments: Any) -> Any:
        """Do what a request asks for.

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
