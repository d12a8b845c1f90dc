"""``channelserver check``: what would fail in production, each in one sentence with the cure.

Runs in the main thread, beside a server that may be running; nothing listens, and nothing is written. The server shows
the same sentences when it starts.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks.commands import migrate_and_makemigrations_autodetector
from django.core.checks.security.base import (
    SECRET_KEY_INSECURE_PREFIX,
    SECRET_KEY_MIN_LENGTH,
    SECRET_KEY_MIN_UNIQUE_CHARACTERS,
)
from django.core.exceptions import ImproperlyConfigured
from twisted.logger import Logger

from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.checks import check_layers, check_options, sqlite_problem, static_problem
from channelserver.layers.local import SERVER_CHANNELS
from channelserver.server.common.options import Settings, unknown_variables
from channelserver.server.common.reactor import install
from channelserver.server.service import endpoints
from channelserver.start.application import allowed_hosts, local_socket_of, make_server
from channelserver.start.files import odd_files
from channelserver.start.logs import access_log
from channelserver.start.project import describe

_log = Logger("channelserver.check")

#: System checks whose sentences are among those of the settings.
OURS = ("channelserver.W001", "channelserver.W004")

#: Of the system checks those about management commands: they import what the server never needs, a MiB.
_OF_COMMANDS = (migrate_and_makemigrations_autodetector,)

#: Seconds that the start of the server waits for databases.
PATIENCE = 2.0

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
    path, values.local_socket = local_socket_of(values), ""  # a running server has it
    service = make_server(values, install(), access_log(values, False))
    endpoints(values, install())
    layer = channel_layers[values.layer]
    found = list(_of_django(production))
    if production:
        found += [*_of_settings(values), *_of_database(layer), *_of_redis(layer)]
    if values.https:
        from channelserver.start.check_https import of_https, server_runs

        found += of_https(values, allowed_hosts(), server_runs(path))
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


def look_before_start(values: Settings) -> list[str]:
    """Return what settings and databases lack, before the worker threads have connections of their own.

    A database that does not answer delays the start by :data:`PATIENCE` seconds.
    """
    from django.db import connections

    found: list[str] = []

    def run() -> None:
        try:
            found.extend(_of_database(channel_layers[values.layer]))
        finally:
            connections.close_all()

    if not values.threads:
        found.append(
            "this process has no worker threads (--threads 0), so requests get no answer unless another process works: "
            "start channelserver work, or leave --threads 0 out"
        )
    else:
        thread = threading.Thread(target=run, name="checks", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive():
            found.append(f"a database has not answered for {PATIENCE:g} s; check DATABASES, and whether it runs")
    return [*_of_settings(values), *found]


def look_in_background(found: list[str]) -> None:
    """Log, from a thread of its own, what would fail in production, one warning each.

    :param found: what is known; Django's system checks may add to it.
    """

    from django.db import connections

    def run() -> None:
        try:
            of_django = list(_of_django(True, (check_layers, check_options, *_OF_COMMANDS)))
        finally:
            connections.close_all()
        sentences = dict.fromkeys([*found, *of_django])
        for sentence in sentences:
            _log.warn("{sentence}", sentence=sentence)
        if not sentences:
            _log.info("the checks have found nothing that would fail in production", banner=True)

    threading.Thread(target=run, name="checks", daemon=True).start()


def _of_django(warnings: bool, besides: Collection[Any] = ()) -> Iterator[str]:
    """What Django's system checks find.

    :param warnings: whether warnings count, too.
    :param besides: checks to leave out: what the server has found out by starting.
    """
    from django.core import checks
    from django.core.checks.registry import registry

    level = checks.WARNING if warnings else checks.ERROR
    found = []
    try:
        for check in registry.get_checks():
            if check not in besides:
                for message in check(app_configs=None, databases=None):
                    if message.is_serious(level) and not message.is_silenced() and message.id not in OURS:
                        found.append(f"the system check found: {' '.join(str(message).split())}")
    except (Exception, SystemExit) as error:
        found.append(f"the system check failed: {describe(error)}")
    yield from found


def _of_settings(values: Settings) -> Iterator[str]:
    """What the settings alone tell."""
    if settings.DEBUG:
        yield "DEBUG is on: error pages show code and settings to everybody; set DEBUG = False in production"
    elif not settings.ALLOWED_HOSTS:
        yield "ALLOWED_HOSTS is empty, so each request gets 400; set it to the names of the site"
    elif variable := getattr(settings, "PACKED_HOSTS", ""):
        yield f"only this machine's own names are allowed, so others get 400; set {variable} to the names of the site"
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
    if values.tls_self_signed:
        yield "--tls-self-signed is for development: browsers warn of the certificate; use --https or --tls-cert"
    for problem in (static_problem() if values.static else "", sqlite_problem(values.processes)):
        if problem:
            yield problem
    router = channel_layers[values.layer].router
    for pattern in router.slashless():
        example = "^/" + pattern.removeprefix("^")
        yield f"a route's path={pattern!r} matches nothing, because paths begin with a slash; write {example!r}"
    for name in sorted(router.channels.difference(SERVER_CHANNELS)):
        for near in difflib.get_close_matches(name, SERVER_CHANNELS, 1, 0.9):
            yield f"the routing has a consumer for {name!r}, where the server sends nothing; did you mean {near!r}?"


def _of_database(layer: ChannelLayerWrapper) -> Iterator[str]:
    """What the databases lack: themselves, migrations, the table of sessions."""
    from django.db import DEFAULT_DB_ALIAS, connections

    behind: set[str] = set()
    reached = False
    for alias in connections:
        connection = connections[alias]
        if connection.settings_dict["ENGINE"] == "django.db.backends.dummy":
            continue
        try:
            names = _unapplied(connection)
        except Exception as error:
            yield f"the database {alias!r} cannot be used: {describe(error)}; check DATABASES"
            continue
        reached = reached or alias == DEFAULT_DB_ALIAS
        behind.update(names)
        if names:
            option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
            which = f"migrations of {', '.join(names)} are not applied to the database {alias!r}"
            yield f"{which}; run {manage()} migrate{option}"
    problem = _sessions(layer, behind) if reached else ""
    if problem:
        yield problem


def _unapplied(connection: Any) -> list[str]:
    """Return the labels of applications with migrations that are not applied to a database.

    Migrations are imported only if some of an application are applied, and others are not: these may be squashed.

    :raises django.db.Error: the database cannot be used.
    """
    from django.db import DEFAULT_DB_ALIAS
    from django.db.migrations.loader import MigrationLoader
    from django.db.migrations.recorder import MigrationRecorder

    recorder = MigrationRecorder(connection)
    applied: dict[str, set[str]] = {}
    if not _is_new_file(connection):
        if connection.alias != DEFAULT_DB_ALIAS and not recorder.has_table():
            return []  # nobody migrates it
        for label, name in recorder.applied_migrations():
            applied.setdefault(label, set()).add(name)
    behind, doubtful = [], set()
    for config in apps.get_app_configs():
        package, _ = MigrationLoader.migrations_module(config.label)
        spec = None if package is None else importlib.util.find_spec(package)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        there = {module.name for module in pkgutil.iter_modules(folders) if module.name[0] not in "_~"}
        if there - applied.get(config.label, set()):
            behind.append(config.label)
            if config.label in applied:
                doubtful.add(config.label)
    if doubtful:
        from django.db.migrations.executor import MigrationExecutor  # seldom needed

        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        doubtful -= {migration.app_label for migration, _ in plan}
    return [label for label in behind if label not in doubtful]


def _is_new_file(connection: Any) -> bool:
    """Whether the database is a file of SQLite that is not there yet: to look into it would make it."""
    name = str(connection.settings_dict["NAME"])
    folder = os.path.dirname(os.path.abspath(name))
    return connection.vendor == "sqlite" and ":" not in name and not os.path.exists(name) and os.path.isdir(folder)


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
    if file := os.environ.get("PACKED_FILE"):
        return f"./{os.path.basename(file)}"
    if os.path.isfile("manage.py"):
        return "python manage.py"
    folder = os.path.relpath(sys.path[0]) if sys.path[0] else "."
    if os.path.isfile(os.path.join(folder, "manage.py")):
        return f"python {folder}/manage.py"
    return f"python -m django --settings {os.environ['DJANGO_SETTINGS_MODULE']}"
