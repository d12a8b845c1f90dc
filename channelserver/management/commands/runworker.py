"""``manage.py runworker``: a process that runs consumers and serves no connections (Channels 1).

Runs in the main thread, which becomes the reactor thread.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from argparse import BooleanOptionalAction
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError
from django.db import connections
from twisted.internet import defer, task
from twisted.logger import globalLogBeginner

from channelserver.asgi import channel_layers, local_socket_path
from channelserver.bridge import Bridge
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.message import Message
from channelserver.processes import descriptors
from channelserver.processes.connectors import SocketConnector
from channelserver.processes.remote import RemoteLayer
from channelserver.routing import Route
from channelserver.server.common.collector import look_as_usual
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import Settings, resolve
from channelserver.server.common.reactor import install
from channelserver.server.site import SWEEP_SECONDS
from channelserver.signals import worker_process_ready
from channelserver.start.application import START_ERRORS, http_consumer, install_shortcuts, load_layer, use_remote_layer
from channelserver.start.log_stream import protect_standard_streams
from channelserver.start.logs import join_logs, observer
from channelserver.start.project import StartError
from channelserver.start.signals import other_signals, stop_on_signals
from channelserver.start.workers import ALWAYS_SERVED, LostWatch, Workers, make_workers
from channelserver.workers.loop import event_loop

logger = logging.getLogger("channelserver.runworker")


class Command(BaseCommand):
    """Takes consumers' work off the server."""

    help = (
        "Runs consumers in a separate process: with the in-memory layer, for the server on this machine; with Redis, "
        "for all servers. On SIGTERM or SIGINT it finishes its current messages and exits."
    )

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--layer", "--alias", default=DEFAULT_CHANNEL_LAYER, help="Alias in CHANNEL_LAYERS. Default: %(default)s."
        )
        parser.add_argument(
            "--only-channels", action="append", metavar="GLOB", default=[],
            help="Serve only matching channels, such as 'mail.*'. Can be repeated.",
        )  # fmt: skip
        parser.add_argument(
            "--exclude-channels", action="append", metavar="GLOB", default=[],
            help="Do not serve matching channels. Can be repeated.",
        )  # fmt: skip
        parser.add_argument(
            "--threads",
            help="Worker threads. Default: CHANNELSERVER['threads'], else the server's. With 1, as by default with "
            "Channels 1, messages are consumed one after the other; with more, those with the same reply_channel are.",
        )
        parser.add_argument(
            "--requeue", action=BooleanOptionalAction,
            help="Give a message to another worker if this process dies, at most 3 times. Default: "
            "CHANNELSERVER['requeue'], else no; with the in-memory layer, also if the server has --requeue.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        protect_standard_streams()
        given: dict[str, Any] = {"layer": options["layer"]}
        given.update((name, options[name]) for name in ("threads", "requeue") if options[name] is not None)
        try:
            values = resolve(given, getattr(settings, "CHANNELSERVER", {}))
            if not values.threads:
                raise OptionError("--threads must be 1 or more: a worker process without threads does nothing")
            process = WorkerProcess(values, options["only_channels"], options["exclude_channels"])
        except START_ERRORS as error:
            raise CommandError(str(error)) from error
        join_logs(values.log_level)
        globalLogBeginner.beginLoggingTo([observer(values, sys.stdout)], redirectStandardIO=False)
        if options["verbosity"] > 1:
            process.pool.worker.callback = self._log_message
        connections.close_all()
        count, noun = values.threads, "thread" if values.threads == 1 else "threads"
        logger.info(
            "%s",
            f"worker process {os.getpid()} for channel layer {process.wrapper}: {count} {noun}, "
            f"channels {', '.join(process.pool.channels)}. {process.shortcuts}. Stop it with CONTROL-C.",
        )
        process.run()

    def _log_message(self, channel: str, message: Message) -> None:
        logger.info("message from %r", channel)
        self.stdout.write(f"message from {channel!r}")


class WorkerProcess:
    """A reactor, a layer and worker threads.

    :param only: globs of the channels to serve; empty: all.
    :param exclude: globs of channels not to serve.
    :raises StartError, InvalidChannelLayerError: the project's settings are wrong.
    """

    def __init__(self, values: Settings, only: list[str], exclude: list[str]) -> None:
        self._reactor = install()
        self._bridge = Bridge(self._reactor)
        self._sweeping = task.LoopingCall(self._sweep)
        path = values.local_socket if values.local_socket is not None else local_socket_path()
        use_remote_layer(values.layer, SocketConnector(os.path.abspath(path), values.layer, self._configure))
        self.wrapper = load_layer(values.layer, values.local_socket)
        self._reactor.callWhenRunning(channel_layers.begin)
        if isinstance(self.wrapper.channel_layer, RemoteLayer) and not path:
            raise StartError(
                "the setting CHANNELSERVER['local_socket'] is empty, so worker processes cannot reach the server; "
                "remove it, or use a channel layer over Redis"
            )
        self.wrapper.router.add_route(Route("http.request", http_consumer(values)))
        channels = filtered({*self.wrapper.router.channels, *ALWAYS_SERVED}, only, exclude)
        if not channels:
            raise StartError(
                "--only-channels and --exclude-channels leave no channel to serve; the routing has "
                + ", ".join(sorted(self.wrapper.router.channels))
            )
        #: A line for the user.
        self.shortcuts = install_shortcuts(values)
        if isinstance(self.wrapper.channel_layer, RemoteLayer):
            self.wrapper.channel_layer.when_client_gone(event_loop.client_gone)
        self._drain_timeout = values.drain_timeout
        self._hang_timeout = values.hang_timeout
        self.pool: Workers = make_workers(self.wrapper, self._bridge, values, channels=channels)

    def _configure(self, options: dict[str, Any]) -> None:
        """Apply the server's options for consumers."""
        worker = self.pool.worker
        worker.auto_accept = options.get("auto_accept", worker.auto_accept)
        worker.reject_unrouted = options.get("reject_unrouted", worker.reject_unrouted)

    def _sweep(self) -> None:
        if self.wrapper.channel_layer.sweep() and self._sweeping.running:
            self._bridge.post(self._sweep)

    def run(self) -> None:
        """Work until a signal arrives; then finish the messages in hand."""
        stop_on_signals(self._reactor, self._bridge.from_signal_handler, self._stop)
        other_signals(self._bridge.from_signal_handler, None)
        self._reactor.callWhenRunning(self._start)
        self._reactor.run()

    def _start(self) -> None:
        look_as_usual()
        descriptors.sockets.watch(self._reactor)
        self.wrapper.channel_layer.open(self._reactor, self._bridge)
        self.pool.start()
        worker_process_ready.send_robust(sender=self.pool.worker)
        self._sweeping.start(SWEEP_SECONDS, now=False)
        if self.pool.claimers and self._hang_timeout:
            stop = partial(os.kill, os.getpid(), signal.SIGTERM)
            self._watch(LostWatch(self.pool, self._hang_timeout, stop))

    def _watch(self, watch: LostWatch) -> None:
        now = self._reactor.seconds()
        again = watch.on_tick(now)
        if again is not None:
            self._reactor.callLater(again - now, self._watch, watch)

    @defer.inlineCallbacks
    def _stop(self) -> Any:
        """Finish the messages in hand, send the last reports, and end."""
        logger.info("stopping when the messages in hand are finished; a second signal stops at once")
        if self._sweeping.running:
            self._sweeping.stop()
        self.wrapper.channel_layer.retire()
        self.pool.drain()
        idle: Any = defer.Deferred()
        self.pool.when_idle(lambda: self._bridge.post(idle.callback, None))
        self._reactor.callLater(self._drain_timeout, event_loop.cancel)
        self._reactor.callLater(self._drain_timeout, self.pool.leave_jobs)
        yield idle
        self.pool.stop()
        self.pool.join(5.0)
        reported: Any = defer.Deferred()
        self._bridge.post(reported.callback, None)  # behind the reports
        yield reported
        yield defer.maybeDeferred(self.wrapper.channel_layer.close)
        self._reactor.stop()


def filtered(channels: set[str], only: list[str], exclude: list[str]) -> list[str]:
    """Return the names in `channels` that one of the globs `only` matches, if there are any, and none of `exclude`."""

    def matches(name: str, globs: list[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs)

    return sorted(name for name in channels if (not only or matches(name, only)) and not matches(name, exclude))
