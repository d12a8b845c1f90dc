"""Listening sockets that systemd, or ``systemd-socket-activate``, passes to this process (``sd_listen_fds(3)``).

Runs before the reactor; owns nothing.

Twisted's own endpoint ``systemd:`` wants every socket to have a name, which only systemd itself gives them. It also
takes the variables out of the environment when it is imported.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.interfaces import IReactorSocket, IStreamServerEndpoint

from channelserver.server.common.unix import Listening

#: The first of the descriptors that systemd passes.
FIRST = 3

#: The process that was started, of which twistd may make a daemon.
_PROCESS = os.getpid()
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_CURE = "start the socket's unit instead of the service's, or use systemd-socket-activate"


def systemd_endpoint(
    reactor: IReactorSocket | Listening, description: str, variables: Mapping[str, str] | None = None
) -> IStreamServerEndpoint:
    """Return the endpoint for a description such as ``systemd:domain=INET:index=0`` or ``systemd:name=web``.

    :param variables: those of the environment; for tests.
    :raises ValueError: there is no such socket; the text says why.
    """
    wanted: dict[str, str] = {}
    for place, part in enumerate(description.split(":")[1:]):
        key, equals, value = part.partition("=")
        if not equals and place == 0:
            key, value = "domain", part
        if key not in ("domain", "index", "name") or not value:
            raise ValueError(f"{part!r} has no meaning; write systemd:index=0 or systemd:name=NAME")
        wanted[key] = value
    if ("index" in wanted) == ("name" in wanted):
        raise ValueError("write either an index or a name, for example systemd:index=0")
    descriptors, names = passed(inherited_variables() if variables is None else variables)
    if "name" in wanted:
        if wanted["name"] not in names:
            known = ", ".join(map(repr, names)) or "no names"
            raise ValueError(
                f"systemd has passed no socket named {wanted['name']!r}, but {known}; {_CURE} with --fdname"
            )
        descriptor = descriptors[names.index(wanted["name"])]
    else:
        if not wanted["index"].isdecimal() or int(wanted["index"]) >= len(descriptors):
            raise ValueError(f"the index must be below {len(descriptors)}, the number of sockets systemd has passed")
        descriptor = descriptors[int(wanted["index"])]
    try:
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            family = probe.family
            listens = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise ValueError(f"descriptor {descriptor}, which LISTEN_FDS counts, is no socket: {reason}; {_CURE}") from None
    if not listens:
        raise ValueError(f"descriptor {descriptor} is no listening socket; the socket's unit needs Accept=no")
    domain = wanted.get("domain", family.name.removeprefix("AF_"))
    if f"AF_{domain}" != family.name:
        raise ValueError(f"the socket's domain is {family.name.removeprefix('AF_')}, not {domain}")
    from twisted.internet.endpoints import AdoptedStreamServerEndpoint  # it imports OpenSSL

    endpoint: IStreamServerEndpoint = AdoptedStreamServerEndpoint(reactor, descriptor, family)
    return endpoint


def passed(variables: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """Return the descriptors of the passed sockets, and their names, if there are any.

    :raises ValueError: there are no sockets; the text says why.
    """
    process, number = variables.get("LISTEN_PID", ""), variables.get("LISTEN_FDS", "")
    if not process and not number:
        raise ValueError(f"systemd has passed no sockets (LISTEN_FDS is not set); {_CURE}")
    if process != str(_PROCESS):
        raise ValueError(
            f"the sockets are for process {process or '(LISTEN_PID is not set)'}, and this is {_PROCESS}: start the "
            "server directly, or by 'exec' in a shell script"
        )
    if not number.isdecimal() or not 0 < int(number) < 10_000:
        raise ValueError(f"LISTEN_FDS must be the number of passed sockets, not {number!r}; {_CURE}")
    names = variables.get("LISTEN_FDNAMES", "")
    return list(range(FIRST, FIRST + int(number))), names.split(":") if names else []


def inherited_variables() -> dict[str, str]:
    """Return the variables with which this process was started, also if they have been removed since."""
    found = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    try:
        for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
            name, _, value = entry.decode("utf-8", "replace").partition("=")
            if name in _VARIABLES:
                found.setdefault(name, value)
    except OSError:
        pass
    return found
