"""Packs a project: the steps, in their order, and the report at the end.

Runs in the main thread of a command.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from channelserver import __version__
from channelserver.packing import writes
from channelserver.packing.archive import COMPLETE, archive, hash_of
from channelserver.packing.data import VARIABLE
from channelserver.packing.elf import needs
from channelserver.packing.fold import fold
from channelserver.packing.libraries import MissingLibraryError, binaries, glibc_of, libraries_of
from channelserver.packing.tree import PackError, Tree

_HERE = Path(__file__).resolve().parent
#: What a name of a file may be: it becomes part of paths, units and variables.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


class Packer:
    """Makes one file of a project.

    :param project: its folder, that of ``manage.py``.
    :param settings: the name of its settings module.
    :param output: path of the file.
    :param python: the interpreter to take; None: the running one.
    :param report: called with each line for the user.
    """

    def __init__(
        self,
        project: Path,
        settings: str,
        output: Path,
        exclude: Iterable[str] = (),
        include: Iterable[str] = (),
        languages: Iterable[str] | None = None,
        python: Path | None = None,
        report: Callable[[str], object] = print,
    ) -> None:
        self.project = project.resolve()
        self.settings = settings
        self.output = output.absolute()
        self.name = self.output.name
        if not _NAME.fullmatch(self.name):
            raise PackError(f"the file cannot be called {self.name!r}: use letters, digits, - and _")
        self.prefix = self.name.upper().replace("-", "_")
        self._exclude = tuple(exclude)
        self._include = tuple(include)
        self._languages = None if languages is None else {"en", *languages}
        self._python = python
        self._report = report

    def pack(self) -> Path:
        """Make the file; return its path.

        :raises PackError: the project cannot be packed.
        """
        began = time.monotonic()
        self._check_output()
        self._step("settings")
        moved, static, local_socket = self._inspect()
        with tempfile.TemporaryDirectory(prefix="channelserver-pack-") as temporary:
            tree = Tree(Path(temporary) / "tree", self._exclude, self._include, self._languages)
            tree.folder.mkdir()
            self._step("interpreter and standard library")
            interpreter = self._interpreter()
            tree.add_python(interpreter)
            tree.add_time_zones()
            self._step("environment")
            tree.add_environment()
            self._step("project")
            tree.add_project(self.project, self.output)
            (tree.packages / "channelserver_packed.py").write_text(
                f'"""The settings of this site, packed."""\n\nfrom {self.settings} import *  # noqa: F403\n\n'
                "from channelserver.packing.applied import apply\n\napply(globals())\n"
            )
            shutil.copy(_HERE / "sitecustomize.py", tree.packages / "sitecustomize.py")
            wrapper = tree.home / "bin" / "python"
            wrapper.write_text((_HERE / "python.sh").read_text().replace("@PYTHON@", "python3"))
            wrapper.chmod(0o755)
            self._step("shared libraries")
            glibc, loader, libraries = self._add_libraries(tree)
            about = self._about(moved, static, local_socket, glibc)
            (tree.folder / "about.json").write_text(json.dumps(about))
            if static:
                self._step("static files")
                self._try(tree, "collectstatic", "--noinput", "-v", "0")
            self._step("bytecode")
            self._find_plugins(tree)
            self._compile(tree)
            fold(tree.library)
            self._step("a first start")
            self._try(tree, "check")
            about["hash"] = hash_of(tree.folder)
            (tree.folder / "about.json").write_text(json.dumps(about))
            (tree.folder / COMPLETE).touch()
            self._step("archive")
            data = archive(tree.folder)
            self._write(data, about["hash"], loader, glibc)
            self._finish(tree, about, libraries, time.monotonic() - began)
        return self.output

    def _step(self, name: str) -> None:
        self._report(f"packing: {name} …")

    # -- the project ---------------------------------------------------------------------------------------------------

    def _inspect(self) -> tuple[list[tuple[list[str], str]], bool, bool]:
        """Import the settings; return what must be moved, and whether there are static files and a local socket."""
        before = writes.snapshot(self.project)
        with tempfile.TemporaryDirectory(prefix="channelserver-data-") as data:
            os.environ[VARIABLE] = data
            if str(self.project) not in sys.path:
                sys.path.insert(0, str(self.project))
            from channelserver.start.project import StartError, set_up

            try:
                set_up(self.settings, str(self.project))
            except StartError as error:
                raise PackError(str(error)) from error
            from django.apps import apps
            from django.conf import settings

            wrote = [path for path in writes.changed(before, self.project) if path]
            if wrote:
                raise PackError(
                    f"the settings write to the project's folder when they are imported ({wrote[0]}), and the packed "
                    "copy is read-only; let them write to channelserver.data_folder(BASE_DIR / 'data') instead"
                )
            moved = writes.moved(settings, self.project)
            static = apps.is_installed("django.contrib.staticfiles") and bool(settings.STATIC_URL)
            options = getattr(settings, "CHANNELSERVER", None) or {}
            del os.environ[VARIABLE]
            return moved, static, "local_socket" in options

    def _check_output(self) -> None:
        if self.output.is_dir():
            raise PackError(f"{str(self.output)!r} is a folder; name a file elsewhere, for example -o dist/{self.name}")
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PackError(f"the folder {str(self.output.parent)!r} cannot be made: {error.strerror}") from error

    # -- the machine ---------------------------------------------------------------------------------------------------

    def _interpreter(self) -> Path:
        """Return the interpreter to take.

        :raises PackError: it does not fit.
        """
        own = Path(os.path.realpath(sys.executable))
        if self._python is None:
            return own
        code = "import sys; print(*sys.version_info[:2], sys._base_executable)"
        try:
            done = subprocess.run([str(self._python), "-I", "-c", code], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PackError(f"--python {str(self._python)!r} does not run: {error}") from error
        major, minor, executable = done.stdout.split(maxsplit=2)
        if (int(major), int(minor)) != sys.version_info[:2]:
            raise PackError(
                f"--python {str(self._python)!r} is Python {major}.{minor}, but the environment belongs to "
                f"{sys.version_info[0]}.{sys.version_info[1]}"
            )
        return Path(os.path.realpath(executable.strip()))

    def _add_libraries(self, tree: Tree) -> tuple[str, str, list[str]]:
        files = binaries(tree.folder)
        try:
            libraries = libraries_of(files)
        except MissingLibraryError as error:
            raise PackError(str(error)) from error
        shared = tree.home / "lib" / "shared"
        shared.mkdir()
        for name, path in libraries.items():
            shutil.copy(path, shared / name)
        everything = [*files, *shared.iterdir()]
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", *map(str, everything)], stderr=subprocess.DEVNULL, check=False)
        major, minor = glibc_of(everything)
        return f"{major}.{minor}", needs(tree.home / "bin" / "python3").loader, sorted(libraries)

    def _about(
        self, moved: list[tuple[list[str], str]], static: bool, local_socket: bool, glibc: str
    ) -> dict[str, Any]:
        import django

        packages = sorted(
            {
                (dist.metadata["Name"], dist.version)
                for dist in importlib.metadata.distributions()
                if dist.metadata["Name"]
            }
        )
        return {
            "name": self.name,
            "prefix": self.prefix,
            "settings": self.settings,
            "moved": moved,
            "static": static,
            "local_socket": local_socket,
            "glibc": glibc,
            "version": self._described(),
            "hash": "",
            "versions": {
                "channelserver": __version__,
                "django": django.get_version(),
                "python": platform.python_version(),
            },
            "packages": packages,
        }

    def _described(self) -> str:
        """Return what ``git describe`` says of the project, empty without git."""
        try:
            done = subprocess.run(
                ["git", "describe", "--tags", "--always", "--dirty"],
                cwd=self.project, capture_output=True, text=True, check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.strip()

    # -- the copy ------------------------------------------------------------------------------------------------------

    def _run(self, tree: Tree, *arguments: str, data: str) -> subprocess.CompletedProcess[str]:
        """Run the packed interpreter."""
        environment = {
            "PATH": os.environ.get("PATH", "/bin:/usr/bin"),
            "PACKED_SITE": str(tree.folder),
            "PACKED_FILE": str(self.output),
            VARIABLE: data,
            "DJANGO_SETTINGS_MODULE": "channelserver_packed",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }
        return subprocess.run(
            [str(tree.home / "bin" / "python"), "-s", *arguments],
            env=environment, cwd=data, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _try(self, tree: Tree, *command: str) -> None:
        """Run a command of Django in the copy: it shows what is missing."""
        with tempfile.TemporaryDirectory(prefix="channelserver-data-") as data:
            done = self._run(tree, "-m", "django", *command, data=data)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no reason given"]
            hint = ""
            if tree.left_out:
                hint = (
                    f"; these files are left out, as the site may have needed: {', '.join(tree.left_out[:5])} "
                    "(--include takes one in)"
                )
            raise PackError(f"the packed copy does not start: {last[0]}{hint}")

    def _find_plugins(self, tree: Tree) -> None:
        """Have Twisted write its list of plugins, which it could not on the target."""
        code = "import twisted.plugins; from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))"
        with tempfile.TemporaryDirectory() as data:
            self._run(tree, "-c", code, data=data)

    def _compile(self, tree: Tree) -> None:
        """Compile everything, so that nothing is compiled, or written, on the target.

        Two processes, each of which always compiles the same files in the same order: bytecode depends a little on what
        its process has compiled before.
        """
        common = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(tree.folder), "-p", ".")
        halves = [(str(tree.packages),), ("-x", "/site-packages/", str(tree.library), str(tree.site))]
        with tempfile.TemporaryDirectory() as data, ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda half: self._run(tree, *common, *half, data=data), halves))

    def _write(self, data: bytes, name: str, loader: str, glibc: str) -> None:
        values = {
            "NAME": self.name, "HASH": name, "LOADER": loader, "GLIBC": glibc, "PYTHON": "python3",
        }  # fmt: skip
        head = (_HERE / "head.sh").read_text()
        for key, value in values.items():
            head = head.replace(f"@{key}@", value)
        size = len(head.replace("@SKIP@", "0000000").encode())
        head = head.replace("@SKIP@", str(size + 1).rjust(7, "0").lstrip("0").ljust(7))
        draft = self.output.with_name(f".{self.name}.{os.getpid()}")
        try:
            with open(draft, "wb") as stream:
                stream.write(head.encode())
                stream.write(data)
            draft.chmod(0o755)
            os.replace(draft, self.output)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise PackError(
                f"the file cannot be written: {error.strerror}; free some space, or name another with -o"
            ) from error

    def _finish(self, tree: Tree, about: dict[str, Any], libraries: list[str], seconds: float) -> None:
        report = self._report
        size = self.output.stat().st_size / 1e6
        report("")
        target = f"glibc {about['glibc']} or later ({platform.machine()})"
        report(f"{self.output}: {size:.1f} MB in {seconds:.0f} s; needs {target}")
        report(f"  interpreter     Python {about['versions']['python']}, {len(libraries)} shared libraries")
        report(f"  environment     {len(about['packages'])} packages, Django {about['versions']['django']}")
        report(f"  project         {self.project}" + (f" ({about['version']})" if about["version"] else ""))
        if tree.left_out:
            shown = ", ".join(tree.left_out[:8]) + (" …" if len(tree.left_out) > 8 else "")
            report(
                f"  left out        {shown}: databases, keys and secrets are the developer's (--include takes one in)"
            )
        report(f"  data            in {self.name}-data beside the file" + (":" if about["moved"] else ""))
        for way, target in about["moved"]:
            report(f"                  {_way(way)} → {self.name}-data/{target}")
        report("  DEBUG is off")
        report("Copy it to a server, then:")
        report(f"  ./{self.name} migrate && {self.prefix}_HOSTS=example.org ./{self.name} --bind 0.0.0.0 --port 80")


def _way(way: list[str]) -> str:
    return way[0] + "".join(f"[{step!r}]" for step in way[1:])
