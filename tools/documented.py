"""Checks the types of the documentation's Python blocks, by mypy and pyright: ``python -m tools.documented``.

Each page is written as a package into a temporary folder, with the files that its blocks name; if a later section
replaces a file, there are two packages (``docs_tutorial_1``, ``docs_tutorial_2``). A parameter called ``message``
without a type gets the one that it has: ``Message``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs import PAGES, ROOT, Block, blocks, is_python

#: What the types that are added need. A page may show a function again, in another form.
FIRST_LINES = """\
# mypy: disable-error-code="no-redef"
# pyright: reportRedeclaration=false
from channelserver import Message as _Message
"""

#: Fields of models have types only with the plugin of django-stubs, which needs the settings of one project.
CHECKERS = (
    ("mypy", "--check-untyped-defs", "--disable-error-code", "var-annotated", "."),
    ("pyright", "--pythonpath", sys.executable, "."),
)

#: The names of Channels 1 are ours.
_OLD_IMPORT = re.compile(r"^(\s*from )channels\b", re.MULTILINE)
_MESSAGE = re.compile(r"^(\s*(?:async )?def \w+\((?:self, )?message)(?=[,)])", re.MULTILINE)


class Page:
    """The packages of one page."""

    def __init__(self, folder: Path, page: Path) -> None:
        self._folder = folder
        self._name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
        self._step = 1
        self._files: dict[str, str] = {}
        self._section = 0
        self._before: dict[str, str] = {}  # the files at the end of the section before
        self._alone = 0

    def add(self, block: Block) -> None:
        """Add a block: a file, a part of one, or code that stands alone."""
        if block.section != self._section:
            self._section, self._before = block.section, dict(self._files)
        name, how = block.file
        if not name:
            self._alone += 1
            name = f"block_{self._alone}.py"
        elif not name.endswith(".py"):
            return
        elif "/" not in name:
            name = f"mysite/{name}"
        if "at the top" in how:
            self._files[name] = block.text + self._files.get(name, "")
        elif "in part" in how or name.endswith("settings.py"):
            self._files[name] = self._files.get(name, "") + "\n" + block.text
        else:
            if name in self._before:
                self.write(self._before)
                self._before = {}
            self._files[name] = block.text

    def end(self) -> None:
        """Write the last step."""
        self.write(self._files)

    def write(self, files: dict[str, str]) -> None:
        """Write the package of a step."""
        package = f"{self._name}_{self._step}"
        self._step += 1
        for name, text in files.items():
            path = self._folder / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (path.parent, self._folder / package):
                (folder / "__init__.py").touch()
            path.write_text(typed(text, package, {name.partition("/")[0] for name in files}))


def typed(text: str, package: str, folders: set[str]) -> str:
    """Return a block's text with the types of its messages, and its imports from the page's folders."""
    text = _OLD_IMPORT.sub(r"\1channelserver", text)
    own = re.compile(rf"^(\s*(?:from|import) )({'|'.join(map(re.escape, folders))})\b", re.MULTILINE)
    return FIRST_LINES + _MESSAGE.sub(r"\1: _Message", own.sub(rf"\1{package}.\2", text))


def write(folder: Path) -> int:
    """Write the packages of all pages; return how many files have code."""
    for path in PAGES:
        page = Page(folder, path)
        for block in blocks(path):
            if block.hidden or block.marker == "syntax":
                continue
            if block.language == "python" or (block.language == "" and is_python(block.text)):
                page.add(block)
        page.end()
    return sum(1 for path in folder.rglob("*.py") if path.stat().st_size)


def main() -> int:
    """Check all pages; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{write(Path(folder))} files of the documentation")
        return max([subprocess.run([sys.executable, "-m", *checker], cwd=folder).returncode for checker in CHECKERS])


if __name__ == "__main__":
    sys.exit(main())
