"""``channelserver check`` with ``--https``: what would keep the server from getting its certificates.

Runs in the main thread, names are looked up in others; nothing is written, and no order is made. (The store is checked
when the server is put together.)
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException

from channelserver.server.common.host_names import certificate_names
from channelserver.server.common.options import ACME_DIRECTORIES, Settings
from channelserver.server.websocket.origin import OriginPolicy

#: Seconds for each question to the network.
PATIENCE = 10.0
#: Seconds that the clock may be off.
CLOCK = 300.0


def of_https(
    values: Settings, hosts: list[str], server_runs: bool, now: Callable[[], float] = time.time
) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong.

    :param hosts: as Django's ``ALLOWED_HOSTS``.
    :param server_runs: whether the server runs beside this process, and so has the ports.
    :param now: returns POSIX time.
    """
    names = [name for joined in certificate_names(values.https) for name in joined]
    allowed = OriginPolicy(hosts, ())
    for name in names:
        if not allowed.host_allowed(name):
            yield f"{name} (--https) is not in ALLOWED_HOSTS, so its requests get 400; add it there"
    with ThreadPoolExecutor(min(len(names), 20)) as pool:
        yield from filter(None, pool.map(partial(_resolves, values.bind), names))
    for flag, port in () if server_runs else (("--https-port", values.https_port), ("--http-port", values.http_port)):
        problem = _occupied(values.bind, port)
        if problem:
            yield f"port {port} of {values.bind} ({flag}) cannot be opened: {problem}"
    yield from _of_authority(values, now)


def server_runs(path: str) -> bool:
    """Whether somebody answers at the local socket `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        return bool(path) and not client.connect_ex(path)


def _resolves(bind: str, name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        reason = error.strerror or str(error)
        return f"{name} (--https) does not resolve ({reason}); make a DNS record that points to this machine"
    if ":" not in bind and any(entry[0] == socket.AF_INET6 for entry in found):
        return (
            f"{name} (--https) has an IPv6 address, which clients prefer, and --bind {bind} is IPv4 only; use --bind "
            "::, which takes both, or remove the AAAA record"
        )
    return ""


def _occupied(address: str, port: int) -> str:
    """Return why a port cannot be opened, with the cure; empty: it can."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EACCES:
                return "this user may not; set AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit"
            if error.errno == errno.EADDRINUSE:
                return "another program has it; stop that, such as nginx, Apache or Caddy"
            return f"{(error.strerror or str(error)).lower()}; see --bind"
    return ""


def _of_authority(values: Settings, now: Callable[[], float]) -> Iterator[str]:
    url = ACME_DIRECTORIES.get(values.acme_directory, values.acme_directory)
    try:
        context = ssl.create_default_context()
        if values.acme_ca_file is not None:
            context.load_verify_locations(values.acme_ca_file)
    except OSError as error:
        yield f"--acme-ca-file {values.acme_ca_file!r} cannot be used: {(error.strerror or str(error)).lower()}"
        return
    try:
        with closing(urllib.request.urlopen(url, timeout=PATIENCE, context=context)) as answer:
            date, content = answer.headers["Date"], answer.read(100_000)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        cure = "check the network and --acme-directory"
        if isinstance(reason, ssl.SSLCertVerificationError):
            cure = "check this machine's clock, and --acme-ca-file"
        yield f"the certificate authority's directory {url} cannot be reached ({reason}); {cure}"
        return
    try:
        is_directory = "newOrder" in json.loads(content)
    except (ValueError, TypeError):
        is_directory = False
    if not is_directory:
        yield f"{url} is no directory of ACME; check --acme-directory"
    try:
        off = now() - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return
    if abs(off) > CLOCK:
        way = "fast" if off > 0 else "slow"
        yield (
            f"this machine's clock is {abs(off) / 60:.0f} min {way}, says the certificate authority; set it, as "
            "certificates are valid for certain times only (timedatectl set-ntp true)"
        )
