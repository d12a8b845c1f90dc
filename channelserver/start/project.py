"""Imports and sets up the Django project.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from glob import glob
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from twisted.logger import Logger

from channelserver.utils import place_of

_log = Logger("channelserver")

#: What an ``asgi.py`` for Channels 1 imports; there once the settings have said ``import channelserver.compat``.
_CHANNELS_1 = ("channels", "asgiref.inmemory", "asgiref.base_layer", "asgi_redis", "asgi_ipc")

#: As ``startproject`` writes it, or as an assignment.
_SETTINGS_IN_MANAGE = re.compile(r"""["']DJANGO_SETTINGS_MODULE["']\s*(?:,|\]\s*=)\s*["']([\w.]+)["']""")

_DJANGO_HANDLERS = {"django.core.handlers.wsgi.WSGIHandler", "django.core.handlers.asgi.ASGIHandler"}


class StartError(Exception):
    """The server cannot start; the text is one sentence for the user, with the reason and the cure."""


def set_up(
    settings_module: str | None, pythonpath: str | None, app: str | None = None, root_path: str | None = None
) -> None:
    """Import the settings and set Django up.

    :param settings_module: dotted name; None: the environment's ``DJANGO_SETTINGS_MODULE``, else that of ``manage.py``.
    :param pythonpath: folder to import from; None: the current one.
    :param app: module to import before, as ``mysite.wsgi`` or ``mysite.wsgi:application``.
    :param root_path: where the site is mounted, if an option says so.
    :raises StartError: something is missing or wrong.
    """
    folder = os.path.abspath(pythonpath or os.curdir)
    if not os.path.isdir(folder):
        raise StartError(f"--pythonpath {pythonpath!r} is not a folder")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if app:
        if settings_module:
            os.environ["DJANGO_SETTINGS_MODULE"] = settings_module
        import_app(app)
    load(settings_module or os.environ.get("DJANGO_SETTINGS_MODULE") or of_manage_py(folder), folder, root_path)


def of_manage_py(folder: str) -> str:
    """Return the settings module that the project's ``manage.py`` names.

    :param folder: where to look for it.
    :raises StartError: there is none, or it names none.
    """
    path = os.path.join(folder, "manage.py")
    cure = "use --settings (for example --settings mysite.settings) or DJANGO_SETTINGS_MODULE"
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            found = _SETTINGS_IN_MANAGE.search(stream.read())
    except OSError:
        near = [*sorted(glob("*/manage.py", root_dir=folder)), *glob("../manage.py", root_dir=folder)]
        if len(near) == 1:
            cure = f"run this in {os.path.dirname(near[0])}, where manage.py is, or {cure}"
        raise StartError(
            f"No settings module given, and there is no manage.py in {folder} that names one; {cure}; "
            "channelserver demo runs a ready-made site"
        ) from None
    if found is None:
        raise StartError(f"No settings module given, and {path} names none; {cure}")
    return found[1]


def import_app(app: str) -> None:
    """Import the module of a WSGI or ASGI application, for what it sets up: environment, tracing, settings.

    :param app: ``module`` or ``module:name``; the name's default is ``application``.
    :raises StartError: it cannot be imported, or has no such name.
    """
    module_name, _, name = app.partition(":")
    try:
        module = _import_after_settings(module_name)
    except BaseException as error:
        cure = "write for example mysite.wsgi"
        if _is_channels_1(error):
            cure = f"make import channelserver.compat the first line of {module_name}, or give --settings, too"
        raise StartError(f"--app {app!r} cannot be imported: {describe(error)}; {cure}") from error
    application = getattr(module, name or "application", None)
    if application is None:
        raise StartError(f"--app {app!r}: the module {module_name!r} has no {name or 'application'!r}")
    kind = type(application)
    if f"{kind.__module__}.{kind.__qualname__}" not in _DJANGO_HANDLERS:
        _log.info(
            "--app {app}: the application object, a {kind}, is not called: channelserver runs Django's middleware and "
            "views by itself, so what wraps that object has no effect",
            app=app, kind=f"{kind.__module__}.{kind.__qualname__}",
        )  # fmt: skip


def _import_after_settings(name: str) -> Any:
    """Import a module; if it needs the names of Channels 1 before it has imported the settings, import these first."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        settings_name = os.environ.get("DJANGO_SETTINGS_MODULE")
        if not settings_name or not _is_channels_1(error):
            raise
        importlib.import_module(settings_name)
        return importlib.import_module(name)


def _is_channels_1(error: BaseException) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(_CHANNELS_1)


def load(name: str, folder: str = "Python's path", root_path: str | None = None) -> None:
    """Import the settings and set Django up, without a change to Python's path.

    :param folder: where the project is, for error texts.
    :param root_path: where the site is mounted; None: the settings say it.
    :raises StartError: something is missing or wrong.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = name
    if settings.configured and not getattr(settings, "SETTINGS_MODULE", None):
        raise StartError(
            f"Django has been given settings other than {name!r}: opentelemetry-instrument gives it empty ones if it "
            "does not find the project; set DJANGO_SETTINGS_MODULE and PYTHONPATH (the folder of manage.py) for it"
        )
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise StartError(
                f"there is no settings module {name!r} below {folder}; "
                "name it with --settings (for example mysite.settings) and its folder with --pythonpath"
            ) from error
        raise StartError(f"the settings module {name!r} does not import: {describe(error)}") from error
    if not any(map(str.isupper, vars(module))):
        raise StartError(f"the module {name!r} holds no settings; write for example --settings {name}.settings")
    try:
        _mount(root_path)
        django.setup()
    except BaseException as error:
        raise StartError(f"the project of {name!r} cannot be set up: {describe(error)}") from error


def clean_root_path(path: str | None) -> str:
    """Return a root path with a slash at its start and none at its end; empty: the site is not mounted."""
    path = (path or "").strip("/")
    return f"/{path}" if path else ""


def _mount(root_path: str | None) -> None:
    """Tell Django where the site is mounted, before it makes URLs: a STATIC_URL such as "static/" begins there."""
    options = getattr(settings, "CHANNELSERVER", None)
    root_path = root_path or (options.get("root_path") if isinstance(options, dict) else None)
    if root_path and isinstance(root_path, str):
        settings.FORCE_SCRIPT_NAME = clean_root_path(root_path) or None
        for name in ("STATIC_URL", "MEDIA_URL"):  # which the module of --app may have made Django remember
            vars(settings).pop(name, None)


def configured(name: str, default: Any) -> Any:
    """Return a setting.

    :raises StartError: the settings are wrong.
    """
    try:
        return getattr(settings, name, default)
    except ImproperlyConfigured as error:
        raise StartError(f"the settings are wrong: {error}") from error


def describe(error: BaseException) -> str:
    """Return the type, text and place of an error, as part of a sentence."""
    text = " ".join(str(error).split()) or "no further explanation"
    place = place_of(error)
    if isinstance(error, ImproperlyConfigured):
        return text
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__} in {error.filename}, line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")
