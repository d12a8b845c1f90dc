"""``channelserver check``: what would fail in production, each in one sentence with the cure.

Runs in the main thread, beside a server that may be running; nothing listens, and nothing is written. The server shows
the same sentences when it starts.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks.security.base import (
    SECRET_KEY_INSECURE_PREFIX,
    SECRET_KEY_MIN_LENGTH,
    SECRET_KEY_MIN_UNIQUE_CHARACTERS,
)
from django.core.exceptions import ImproperlyConfigured

from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.checks import static_problem
from channelserver.server.common.options import Settings, unknown_variables
from channelserver.server.common.reactor import install
from channelserver.server.service import endpoints
from channelserver.start.application import make_server
from channelserver.start.files import odd_files
from channelserver.start.logs import access_log
from channelserver.start.project import describe

#: Engines that keep sessions in the database.
_SESSION_ENGINES = ("django.contrib.sessions.backends.db", "django.contrib.sessions.backends.cached_db")

#: Attributes of class-based consumers that give them sessions.
_SESSION_ATTRIBUTES = ("channel_session", "channel_session_user", "http_user", "http_user_and_session")


def look(values: Settings, production: bool) -> int:
    """Print what is wrong, one line each; return the exit code, 0 or 1.

    :param production: whether everything counts that would fail in production; False: only what keeps the server from
        starting, and what Django calls an error.
    :raises StartError, OptionError, InvalidChannelLayerError, ListenError: the server could not start.
    """
    logging.getLogger("channelserver").addHandler(logging.NullHandler())  # what it logs is among the sentences
    values.local_socket = ""  # a running server has it
    service = make_server(values, install(), access_log(values, False))
    endpoints(values, install())
    layer = channel_layers[values.layer]
    found = list(_of_django(production))
    if production:
        found += [*of_settings(values), *of_database(layer), *_of_redis(layer)]
    failed = bool(found)
    found += unknown_variables(os.environ)
    if service.tls is not None and service.tls.gap:
        found.append(f"{service.tls.gap}; clients that use these names refuse to connect")
    odd = odd_files() if values.static else ""
    if odd:
        found.append(odd)
    for sentence in dict.fromkeys(found):
        print(f"channelserver: {sentence}")
    if failed:
        return 1
    print(f"channelserver: options, settings, routing{', database' if production else ''} and layer are in order")
    return 0


def _of_django(warnings: bool) -> Iterator[str]:
    """What Django's system checks find.

    :param warnings: whether warnings count, too.
    """
    from django.core import checks

    try:
        messages = checks.run_checks()
    except Exception as error:
        yield f"the system check failed: {describe(error)}"
        return
    level = checks.WARNING if warnings else checks.ERROR
    for message in messages:
        # W001 is one of those below.
        if message.is_serious(level) and not message.is_silenced() and message.id != "channelserver.W001":
            yield f"the system check found: {' '.join(str(message).split())}"


def of_settings(values: Settings) -> Iterator[str]:
    """What the settings alone tell."""
    if settings.DEBUG:
        yield "DEBUG is on: error pages show code and settings to everybody; set DEBUG = False in production"
    elif not settings.ALLOWED_HOSTS:
        yield "ALLOWED_HOSTS is empty, so each request gets 400; set it to the names of the site"
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:
        key = ""
    if not key:
        yield "SECRET_KEY is empty, so sessions and forms fail; set it to a long random text"
    elif key.startswith(SECRET_KEY_INSECURE_PREFIX):
        yield "SECRET_KEY is the one that startproject made; set it to a long random text that is in no repository"
    elif len(key) < SECRET_KEY_MIN_LENGTH or len(set(key)) < SECRET_KEY_MIN_UNIQUE_CHARACTERS:
        yield f"SECRET_KEY is too easy to guess; set it to a random text of {SECRET_KEY_MIN_LENGTH} characters or more"
    if not getattr(settings, "ROOT_URLCONF", None):
        yield "ROOT_URLCONF is not set, so each request gets 500; set it to the project's URLconf, such as mysite.urls"
    problem = static_problem() if values.static else ""
    if problem:
        yield problem


def of_database(layer: ChannelLayerWrapper) -> Iterator[str]:
    """What the databases lack: themselves, migrations, the table of sessions."""
    from django.db import DEFAULT_DB_ALIAS, connections
    from django.db.migrations.executor import MigrationExecutor

    behind: set[str] = set()
    reached = False
    for alias in connections:
        connection = connections[alias]
        if connection.settings_dict["ENGINE"] == "django.db.backends.dummy":
            continue
        try:
            executor = MigrationExecutor(connection)
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except Exception as error:
            yield f"the database {alias!r} cannot be used: {describe(error)}; check DATABASES"
            continue
        reached = reached or alias == DEFAULT_DB_ALIAS
        names = dict.fromkeys(migration.app_label for migration, _ in plan)
        behind.update(names)
        if plan:
            option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
            count = f"{len(plan)} migration{'' if len(plan) == 1 else 's'} of {', '.join(names)}"
            yield f"{count} not applied to the database {alias!r}; run {manage()} migrate{option}"
    problem = _sessions(layer, behind) if reached else ""
    if problem:
        yield problem


def _sessions(layer: ChannelLayerWrapper, behind: set[str]) -> str:
    """Return what keeps consumers from having sessions; empty: nothing."""
    users = [consumer for consumer in layer.router.consumers() if _uses_sessions(consumer)]
    if not users:
        return ""
    from channelserver.sessions import session_for_reply_channel
    from channelserver.utils import name_that_thing

    who = f"{name_that_thing(inspect.unwrap(users[0]))} uses sessions"
    try:
        session_for_reply_channel("check")
    except (ImproperlyConfigured, ImportError, ValueError) as error:
        return f"{who}: {describe(error)}"
    except RuntimeError:  # Django: a model whose application is not installed
        pass
    engine = getattr(settings, "CHANNEL_SESSION_ENGINE", None) or settings.SESSION_ENGINE
    if engine not in _SESSION_ENGINES or "sessions" in behind:
        return ""
    cure = f"and run {manage()} migrate"
    if not apps.is_installed("django.contrib.sessions"):
        return f"{who}, and has no table for them; put 'django.contrib.sessions' into INSTALLED_APPS, {cure}"
    from django.contrib.sessions.models import Session
    from django.db import connections, router

    connection = connections[router.db_for_read(Session)]
    if Session._meta.db_table in connection.introspection.table_names():
        return ""
    zero = f"run {manage()} migrate sessions zero --fake"
    return f"{who}, and the table {Session._meta.db_table!r} is missing; {zero}, {cure}"


def _uses_sessions(consumer: Any) -> bool:
    if getattr(consumer, "uses_sessions", False):
        return True
    kind = inspect.unwrap(consumer) if callable(consumer) else None
    return isinstance(kind, type) and any(getattr(kind, name, False) for name in _SESSION_ATTRIBUTES)


def _of_redis(layer: ChannelLayerWrapper) -> Iterator[str]:
    # Another one than the server's, which Redis would take for a server.
    ask = getattr(channel_layers.make_backend(layer.alias).channel_layer, "channel_statistics", None)
    try:
        if ask is not None:
            ask("channelserver.check")
    except Exception as error:
        yield f"the channel layer {layer.alias!r} cannot be used: {error}; start Redis, or check CHANNEL_LAYERS"


def manage() -> str:
    """Return how to run a management command of this project."""
    if os.path.isfile("manage.py"):
        return "python manage.py"
    folder = os.path.relpath(sys.path[0]) if sys.path[0] else "."
    if os.path.isfile(os.path.join(folder, "manage.py")):
        return f"python {folder}/manage.py"
    return f"python -m django --settings {os.environ['DJANGO_SETTINGS_MODULE']}"
