"""A real PostgreSQL server for a test, in a temporary folder; it listens on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: Where Debian keeps the programs.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def missing() -> str:
    """Return what there is not, as a sentence; empty: nothing."""
    if not FOLDERS and shutil.which("initdb") is None:
        return "PostgreSQL is not installed (on Debian: postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (the extra 'test' has it)"
    if os.getuid() == 0 and not _has_user("postgres"):
        return "there is no user postgres, and PostgreSQL does not run as root"
    return ""


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class PostgreSQL:
    """A server, with nothing in it."""

    def __init__(self) -> None:
        self._programs = str(FOLDERS[-1]) if FOLDERS else os.path.dirname(str(shutil.which("initdb")))
        self._user = "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-pg-"))
        if self._user:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "-A", "trust", "-U", "test", "--no-sync", "-D", f"{self.folder}/data")
        self.start()

    def start(self) -> None:
        """Start it, again if it was stopped."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", options, "-l", f"{self.folder}/log", "start")

    def stop(self) -> None:
        """End all connections, and stop it for now."""
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "fast", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [f"{self._programs}/{program}", *arguments],
            user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{program} failed: {done.stderr.decode()}")

    def remove(self) -> None:
        """End it, for good."""
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)
