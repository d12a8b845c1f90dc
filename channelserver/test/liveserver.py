"""A server for tests with a browser or any other client (Channels 1: ``channels.test.ChannelLiveServerTestCase``).

The tests run in their own thread. The server runs in other threads of the same process: worker threads, and the thread
of a reactor that is not Twisted's global one. The test case owns them.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from django.db import connections
from django.test.testcases import LiveServerTestCase
from django.utils.functional import classproperty
from twisted.internet.pollreactor import PollReactor
from twisted.logger import LogLevel, globalLogPublisher

from channelserver.asgi import ChannelLayerWrapper, channel_layers
from channelserver.handler import AsgiHandler
from channelserver.layers import InMemoryChannelLayer
from channelserver.server.common.access import AccessLog
from channelserver.server.service import ServerService
from channelserver.start.application import make_server, one_listener
from channelserver.start.logs import reactor_observer
from channelserver.staticfiles import StaticFilesHandler

#: Seconds for what is under way when the tests have ended.
DRAIN_SECONDS = 5.0


class LiveServer(threading.Thread):
    """The thread of the reactor.

    :param host: where to listen.
    :param port: 0 means any.
    :param connections_override: the connections to in-memory databases, which all threads share.
    :param worker_threads: the number of worker threads.
    :param serve_static: whether to serve static files from the apps' folders.
    """

    def __init__(
        self, host: str, port: int, connections_override: dict[str, Any], worker_threads: int, serve_static: bool
    ) -> None:
        super().__init__(name="live-server", daemon=True)
        self.host = host
        self.port = port
        self.connections_override = connections_override
        # Two threads must not use a shared connection at the same time.
        self.worker_threads = 1 if connections_override else worker_threads
        self.serve_static = serve_static
        self.is_ready = threading.Event()
        self.error: BaseException | None = None
        self._reactor: Any = None
        self._service: ServerService | None = None
        self._layers: dict[str, ChannelLayerWrapper | None] = {}

    def run(self) -> None:
        """Serve until :meth:`terminate`."""
        observer = reactor_observer(LogLevel.warn)
        globalLogPublisher.addObserver(observer)
        try:
            self._serve()
        except BaseException as error:
            self.error = error
        finally:
            globalLogPublisher.removeObserver(observer)
            self.is_ready.set()
            for alias, old in self._layers.items():
                channel_layers.set(alias, old)
            connections.close_all()

    def _serve(self) -> None:
        self.share_connections()
        self._replace_layers()
        self._reactor = reactor = PollReactor()
        # A test says itself when jobs run; a claimer would use the tables while they are emptied.
        values = one_listener(
            self.host, self.port, threads=self.worker_threads, job_threads=0, local_socket="",
            drain_timeout=DRAIN_SECONDS,
        )  # fmt: skip
        handler = StaticFilesHandler() if self.serve_static else AsgiHandler()
        self._service = service = make_server(values, reactor, AccessLog(None), handler, True, self.share_connections)
        service.privilegedStartService()
        self.port = service.port
        service.startService()
        reactor.callWhenRunning(self.is_ready.set)
        reactor.run(installSignalHandlers=False)

    def terminate(self) -> None:
        """Stop the server and wait for the thread."""
        if self._service is not None and self.is_alive():
            self._reactor.callFromThread(self._drain)
        self.join()

    def _drain(self) -> None:
        assert self._service is not None
        self._service.stopService().addBoth(lambda _: self._reactor.stop())

    def settle(self) -> None:
        """Wait until no consumer runs and no message waits for one, :data:`DRAIN_SECONDS` at most."""
        idle = threading.Event()
        if self._service is not None and self.is_alive():
            self._service.when_idle(idle.set)
            idle.wait(DRAIN_SECONDS)

    def share_connections(self) -> None:
        """Make the calling thread use the shared connections."""
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


class ChannelLiveServerTestCase(LiveServerTestCase):
    """Django's ``LiveServerTestCase`` with consumers and WebSockets.

    During the test case each alias of ``CHANNEL_LAYERS`` has a new layer: one with the ``TEST_CONFIG`` of its entry, or
    else an in-memory layer.

    With an in-memory SQLite database all threads share one connection, as in Django's own test case, and there is one
    worker thread, whatever `worker_threads` says.

    Jobs wait until the test calls ``channelserver.jobs.run_jobs()``.
    """

    #: Address of the server.
    host = "localhost"
    #: Number of worker threads.
    worker_threads: ClassVar[int] = 1
    #: Whether to serve static files from the apps' folders, as ``runserver`` does.
    serve_static: ClassVar[bool] = True

    server_thread: LiveServer

    @classproperty
    def live_server_ws_url(cls) -> str:  # noqa: N805
        """The base URL of WebSockets."""
        return f"ws://{cls.host}:{cls.server_thread.port}"

    @classmethod
    def _create_server_thread(cls, connections_override: dict[str, Any]) -> LiveServer:
        return LiveServer(cls.host, cls.port, connections_override, cls.worker_threads, cls.serve_static)

    def _fixture_teardown(self) -> None:
        # This empties the tables, so consumers that still run must not use them.
        self.server_thread.settle()
        super()._fixture_teardown()  # type: ignore[misc]
