"""Where a site writes.

Runs when settings are imported; owns nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

#: The variable of the environment that names the folder; a packed site sets it.
VARIABLE = "PACKED_DATA"


def data_folder(default: str | os.PathLike[str]) -> Path:
    """Return the folder for what a site writes: database, uploads, keys. It exists.

    For settings::

        DATA = channelserver.data_folder(BASE_DIR / "data")

    :param default: the folder in development. A packed site (``channelserver pack``) has one beside its file, or the
        one that the environment's ``PACKED_DATA`` names.
    """
    folder = Path(os.environ.get(VARIABLE) or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
