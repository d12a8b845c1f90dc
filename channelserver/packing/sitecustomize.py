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
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)

# What is imported above, Python has built in; what comes from the archives must wait for the hook.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

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
#: For each folder, in the format of marshal, its modules: whether it is a package; file, offset, size of the bytecode;
#: the place of the source.
INDEX: dict[str, bytes] = {}
#: For each language, in the format of marshal, the places of its translations.
CATALOGS: dict[str, bytes] = {}


def read(path: str, offset: int, size: int) -> bytes:
    """Return a part of a file. It is opened each time: a program may close all descriptors."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def text(place: tuple[int, ...]) -> bytes:
    """Return a source or a translation.

    :param place: offset and size of its block, start and length in it.
    """
    import zlib

    offset, size, start, length = place
    return zlib.decompress(read(TEXTS, offset, size))[start : start + length]


def source(path: str) -> tuple[int, ...] | None:
    """Return the place of a source, None if it is a file."""
    path = os.path.join(HOME, path.removeprefix("./python/lib/"))  # of modules that were imported before this one
    folder, _, name = path.removesuffix(".py").removesuffix("/__init__").rpartition("/")
    entry = marshal.loads(INDEX[folder]).get(name) if folder in INDEX and path.endswith(".py") else None
    return None if entry is None else entry[4:]


def catalog(path: str) -> tuple[int, ...] | None:
    """Return the place of a translation, None if it is a file."""
    language = path.rsplit("/", 3)[-3:][0]
    table = CATALOGS.get(language) if path.startswith(LIBRARY) else None
    return None if table is None else marshal.loads(table).get(path[len(LIBRARY) + 1 :])


def exists(path: str) -> bool:
    """``os.path.exists`` for ``gettext``."""
    return catalog(path) is not None or os.path.exists(path)


def open_catalog(path: str, mode: str) -> io.IOBase:
    """``open`` for ``gettext``."""
    place = catalog(path)
    return open(path, mode) if place is None else io.BytesIO(text(place))  # type: ignore[return-value]


class Loader(SourceFileLoader):
    """Loads a module from the archives; its data files from the disk."""

    def __init__(self, fullname: str, path: str, entry: tuple[int, ...]) -> None:
        super().__init__(fullname, path)
        self.entry = entry

    def get_data(self, path: str) -> bytes:
        if path == self.path:
            return text(self.entry[4:])
        if path.endswith(f"/{os.path.basename(self.path)[:-3]}{BYTECODE}"):
            return read(FILES[self.entry[1]], *self.entry[2:4])
        return super().get_data(path)

    def path_stats(self, path: str) -> dict[str, int]:
        return {"mtime": 0}

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Bytecode for other options of Python is not kept."""


class PatchedLoader(Loader):
    """Loads a module of the standard library that reads files by itself, and has it look into the archives."""

    def exec_module(self, module: "ModuleType") -> None:
        super().exec_module(module)
        PATCHES[self.name](vars(module))


def patch_gettext(names: "dict[str, Any]") -> None:
    namespace = type(sys.implementation)
    files = namespace(**vars(os.path) | {"exists": exists})
    names.update(open=open_catalog, os=namespace(**vars(os) | {"path": files}))


def patch_linecache(names: "dict[str, Any]") -> None:
    """For who asks by the name of the file alone: ``warnings``, ``tracemalloc``, Twisted's ``Failure``.

    What Python asks a loader for, it splits at form feeds, too: each following line would be the wrong one.
    """
    read_file, cache = names["updatecache"], names["cache"]

    def updatecache(filename: str, module_globals: "dict[str, Any] | None" = None) -> list[str]:
        if (place := source(filename)) is None:
            return read_file(filename, module_globals)
        try:
            lines = io.StringIO(text(place).decode(errors="replace")).readlines()
        except OSError:  # somebody has removed the folder
            return []
        cache[filename] = 0, None, lines, filename
        return lines

    names["updatecache"] = updatecache


def patch_threading(names: "dict[str, Any]") -> None:
    """As :func:`report`, for threads."""

    def excepthook(args: "Any") -> None:
        if args.exc_type is not SystemExit and sys.stderr is not None:
            name = names["get_ident"]() if args.thread is None else args.thread.name
            sys.stderr.write(f"Exception in thread {name}:\n")
            report(args.exc_type, args.exc_value, args.exc_traceback)

    names["excepthook"] = excepthook


PATCHES = {"gettext": patch_gettext, "linecache": patch_linecache}
if sys.version_info < (3, 13):
    PATCHES["threading"] = patch_threading


class Finder(FileFinder):
    """Finds modules of one folder in the archives, else on the disk."""

    def __init__(self, path: str) -> None:
        super().__init__(path, *LOADERS)
        self.names: dict[str, tuple[int, ...]] = marshal.loads(INDEX[path])

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        tail = fullname.rpartition(".")[2]
        folder = f"{self.path}/{tail}"
        entry = self.names.get(tail)
        if entry is not None:
            path = f"{folder}/__init__.py" if entry[0] else f"{folder}.py"
            loader = (PatchedLoader if fullname in PATCHES else Loader)(fullname, path, entry)
            spec = ModuleSpec(fullname, loader, origin=path, is_package=bool(entry[0]))
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
    return Finder(path)


def modules(finder: Finder, prefix: str = "") -> list[tuple[str, bool]]:
    """Return the modules of a folder, for :func:`pkgutil.iter_modules`."""
    import pkgutil

    found = {prefix + name: bool(entry[0]) for name, entry in finder.names.items()}
    if os.path.isdir(finder.path):
        found |= pkgutil.iter_importer_modules(FileFinder(finder.path, *LOADERS), prefix)  # type: ignore[attr-defined]
    return sorted(found.items())


def move(name: str, module: "ModuleType") -> None:
    """Move a module that Python had to import from its zip file to where it belongs."""
    parent = sys.modules.get(name.rpartition(".")[0])
    spec = PathFinder.find_spec(name, None if parent is None else parent.__path__)
    if spec is not None:
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations


def report(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    """Print an exception that ends the process, with its sources: Python's own function reads them from files."""
    from traceback import print_exception

    print_exception(error)


if os.path.exists(os.path.join(HOME, "modules.index")):  # else the site is being packed
    with open(os.path.join(HOME, "modules.index"), "rb") as stream:
        folders, catalogs = marshal.load(stream)
    INDEX.update((f"{LIBRARY}/{path}".rstrip("/"), names) for path, names in folders.items())
    CATALOGS.update(catalogs)
    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
    if FILES[0] in sys.path:
        sys.path.remove(FILES[0])
    for name in sorted(sys.modules):  # a package before its modules
        module = sys.modules[name]
        if (getattr(getattr(module, "__spec__", None), "origin", None) or "").startswith(FILES[0]):
            move(name, module)
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
