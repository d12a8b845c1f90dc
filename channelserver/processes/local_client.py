"""The running server's layer, as other processes of the same machine use it.

Safe from any thread: each call has a connection to itself. Owns the connections, which later calls use again; a lock
guards the list of idle ones.

A cron job, a management command or a shell has the server's settings, and so an in-memory layer. Their messages must
reach the server's memory: this layer sends them there. (A process with worker threads has a
:class:`channelserver.processes.remote.RemoteLayer` instead.)
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from channelserver.layers.base import BaseChannelLayer, DeliveryUnknown
from channelserver.layers.content import Content
from channelserver.layers.losses import Reason
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER, check_channel_name, check_group_name
from channelserver.processes import wire

#: Seconds to wait for the server's answer, in addition to those that the call itself may wait.
ANSWER_SECONDS = 10.0

#: Idle connections kept for later calls.
KEPT = 8


class NoServerError(ConnectionError):
    """No server of this project is running on this machine, or it does not answer."""

    reason = Reason.NO_SERVER


class LocalSocketLayer(BaseChannelLayer):
    """A layer which lives in the server process.

    :param path: the server's socket; default: that of the settings.
    :param alias: which of ``CHANNEL_LAYERS``; the server must serve the same one.

    The other parameters are those of the in-memory layer; the server's own values of them apply. All methods raise
    :class:`NoServerError` if no server is running, and ``DeliveryUnknown`` if the server does not answer.
    """

    #: Returns the socket of the settings; :mod:`channelserver.registry` sets it.
    default_path: Any = staticmethod(lambda: "")

    sends_once = True

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]

    def __init__(
        self,
        path: str | None = None,
        alias: str = DEFAULT_CHANNEL_LAYER,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
    ) -> None:
        super().__init__(expiry, group_expiry, capacity, channel_capacity)
        self.path = self.default_path() if path is None else path
        self.alias = alias
        self._lock = threading.Lock()
        self._free: list[_Connection] = []
        self._owner = os.getpid()

    # -- asgiref 1 -----------------------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Content | None]:
        names = list(channels)
        self.valid_channel_names(names, receive=True)
        patience = self.receive_seconds if block else 0.0
        channel, content = self._call("receive", names, patience, patience=patience)
        return channel, content

    def new_channel(self, pattern: str) -> str:
        return str(self._call("new_channel", pattern))

    def group_add(self, group: str, channel: str) -> None:
        self._call("group_add", check_group_name(group), check_channel_name(channel))

    def group_discard(self, group: str, channel: str) -> None:
        self._call("group_discard", check_group_name(group), check_channel_name(channel))

    def group_channels(self, group: str) -> list[str]:
        return list(self._call("group_channels", check_group_name(group)))

    def flush(self) -> None:
        """Forget all messages and all groups of the server. Open connections stay open."""
        self._call("flush")

    def channel_statistics(self, channel: str) -> dict[str, float]:
        return dict(self._call("channel_statistics", check_channel_name(channel)))

    def global_statistics(self) -> dict[str, Any]:
        return dict(self._call("global_statistics"))

    # -- for Channel and Group -----------------------------------------------------------------------------------------

    def dispatch(self, channel: str, content: Content) -> None:
        self._call("send", channel, content)

    def dispatch_once(self, token: str, is_group: bool, name: str, content: Content) -> None:
        self._call("send_once", token, is_group, name, content)

    def dispatch_group(self, group: str, content: Content) -> None:
        self._call("send_group", group, content)

    def dispatch_waiting(self, channel: str, content: Content, timeout: float) -> bool:
        return bool(self._call("send_waiting", channel, content, float(timeout), patience=timeout))

    def when_room(self, channel: str, content: Content, callback: Callable[[], object]) -> bool:
        """Like :meth:`BaseChannelLayer.when_room`; a new thread waits, for ten seconds at most."""
        if self._call("room", channel, content, 0.0):
            return True

        def wait() -> None:
            try:
                self._call("room", channel, content, ANSWER_SECONDS, patience=ANSWER_SECONDS)
            except (OSError, DeliveryUnknown):
                pass  # the caller tries again, and gets the error
            callback()

        threading.Thread(target=wait, name="wait-for-room", daemon=True).start()
        return False

    def forget(self, channel: str) -> None:
        self._call("forget", channel)

    def session_stored(self, channel: str) -> None:
        self._call("session_stored", channel)

    def close(self) -> None:
        """Close the idle connections; the next call opens a new one."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: Any, patience: float = 0.0) -> Any:
        """Send a request to the server and return the answer.

        :param patience: seconds that the server may wait before it answers.
        :raises DeliveryUnknown: the server has got the request, and did not answer.
        """
        request = wire.pack([wire.VERSION, 0, name, [self.alias, *arguments]])
        connection: _Connection | None = None
        try:
            connection = self._take()
            try:
                answer = connection.ask(request, patience)
            except (BrokenPipeError, ConnectionResetError):
                # The server has restarted since the last call, so no running server has got the request.
                if connection.fresh:
                    raise
                self.close()
                connection = _Connection(self.path)
                answer = connection.ask(request, patience)
        except NoServerError:
            raise
        except OSError as error:
            if connection is not None and connection.sent:
                raise DeliveryUnknown(
                    f"the server on {self.path!r} did not answer ({error.strerror or error}); it may have got the "
                    "message, or not"
                ) from error
            raise NoServerError(
                f"no server of this project answers on {self.path!r} ({error.strerror or error}); start one with "
                "'channelserver serve', or name its --local-socket in the setting CHANNELSERVER['local_socket']"
            ) from error
        self._keep(connection)
        problem, result = answer
        if problem is not None:
            kind, text = problem
            raise wire.ERRORS.get(kind, RuntimeError)(text)
        return result

    def _take(self) -> _Connection:
        """Return an idle connection, or a new one. A child process must not share its parent's."""
        with self._lock:
            if self._owner != os.getpid():
                # The parent keeps its own descriptors of them.
                self._free, self._owner = [], os.getpid()
            if self._free:
                return self._free.pop()
        return _Connection(self.path)

    def _keep(self, connection: _Connection) -> None:
        with self._lock:
            if len(self._free) < KEPT and self._owner == os.getpid():
                self._free.append(connection)
                return
        connection.close()


class _Connection:
    """One connection to the server, for one call at a time. It closes itself when a call fails or it is dropped."""

    def __init__(self, path: str) -> None:
        self._path = path
        #: Whether no request has been answered yet.
        self.fresh = True
        #: Whether the latest request has been sent as a whole.
        self.sent = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()

    def ask(self, request: bytes, patience: float) -> tuple[Any, Any]:
        """Send a request; return the error and the result of the answer.

        :param patience: seconds that the server may wait before it answers.
        """
        self.sent = False
        try:
            self._socket.settimeout(ANSWER_SECONDS + patience)
            self._socket.sendall(len(request).to_bytes(wire.PREFIX, "big") + request)
            self.sent = True
            size = int.from_bytes(self._read(wire.PREFIX), "big")
            if size > wire.MAX_FRAME:
                raise NoServerError(f"what listens on {self._path!r} is not channelserver")
            try:
                _, problem, result = wire.unpack(self._read(size))
            except (ValueError, TypeError):
                raise NoServerError(f"what listens on {self._path!r} is not channelserver") from None
        except BaseException:
            self.close()
            raise
        self.fresh = False
        return problem, result

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the server closed the connection")
            data += part
        return bytes(data)
