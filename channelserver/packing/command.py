"""The command line of ``channelserver pack`` and ``manage.py pack``.

Runs in the main thread.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from channelserver.packing.pack import Packer
from channelserver.packing.tree import PackError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of packing."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the file to make; default: in the folder dist, named after the project"
    )
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="take in what is left out else"
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out further files")
    parser.add_argument("--languages", metavar="CODES", help="translations to keep, e.g. de,fr; default: all")
    parser.add_argument(
        "--python", metavar="PATH", help="another interpreter of the same version, e.g. for an older glibc"
    )


def run(program: str, arguments: Sequence[str]) -> None:
    """Pack the project in the current folder; end with one sentence if that cannot be done."""
    parser = ArgumentParser(prog=program, description="Make one executable file of a Django project.")
    parser.add_argument("-s", "--settings", help="the settings module; default: as in manage.py")
    parser.add_argument("--pythonpath", help="the folder of the project; default: the current one")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    pack_project(given.settings, given.pythonpath, vars(given))


def pack_project(settings: str | None, pythonpath: str | None, given: dict[str, object]) -> None:
    """Pack a project, and print what went in.

    :param given: the options of :func:`add_arguments`.
    """
    from channelserver.start.parser import die
    from channelserver.start.project import StartError, of_manage_py

    folder = Path(pythonpath or os.curdir).resolve()
    try:
        name = settings or os.environ.get("DJANGO_SETTINGS_MODULE") or of_manage_py(str(folder))
    except StartError as error:
        die(str(error))
    default = name.split(".")[0] if "." in name else folder.name
    languages = given["languages"]
    try:
        Packer(
            folder,
            name,
            Path(str(given["output"] or f"dist/{default}")),
            given["exclude"],  # type: ignore[arg-type]
            given["include"],  # type: ignore[arg-type]
            None if languages is None else str(languages).split(","),
            None if given["python"] is None else Path(str(given["python"])),
            lambda line: print(line, flush=True, file=sys.stdout),
        ).pack()
    except PackError as error:
        die(str(error))
