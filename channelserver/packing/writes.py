"""Which settings of a project name places that it writes to, inside its own folder.

Runs in the command; owns nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Settings whose value is a path.
_PATHS = ("MEDIA_ROOT", "SESSION_FILE_PATH", "EMAIL_FILE_PATH", "FILE_UPLOAD_TEMP_DIR")


def moved(settings: Any, project: Path) -> list[tuple[list[str], str]]:
    """Return the settings that must point elsewhere: the way to each, and its path below the data folder.

    :param settings: Django's.
    :param project: the folder of the project.
    """
    found = []
    for way, value in _candidates(settings):
        target = _inside(value, project, relative=way[0] == "DATABASES")
        if target is not None:
            found.append((way, target))
    return found


def _candidates(settings: Any) -> Iterator[tuple[list[str], Any]]:
    for alias, database in getattr(settings, "DATABASES", {}).items():
        if "sqlite" in database.get("ENGINE", ""):
            yield ["DATABASES", alias, "NAME"], database.get("NAME")
    for name in _PATHS:
        yield [name], getattr(settings, name, None)
    for alias, cache in getattr(settings, "CACHES", {}).items():
        yield ["CACHES", alias, "LOCATION"], cache.get("LOCATION")
    for alias, storage in getattr(settings, "STORAGES", {}).items():
        yield ["STORAGES", alias, "OPTIONS", "location"], storage.get("OPTIONS", {}).get("location")
    for name, handler in (getattr(settings, "LOGGING", None) or {}).get("handlers", {}).items():
        yield ["LOGGING", "handlers", name, "filename"], handler.get("filename")
    for name, value in (getattr(settings, "CHANNELSERVER", None) or {}).items():
        yield ["CHANNELSERVER", name], value


def _inside(value: Any, project: Path, relative: bool) -> str | None:
    """Return the path of `value` below the project; None: it is no path there."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        return None
    text = os.fspath(value)
    if not isinstance(text, str) or text.startswith(("file:", ":memory:")):
        return None
    if not os.path.isabs(text):
        return text if relative and not text.startswith("..") else None
    try:
        return str(Path(text).resolve().relative_to(project.resolve()))
    except ValueError:
        return None


def snapshot(project: Path) -> dict[str, int]:
    """Return when the files of a project were last changed, but for bytecode."""
    found = {}
    for folder, names, files in os.walk(project):
        names[:] = [name for name in names if name not in ("__pycache__", ".git", "node_modules", ".venv", "venv")]
        for name in (*files, *names):
            path = os.path.join(folder, name)
            try:
                found[os.path.relpath(path, project)] = os.lstat(path).st_mtime_ns if name in files else 0
            except OSError:
                continue
    return found


def changed(before: dict[str, int], project: Path) -> list[str]:
    """Return what has changed since a snapshot."""
    return sorted(path for path, time in snapshot(project).items() if before.get(path) != time)
