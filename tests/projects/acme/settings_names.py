"""Names that end in .test lead to 127.0.0.1, unless a file beside this one, ``names``, has lines "name address"."""

import socket
from pathlib import Path

_FILE = Path(__file__).with_name("names")
_real = socket.getaddrinfo


def _look_up(host, *arguments, **named):
    if isinstance(host, str) and host.endswith(".test"):
        lines = _FILE.read_text().splitlines() if _FILE.exists() else []
        found = dict(line.split() for line in lines).get(host, "127.0.0.1")
        if found == "none":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        host = found
    return _real(host, *arguments, **named)


socket.getaddrinfo = _look_up
