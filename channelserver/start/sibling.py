"""A further process of a server with ``--processes``: a whole server, but for what is the first one's business.

Its main thread becomes the reactor thread. It is started by :mod:`channelserver.processes.siblings`, which tells it in
``config``:

``number``, ``processes``
    of the process, of which the first one has 1; and how many there are.
``settings``, ``path``
    the name of the Django settings, and Python's path.
``values``
    the values of all options.
``listeners``
    how many listening sockets it inherits.
``link``
    whether it inherits a connection to the first process, which holds the layer.
``named``
    the descriptors that options name.
``daemon``, ``reactor``
    whether standard output leads nowhere; the name of the reactor, or None.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.logger import Logger, globalLogBeginner, jsonFileLogObserver

from channelserver.asgi import InvalidChannelLayerError, channel_layers
from channelserver.processes.shares import Shares
from channelserver.processes.siblings import LINK, LISTENERS, LOG, SHARES
from channelserver.server.common.limits import raise_descriptor_limit
from channelserver.server.common.options import OptionError, Settings
from channelserver.server.common.reactor import install
from channelserver.server.service import ListenError
from channelserver.start import project
from channelserver.start.logs import join_logs
from channelserver.start.project import StartError

_log = Logger("channelserver.sibling")


def main(config: dict[str, Any]) -> None:
    """Serve until the first process says stop, or has gone."""
    globalLogBeginner.beginLoggingTo(
        [jsonFileLogObserver(open(LOG, "w", buffering=1, encoding="utf-8"), recordSeparator="")],
        redirectStandardIO=False,
    )
    if config["reactor"] is not None:
        from twisted.application.reactors import installReactor

        installReactor(config["reactor"])
    else:
        install()
    try:
        _serve(config)
    except (StartError, OptionError, InvalidChannelLayerError, ListenError) as error:
        _log.critical("process {number} cannot start: {error}", number=config["number"], error=str(error))
        raise SystemExit(1) from None
    except Exception:
        _log.failure("process {number} cannot start", number=config["number"])
        raise SystemExit(1) from None


def _serve(config: dict[str, Any]) -> None:
    from twisted.internet import reactor as installed

    from channelserver.processes.connectors import InheritedConnector
    from channelserver.processes.remote import RemoteLayer
    from channelserver.start.application import install_shortcuts, make_server
    from channelserver.start.command import access_log

    reactor: Any = installed
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config["values"].items()
    }
    values = Settings(**given)
    channel_layers.host()
    project.load(config["settings"])
    join_logs()
    raise_descriptor_limit(values.max_connections)
    service: Any = None

    def lost() -> None:
        """The first process has gone: whoever started it will start it again, and needs the listening sockets."""
        if service.draining:
            os._exit(1)
        _log.error("process {number}: the first process has gone, so this one ends, too", number=config["number"])
        reactor.stop()

    if config["link"]:
        channel_layers.remote = lambda alias, parameters: RemoteLayer(InheritedConnector(LINK, lost), **parameters)
        channel_layers.remote_alias = values.layer
    install_shortcuts(values)
    service = make_server(values, reactor, access_log(values, config["daemon"]), number=config["number"])
    shares = Shares(SHARES, config["processes"], config["number"])
    service.share(shares, range(LISTENERS, LISTENERS + config["listeners"]))
    service.privilegedStartService()
    reactor.callWhenRunning(service.startService)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)

    def stop() -> None:
        if not service.draining:
            reactor.stop()

    # CONTROL-C reaches each process of a terminal; the first one passes it on as SIGTERM. Whoever wants to stop at once
    # ends that one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: service.from_signal_handler(stop))
    if service.tls is not None:
        signal.signal(signal.SIGHUP, lambda number, frame: service.from_signal_handler(service.tls.reload))
    reactor.run(installSignalHandlers=False)
