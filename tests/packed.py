"""A packed site for tests: the demo chat with an application for uploads, packed once for all tests of a run.

And a place to run it: a folder that has nothing but busybox and glibc.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.process import ROOT, environment

#: Bytes of the developer, which no archive may have.
SECRETS = {
    "db.sqlite3": b"developer's database 5ac1",
    ".env": b"PASSWORD=developer-5ac2",
    "site.key": b"developer's key 5ac3",
    "local_settings.py": b"# developer's settings 5ac4",
}

#: Programs that the head needs, and a few for tests.
PROGRAMS = ("sh", "tail", "tar", "gzip", "mktemp", "mv", "readlink", "rm", "mkdir", "env")
LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
NOBODY = 65534


def missing() -> str:
    """Return why nothing can be packed here, empty if it can."""
    if os.environ.get("CHANNELSERVER_TEST_PACK") == "0":
        return "CHANNELSERVER_TEST_PACK is 0"
    if shutil.which("ldd") is None:
        return "ldd is not installed"
    if not LOADER.exists():
        return "this is no x86-64 machine with glibc"
    return ""


def missing_for_chroot() -> str:
    """Return why no place can be made, empty if one can."""
    if os.getuid() != 0:
        return "only root may change the root folder"
    if shutil.which("busybox") is None:
        return "busybox is not installed (on Debian: busybox-static)"
    return missing()


def write_site(folder: Path) -> None:
    """Write the project."""
    shutil.copytree(ROOT / "examples" / "chat", folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    shutil.copytree(ROOT / "tests" / "projects" / "packed", folder, dirs_exist_ok=True)
    with open(folder / "chatsite" / "settings.py", "a") as stream:
        stream.write(
            '\nINSTALLED_APPS += ["uploads"]\nMEDIA_ROOT = BASE_DIR / "media"\nMEDIA_URL = "media/"\n'
            'DATABASES["default"]["NAME"] = BASE_DIR / "db.sqlite3"\n'
        )
    for name, content in SECRETS.items():
        (folder / name).write_bytes(content)


def pack(project: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``channelserver pack``."""
    return pack_with(project, sys.executable, output, *arguments)


def pack_with(project: Path, python: str | Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``channelserver pack`` of another environment."""
    return subprocess.run(
        [str(python), "-m", "channelserver", "pack", "-o", str(output), *arguments],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def packed_site() -> Path:
    """Return the packed demo; the first test of a run packs it."""

    def write(base: Path) -> tuple[Path, str]:
        write_site(base / "project")
        return base / "project", sys.executable

    return packed_once("chat", write)


def packed_once(name: str, write: Callable[[Path], tuple[Path, str | Path]]) -> Path:
    """Return a packed site; the first test of a run packs it.

    :param write: ``write(folder)`` writes the project there; returns its folder and the interpreter to pack with.
    """
    base = Path(tempfile.gettempdir()) / f"channelserver-packed-{os.getuid()}-{os.getppid()}" / name
    base.mkdir(mode=0o700, exist_ok=True, parents=True)
    with open(base / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = base / name
        if not file.exists():
            _remove_old()
            done = pack_with(*write(base), file)
            if done.returncode:
                raise AssertionError(f"packing failed:\n{done.stdout}{done.stderr}")
            (base / "report").write_text(done.stdout)
    return file


def _remove_old() -> None:
    """Remove what earlier runs have left: those whose process has ended."""
    for path in Path(tempfile.gettempdir()).glob(f"channelserver-packed-{os.getuid()}-*"):
        pid = path.name.rpartition("-")[2]
        if pid != str(os.getppid()) and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def make_root(folder: Path, libc: bool = True) -> Path:
    """Make a root folder with busybox and glibc; return the folder of the site in it.

    :param libc: whether glibc is there.
    """
    busybox = shutil.which("busybox")
    assert busybox is not None
    for name in ("bin", "lib64", "lib/x86_64-linux-gnu", "tmp", "var/tmp", "dev", "srv/site"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin" / "busybox")
    for name in PROGRAMS:
        (folder / "bin" / name).symlink_to("busybox")
    if libc:
        shutil.copy(LOADER, folder / "lib64" / LOADER.name)
        for name in LIBRARIES:
            source = Path("/lib/x86_64-linux-gnu") / name
            if source.exists():
                shutil.copy(source, folder / "lib" / "x86_64-linux-gnu" / name)
    for name in ("tmp", "var/tmp"):
        (folder / name).chmod(0o1777)
    os.mknod(folder / "dev" / "null", 0o20666, os.makedev(1, 3))
    (folder / "dev" / "null").chmod(0o666)
    os.mknod(folder / "dev" / "urandom", 0o20666, os.makedev(1, 9))
    (folder / "dev" / "urandom").chmod(0o666)
    site = folder / "srv" / "site"
    os.chown(site, NOBODY, NOBODY)
    return site


def in_root(folder: Path, *command: str) -> list[str]:
    """Return a command line that runs a command in a root folder, as another user, with an empty environment."""
    return ["chroot", f"--userspec={NOBODY}:{NOBODY}", str(folder), "/bin/env", "-i", "PATH=/bin", *command]
