"""The built-in chat site: ``twistd channelserver --demo``.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from channelserver.server.common.host_names import certificate_names
from channelserver.start.project import StartError, set_up

SETTINGS = "chatsite.settings"


def prepare(data: str | None = None, https: Sequence[str] = ()) -> str:
    """Set the chat site up: a folder for its data, tables, static files.

    :param data: folder for the data; None: a temporary one, removed at the end.
    :param https: the values of ``--https``, whose names the site is to answer to.
    :returns: the name of its settings module; its folder is first on Python's path.
    :raises StartError: the site's files are missing, or nothing can be stored.
    """
    site = _folder()
    with suppress(ValueError):  # which the options say better
        names = [name for joined in certificate_names(https) for name in joined]
        os.environ["CHATSITE_HOSTS"] = ",".join([*filter(None, [os.environ.get("CHATSITE_HOSTS")]), *names])
    os.environ["CHATSITE_DEMO"] = "kept" if data else "temporary"
    try:
        if data is None:
            data = tempfile.mkdtemp(prefix="channelserver-demo-")
            # When twistd becomes a daemon, the other processes end with os._exit(), so only the last one runs this.
            atexit.register(shutil.rmtree, data, ignore_errors=True)
        folder = Path(data).resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StartError(f"the demo cannot store its data ({error}); name a folder with --demo-data") from None
    os.environ["CHATSITE_DATA"] = str(folder)
    sys.path.insert(0, str(site))
    set_up(SETTINGS, str(site))

    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0, interactive=False)
    call_command("collectstatic", verbosity=0, interactive=False, stdout=io.StringIO())
    call_command("welcome")
    connections.close_all()  # a daemon must not inherit open connections
    return SETTINGS


def _folder() -> Path:
    """Return the folder of the chat site: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "examples" / "chat", package.parent / "examples" / "chat"):
        if (folder / "manage.py").is_file():
            return folder
    raise StartError("the files of the demo are missing from this installation; install channelserver again")
