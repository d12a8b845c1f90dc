"""The running server's layer, used from another process of the same machine.

Safe from any thread: one lock, held for a request and its answer. Owns one connection, made when first needed.

A cron job, a management command or a shell has the same settings as the server, and so an in-memory layer. What it
sends must arrive in the server's memory: this layer takes it there.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from channelserver.layers import wire
from channelserver.layers.base import BaseChannelLayer, ChannelFull, MessageTooLarge
from channelserver.layers.content import Content
from channelserver.layers.names import check_channel_name, check_group_name

#: Seconds to wait for the server's answer.
ANSWER_SECONDS = 10.0


class NoServerError(ConnectionError):
    """No server of this project is running on this machine, or it does not answer; the text says what to do."""


class LocalSocketLayer(BaseChannelLayer):
    """A layer which lives in the server process.

    :param path: the server's Unix socket.
    :param alias: which of ``CHANNEL_LAYERS``; the server must serve the same one.

    The other parameters are those of the in-memory layer. Capacity and expiry are the server's business.
    """

    extensions: ClassVar[list[str]] = ["groups"]

    def __init__(
        self,
        path: str,
        alias: str,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
    ) -> None:
        super().__init__(expiry, group_expiry, capacity, channel_capacity)
        self.path = path
        self.alias = alias
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._owner = 0
        self._number = 0

    def dispatch(self, channel: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch`.

        :raises NoServerError: no server is running.
        """
        self._call("send", channel, content)

    def dispatch_group(self, group: str, content: Content) -> None:
        """See :meth:`BaseChannelLayer.dispatch_group`.

        :raises NoServerError: no server is running.
        """
        self._call("send_group", group, content)

    def group_add(self, group: str, channel: str) -> None:
        """See :meth:`BaseChannelLayer.group_add`."""
        self._call("group_add", check_group_name(group), check_channel_name(channel))

    def group_discard(self, group: str, channel: str) -> None:
        """See :meth:`BaseChannelLayer.group_discard`."""
        self._call("group_discard", check_group_name(group), check_channel_name(channel))

    def group_channels(self, group: str) -> list[str]:
        """See :meth:`BaseChannelLayer.group_channels`."""
        return list(self._call("group_channels", check_group_name(group)))

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        with self._lock:
            self._close()

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            try:
                fresh = self._connect()
                try:
                    return self._ask(name, arguments)
                except (BrokenPipeError, ConnectionResetError):
                    # The server was started again since the last call. The request did not arrive, or its process is
                    # gone.
                    if fresh:
                        raise
                    self._close()
                    self._connect()
                    return self._ask(name, arguments)
            except OSError as error:
                self._close()
                if isinstance(error, NoServerError):
                    raise
                raise NoServerError(
                    f"no server of this project answers on {self.path!r} ({error.strerror or error}); start it with "
                    "'twistd channelserver', or name its --local-socket in the setting CHANNELSERVER['local_socket']"
                ) from error

    def _connect(self) -> bool:
        """Connect if need be; return whether the connection is new. A child process must not share its parent's."""
        if self._socket is not None and self._owner == os.getpid():
            return False
        self._socket = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        self._owner = os.getpid()
        return True

    def _close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        connection = self._socket
        assert connection is not None
        self._number += 1
        try:
            data = wire.pack([wire.VERSION, self._number, name, [self.alias, *arguments]])
        except ValueError as error:
            raise MessageTooLarge(str(error)) from error
        connection.sendall(len(data).to_bytes(wire.PREFIX, "big") + data)
        size = int.from_bytes(self._read(connection, wire.PREFIX), "big")
        if size > wire.MAX_FRAME:
            raise NoServerError(f"what listens on {self.path!r} is no channelserver")
        number, problem, result = wire.unpack(self._read(connection, size))
        if number != self._number:
            raise NoServerError(f"the server on {self.path!r} answered another question")
        if problem is not None:
            kind, text = problem
            raise _ERRORS.get(kind, RuntimeError)(text)
        return result

    @staticmethod
    def _read(connection: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the server closed the connection")
            data += part
        return data


_ERRORS: dict[str, type[Exception]] = {
    "ChannelFull": ChannelFull,
    "TypeError": TypeError,
    "ValueError": ValueError,
}
