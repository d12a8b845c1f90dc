"""The virtual environment of the benchmarks, which they make by themselves.

Runs before anything is measured; owns ``benchmarks/.venv``. It has the checkout, in place, and the packages of
``requirements.txt``, and is made anew when these or the Python have changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDER = HERE / ".venv"
PYTHON = FOLDER / "bin" / "python"
_STAMP = FOLDER / "made-from"


class PreparationError(Exception):
    """The environment could not be made; the text says why."""


def is_own() -> bool:
    """Whether this Python is the environment's."""
    return Path(sys.prefix).resolve() == FOLDER.resolve() and _is_current()


def _fingerprint() -> str:
    """What the environment is made from."""
    texts = [sys.version, *((ROOT / name).read_text() for name in ("setup.cfg", "benchmarks/requirements.txt"))]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _is_current() -> bool:
    try:
        return _STAMP.read_text() == _fingerprint()
    except OSError:
        return False


def prepare() -> None:
    """Make the environment unless it is there."""
    if _is_current():
        return
    print(f"making {FOLDER.relative_to(ROOT)}, which takes about a minute", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, with_pip=True)
    install = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*install, "--requirement", str(HERE / "requirements.txt"), "--editable", str(ROOT)])
    if done.returncode:
        raise PreparationError("pip could not install what the benchmarks need; its own message is above")
    _STAMP.write_text(_fingerprint())


def enter(arguments: Sequence[str]) -> None:
    """Go on in the environment: the process becomes ``python -m benchmarks`` of its Python."""
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), "-m", "benchmarks", *arguments])
