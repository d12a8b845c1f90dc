"""The settings of a packed site: the project's, with what it writes moved beside the file.

Runs when the settings are imported on the target; owns the secret key's file.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from channelserver.packing.data import VARIABLE

#: How Django's ``startproject`` begins a key that must not be used in production.
INSECURE = "django-insecure-"
#: The names of this machine for itself.
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def apply(values: dict[str, Any]) -> None:
    """Change the settings of a project to those of a packed site.

    :param values: the names of the settings module.
    """
    packed = Path(os.environ["PACKED_SITE"])
    about = json.loads((packed / "about.json").read_text())
    data = Path(os.environ[VARIABLE])
    for path, target in about["moved"]:
        _move(values, path, data / target)
    if about["static"]:
        values["STATIC_ROOT"] = str(packed / "static")
    prefix = about["prefix"]
    values["DEBUG"] = os.environ.get(f"{prefix}_DEBUG", "").lower() in ("1", "true", "yes", "on")
    hosts = [host.strip() for host in os.environ.get(f"{prefix}_HOSTS", "").split(",") if host.strip()]
    if hosts or not values.get("ALLOWED_HOSTS"):
        values["ALLOWED_HOSTS"] = [*(values.get("ALLOWED_HOSTS") or LOCAL), *hosts]
    if set(values["ALLOWED_HOSTS"]) <= set(LOCAL):
        values["PACKED_HOSTS"] = f"{prefix}_HOSTS"  # for the checks: how the user can mend that
    key = str(values.get("SECRET_KEY") or "")
    if not key or key.startswith(INSECURE):
        values["SECRET_KEY"] = secret_key(data / "secret_key")


def _move(values: Any, path: list[Any], target: Path) -> None:
    *places, last = path
    for place in places:
        values = values[place]
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    values[last] = str(target)


def secret_key(path: Path) -> str:
    """Return the key kept in a file; on first use, make one that only the owner can read."""
    if not path.exists():
        from django.core.management.utils import get_random_secret_key

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(get_random_secret_key())
        # Of several processes that start together one wins; a link never shows the others half a file.
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()
