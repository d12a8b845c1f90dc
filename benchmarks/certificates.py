"""Certificates for the servers of ``tls-handshakes``, in a temporary folder.

Used by the benchmark program; the folder is removed at its end.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

#: Where no certificate authority is: the certificates are in the store, and none is due.
NOBODY = "https://127.0.0.1:1/dir"


def name_of(number: int) -> str:
    """Return the host name of a certificate."""
    return f"site-{number}.test"


@cache
def folder() -> Path:
    """Return the folder of all certificates."""
    made = Path(tempfile.mkdtemp(prefix="channelserver-benchmark-tls-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def files(number: int) -> tuple[str, str]:
    """Return the paths of a certificate and its key."""
    from channelserver.server.tls.self_signed import self_signed

    key, certificate = self_signed([name_of(number)])
    paths = folder() / f"{number}.crt", folder() / f"{number}.key"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return str(paths[0]), str(paths[1])


@cache
def store(count: int) -> str:
    """Return the path of a store for ``--https`` that has the first `count` certificates."""
    from channelserver.server.acme.store import Store, read_pair

    path = str(folder() / f"store-{count}")
    made = Store(path, NOBODY)
    for number in range(count):
        certificate, key = (Path(file).read_bytes() for file in files(number))
        made.save((name_of(number),), read_pair(key, certificate, (name_of(number),)))
    return path
