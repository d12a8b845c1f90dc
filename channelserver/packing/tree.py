"""What goes into the file: interpreter, standard library, environment, project.

Copies into a folder; owns that folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import sys
import sysconfig
import zoneinfo
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

import channelserver

#: Parts of the standard library that no server needs.
_LIBRARY = {
    *("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "pydoc_data", "site-packages"),
    *("__pycache__", "__phello__", "sitecustomize.py", "usercustomize.py"),
}
#: Parts of the environment that serve to install it; those of setuptools are for some packages to run, too.
_INSTALLERS = {"pip", "wheel", "distutils-precedence.pth"}
_SETUPTOOLS = {"setuptools", "pkg_resources", "_distutils_hack"}
#: Endings that nothing reads when a site runs.
_ENDINGS = (".po", ".pyi", ".pyc", ".pyo", ".a")
#: Tests that are installed with their packages, and a compiler that nothing but a command of Autobahn's runs.
_UNUSED = re.compile(r"(twisted|autobahn|zope)(/.*)?/tests?|autobahn/_flatc/bin")
#: What never goes in, because it is the developer's: databases, keys, secrets, the history.
PRIVATE = (
    *("*.sqlite3", "*.sqlite3-*", "*.db", "*.db-*", ".env", ".env.*", ".git", ".hg", ".svn", "*.pem", "*.key"),
    *("local_settings.py", "secret_key", "id_rsa*", "*.sock", "*.pid"),
)
#: What is of no use on a server.
USELESS = (
    *("node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.pyc"),
    *(".idea", ".vscode", "*.log", "_trial_temp*", "*-jobs"),
)


class PackError(Exception):
    """The project cannot be packed; the text is one sentence with the reason and the cure."""


class Tree:
    """The folder that becomes the content of the file.

    :param folder: an empty one.
    :param exclude: further patterns of names, or of paths below the project, that do not go in.
    :param include: patterns that go in although they are on the list of those that do not.
    :param languages: of translations to keep; None: all.
    """

    def __init__(
        self, folder: Path, exclude: Iterable[str] = (), include: Iterable[str] = (), languages: set[str] | None = None
    ) -> None:
        self.folder = folder
        self.home = folder / "python"
        self.site = folder / "site"
        self._exclude = tuple(exclude)
        self._include = tuple(include)
        self._languages = languages
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.library = self.home / "lib" / version
        self.packages = self.library / "site-packages"
        #: Paths of the project that are left out because they are the developer's.
        self.left_out: list[str] = []

    # -- interpreter and standard library ------------------------------------------------------------------------------

    def add_python(self, executable: Path) -> None:
        """Add the interpreter and its standard library."""
        (self.home / "bin").mkdir(parents=True)
        shutil.copy(executable, self.home / "bin" / "python3")
        source = Path(sysconfig.get_path("stdlib"))

        def unwanted(folder: str, names: list[str]) -> set[str]:
            top = Path(folder) == source
            return {
                name
                for name in names
                if (top and (name in _LIBRARY or name.startswith("config-")))
                or name in ("__pycache__", "tests", "test")
                or name.endswith(_ENDINGS)
                or name.startswith(("_test", "_tkinter", "xxlimited"))
            }

        shutil.copytree(source, self.library, ignore=unwanted, symlinks=False)
        dynamic = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
        if not (self.library / "lib-dynload").is_dir() and dynamic.is_dir():
            shutil.copytree(dynamic, self.library / "lib-dynload", ignore=unwanted)

    def add_time_zones(self) -> None:
        """Add the time zones of this machine: the target may have none.

        :raises PackError: this machine has none either.
        """
        target = self.home / "share" / "zoneinfo"
        for place in zoneinfo.TZPATH:
            if (Path(place) / "UTC").is_file():
                shutil.copytree(
                    place, target, ignore=shutil.ignore_patterns("posix", "right", "*.tab", "leap*", "*.zi")
                )
                return
        try:
            importlib.resources.files("tzdata")
        except ModuleNotFoundError:
            raise PackError("this machine has no time zones; install the package tzdata, then pack again") from None

    # -- environment ---------------------------------------------------------------------------------------------------

    def add_environment(self) -> None:
        """Add what is installed for the running interpreter, editable installations included.

        :raises PackError: a path of a ``.pth`` file cannot be followed.
        """
        self.packages.mkdir(parents=True, exist_ok=True)
        own = Path(channelserver.__file__).resolve().parent
        self._copy(own, self.packages / "channelserver")
        for folder in _site_folders():
            self._add_packages(folder)
            for path in sorted(folder.glob("*.pth")):
                for line in path.read_text(errors="replace").splitlines():
                    if line.startswith(("import ", "import\t")):
                        self._check_finder(path, line)
                    elif line.strip() and not line.startswith("#"):
                        self._follow(path, folder / line.strip(), own)
        plugin = self.packages / "twisted" / "plugins" / "channelserver_plugin.py"
        if not plugin.exists():
            self._copy(own.parent / "twisted" / "plugins" / plugin.name, plugin)
        for path in self.packages.glob("*.pth"):
            path.unlink()

    def _add_packages(self, folder: Path) -> None:
        unwanted = _INSTALLERS if needs_setuptools() else _INSTALLERS | _SETUPTOOLS
        for path in sorted(folder.iterdir()):
            if path.name in unwanted or path.name.startswith(("__editable__", "__pycache__")):
                continue
            if not (self.packages / path.name).exists():  # else it comes earlier on Python's path
                self._copy(path, self.packages / path.name)

    def _follow(self, pth: Path, folder: Path, own: Path) -> None:
        """Add what a line of a ``.pth`` file makes importable."""
        folder = folder.resolve()
        if not folder.is_dir():
            return
        if folder.name in ("site-packages", "dist-packages"):
            self._add_packages(folder)
        elif folder != own.parent:
            names = [name for path in folder.glob("*.egg-info/top_level.txt") for name in path.read_text().split()]
            if not names:
                raise PackError(
                    f"{pth.name} adds the folder {str(folder)!r} to Python's path, and nothing says what in it belongs "
                    "to the site; install it as a package, without --editable"
                )
            for name in names:
                for path in (folder / name, folder / f"{name}.py"):
                    if path.exists() and not (self.packages / path.name).exists():
                        self._copy(path, self.packages / path.name)

    @staticmethod
    def _check_finder(pth: Path, line: str) -> None:
        if "__editable__" in pth.name and "_finder" in line:
            raise PackError(
                f"{pth.name} is an editable installation of a kind that cannot be followed; install that package "
                "without --editable"
            )

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=self._unwanted_of(source), dirs_exist_ok=True)
        elif source.suffix not in _ENDINGS and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def _unwanted_of(self, source: Path) -> Callable[[str, list[str]], set[str]]:
        top = source.parent

        def unwanted(folder: str, names: list[str]) -> set[str]:
            relative = Path(folder).relative_to(top)
            found = {name for name in names if name == "__pycache__" or name.endswith(_ENDINGS)}
            found |= {name for name in names if _UNUSED.fullmatch(f"{relative.as_posix()}/{name}")}
            found |= self._other_languages(folder, names)
            found |= {name for name in names if any(fnmatch(name, pattern) for pattern in self._exclude)}
            return found

        return unwanted

    def _other_languages(self, folder: str, names: list[str]) -> set[str]:
        if self._languages is None or Path(folder).name != "locale":
            return set()
        return {name for name in names if name.split("_")[0] not in self._languages and not name.endswith(".py")}

    # -- project -------------------------------------------------------------------------------------------------------

    def add_project(self, project: Path, output: Path) -> None:
        """Add the project's folder, but for what is the developer's.

        :param output: the file to make, which an earlier run may have left there.
        """
        project = project.resolve()

        def unwanted(folder: str, names: list[str]) -> set[str]:
            found = set()
            for name in names:
                path = (Path(folder) / name).relative_to(project).as_posix()
                if any(fnmatch(name, pattern) or fnmatch(path, pattern) for pattern in self._include):
                    continue
                if any(fnmatch(name, pattern) for pattern in PRIVATE):
                    self.left_out.append(path)
                    found.add(name)
                elif any(fnmatch(name, pattern) or fnmatch(path, pattern) for pattern in (*USELESS, *self._exclude)):
                    found.add(name)
                elif (Path(folder) / name).is_dir() and (Path(folder) / name / "pyvenv.cfg").is_file():
                    found.add(name)
                elif not os.access(Path(folder) / name, os.R_OK) or not (Path(folder) / name).exists():
                    self.left_out.append(path)
                    found.add(name)
                elif Path(folder) / name == output:
                    found.add(name)
                elif not ((Path(folder) / name).is_file() or (Path(folder) / name).is_dir()):
                    found.add(name)  # a socket or a pipe
            return found

        shutil.copytree(project, self.site, ignore=unwanted, dirs_exist_ok=True)
        self.left_out.sort()


def needs_setuptools() -> bool:
    """Whether an installed package says that it needs setuptools, mostly for ``pkg_resources``."""
    return any(
        re.match(r"setuptools\b", line, re.IGNORECASE) and "extra" not in line
        for distribution in importlib.metadata.distributions()
        for line in distribution.requires or ()
    )


def _site_folders() -> list[Path]:
    """Return the folders with installed packages of the running interpreter."""
    folders = []
    for name in ("purelib", "platlib"):
        path = Path(sysconfig.get_path(name))
        if path.is_dir() and path not in folders:
            folders.append(path)
    return folders
