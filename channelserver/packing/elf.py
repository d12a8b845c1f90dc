"""What an ELF file (Linux executables and shared libraries) needs: its loader, and versions of glibc.

Owns nothing. Source: the System V ABI, and the symbol versions of the Linux Standard Base.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"\x7fELF"
_PT_INTERP, _SHT_VERNEED = 3, 0x6FFFFFFE
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


class Needs(NamedTuple):
    """What a file needs.

    ``loader``: path of the program that loads it, empty for a library; ``glibc``: the lowest version, (0, 0) if it
    needs none.
    """

    loader: str
    glibc: tuple[int, int]


def is_elf(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == _MAGIC
    except OSError:
        return False


def needs(path: Path) -> Needs:
    """Read the headers of an ELF file of 64 bits.

    :raises ValueError: it is none, or is damaged.
    """
    data = path.read_bytes()
    if data[:4] != _MAGIC or data[4:5] != b"\x02":
        raise ValueError(f"{str(path)!r} is no ELF file of 64 bits")
    order = "<" if data[5] == 1 else ">"
    try:
        return _needs(data, order)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{str(path)!r} is damaged") from error


def _needs(data: bytes, order: str) -> Needs:
    (programs, sections) = struct.unpack_from(order + "QQ", data, 32)
    (program_size, program_count, section_size, section_count) = struct.unpack_from(order + "HHHH", data, 54)
    loader = ""
    for number in range(program_count):
        kind, _, offset, _, _, size = struct.unpack_from(order + "IIQQQQ", data, programs + number * program_size)
        if kind == _PT_INTERP:
            loader = data[offset : offset + size].split(b"\0")[0].decode()
    versions = [(0, 0)]
    for number in range(section_count):
        start = sections + number * section_size
        kind = struct.unpack_from(order + "I", data, start + 4)[0]
        if kind != _SHT_VERNEED:
            continue
        link = struct.unpack_from(order + "I", data, start + 40)[0]  # the section with the names
        offset, size = struct.unpack_from(order + "QQ", data, sections + link * section_size + 24)
        for match in _GLIBC.finditer(data[offset : offset + size]):
            versions.append((int(match[1]), int(match[2])))
    return Needs(loader, max(versions))
