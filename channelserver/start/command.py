"""``twistd channelserver``: reads the options and starts the server.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python import usage

from channelserver import __version__
from channelserver.asgi import channel_layers
from channelserver.processes.descriptors import close_on_exec
from channelserver.processes.shares import Shares
from channelserver.processes.siblings import Siblings
from channelserver.server.common.access import AccessLog
from channelserver.server.common.limits import raise_descriptor_limit
from channelserver.server.common.options import BY_NAME, OPTIONS, Option, Settings, closest, resolve
from channelserver.server.common.reactor import install
from channelserver.server.edge.tls import ServerTLS
from channelserver.server.service import ListenError, ServerService, endpoints
from channelserver.start import project
from channelserver.start.application import START_ERRORS, install_shortcuts, local_socket_of, make_server
from channelserver.start.demo import prepare
from channelserver.start.files import odd_files
from channelserver.start.log_stream import protect_standard_streams
from channelserver.start.logs import access_writer, join_logs
from channelserver.start.project import StartError
from channelserver.start.signals import other_signals, stop_on_signals

_log = Logger("channelserver")


def _help(option: Option) -> str:
    text = option.help + (", may be given more than once" if option.repeatable else "")
    if option.kind in ("flag", "no-flag") or option.default in (None, (), ""):
        return text
    shown = f"{option.default:g}" if option.kind == "float" else option.default
    return f"{text} [default: {shown}{' ' + option.unit if option.unit else ''}]"


class Options(usage.Options):
    """The command line, generated from the table of options."""

    synopsis = "[options]"
    longdesc = (
        "Serve a Django site, HTTP and WebSocket, from this one process. "
        "With twistd's option -n it stays in the foreground. "
        "Every option but the first few is also a key of the setting CHANNELSERVER, with _ for -."
    )

    optParameters: Sequence[Any] = [
        [option.name.replace("_", "-"), option.short, None, _help(option)]
        for option in OPTIONS
        if option.kind not in ("flag", "no-flag") and not option.repeatable
    ]
    optFlags: Sequence[Any] = [
        [option.flag[2:], option.short, _help(option)] for option in OPTIONS if option.kind in ("flag", "no-flag")
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; an error ends the process with one sentence instead of the whole help."""
        install()  # twistd's --reactor comes before this, and wins
        protect_standard_streams()
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            _die(f"{_with_hint(str(error))}; see twistd channelserver --help", 2)

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}; options start with --")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"channelserver {__version__}")
        sys.exit(0)

    def given(self) -> dict[str, Any]:
        """Return the options on the command line, by name."""
        values: dict[str, Any] = {}
        for option in OPTIONS:
            value = self.get(option.flag[2:])
            if option.kind in ("flag", "no-flag"):
                if value:
                    values[option.name] = option.kind == "flag"
            elif value not in (None, []):
                values[option.name] = value
        return values


def _add_repeatable(option: Option) -> None:
    """Add to :class:`Options` the method with which ``usage.Options`` reads a repeatable option."""

    def collect(self: Options, value: str) -> None:
        self.setdefault(option.flag[2:], []).append(value)

    collect.__doc__ = _help(option)
    setattr(Options, "opt_" + option.name, collect)
    if option.short:
        setattr(Options, "opt_" + option.short, collect)


for _option in OPTIONS:
    if _option.repeatable:
        _add_repeatable(_option)


def _with_hint(text: str) -> str:
    """Add the most similar option to an error about an unknown one."""
    words = [word for word in text.split() if word.startswith("--")]
    near = closest(words[0].removeprefix("--no-").removeprefix("--")) if words and "not recognized" in text else ""
    return f"{text}; did you mean {BY_NAME[near].flag}?" if near else text


def _die(sentence: str, code: int = 1) -> Any:
    stream = sys.__stderr__ or sys.stderr
    stream.write(f"channelserver: {sentence}\n")
    stream.flush()
    raise SystemExit(code)


def makeService(options: Options) -> Any:
    """Return the service for twistd (``IServiceMaker``); an error ends the process with one sentence."""
    try:
        return _make_service(options)
    except START_ERRORS as error:
        return _die(str(error))


