"""What the server says when it listens: three lines.

Runs in the reactor thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import django
from django.apps import apps
from django.conf import settings
from twisted.logger import Logger

from channelserver import __version__
from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.server.common.options import Settings
from channelserver.start.application import local_socket_of
from channelserver.start.jobs import runs_jobs, threads_for_jobs

_log = Logger("channelserver")


def announce(listeners: Sequence[str], values: Settings, shortcuts: str, foreground: bool) -> None:
    """Log what serves, where and with what.

    :param listeners: the addresses.
    :param shortcuts: what is said of Django's shortcuts.
    :param foreground: whether there may be somebody to press Ctrl-C.
    """
    layer = channel_layers[values.layer]
    debug = "on" if settings.DEBUG else "off"
    named = f"channelserver {__version__}, Django {django.__version__}, {settings.SETTINGS_MODULE}"
    stop = "; Ctrl-C stops it" if foreground else ""
    parts = [f"layer {layer.alias} ({type(layer.channel_layer).__name__}), {_workers(values)}"]
    parts += [_files(values), _socket(layer, values), shortcuts]
    for line in (f"{named}, DEBUG {debug}", f"listening on {', '.join(listeners)}{stop}", "; ".join(parts)):
        _log.info("{line}", line=line, banner=True)


def _workers(values: Settings) -> str:
    if not values.threads:
        return "no worker threads"
    jobs = threads_for_jobs(values.threads, values.job_threads) if runs_jobs() else 0
    of_one = values.threads + (jobs + 1 if jobs else 0)  # and one for the thread that takes jobs
    most = f"{f'{jobs} for jobs, ' if jobs else ''}so at most {values.processes * of_one} connections to each database"
    if values.processes > 1:
        return f"{values.processes} processes x {values.threads} threads, {most}"
    return f"worker threads: {values.threads}, {most}"


def _files(values: Settings) -> str:
    root = getattr(settings, "STATIC_ROOT", None)
    if values.static and root and os.path.isdir(root):
        return f"static files: {_short(os.fspath(root))}"
    by_django = settings.DEBUG and apps.is_installed("django.contrib.staticfiles")
    return "static files: by Django" if by_django else "static files: none"


def _socket(layer: ChannelLayerWrapper, values: Settings) -> str:
    path = local_socket_of(values)
    return f"local socket: {_short(path) if path and layer.local_only() and os.path.exists(path) else 'none'}"


def _short(path: str) -> str:
    """Return a path as seen from here, if it is below this folder."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near
