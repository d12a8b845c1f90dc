"""Imported at the start of each process of a packed site; it stands alone, before anything else can be imported.

Imports the modules that :mod:`channelserver.packing.fold` has moved into archives, as if they lay in their folders:
``__file__``, sources in tracebacks, data files beside modules, ``pkgutil``. The same for the translations that
``gettext`` reads. Programs that the process runs get the environment as it was.
"""

import io
import marshal
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)

# What is imported above, Python has built in; what comes from the archives must wait for the hook.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

LIBRARY = os.path.dirname(os.path.dirname(__file__))
HOME, VERSION = os.path.split(LIBRARY)
#: Of bytecode: the zip file of the standard library, and the archive of the packages.
FILES = (os.path.join(HOME, f"{VERSION.replace('.', '')}.zip"), os.path.join(HOME, "modules.code"))
TEXTS = os.path.join(HOME, "modules.texts")
LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)
BYTECODE = f".{sys.implementation.cache_tag}.pyc"
#: Modules by folder and name: file, offset and size of the bytecode, then the place of the source.
INDEX: dict[str, dict[str, tuple[int, ...]]] = {}
#: Translations by path: offset and size of the block, start and length in it.
CATALOGS: dict[str, tuple[int, ...]] = {}


def read(path: str, offset: int, size: int) -> bytes:
    """Return a part of a file. It is opened each time: a program may close all descriptors."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def text(place: tuple[int, ...]) -> bytes:
    """Return a source or a translation."""
    import zlib

    offset, size, start, length = place
    return zlib.decompress(read(TEXTS, offset, size))[start : start + length]


def exists(path: str) -> bool:
    """``os.path.exists`` for ``gettext``."""
    return path in CATALOGS or os.path.exists(path)


def open_catalog(path: str, mode: str) -> io.IOBase:
    """``open`` for ``gettext``."""
    place = CATALOGS.get(path)
    return open(path, mode) if place is None else io.BytesIO(text(place))  # type: ignore[return-value]


class Loader(SourceFileLoader):
    """Loads a module from the archives; files that are in none from the disk."""

    def get_data(self, path: str) -> bytes:
        folder, _, name = path.rpartition("/")
        if name.endswith(".py"):
            entry = INDEX.get(folder, {}).get(name[:-3])
            if entry is not None:
                return text(entry[3:])
        elif name.endswith(BYTECODE):
            entry = INDEX.get(folder.removesuffix("/__pycache__"), {}).get(name[: -len(BYTECODE)])
            if entry is not None:
                return read(FILES[entry[0]], *entry[1:3])
        return super().get_data(path)

    def path_stats(self, path: str) -> dict[str, int]:
        return {"mtime": 0}

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Bytecode for other options of Python is not kept."""


class Gettext(Loader):
    """Loads ``gettext``, and has it look into the archives."""

    def exec_module(self, module: "ModuleType") -> None:
        super().exec_module(module)
        namespace = type(sys.implementation)
        files = namespace(**vars(os.path) | {"exists": exists})
        vars(module).update(open=open_catalog, os=namespace(**vars(os) | {"path": files}))


class Finder(FileFinder):
    """Finds modules of one folder in the archives, else on the disk."""

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        tail = fullname.rpartition(".")[2]
        folder = f"{self.path}/{tail}"
        package = "__init__" in INDEX.get(folder, ())
        if package or tail in INDEX[self.path]:
            path = f"{folder}/__init__.py" if package else f"{folder}.py"
            loader = (Gettext if fullname == "gettext" else Loader)(fullname, path)
            spec = ModuleSpec(fullname, loader, origin=path, is_package=package)
            spec.has_location = True
        else:
            found = super().find_spec(fullname, target)  # type: ignore[arg-type]
            if found is not None or folder not in INDEX:
                return found
            spec = ModuleSpec(fullname, None, is_package=True)  # a namespace
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(folder)
        return spec


def find(path: str) -> Finder:
    """Return the finder of a folder: a hook of Python's path."""
    if path not in INDEX:
        raise ImportError
    return Finder(path, *LOADERS)


def modules(finder: Finder, prefix: str = "") -> list[tuple[str, bool]]:
    """Return the modules of a folder, for :func:`pkgutil.iter_modules`."""
    import pkgutil

    found = {prefix + name: False for name in INDEX[finder.path] if name != "__init__"}
    start = len(finder.path) + 1
    for folder, names in INDEX.items():
        if folder.startswith(finder.path + "/") and "/" not in folder[start:] and "__init__" in names:
            found[prefix + folder[start:]] = True
    if os.path.isdir(finder.path):
        found |= pkgutil.iter_importer_modules(FileFinder(finder.path, *LOADERS), prefix)  # type: ignore[attr-defined]
    return sorted(found.items())


def report(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    """Print an exception that ends the process, with its sources: Python's own function reads them from files."""
    from traceback import print_exception

    print_exception(error)


if os.path.exists(os.path.join(HOME, "modules.index")):  # else the site is being packed
    with open(os.path.join(HOME, "modules.index"), "rb") as stream:
        folders, catalogs = marshal.load(stream)
    INDEX.update((f"{LIBRARY}/{path}".rstrip("/"), names) for path, names in folders.items())
    CATALOGS.update((f"{LIBRARY}/{path}", place) for path, place in catalogs.items())
    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
    if FILES[0] in sys.path:
        sys.path.remove(FILES[0])
    import pkgutil

    pkgutil.iter_importer_modules.register(Finder, modules)  # type: ignore[attr-defined]
    if sys.version_info < (3, 13):
        sys.excepthook = report

home = os.environ.pop("PYTHONHOME", "")
libraries = os.environ.pop("PACKED_LD_LIBRARY_PATH", "")
if libraries:
    os.environ["LD_LIBRARY_PATH"] = libraries
else:
    os.environ.pop("LD_LIBRARY_PATH", None)
if home:
    sys.executable = os.path.join(home, "bin", "python")
    if os.path.isdir(os.path.join(home, "..", "site")):
        sys.path.insert(0, os.path.realpath(os.path.join(home, "..", "site")))
