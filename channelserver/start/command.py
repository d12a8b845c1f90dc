"""Starts the server that a command line describes.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import Any, NoReturn

from twisted.logger import Logger, globalLogBeginner

from channelserver.asgi import channel_layers
from channelserver.processes.descriptors import close_on_exec
from channelserver.processes.shares import Shares
from channelserver.processes.siblings import Siblings
from channelserver.server.common.collector import look_as_usual
from channelserver.server.common.limits import raise_descriptor_limit
from channelserver.server.common.options import BY_NAME, Settings, read_environment, resolve, unknown_variables
from channelserver.server.common.reactor import install
from channelserver.server.service import ServerService
from channelserver.start import project
from channelserver.start.application import START_ERRORS, install_shortcuts, local_socket_of, make_server
from channelserver.start.banner import announce
from channelserver.start.check import look_before_start, look_in_background
from channelserver.start.demo import prepare
from channelserver.start.hooks import connect_hooks
from channelserver.start.log_stream import protect_standard_streams
from channelserver.start.logs import access_log, join_logs, observer
from channelserver.start.parser import FAILED, die
from channelserver.start.project import StartError
from channelserver.start.reload import DRAIN_SECONDS, run_reactor, run_with_reloader
from channelserver.start.signals import other_signals, stop_on_signals

_log = Logger("channelserver")

#: Seconds from listening to what can wait: the first visitor comes before it.
CALM = 0.25


def serve(given: dict[str, Any]) -> None:
    """Run the server in the foreground until a signal stops it.

    :param given: the options on the command line, by name.
    """
    if given.get("check"):
        check(given)
    where = {**read_environment(os.environ), **given}
    if where.get("reload"):
        run_with_reloader(lambda: _serve({**given, "processes": 1}))
    else:
        _serve(given)


def _serve(given: dict[str, Any]) -> None:
    reactor = install()
    protect_standard_streams()
    try:
        service = make_service(given)
    except START_ERRORS as error:
        die(str(error))
    service.on_listen_error = _cannot_listen
    globalLogBeginner.beginLoggingTo([observer(service.options, sys.stdout)], redirectStandardIO=False)
    service.privilegedStartService()
    service.startService()
    run_reactor(reactor, service)


def _cannot_listen(problem: Exception) -> None:
    try:
        die(str(problem))
    finally:
        if threading.current_thread() is not threading.main_thread():
            os._exit(FAILED)  # the autoreloader would wait for a change


def check(given: dict[str, Any], production: bool = False) -> NoReturn:
    """Look for what is wrong with the project, print it, and exit with 0 or 1.

    :param given: the options on the command line, by name.
    :param production: whether everything counts that would fail in production.
    """
    from channelserver.start.check import look

    install()
    try:
        code = look(set_up(given), production)
    except START_ERRORS as error:
        die(str(error))
    raise SystemExit(code)


def set_up(given: dict[str, Any]) -> Settings:
    """Set the project up; return the values of all options.

    :param given: the options on the command line, by name.
    :raises StartError, OptionError: something is missing or wrong.
    """
    channel_layers.host()
    where = {**read_environment(os.environ), **given}
    if where.get("demo") or where.get("demo_data"):
        other = next((BY_NAME[name].flag for name in ("settings", "app", "pythonpath") if given.get(name)), None)
        if other:
            raise StartError(f"the demo is a project of its own, and {other} names another one; leave {other} out")
        resolve(given, {})  # a wrong value is an error at once
        prepare(where.get("demo_data"), where.get("https") or ())
    else:
        project.set_up(where.get("settings"), where.get("pythonpath"), where.get("app"), where.get("root_path"))
    return resolve(given, project.configured("CHANNELSERVER", {}))


def make_service(given: dict[str, Any], daemon: bool = False, reactor_name: str | None = None) -> ServerService:
    """Set the project up, and put its server together.

    :param given: the options on the command line, by name.
    :param daemon: whether the process will have no standard output.
    :param reactor_name: of the reactor, if the user has chosen one.
    :raises StartError, OptionError, InvalidChannelLayerError, ListenError: something is missing or wrong.
    """
    close_on_exec()
    values = set_up(given)
    reactor = install()
    join_logs(values.log_level)
    for line in unknown_variables(os.environ):
        _log.warn("{line}", line=line)
    obstacle = raise_descriptor_limit(values.max_connections)
    if obstacle:
        _log.warn("{obstacle}; see ulimit -n, or LimitNOFILE of systemd", obstacle=obstacle)
    shortcuts = install_shortcuts(values)
    found: list[str] = []

    def started(lines: list[str]) -> None:
        announce(lines, values, shortcuts, not daemon)
        reactor.callLater(CALM, look_as_usual)  # the next look, at all that is there, takes 15 ms
        reactor.callLater(CALM, look_in_background, found)

    service = make_server(values, reactor, access_log(values, daemon), started=started)
    found.extend(look_before_start(values))
    if values.processes > 1:
        config = sibling_config(values, daemon, reactor_name)
        shares = Shares.make(values.processes + 1)  # a place for the process that takes this one's when it retires
        service.share(shares)
        if service.hub is not None:
            service.hub.silent = shares.silent
        service.siblings = Siblings(
            reactor, values.processes - 1, config, service.descriptors, service.hub, shares, values.hang_timeout,
            values.drain_timeout, service.listen, service.retire,
        )  # fmt: skip
    connect_hooks(service, 1)
    if threading.current_thread() is threading.main_thread():
        _install_signals(service, reactor)
    else:
        values.drain_timeout = min(values.drain_timeout, DRAIN_SECONDS)
    return service


def sibling_config(values: Settings, daemon: bool, reactor_name: str | None) -> dict[str, Any]:
    """Return the configuration of a sibling; :mod:`channelserver.start.sibling` describes its keys."""
    # systemd passes its sockets to this process only; a sibling inherits all listeners in the same way.
    listeners = [re.sub(r"(^|:)systemd:.*", r"\1tcp:0", description) for description in values.endpoint]
    return {
        "places": values.processes + 1,
        "socket": local_socket_of(values),
        "settings": os.environ["DJANGO_SETTINGS_MODULE"],
        "path": sys.path,
        "values": {
            **vars(values),
            "processes": 1,
            "local_socket": "",
            "endpoint": listeners,
            "client_memory": values.client_memory // values.processes,
        },
        "daemon": daemon,
        "reactor": reactor_name,
        "named": [] if values.fd is None else [values.fd],
    }


def _install_signals(service: ServerService, reactor: Any) -> None:
    """SIGINT and SIGTERM stop the server; SIGHUP reloads the certificate and replaces all of several processes."""

    def stop() -> None:
        _log.info("stopping gracefully; a second signal stops at once")
        reactor.stop()

    def reload() -> None:
        if service.tls is not None:
            service.tls.reload()
            if service.siblings is not None:
                service.siblings.signal(signal.SIGHUP)
        if service.siblings is not None:
            service.siblings.replace_all()

    stop_on_signals(reactor, service.from_signal_handler, stop)
    other_signals(
        service.from_signal_handler, reload if service.tls is not None or service.siblings is not None else None
    )
