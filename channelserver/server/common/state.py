"""The folder for what the server keeps from one start to the next, outside of the project.

Runs before the reactor; owns nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def state_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Return the absolute path of the folder: a packed site's own, systemd's ``StateDirectory``, or the user's.

    :param environment: the variables of the process.
    """
    folder = environment.get("PACKED_DATA") or environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if not folder:
        home = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        folder = os.path.join(home, "channelserver")
    return os.path.abspath(folder)
