"""Which descriptors the children of this process have: programs none, forked processes no sockets of the server.

Runs before the reactor and, at a fork, in the child; owns nothing but the list of what to close there.

A child that outlives the server (``multiprocessing``, ``os.fork``, a program that a view starts) would keep the
listening sockets, so that the next server could not open them, and its connections to other processes, which would take
it for the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import weakref
from collections.abc import Iterator
from typing import Any

from channelserver.processes.link import IReactor

#: ``man 2 prctl``: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def close_on_exec() -> None:
    """Have programs that this process starts inherit nothing but the standard streams."""
    with contextlib.suppress(OSError):  # without /proc
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with contextlib.suppress(OSError):  # the descriptor that lists them is closed already
                    os.set_inheritable(int(name), False)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, whatever state this one is in.

    :param parent: process ID of the parent.
    :raises SystemExit: the parent has ended already.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the process sees the end of a pipe
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


class _Sockets:
    """The sockets of a reactor, and those that do not belong to one at the moment."""

    def __init__(self) -> None:
        self._reactor: IReactor | None = None
        self._owners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kept = False
        os.register_at_fork(after_in_child=self._close)

    def watch(self, reactor: IReactor, owner: Any = None) -> None:
        """Close in forked children what `reactor` reads from and writes to.

        :param owner: lists further sockets: its ``sockets()`` returns objects with a method ``close``.
        """
        self._reactor = reactor
        if owner is not None:
            self._owners.add(owner)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Leave everything open in a child that starts within this block."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False

    def _close(self) -> None:
        reactor, self._reactor = self._reactor, None
        if reactor is None or self._kept or not reactor.running:  # before it runs, a fork is a daemon's
            self._reactor = reactor
            return
        # A list of its own: another thread of the parent may have been about to alter the reactor's.
        found = [getattr(each, "socket", None) for each in tuple(getattr(reactor, "_selectables", {}).values())]
        for owner in tuple(self._owners):
            found += owner.sockets()
        for each in found:
            if each is not None:
                with contextlib.suppress(OSError):
                    each.close()


#: Those of this process.
sockets = _Sockets()
