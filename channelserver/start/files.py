"""Static and media files, as the project's settings describe them.

Runs before the reactor, in the main thread. A project without such files need not wait for the imports.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.module_loading import import_string
from twisted.logger import Logger

from channelserver.server.common.options import Settings
from channelserver.server.http.ready import Files
from channelserver.start.project import StartError

_log = Logger("channelserver")

#: How many files of STATIC_ROOT that cannot be served are named.
NAMED = 5

#: Settings of WhiteNoise which the reactor honors, and the arguments of :class:`StaticFiles` for them.
_HONORED = {
    "WHITENOISE_MAX_AGE": "max_age",
    "WHITENOISE_CHARSET": "charset",
    "WHITENOISE_MIMETYPES": "types",
    "WHITENOISE_ALLOW_ALL_ORIGINS": "all_origins",
    "WHITENOISE_IMMUTABLE_FILE_TEST": "immutable",
}
#: Settings that are for collectstatic, or for other paths than STATIC_URL.
_OTHERS = {
    "WHITENOISE_ROOT", "WHITENOISE_STATIC_PREFIX", "WHITENOISE_KEEP_ONLY_HASHED_FILES", "WHITENOISE_MANIFEST_STRICT",
    "WHITENOISE_SKIP_COMPRESS_EXTENSIONS",
}  # fmt: skip


def files(values: Settings, log: bool) -> Files | None:
    """Return what serves static and media files in the reactor; None: there are none.

    :param log: whether to log what is not served.
    :raises StartError: the settings do not say what to serve, or where.
    """
    static: Files | None = _static_files(values.root_path, log) if values.static else None
    media: Files | None = _media_files(values.root_path) if values.media else None
    return static or media if static is None or media is None else _Both(static, media)


class _Both:
    def __init__(self, static: Files, media: Files) -> None:
        self.ready = static.ready
        self._static, self._media = static, media

    def __call__(self, exchange: Any) -> bool:
        return self._static(exchange) or self._media(exchange)


def _static_files(root_path: str, log: bool) -> Any:
    """Return what serves ``STATIC_URL`` from ``STATIC_ROOT``, or None if the project has none, or not on this host."""
    folder, prefix = getattr(settings, "STATIC_ROOT", None), _prefix(getattr(settings, "STATIC_URL", None), root_path)
    if not folder or not prefix or not os.path.isdir(folder):
        return None
    if _has_whitenoise():
        left = _left_to_whitenoise(prefix)
        if left:
            if log:
                _log.info("WhiteNoise's middleware serves STATIC_URL, not the reactor, because of {left}", left=left)
            return None
        policy = {key: getattr(settings, name) for name, key in _HONORED.items() if hasattr(settings, name)}
        if policy.get("immutable", "") is None:
            del policy["immutable"]
    else:
        policy = {}
    problem = odd_files() if log else ""
    if problem:
        _log.warn("{problem}", problem=problem)
    from channelserver.server.edge.static import StaticFiles

    return StaticFiles(os.fspath(folder), prefix, root_path, **policy)


def odd_files() -> str:
    """Return one sentence that names what in ``STATIC_ROOT`` cannot be served; empty: there is nothing."""
    folder = settings.STATIC_ROOT
    if not folder or not os.path.isdir(folder):
        return ""
    from channelserver.server.edge.static import unusable

    found = list(islice(unusable(os.fspath(folder)), NAMED + 1))
    names = ", ".join(found[:NAMED]) + (", and more" if len(found) > NAMED else "")
    return f"these files of STATIC_ROOT cannot be served: {names}" if found else ""


def _media_files(root_path: str) -> Any:
    prefix = _prefix(settings.MEDIA_URL, root_path)
    if not settings.MEDIA_ROOT or not prefix:
        raise StartError("--media needs the settings MEDIA_ROOT, a folder, and MEDIA_URL, a path such as '/media/'")
    from channelserver.server.edge.media import MediaFiles

    return MediaFiles(os.fspath(settings.MEDIA_ROOT), prefix, root_path)


def _prefix(url: str | None, root_path: str) -> str:
    """Return what the paths below a URL start with, without the root path; empty: they are on another host, or
    everywhere.
    """
    parts = urlsplit(url or "")
    path = f"/{parts.path.strip('/')}/"
    if root_path and path.startswith(root_path + "/"):
        path = path[len(root_path) :]
    return "" if parts.netloc or path in ("/", "//") else path


def _has_whitenoise() -> bool:
    """Whether WhiteNoise's middleware, or a subclass, is one of the project's."""
    from whitenoise import WhiteNoise

    classes = map(import_string, settings.MIDDLEWARE)
    return any(isinstance(each, type) and issubclass(each, WhiteNoise) for each in classes)


def _left_to_whitenoise(prefix: str) -> str:
    """Return the setting that only WhiteNoise's middleware can honor; empty: there is none."""
    if getattr(settings, "WHITENOISE_AUTOREFRESH", settings.DEBUG):
        return "WHITENOISE_AUTOREFRESH" if hasattr(settings, "WHITENOISE_AUTOREFRESH") else "DEBUG"
    if callable(getattr(settings, "WHITENOISE_IMMUTABLE_FILE_TEST", None)):
        return "WHITENOISE_IMMUTABLE_FILE_TEST"
    root = getattr(settings, "WHITENOISE_ROOT", None)
    if root and os.path.exists(os.path.join(root, prefix.strip("/"))):
        return "WHITENOISE_ROOT"
    names = (name for name in dir(settings) if name.startswith("WHITENOISE_") and getattr(settings, name))
    return next((name for name in names if name not in _HONORED and name not in _OTHERS), "")
