"""The benchmarks' own virtual environment.

Runs before anything is measured; owns ``benchmarks/.venv``. It contains the checkout, in place, and the packages of
``requirements.txt``. It is created again when these or the Python version change.
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
    """The environment could not be created; the text gives the reason."""


def is_own() -> bool:
    """Whether this Python is the environment's."""
    return Path(sys.prefix).resolve() == FOLDER.resolve() and _is_current()


def _fingerprint() -> str:
    """Return a hash of everything the environment depends on."""
    texts = [sys.version, *((ROOT / name).read_text() for name in ("setup.cfg", "benchmarks/requirements.txt"))]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _is_current() -> bool:
    try:
        return _STAMP.read_text() == _fingerprint()
    except OSError:
        return False


def prepare() -> None:
    """Create the environment unless it is up to date."""
    if _is_current():
        return
    print(f"creating {FOLDER.relative_to(ROOT)}, which takes about a minute", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, with_pip=True)
    install = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*install, "--requirement", str(HERE / "requirements.txt"), "--editable", str(ROOT)])
    if done.returncode:
        raise PreparationError("pip could not install the benchmarks' packages; see its message above")
    _STAMP.write_text(_fingerprint())


def enter(arguments: Sequence[str]) -> None:
    """Continue in the environment: replace this process by ``python -m benchmarks`` of its Python."""
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), "-m", "benchmarks", *arguments])
