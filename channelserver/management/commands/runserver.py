"""``manage.py runserver``: the development server, with consumers and WebSockets (Channels 1).

Runs in the thread that Django's autoreloader starts; it becomes the reactor thread.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import datetime
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import CommandError
from django.core.management.commands.runserver import Command as DjangoCommand
from django.db import connections
from django.utils import autoreload

from channelserver.asgi import channel_layers
from channelserver.handler import AsgiHandler
from channelserver.server.common.access import AccessLog
from channelserver.server.common.options import Settings, read_environment, resolve
from channelserver.server.common.reactor import install
from channelserver.start.application import START_ERRORS, install_shortcuts, make_server, one_listener
from channelserver.start.hooks import connect_hooks
from channelserver.start.logs import show_reactor_log
from channelserver.start.reload import DRAIN_SECONDS, let_the_child_finish, run_reactor
from channelserver.staticfiles import StaticFilesHandler

if apps.is_installed("django.contrib.staticfiles"):
    from django.contrib.staticfiles.management.commands.runserver import Command as BaseCommand
else:
    BaseCommand = DjangoCommand  # type: ignore[misc,assignment]

#: Threads of a development server (Channels 1), unless an option says otherwise; one with --nothreading.
THREADS = 4


class Command(BaseCommand):
    """Django's runserver on this project's server."""

    # Set by Django's command.
    addr: str
    port: str
    _raw_ipv6: bool

    help = "Starts a development server with WebSockets and channels."

    def add_arguments(self, parser: Any) -> None:
        super().add_arguments(parser)
        parser.add_argument("--noworker", action="store_false", dest="run_worker", help="Run no consumers here.")
        parser.add_argument("--noasgi", action="store_false", dest="use_asgi", help="Use Django's own WSGI server.")
        parser.add_argument(
            "--tls-self-signed", action="store_true", dest="self_signed",
            help="Use HTTPS, with a certificate that the server signs itself.",
        )  # fmt: skip
        parser.add_argument(
            "--http_timeout",
            type=float,
            default=60.0,
            help="Timeout of a request in seconds, then 503. Default: 60.",
        )
        parser.add_argument(
            "--websocket_handshake_timeout", type=float, default=5.0,
            help="Timeout of a WebSocket handshake in seconds, then 403. Default: 5.",
        )  # fmt: skip

    def run(self, **options: Any) -> None:
        if options["use_reloader"] and os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
            let_the_child_finish()
        super().run(**options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        if not options.get("use_asgi", True):
            super().inner_run(*args, **options)
            return
        autoreload.raise_last_exception()
        if not options.get("skip_checks"):
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        connections.close_all()
        try:
            self._serve(options)
        except START_ERRORS as error:
            raise CommandError(str(error)) from error

    def _serve(self, options: dict[str, Any]) -> None:
        reactor = install()
        show_reactor_log(logging.WARNING)
        channel_layers.host()
        values = one_listener(
            self.addr,
            int(self.port),
            threads=_threads(options),
            http_timeout=options["http_timeout"],
            connect_timeout=options["websocket_handshake_timeout"],
            root_path=getattr(settings, "FORCE_SCRIPT_NAME", None) or "",
            drain_timeout=DRAIN_SECONDS,
            tls_self_signed=options.get("self_signed", False),
        )
        shortcuts = install_shortcuts(values)
        service = make_server(values, reactor, ConsoleLog(self.stdout.write, self.style), self._handler(options), True)
        service.on_listen_error = self._cannot_listen
        connect_hooks(service, 1)
        service.privilegedStartService()
        service.startService()
        self._announce(values, shortcuts, service.tls.summary if service.tls is not None else "")
        run_reactor(reactor, service)
        shutdown_message = options.get("shutdown_message")
        if shutdown_message:
            self.stdout.write(shutdown_message)

    def _handler(self, options: dict[str, Any]) -> AsgiHandler:
        static = apps.is_installed("django.contrib.staticfiles") and options.get("use_static_handler", True)
        if static and (settings.DEBUG or options.get("insecure_serving")):
            return StaticFilesHandler()
        return AsgiHandler()

    def _announce(self, values: Settings, shortcuts: str, certificate: str) -> None:
        address = f"[{self.addr}]" if self._raw_ipv6 else self.addr
        quit_command = "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
        scheme = "https" if certificate else "http"
        workers = f"{values.threads} worker threads" if values.threads else "no workers"
        self.stdout.write(
            f"{datetime.now():%B %d, %Y - %X}\n"
            f"Django version {self.get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting channelserver's development server at {scheme}://{address}:{self.port}/\n"
            f"{certificate and f'The {certificate}; browsers warn of it, so compare that.{chr(10)}'}"
            f"Channel layer {values.layer!r}, {workers}. {shortcuts}.\n"
            f"Quit the server with {quit_command}.\n"
        )

    def _cannot_listen(self, error: Exception) -> None:
        if threading.current_thread() is threading.main_thread():
            raise CommandError(str(error)) from error
        # As Django does: an exception in this thread would not end the process, because the autoreloader goes on.
        self.stderr.write(f"Error: {error}")
        os._exit(1)


def _threads(options: dict[str, Any]) -> int:
    configured = getattr(settings, "CHANNELSERVER", {})
    if not options["run_worker"]:
        return 0
    if not options["use_threading"]:
        return 1
    given = "threads" in configured or "threads" in read_environment(os.environ)
    return resolve({}, configured).threads if given else THREADS


class ConsoleLog(AccessLog):
    """Request and socket lines in the colours of Django's own runserver."""

    with_handshakes = True

    _events = {"OPEN": "CONNECT", "CLOSE": "DISCONNECT", "REFUSE": "REJECT", "HANDSHAKE": "HANDSHAKING"}

    def __init__(self, write: Any, style: Any) -> None:
        super().__init__(write)
        self._style = style

    def text(self, protocol: str, what: str, path: str, address: str, figures: dict[str, Any]) -> str:
        if protocol == "http":
            line = f"HTTP {what} {path} {figures['status']} [{figures['seconds']:.2f}, {address}]"
            paint = self._paint(figures["status"], what)
        else:
            line = f"WebSocket {self._events[what]} {path} [{address}]"
            paint = self._style.HTTP_SERVER_ERROR if what == "REFUSE" else self._style.HTTP_INFO
        return str(paint(f"[{datetime.now():%d/%b/%Y %H:%M:%S}] {line}"))

    def line(self, message: str) -> str:
        return message

    def _paint(self, status: int, method: str) -> Any:
        style = self._style
        if status >= 500:
            return style.HTTP_SERVER_ERROR
        if status in (304, 404):
            return style.HTTP_NOT_MODIFIED if status == 304 else style.HTTP_NOT_FOUND
        if status >= 400:
            return style.HTTP_BAD_REQUEST
        if status >= 300:
            return style.HTTP_REDIRECT
        return style.HTTP_SUCCESS if method == "GET" else style.HTTP_INFO
