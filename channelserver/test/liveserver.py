"""A server that runs while tests talk to it: with a browser, or any other client (Channels 1:
``channels.test.ChannelLiveServerTestCase``).

The tests run in their own thread, the server in others of the same process: the thread of a reactor, which is not
Twisted's global one, and worker threads. The test case owns them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from django.conf import settings
from django.db import connections
from django.test.testcases import LiveServerTestCase
from django.utils.functional import classproperty
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogPublisher,
)

from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.handler import AsgiHandler
from channelserver.layers import InMemoryChannelLayer
from channelserver.server.common.access import AccessLog
from channelserver.server.common.options import Settings, resolve
from channelserver.server.service import ServerService
from channelserver.start.application import make_server
from channelserver.staticfiles import StaticFilesHandler

try:
    from twisted.internet.epollreactor import EPollReactor as Reactor
except ImportError:  # not on Linux
    from twisted.internet.pollreactor import PollReactor as Reactor  # type: ignore[assignment]

#: Seconds for what is under way when the tests have ended.
DRAIN_SECONDS = 5.0


class LiveServer(threading.Thread):
    """The thread of the reactor.

    :param host: where to listen.
    :param port: 0 means any.
    :param connections_override: database connections which all threads share: those to databases in memory.
    :param worker_threads: how many.
    :param serve_static: answer for static files from the apps' folders.
    """

    def __init__(
        self, host: str, port: int, connections_override: dict[str, Any], worker_threads: int, serve_static: bool
    ) -> None:
        super().__init__(name="live-server", daemon=True)
        self.host = host
        self.port = port
        self.connections_override = connections_override
        # What shares a connection must not use it at the same time.
        self.worker_threads = 1 if connections_override else worker_threads
        self.serve_static = serve_static
        self.is_ready = threading.Event()
        self.error: BaseException | None = None
        self._reactor: Any = None
        self._service: ServerService | None = None
        self._layers: dict[str, ChannelLayerWrapper | None] = {}

    def run(self) -> None:
        """Serve until :meth:`terminate`."""
        try:
            with _reactor_errors_logged():
                self._serve()
        except BaseException as error:
            self.error = error
        finally:
            self.is_ready.set()
            for alias, old in self._layers.items():
                channel_layers.set(alias, old)
            connections.close_all()

    def _serve(self) -> None:
        self.share_connections()
        self._replace_layers()
        self._reactor = reactor = Reactor()
        self._service = service = make_server(
            self._values(), reactor, AccessLog(None), self._handler(), True, self.share_connections
        )
        service.privilegedStartService()
        self.port = service.port
        service.startService()
        reactor.callWhenRunning(self.is_ready.set)
        reactor.run(installSignalHandlers=False)

    def terminate(self) -> None:
        """Stop serving; wait for the end."""
        if self._service is not None and self.is_alive():
            self._reactor.callFromThread(self._drain)
        self.join()

    def _drain(self) -> None:
        assert self._service is not None
        self._service.stopService().addBoth(lambda _: self._reactor.stop())

    def settle(self) -> None:
        """Wait until no consumer is running, and none is due; not for ever."""
        idle = threading.Event()
        if self._service is not None and self.is_alive():
            self._service.when_idle(idle.set)
            idle.wait(DRAIN_SECONDS)

    def share_connections(self) -> None:
        """Have the calling thread use the shared connections."""
        for alias, connection in self.connections_override.items():
            connections[alias] = connection

    def _replace_layers(self) -> None:
        for alias, entry in channel_layers.configs.items():
            if "TEST_CONFIG" in entry:
                layer = channel_layers.make_test_backend(alias)
                if "flush" in layer.extensions:
                    layer.flush()
            else:
                layer = ChannelLayerWrapper(InMemoryChannelLayer(), alias, entry.get("ROUTING", []))
            self._layers[alias] = channel_layers.set(alias, layer)

    def _values(self) -> Settings:
        return replace(
            resolve({}, getattr(settings, "CHANNELSERVER", {})),
            port=self.port,
            bind=self.host,
            simple_listener=True,
            endpoint=(),
            unix_socket=None,
            fd=None,
            tls_cert=None,
            tls_key=None,
            redirect_http=False,
            threads=self.worker_threads,
            static=False,
            local_socket="",
            drain_timeout=DRAIN_SECONDS,
        )

    def _handler(self) -> AsgiHandler:
        return StaticFilesHandler() if self.serve_static else AsgiHandler()


class ChannelLiveServerTestCase(LiveServerTestCase):
    """Django's ``LiveServerTestCase`` on this project's server, so with consumers and WebSockets.

    Each alias of ``CHANNEL_LAYERS`` gets a new layer for the time of the test case: in memory, or, if its entry has a
    ``TEST_CONFIG``, one made with that.

    With a SQLite database in memory all threads share one connection, as in Django's own test case, and there is one
    worker thread, whatever `worker_threads` says.
    """

    #: Where the server listens.
    host = "localhost"
    #: Worker threads.
    worker_threads: ClassVar[int] = 1
    #: Answer for static files from the apps' folders, as ``runserver`` does.
    serve_static: ClassVar[bool] = True

    server_thread: LiveServer

    @classproperty
    def live_server_ws_url(cls) -> str:  # noqa: N805
        """The beginning of the URLs of WebSockets."""
        return f"ws://{cls.host}:{cls.server_thread.port}"

    @classmethod
    def _create_server_thread(cls, connections_override: dict[str, Any]) -> LiveServer:
        return LiveServer(cls.host, cls.port, connections_override, cls.worker_threads, cls.serve_static)

    def _fixture_teardown(self) -> None:
        # The tables are emptied now: what the test has begun must not be in the middle of using them.
        self.server_thread.settle()
        super()._fixture_teardown()  # type: ignore[misc]


@contextmanager
def _reactor_errors_logged() -> Iterator[None]:
    """Let warnings and errors of the reactor's side reach ``logging``."""
    level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    observer = FilteringLogObserver(STDLibLogObserver("channelserver.reactor"), [level])
    globalLogPublisher.addObserver(observer)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observer)
