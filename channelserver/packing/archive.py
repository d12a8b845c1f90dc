"""The archive behind the head: the same input gives the same bytes.

Owns nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

#: The last entry of an archive: who has it has everything.
COMPLETE = ".complete"


def entries(folder: Path) -> list[Path]:
    """Return everything below a folder, in an order that does not depend on the disk."""
    return sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())


def hash_of(folder: Path) -> str:
    """Return a name for the content of a folder."""
    digest = hashlib.sha256()
    for path in entries(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{_mode(path):o}\0".encode())
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _mode(path: Path) -> int:
    if path.is_dir():
        return 0o755
    return 0o555 if path.stat().st_mode & 0o100 else 0o444


def archive(folder: Path, progress: Callable[[int, int], object] = lambda done, total: None) -> bytes:
    """Return the gzipped tar archive of a folder's content: fixed owners, times and modes."""
    found = entries(folder)
    buffer = io.BytesIO()
    # Level 9 takes four times as long as 6, for a file that is smaller by a hundredth.
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0, filename="") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for number, path in enumerate(found):
                name = path.relative_to(folder).as_posix()
                if name == COMPLETE:
                    continue
                info = tarfile.TarInfo(name)
                info.mode = _mode(path)
                if path.is_dir():
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                else:
                    info.size = os.path.getsize(path)
                    with open(path, "rb") as file:
                        tar.addfile(info, file)
                if number % 500 == 0:
                    progress(number, len(found))
            info = tarfile.TarInfo(COMPLETE)
            info.mode = 0o444
            tar.addfile(info)
    return buffer.getvalue()
