"""Uploaded files, served by the reactor without a worker thread (``--media``).

Runs in the reactor thread; owns nothing that changes.

These files were written by users, whom the site's visitors need not trust:

1. Neither ``..`` nor a link leads out of the folder. Hidden files are not served.
2. Browsers run no file as a page or a script of this site: ``nosniff`` forbids them to guess the type, and types that
   they would run or render as a page are offered for download.
"""

from __future__ import annotations

import os
import stat

from whitenoise.media_types import MediaTypes

from channelserver.server.edge.files import OpenFile, Pair, State
from channelserver.server.edge.static import Folder
from channelserver.server.http.exchange import Exchange

#: Types that a browser shows without running anything in them. Everything else is for download.
_SHOWN = ("image/", "audio/", "video/")
_SHOWN_TOO = frozenset({"text/plain", "application/pdf"})
_NOT_SHOWN = frozenset({"image/svg+xml"})


class MediaFiles(Folder):
    """Django's ``MEDIA_ROOT`` below ``MEDIA_URL``."""

    kind, exclusive = "media", True

    def __init__(self, folder: str, prefix: str, root_path: str = "") -> None:
        super().__init__(folder, prefix, root_path)
        self._types = MediaTypes()

    def find(self, path: str, exchange: Exchange) -> tuple[OpenFile, State] | None:
        name = self._name(path)
        file = None if name is None else self.open(name)
        return None if file is None else (file, State(file, self._fields(path)))

    def open(self, name: str) -> OpenFile | None:
        """Open the public file of a name, None if there is none.

        :param name: relative to the folder, percent-decoded.
        :raises OSError: it cannot be read.
        """
        # Nothing happens to what is only named by a descriptor, be it a device. Where it is in truth, the kernel knows:
        # links that change meanwhile do not matter.
        descriptor = os.open(os.path.join(self._folder, name), os.O_PATH | os.O_CLOEXEC)
        try:
            place = f"/proc/self/fd/{descriptor}"
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not self._is_public(os.readlink(place)):
                return None
            return OpenFile(place)
        finally:
            os.close(descriptor)

    def _is_public(self, path: str) -> bool:
        folder = os.path.join(os.path.realpath(self._folder), "")
        return path.startswith(folder) and "/." not in path[len(folder) - 1 :]

    def _fields(self, path: str) -> list[Pair]:
        kind = self._types.get_type(path)
        fields = [
            ("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-cache"),  # kept, but asked for again: a new upload may have the same name
        ]
        if kind in _NOT_SHOWN or not (kind.startswith(_SHOWN) or kind in _SHOWN_TOO):
            fields.append(("Content-Disposition", "attachment"))
        if kind.startswith("image/"):
            fields.append(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"))
        return [[name.encode("latin-1"), value.encode("latin-1")] for name, value in fields]
