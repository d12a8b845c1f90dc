"""The main function of a further process of a server with ``--processes``.

Runs in the main thread, which becomes the reactor thread. :mod:`channelserver.processes.siblings` starts the process
and sends it ``config``:

``parent``
    process ID of the first process.
``number``, ``places``
    the number of this process (the first process has 1), and how many there may be.
``settings``, ``path``
    the name of the settings module, and Python's path.
``values``
    the values of all options.
``socket``
    path of the first process's local socket, for forked children of this one; empty: there is none.
``listeners``
    how many listening sockets it inherits.
``link``
    whether it inherits a connection to the first process, which holds the layer, or asks for figures.
``named``
    the descriptors that options name.
``daemon``, ``reactor``
    whether the process has no standard output; the name of the reactor, or None.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.logger import Logger, globalLogBeginner, jsonFileLogObserver

from channelserver.asgi import channel_layers
from channelserver.processes.connectors import InheritedConnector
from channelserver.processes.descriptors import close_on_exec, end_with_parent
from channelserver.processes.shares import Shares
from channelserver.processes.siblings import LEAVE, LIFELINE, LINK, LISTEN, LISTENERS, LOG, SHARES
from channelserver.server.common.collector import look_as_usual
from channelserver.server.common.limits import raise_descriptor_limit
from channelserver.server.common.options import Settings
from channelserver.server.common.reactor import install
from channelserver.start import project
from channelserver.start.application import START_ERRORS, install_shortcuts, make_server, use_remote_layer
from channelserver.start.hooks import connect_hooks
from channelserver.start.log_stream import LogStream, protect_standard_streams
from channelserver.start.logs import access_log, join_logs, traceback_of
from channelserver.start.signals import other_signals

_log = Logger("channelserver.sibling")


class Lifeline(FileDescriptor):
    """This process's end of the lifeline to the first process.

    :param descriptor: of the socket.
    :param listen: called when all processes serve.
    :param leave: called when another process is going to take this one's place.
    """

    def __init__(
        self, reactor: Any, descriptor: int, listen: Callable[[], object], leave: Callable[[], object]
    ) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self._listen = listen
        self._leave = leave

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        orders = os.read(self._descriptor, 100)
        if not orders:
            os._exit(1)  # as the kernel would have it: the first process has ended, and the next needs the sockets
        if LISTEN in orders:
            self._listen()
        if LEAVE in orders:
            self._leave()


def main(config: dict[str, Any]) -> None:
    """Serve until the first process sends SIGTERM or ends."""
    end_with_parent(config["parent"])
    close_on_exec()
    protect_standard_streams()
    log: Any = LogStream(open(LOG, "w", buffering=1, encoding="utf-8"))  # the first process may be stopped
    to_first = jsonFileLogObserver(log, recordSeparator="")
    pass_on: Any = lambda event: to_first(_portable(event))  # noqa: E731  (mypy: it is an ILogObserver)
    globalLogBeginner.beginLoggingTo([pass_on], redirectStandardIO=False)
    if config["reactor"] is not None:
        from twisted.application.reactors import installReactor

        installReactor(config["reactor"])
    reactor = install()
    try:
        _serve(config, reactor)
    except START_ERRORS as error:
        _log.critical("process {number} cannot start: {error}", number=config["number"], error=str(error))
        raise SystemExit(1) from None
    except Exception:
        _log.failure("process {number} cannot start", number=config["number"])
        raise SystemExit(1) from None


def _portable(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with the text of its failure, which JSON would lose, in place of the failure."""
    if not {"log_failure", "failure"}.intersection(event):
        return event
    kept = {key: value for key, value in event.items() if key not in ("log_failure", "failure")}
    return {**kept, "traceback": traceback_of(event)}


def _serve(config: dict[str, Any], reactor: Any) -> None:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config["values"].items()
    }
    values = Settings(**given)
    channel_layers.host()
    channel_layers.socket_path = config["socket"]
    if values.app:
        os.environ["DJANGO_SETTINGS_MODULE"] = config["settings"]
        project.import_app(values.app)
    project.load(config["settings"], root_path=values.root_path)
    join_logs(values.log_level)
    raise_descriptor_limit(values.max_connections)

    def lost() -> None:
        """Mostly, the first process has ended. If it has not, it starts another sibling."""
        if not service.draining:
            _log.error("process {number} ends: it has lost the first process", number=config["number"])
        os._exit(1)

    service: Any = None
    connector = InheritedConnector(LINK, lost) if config["link"] else None
    if connector is not None:
        use_remote_layer(values.layer, connector)
    install_shortcuts(values)
    service = make_server(
        values, reactor, access_log(values, config["daemon"]), number=config["number"], connector=connector,
        started=lambda lines: _log.info("process {number} serves, too", number=config["number"]),
    )  # fmt: skip
    shares = Shares(SHARES, config["places"], config["number"])
    connect_hooks(service, config["number"])
    service.share(shares, range(LISTENERS, LISTENERS + config["listeners"]))

    def leave() -> None:
        service.be_patient()
        stop()

    reactor.callWhenRunning(look_as_usual)
    lifeline = Lifeline(reactor, LIFELINE, service.listen, leave)
    reactor.callWhenRunning(lifeline.startReading)
    service.privilegedStartService()
    reactor.callWhenRunning(service.startService)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)

    def stop() -> None:
        if not service.draining:
            reactor.stop()

    # CONTROL-C reaches all processes of a terminal: the first one handles it, and sends SIGTERM to the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: service.from_signal_handler(stop))
    other_signals(service.from_signal_handler, service.tls.reload if service.tls is not None else None)
    reactor.run(installSignalHandlers=False)
