"""Django system checks for the settings of this package.

Runs in the main thread.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import Error as DatabaseErrors
from django.urls import get_resolver

from channelserver.asgi import InvalidChannelLayerError, channel_layers
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import resolve
from channelserver.utils import place_of


@register()
def check_options(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting ``CHANNELSERVER``."""
    try:
        resolve({}, getattr(settings, "CHANNELSERVER", {}))
    except OptionError as error:
        return [Error(str(error), id="channelserver.E001")]
    return []


@register()
def check_layers(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting ``CHANNEL_LAYERS``, routing included."""
    try:
        aliases = list(channel_layers.configs)
    except InvalidChannelLayerError as error:
        return [Error(str(error), id="channelserver.E002")]
    messages: list[CheckMessage] = []
    for alias in aliases:
        try:
            channel_layers.make_backend(alias).router  # noqa: B018  (building it tells whether it is right)
        except Exception as error:
            text = str(error) if isinstance(error, InvalidChannelLayerError) else f"CHANNEL_LAYERS[{alias!r}]: {error}"
            messages.append(_database_warning(alias, error) or Error(" ".join(text.split()), id="channelserver.E003"))
    return messages


def _database_warning(alias: str, error: BaseException) -> CheckMessage | None:
    """Return a warning if the routing uses the database while it is imported. ``migrate`` must run all the same."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DatabaseErrors):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return Warning(
        f"CHANNEL_LAYERS[{alias!r}]: the routing was not checked: it uses the database while it is imported "
        f"({type(cause).__name__}: {' '.join(str(cause).split())})",
        hint=f"{place_of(cause) or 'A module that it imports'} does so; do it in a function that is called later. If "
        "the database is new, run manage.py migrate.",
        id="channelserver.W003",
    )


@register()
def check_static_files(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """``STATIC_ROOT``: static files must have been collected."""
    if hasattr(mail, "outbox"):
        return []  # Django's test runner has turned DEBUG off, and does not serve files
    problem = static_problem()
    return [Warning(problem, id="channelserver.W001")] if problem else []


@register()
def check_atomic_requests(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """``ATOMIC_REQUESTS``: Django answers each request for an asynchronous view with an error."""
    atomic = {alias for alias, database in settings.DATABASES.items() if database.get("ATOMIC_REQUESTS")}
    if not atomic:
        return []
    from channelserver.workers.async_views import asynchronous_views  # handlers, which other commands do not need

    try:
        views = list(asynchronous_views(get_resolver().url_patterns))
    except Exception:  # a URLconf that cannot be imported: Django's own check says so
        return []
    return [
        Warning(
            f"{view.lookup_str} always answers 500: Django does not run asynchronous views under ATOMIC_REQUESTS; "
            "decorate the view with transaction.non_atomic_requests, or make it a plain function",
            id="channelserver.W002",
        )
        for view in views
        if not atomic <= getattr(view.callback, "_non_atomic_requests", set())
    ]


@register()
def check_sqlite(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """SQLite with ``CHANNELSERVER["processes"]``."""
    options = getattr(settings, "CHANNELSERVER", None)
    processes = options.get("processes", 1) if isinstance(options, dict) else 1
    problem = sqlite_problem(processes) if isinstance(processes, int) else ""
    return [Warning(problem, id="channelserver.W004")] if problem else []


def sqlite_problem(processes: int) -> str:
    """Return one sentence that says why several processes will see "database is locked", and the cure; empty if not."""
    for alias, database in settings.DATABASES.items() if processes > 1 else ():
        mode = str(database.get("OPTIONS", {}).get("transaction_mode", "")).upper()
        if str(database.get("ENGINE", "")).endswith("sqlite3") and mode not in ("IMMEDIATE", "EXCLUSIVE"):
            return (
                f'DATABASES[{alias!r}] is SQLite, whose writers raise "database is locked" when {processes} processes '
                'write: set OPTIONS["transaction_mode"] to "IMMEDIATE", with journal_mode=WAL and a timeout, or use '
                "PostgreSQL"
            )
    return ""


def static_problem() -> str:
    """Return one sentence that says why static files will be missing, and the cure; empty if they will not."""
    if settings.DEBUG or not apps.is_installed("django.contrib.staticfiles"):
        return ""
    options = getattr(settings, "CHANNELSERVER", None)
    if (isinstance(options, dict) and options.get("static") is False) or urlsplit(settings.STATIC_URL or "").netloc:
        return ""  # another server serves them
    root = settings.STATIC_ROOT
    if not root:
        return "static files are not served: the setting STATIC_ROOT names no folder; set it, and run collectstatic"
    try:
        with os.scandir(root) as entries:
            empty = next(entries, None) is None
    except OSError:
        empty = True
    return (
        f"static files are not served: STATIC_ROOT, {os.fspath(root)!r}, is empty; run collectstatic" if empty else ""
    )
