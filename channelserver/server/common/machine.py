"""How much memory this machine has, or the container that it is; how freed memory is given back; its addresses.

Runs before the reactor; owns nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path

#: Where Linux shows the limits of control groups, and which groups a process is in.
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_of_machine(groups: Path = GROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """Return the bytes of memory that this process may use with all others of its container, or of the machine.

    :param groups: the control groups' folder, for tests.
    :param own_groups: the file that names this process's groups, for tests.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            limits += _limits(groups, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(groups / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def _limits(top: Path, path: str, name: str) -> list[int]:
    """Return the limits of a group and of those it is part of. Within a container `path` may not exist below `top`."""
    folder = top / path.lstrip("/")
    found = []
    for group in (folder, *folder.parents):
        try:
            found.append(int((group / name).read_text()))
        except (OSError, ValueError):  # ValueError: "max", so there is none
            pass
        if group == top:
            break
    return found


def every_address() -> str:
    """Return the address that stands for all of this machine: ``::`` if that takes IPv4, too; without IPv6
    ``0.0.0.0``.
    """
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
            only_6 = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return "0.0.0.0"
    return "0.0.0.0" if only_6 else "::"


#: Parameters of glibc's ``mallopt``, and the bytes they are set to. A body of 1 MiB, with what Python puts before it,
#: is not large: new pages for each took a third of the time of an upload.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2560 * 1024), (-3, 1088 * 1024)


def trim() -> None:
    """Give back what is free in between. Takes some milliseconds, in which other threads go on."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def give_memory_back() -> None:
    """Have large pieces of memory given back to the system when they are freed; now, what the start has freed (1 MB).

    By default glibc raises the size from which it does so to that of the largest piece freed so far. After an answer of
    5 MB all others come from its heap, which grows and does not shrink: with pages of megabytes for a thousand clients
    resident memory was 100 MiB above what was kept for them. ``MALLOC_*`` variables of the environment win.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        libc = ctypes.CDLL(None)
        for parameter, size in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            libc.mallopt(parameter, size)
        libc.malloc_trim(0)
