"""The shared libraries that go into the file, and the glibc that it needs.

Owns nothing. glibc itself never goes in: the kernel, the name service and the loader of the target belong together.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from channelserver.packing.elf import is_elf, needs

#: The parts of glibc, which every machine has of its own.
_GLIBC = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl|libnss_.*|libanl|libmvec)\.so.*"
)
_LINE = re.compile(r"^\s*(\S+) => (\S+) \(", re.MULTILINE)


class MissingLibraryError(Exception):
    """A library of the environment needs one that this machine does not have; the text says which."""


def binaries(folder: Path) -> list[Path]:
    """Return the executables and shared libraries below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and is_elf(path))


def libraries_of(files: Iterable[Path]) -> dict[str, Path]:
    """Return the shared libraries that files need, by the names they are asked for; none of glibc.

    :raises MissingLibraryError: one of them is not on this machine.
    """
    found: dict[str, Path] = {}
    files = list(files)
    own = {path.name for path in files}  # wheels bring libraries of their own, and find them by themselves
    for start in range(0, len(files), 100):
        batch = [str(path) for path in files[start : start + 100]]
        done = subprocess.run(["ldd", *batch], capture_output=True, text=True, check=False)
        missing = re.search(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)
        if missing and missing[1] not in own:
            raise MissingLibraryError(
                f"the shared library {missing[1]} is not on this machine; install it, then pack again"
            )
        for name, path in _LINE.findall(done.stdout):
            if name not in own and not _GLIBC.fullmatch(name):
                found[name] = Path(path).resolve()
    return found


def glibc_of(files: Iterable[Path]) -> tuple[int, int]:
    """Return the lowest version of glibc with which all files run."""
    versions = [(0, 0)]
    for path in files:
        try:
            versions.append(needs(path).glibc)
        except ValueError:
            continue  # of 32 bits: nothing that this interpreter loads
    return max(versions)
