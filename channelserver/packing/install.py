"""Units for systemd that run a packed site.

Runs in the main thread, on the machine where the file is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVICE = """\
# /etc/systemd/system/{name}.service
[Unit]
Description={name}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={file} --fd 3 --migrate
DynamicUser=yes
StateDirectory={name}
StateDirectoryMode=0700
CacheDirectory={name}
WorkingDirectory=/var/lib/{name}
Restart=on-failure
TimeoutStopSec=40
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=multi-user.target
"""

SOCKET = """\
# /etc/systemd/system/{name}.socket
[Unit]
Description={name}: its port

[Socket]
ListenStream={port}
Backlog=1024

[Install]
WantedBy=sockets.target
"""


def _word(path: str) -> str:
    """Return a path as systemd reads it in a command line; it allows no quotes in one."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def install(about: dict[str, Any], file: Path, arguments: Sequence[str]) -> None:
    """Print the units, or write them with ``--write``."""
    name = about["name"]
    units = {
        f"{name}.service": SERVICE.format(name=name, file=_word(str(file))),
        f"{name}.socket": SOCKET.format(name=name, port=80),
    }
    unknown = [argument for argument in arguments if argument != "--write"]
    if unknown:
        sys.stderr.write(f"{name}: install has no option {unknown[0]!r}, only --write\n")
        raise SystemExit(2)
    if not arguments:
        print("\n".join(units.values()))
        return
    folder = Path("/etc/systemd/system")
    if os.geteuid() != 0 or not folder.is_dir():
        sys.stderr.write(f"{name}: install --write must be run as root, on a machine with systemd\n")
        raise SystemExit(1)
    for unit, text in units.items():
        (folder / unit).write_text(text)
    subprocess.run(["systemctl", "daemon-reload"], check=False)
    print(f"written; start the site with: systemctl enable --now {name}.socket {name}.service")
