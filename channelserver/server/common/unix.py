"""Listening on a Unix socket where a server that crashed has left one.

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IListeningPort, IReactorSocket, IReactorUNIX


class OccupiedError(Exception):
    """Something is in the place of a Unix socket, and must stay there; the text says what."""


def clear_stale_socket(path: str) -> None:
    """Remove the socket file of a server that has ended without removing it. Nothing else is ever removed.

    Only the kernel knows whether a server listens on it: in a container, the next server has the process id of the
    last one.

    :raises OccupiedError: a server listens on it, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OccupiedError("there is a file that is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # its queue is full; it has another kind of socket
            raise OccupiedError(f"there is a socket that cannot be tried: {error.strerror}") from error
    raise OccupiedError("another server listens on it")


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep other servers that start now from removing the socket that this one is about to make in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(50):  # whoever may read the folder can hold the lock, so no start waits for it for ever
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


class Listening:
    """A reactor that replaces stale Unix sockets and paces TLS handshakes; everything else is the real one's.

    :param reactor: the real one.
    """

    def __init__(self, reactor: IReactorSocket) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen with TLS: what an ``ssl:`` endpoint asks for."""
        from channelserver.server.common.handshakes import tls_factory  # it imports OpenSSL

        encrypted = tls_factory(contextFactory, factory, self)
        listening: IListeningPort = self.listenTCP(port, encrypted, backlog, interface)
        return listening

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        """Listen on a Unix socket.

        :param wantPID: not used. Twisted's lock file names a process, see :func:`clear_stale_socket`.
        :raises OccupiedError: something is in its place.
        """
        address = os.fsdecode(address)
        if address.startswith("\0"):
            return self._listen_unix(address, factory, backlog, mode)
        with _alone(os.path.dirname(address) or "."):
            clear_stale_socket(address)
            return self._listen_unix(address, factory, backlog, mode)

    def _listen_unix(self, address: str, factory: Any, backlog: int, mode: int) -> IListeningPort:
        port: IListeningPort = IReactorUNIX(self._reactor).listenUNIX(address, factory, backlog, mode)
        return port
