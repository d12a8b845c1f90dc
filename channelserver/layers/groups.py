"""Groups: named sets of channels.

Safe from any thread: one lock, held for moments. Owns the memberships.

A group's members are listed far more often than they change, so the list is built once and kept until it changes,
already divided by outlet. Senders share it and never alter it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from channelserver.layers.base import Outlet


class Members(tuple[str, ...]):
    """The members of a group that belong to one outlet."""

    #: What the outlet derives from them and keeps; a change of the group drops both.
    cache: Any = None


#: The members of a group for a send: by outlet, and those that are ordinary channels.
Targets = tuple[tuple[tuple[Outlet, Members], ...], tuple[str, ...]]

#: Groups, and members, that one call of :meth:`Groups.sweep` deals with, or one group's: the reactor waits meanwhile.
SWEPT_AT_ONCE = 1000

_NOBODY: Targets = ((), ())


class _Group:
    __slots__ = ("earliest", "members", "targets")

    def __init__(self) -> None:
        self.members: dict[str, float] = {}  # channel -> end of membership, in seconds of the clock
        self.earliest = math.inf  # no membership ends before this
        self.targets: Targets | None = None


class Groups:
    """All groups of a process.

    :param expiry: seconds a membership lasts after the last :meth:`add`; that of an open connection has no end.
    :param clock: returns seconds, monotonic.
    :param outlet_of: returns the outlet a channel belongs to, or None for an ordinary channel.
    """

    def __init__(self, expiry: float, clock: Callable[[], float], outlet_of: Callable[[str], Outlet | None]) -> None:
        self._expiry = expiry
        self._clock = clock
        self._outlet_of = outlet_of
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._groups_of: dict[str, set[str]] = {}
        self._unswept: list[str] = []

    def add(self, group: str, channel: str) -> bool:
        """Make `channel` a member of `group`, or renew its membership.

        The reply channel of a closed connection is not added.

        :returns: whether it is a member now.
        """
        with self._lock:
            # Looked up under the lock: a closing connection leaves first its outlet, then the groups.
            outlet = self._outlet_of(channel)
            if outlet is None:
                ends = self._clock() + self._expiry
            elif channel in outlet:
                ends = math.inf
            else:
                return False
            entry = self._groups.get(group)
            if entry is None:
                entry = self._groups[group] = _Group()
            if channel not in entry.members:
                entry.targets = None
                self._groups_of.setdefault(channel, set()).add(group)
            entry.members[channel] = ends
            entry.earliest = min(entry.earliest, ends)
            return True

    def discard(self, group: str, channel: str) -> None:
        """End one membership, if there is one."""
        with self._lock:
            self._remove(group, channel)

    def drop(self, channel: str) -> tuple[str, ...]:
        """End all memberships of `channel`; return the groups it was in."""
        with self._lock:
            groups = tuple(self._groups_of.get(channel, ()))
            for group in groups:
                self._remove(group, channel)
            return groups

    def drop_prefix(self, prefix: str) -> None:
        """End all memberships of the channels that start with `prefix`: their process has ended."""
        with self._lock:
            for channel in [channel for channel in self._groups_of if channel.startswith(prefix)]:
                for group in tuple(self._groups_of[channel]):
                    self._remove(group, channel)

    def has(self, group: str, channel: str | None = None) -> bool:
        """Whether `group` has this member; without one, whether it has any."""
        with self._lock:
            entry = self._groups.get(group)
            return entry is not None and (channel is None or channel in entry.members)

    def members(self, group: str) -> list[str]:
        with self._lock:
            entry = self._current(group)
            return list(entry.members) if entry is not None else []

    def targets(self, group: str) -> Targets:
        """Return the members of `group` for a send; the result is shared, do not alter it."""
        with self._lock:
            entry = self._current(group)
            if entry is None:
                return _NOBODY
            if entry.targets is None:
                by_outlet: dict[int, tuple[Outlet, list[str]]] = {}
                ordinary: list[str] = []
                for channel in entry.members:
                    outlet = self._outlet_of(channel)
                    if outlet is None:
                        ordinary.append(channel)
                    else:
                        by_outlet.setdefault(id(outlet), (outlet, []))[1].append(channel)
                entry.targets = tuple((outlet, Members(names)) for outlet, names in by_outlet.values()), tuple(ordinary)
            return entry.targets

    def sweep(self) -> bool:
        """End expired memberships. Call it every few seconds.

        :returns: whether there is more to do: then call it again soon.
        """
        with self._lock:
            if not self._unswept:
                self._unswept = list(self._groups)
            ends = len(self._groups_of) - SWEPT_AT_ONCE
            for _ in range(SWEPT_AT_ONCE):
                if not self._unswept or len(self._groups_of) < ends:
                    break
                self._current(self._unswept.pop())
            return bool(self._unswept)

    def regroup(self) -> None:
        """Forget the cached lists, because an outlet has been attached or detached."""
        with self._lock:
            for entry in self._groups.values():
                entry.targets = None

    def flush(self) -> None:
        with self._lock:
            self._groups.clear()
            self._groups_of.clear()

    def counts(self) -> dict[str, int]:
        """Return the number of members by group."""
        with self._lock:
            return {name: len(entry.members) for name, entry in self._groups.items()}

    def _current(self, group: str) -> _Group | None:
        entry = self._groups.get(group)
        if entry is None or entry.earliest > (now := self._clock()):
            return entry
        for channel, ends in tuple(entry.members.items()):
            if ends <= now:
                self._remove(group, channel)
        entry.earliest = min(entry.members.values(), default=math.inf)
        return self._groups.get(group)

    def _remove(self, group: str, channel: str) -> None:
        entry = self._groups.get(group)
        if entry is None or entry.members.pop(channel, None) is None:
            return
        entry.targets = None
        if not entry.members:
            del self._groups[group]
        groups = self._groups_of[channel]
        groups.discard(group)
        if not groups:
            del self._groups_of[channel]