def _make_service(command_line: Options) -> Any:
    given = command_line.given()
    close_on_exec()
    channel_layers.host()
    if given.get("demo") or given.get("demo_data"):
        prepare(given.get("demo_data"))
    else:
        project.set_up(given.get("settings"), given.get("pythonpath"), given.get("app"), given.get("root_path"))
    values = resolve(given, project.configured("CHANNELSERVER", {}))
    parent = getattr(command_line, "parent", None) or {}
    daemon = not parent.get("nodaemon", True)
    reactor = install()
    join_logs()
    obstacle = raise_descriptor_limit(values.max_connections)
    if obstacle:
        _log.warn("{obstacle}; see ulimit -n, or LimitNOFILE of systemd", obstacle=obstacle)
    _log.info("{line}", line=install_shortcuts(values))
    service = make_server(values, reactor, access_log(values, daemon))
    if given.get("check"):
        _check(values, service.tls, reactor)
    if values.processes > 1:
        config = sibling_config(values, daemon, parent.get("reactor"))
        shares = Shares.make(values.processes)
        service.share(shares)
        service.siblings = Siblings(
            reactor, values.processes - 1, config, service.descriptors, service.hub, shares, values.hang_timeout,
            service.listen,
        )  # fmt: skip
    terminal = 2
    if daemon:  # by the time it listens, it has no terminal; afterwards it must not keep one, or a pipe, open
        terminal = os.dup(2)
        reactor.callWhenRunning(os.close, terminal)
    service.on_listen_error = lambda problem: _listen_error(problem, daemon, parent.get("pidfile"), terminal)
    _install_signals(service, reactor)
    return service


def sibling_config(values: Settings, daemon: bool, reactor_name: str | None) -> dict[str, Any]:
    """Return the configuration of a sibling; :mod:`channelserver.start.sibling` describes its keys."""
    # systemd passes its sockets to this process only; a sibling inherits all listeners in the same way.
    listeners = [re.sub(r"(^|:)systemd:.*", r"\1tcp:0", description) for description in values.endpoint]
    return {
        "processes": values.processes,
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


def access_log(values: Settings, daemon: bool) -> AccessLog:
    """Return the access log that the options configure.

    :param daemon: whether the process has no standard output.
    :raises StartError: its file cannot be opened.
    """
    try:
        write = access_writer(values.access_log, daemon)
    except OSError as error:
        raise StartError(f"--access-log {values.access_log!r} cannot be opened: {error.strerror}") from error
    terminal = values.access_log == "-" and sys.__stdout__ is not None and sys.__stdout__.isatty()
    return AccessLog(write, as_json=values.log_format == "json" if values.log_format else not terminal)


def _check(values: Settings, tls: ServerTLS | None, reactor: Any) -> None:
    """Run the system checks, print the result and exit."""
    from django.core import checks

    try:
        endpoints(values, reactor)
    except ListenError as error:
        raise StartError(str(error)) from error
    try:
        problems = [message for message in checks.run_checks() if message.is_serious()]
    except Exception as error:
        raise StartError(f"the system check failed: {project.describe(error)}") from error
    if problems:
        raise StartError("the system check found: " + "; ".join(" ".join(str(message).split()) for message in problems))
    if tls is not None and tls.gap:
        print(f"channelserver: {tls.gap}; clients that use these names refuse to connect")
    problem = odd_files() if values.static else ""
    if problem:
        print(f"channelserver: {problem}")
    print("channelserver: options, settings, routing and layer are in order")
    raise SystemExit(0)


def _listen_error(problem: Exception, daemon: bool, pidfile: str | None, terminal: int) -> None:
    """End the process because a listener cannot be opened; print the sentence where the user sees it."""
    if daemon:
        # twistd's parent process cuts the text of an exception to 100 bytes, so this writes to the terminal itself.
        os.write(terminal, f"channelserver: {problem}\n".encode())
        raise problem
    if pidfile and os.path.exists(pidfile):
        os.unlink(pidfile)
    _die(str(problem))


def _install_signals(service: ServerService, reactor: Any) -> None:
    """SIGINT and SIGTERM stop the server; with TLS, SIGHUP reloads the certificate in all processes."""

    def stop() -> None:
        _log.info("stopping gracefully; a second signal stops at once")
        reactor.stop()

    def reload() -> None:
        assert service.tls is not None
        service.tls.reload()
        if service.siblings is not None:
            service.siblings.signal(signal.SIGHUP)

    stop_on_signals(reactor, service.from_signal_handler, stop)
    other_signals(service.from_signal_handler, reload if service.tls is not None else None)
