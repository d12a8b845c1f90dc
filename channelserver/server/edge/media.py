"""Uploaded files, served by the reactor without a worker thread (``--media``).

Runs in the reactor thread; owns nothing that changes.

Unlike static files these come and go, so each name is looked up in the file system when it is asked for. They were
written by users, whom the site's visitors need not trust:

1. Neither ``..`` nor a symbolic link leads out of the folder. Hidden files are not served.
2. Browsers run no file as a page or a script of this site: ``nosniff`` forbids them to guess the type, and types that
   they would run or render as a page are offered for download.
"""

from __future__ import annotations

import os
from typing import Any

from whitenoise.media_types import MediaTypes
from whitenoise.responders import StaticFile

from channelserver.server.edge.static import StaticFiles

#: Types that a browser shows without running anything in them. Everything else is for download.
_SHOWN = ("image/", "audio/", "video/")
_SHOWN_TOO = frozenset({"text/plain", "application/pdf"})
_NOT_SHOWN = frozenset({"image/svg+xml"})


class MediaFiles(StaticFiles):
    """The files below a folder, under a prefix of the path.

    :param folder: path of the folder (Django: ``MEDIA_ROOT``).
    :param prefix: what their paths start with, with a slash at both ends (Django: ``MEDIA_URL``).
    """

    kind, exclusive = "media", True

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder = os.path.realpath(folder)
        self._prefix = prefix
        self._types = MediaTypes()

    def file(self, path: str) -> Any:
        found = self.find(path[len(self._prefix) :])
        return None if found is None else StaticFile(found, self._headers(found))

    def find(self, name: str) -> str | None:
        """Return the path of a file, or None if there is no public file of that name.

        :param name: as requested, percent-decoded, without the prefix.
        """
        parts = name.split("/")
        if any(not part or part[0] == "." or "\x00" in part or "\\" in part for part in parts):
            return None
        try:
            path = os.path.realpath(os.path.join(self._folder, *parts), strict=True)
        except (OSError, ValueError):
            return None
        inside = os.path.commonpath((path, self._folder)) == self._folder
        hidden = any(part[:1] == "." for part in os.path.relpath(path, self._folder).split(os.sep))
        return path if inside and not hidden and os.path.isfile(path) else None

    def _headers(self, path: str) -> list[tuple[str, str]]:
        kind: str = self._types.get_type(path)
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-cache"),  # kept, but asked for again: a new upload may have the same name
        ]
        if kind in _NOT_SHOWN or not (kind.startswith(_SHOWN) or kind in _SHOWN_TOO):
            headers.append(("Content-Disposition", "attachment"))
        if kind.startswith("image/"):
            headers.append(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"))
        return headers
