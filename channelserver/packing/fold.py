"""Moves modules and translations of the standard library and of the largest packages into four files.

A file costs the machine that unpacks it more than its content does, and these would be 6000 files in 3000 folders.
Their other data, and all other packages, stay as they are, because a package may look for its modules in its folder.
``sitecustomize.py`` reads the result. Owns nothing.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import zipfile
import zlib
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

#: The files, beside the folder of the standard library but for the first: Python looks for that, also without
#: ``sitecustomize``, and it has the standard library alone.
INDEX, CODE, TEXTS = "modules.index", "modules.code", "modules.texts"
#: Packages whose modules are moved, this server's dependencies: none of them looks for modules in its folder, but for
#: those of :data:`_STAY`.
_PACKAGES = (
    *("asgiref", "attr", "attrs", "autobahn", "automat", "channelserver", "constantly", "cryptography", "django", "h2"),
    *("hpack", "hyperframe", "hyperlink", "idna", "incremental", "josepy", "OpenSSL", "packaging", "service_identity"),
    *("sqlparse", "twisted", "txaio", "whitenoise", "zope/interface"),
)
_STAY = ("autobahn/nvx", "channelserver/examples", "twisted/plugins")
#: Sources and translations are compressed in blocks of this many bytes: what a traceback has to read for one line.
_BLOCK = 1 << 16


def fold(library: Path) -> None:
    """Move modules, their bytecode, and Django's translations.

    :param library: the folder of the standard library, with ``site-packages`` in it; everything is compiled.
    """
    index: dict[str, dict[str, tuple[int, ...]]] = {"": {}, "site-packages": {}}
    found = sorted(_modules(library))
    translations = sorted(
        _translations(library), key=lambda path: (path.parts[-3], path)
    )  # those of a language together
    blocks, places = _blocks([path.read_bytes() for path in (*(source for source, _ in found), *translations)])
    (library.parent / TEXTS).write_bytes(blocks)
    code = open(library.parent / CODE, "wb")
    archive = zipfile.ZipFile(library.parent / f"{library.name.replace('.', '')}.zip", "w")
    with code, archive:
        for (source, compiled), place in zip(found, places, strict=False):
            data = compiled.read_bytes()
            folder = parent = _relative(source.parent, library)
            while parent not in index:
                index[parent] = {}
                parent = parent.rpartition("/")[0]
            package = source.name == "__init__.py"
            if folder.startswith("site-packages"):
                where = (1, code.tell(), len(data))
                code.write(data)
            else:
                info = zipfile.ZipInfo(source.relative_to(library).with_suffix(".pyc").as_posix())
                archive.writestr(info, data)
                where = (0, info.header_offset + len(info.FileHeader()), len(data))
            name = source.parent.name if package else source.stem
            index[folder.rpartition("/")[0] if package else folder][name] = (package, *where, *place)
            compiled.unlink()
            if folder or source.name != "os.py":  # by which Python finds its home
                source.unlink()
    for path in translations:
        path.unlink()
    catalogs: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, place in zip(translations, places[len(found) :], strict=True):
        catalogs.setdefault(path.parts[-3], {})[_relative(path, library)] = place
    # A process needs few of the inner tables. Later formats of marshal depend on what else refers to an object.
    tables = [{key: marshal.dumps(table, 2) for key, table in one.items()} for one in (index, catalogs)]
    (library.parent / INDEX).write_bytes(marshal.dumps(tables, 2))
    for emptied, _, _ in os.walk(library, topdown=False):
        if not os.listdir(emptied):
            os.rmdir(emptied)


def _relative(path: Path, library: Path) -> str:
    name = path.relative_to(library).as_posix()
    return "" if name == "." else name


def _modules(library: Path) -> Iterator[tuple[Path, Path]]:
    """Return the sources of the modules to move, with their bytecode."""
    for top in library.iterdir():
        if top.name not in ("site-packages", "lib-dynload") and not _data(top):
            yield from _compiled(top)
    for name in _PACKAGES:
        for pair in _compiled(library / "site-packages" / name):
            if not pair[0].relative_to(library / "site-packages").as_posix().startswith(_STAY):
                yield pair


def _translations(library: Path) -> Iterator[Path]:
    """Return Django's catalogs but for the English ones: Django looks whether an application has a folder of them."""
    for path in (library / "site-packages" / "django").rglob("locale/*/LC_MESSAGES/*.mo"):
        if path.parts[-3] != "en":
            yield path


def _data(top: Path) -> bool:
    """Whether a package has files that are no modules."""
    return any(path.is_file() and path.suffix not in (".py", ".pyc") for path in top.rglob("*"))


def _compiled(top: Path) -> Iterator[tuple[Path, Path]]:
    for source in [top] if top.is_file() else top.rglob("*.py"):
        if source.suffix == ".py":
            compiled = Path(importlib.util.cache_from_source(str(source)))
            # An extension module of the same name comes first on Python's path.
            if compiled.is_file() and not any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES):
                yield source, compiled


def _blocks(texts: list[bytes]) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Return compressed blocks, and for each text: offset and size of its block, start and length in it."""
    blocks = bytearray()
    places: list[tuple[int, int, int, int]] = []
    waiting: list[bytes] = []
    for number, text in enumerate(texts, 1):
        waiting.append(text)
        if sum(map(len, waiting)) >= _BLOCK or number == len(texts):
            block = zlib.compress(b"".join(waiting), 9)
            start = 0
            for one in waiting:
                places.append((len(blocks), len(block), start, len(one)))
                start += len(one)
            blocks += block
            waiting.clear()
    return bytes(blocks), places
