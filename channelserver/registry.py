"""The registry of channel layers, by alias. Projects import it from :mod:`channelserver.asgi`.

Runs in any thread; owns the layers, each of which is built once, when first asked for. Knows nothing of messages and
routing, so that :class:`channelserver.channel.Channel` can find its layer here.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from django.conf import settings
from django.utils.module_loading import import_string

from channelserver import test_runner
from channelserver.layers import BaseChannelLayer, InMemoryChannelLayer
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.processes.local_client import LocalSocketLayer

logger = logging.getLogger("channelserver")

#: What ``BACKEND`` says in projects written for Channels 1, and what it means here.
BACKENDS = {
    "asgiref.inmemory.ChannelLayer": "channelserver.layers.InMemoryChannelLayer",
    "asgi_ipc.IPCChannelLayer": "channelserver.layers.InMemoryChannelLayer",
    "asgi_redis.RedisChannelLayer": "channelserver.layers.RedisChannelLayer",
    "asgi_redis.RedisLocalChannelLayer": "channelserver.layers.RedisChannelLayer",
    "asgi_redis.RedisSentinelChannelLayer": "channelserver.layers.RedisSentinelChannelLayer",
}

#: Parameters of the layers named above that have no effect here.
_IGNORED = {"asgi_ipc.IPCChannelLayer": {"prefix", "message_memory", "group_memory"}}

#: Name of the server's Unix socket, in the project's folder.
SOCKET_NAME = "channelserver.sock"

_PLAIN_SITE = {DEFAULT_CHANNEL_LAYER: {"BACKEND": "channelserver.layers.InMemoryChannelLayer", "ROUTING": []}}


class InvalidChannelLayerError(ValueError):
    """An entry of ``CHANNEL_LAYERS`` is wrong; the text names it and the cure."""


class ChannelLayerWrapper:
    """A layer together with its alias and its routing. Every other attribute is the layer's own."""

    #: Makes a router of a routing; :mod:`channelserver.asgi` sets it.
    router_class: ClassVar[Any]

    #: The delayed messages of this layer, if this process serves it and has them.
    delays: Any = None

    def __init__(self, channel_layer: BaseChannelLayer, alias: str, routing: Any) -> None:
        self.channel_layer = channel_layer
        self.alias = alias
        self.routing = routing
        self.bind()

    def bind(self) -> None:
        """Look up, once, what is called for every message."""
        self.dispatch = self.channel_layer.dispatch
        self.dispatch_group = self.channel_layer.dispatch_group

    @cached_property
    def router(self) -> Any:
        """The compiled routing. A process that only sends never imports the project's routing.

        :raises ImproperlyConfigured: the routing does not resolve, or has another form.
        """
        return self.router_class(self.routing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel_layer, name)

    def __str__(self) -> str:
        kind = type(self.channel_layer)
        return f"{self.alias} ({kind.__module__}.{kind.__name__})"

    def local_only(self) -> bool:
        """Whether the layer lives in this process only."""
        return "memory" in type(self.channel_layer).__module__


class ChannelLayerManager:
    """All layers of ``CHANNEL_LAYERS``, by alias. Without that setting: one in-memory layer, ``default``, with no
    routes.
    """

    def __init__(self) -> None:
        #: Whether the in-memory layers live in this process: True in a server. Other processes use the server's.
        self.hosting = False
        #: The alias that this process serves, when it is known.
        self.served = ""
        #: Whether the reactor runs: until then a fork is twistd's, which makes a daemon of the process.
        self.running = False
        #: Path of the local socket, where an option names another than the settings; empty: it is off.
        self.socket_path: str | None = None
        #: In a process whose worker threads serve another process's layer: returns that layer, called with the alias
        #: and the parameters; and the alias.
        self.remote: Callable[[str, dict[str, Any]], BaseChannelLayer] | None = None
        self.remote_alias = ""
        self._backends: dict[str, ChannelLayerWrapper] = {}
        self._lock = threading.RLock()

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The setting ``CHANNEL_LAYERS``.

        :raises InvalidChannelLayerError: it is no dict.
        """
        configs = getattr(settings, "CHANNEL_LAYERS", None) or _PLAIN_SITE
        if not isinstance(configs, dict):
            raise InvalidChannelLayerError(f"CHANNEL_LAYERS must be a dict of alias to dict, not {configs!r}")
        return configs

    def make_backend(self, name: str) -> ChannelLayerWrapper:
        """Return a new layer built by the entry `name`.

        :raises InvalidChannelLayerError: the entry is missing or wrong.
        """
        return self._make_backend(name, "CONFIG", {})

    def host(self) -> None:
        """Make this process the server: its in-memory layers live here."""
        with self._lock:
            self.hosting = True
            self._backends.clear()

    def begin(self) -> None:
        """The reactor runs now."""
        self.running = True

    def forked(self) -> None:
        """This is a child process of a server or a worker process.

        It reaches Redis by connections of its own, and an in-memory layer through the server's local socket: of that
        layer it has a copy that nobody serves.
        """
        self._lock = threading.RLock()  # another thread may have held it
        if not self.running:
            return
        path = self.socket_path if self.socket_path is not None else local_socket_path()
        for alias, wrapper in self._backends.items():
            wrapper.channel_layer.forked()
            if alias == self.served and isinstance(wrapper.channel_layer, InMemoryChannelLayer):
                wrapper.channel_layer.move_to(LocalSocketLayer(path, alias))
                wrapper.bind()
        self.hosting, self.remote, self.served, self.running = False, None, "", False

    def make_test_backend(self, name: str) -> ChannelLayerWrapper:
        """Return a new layer built by the entry `name` with its ``TEST_CONFIG``.

        :raises InvalidChannelLayerError: the entry is missing or wrong, or has no ``TEST_CONFIG``.
        """
        return self._make_backend(name, "TEST_CONFIG", None)

    def _make_backend(self, name: str, config_key: str, default: dict[str, Any] | None) -> ChannelLayerWrapper:
        config = self.configs.get(name)
        where = f"CHANNEL_LAYERS[{name!r}]"
        if config is None:
            known = ", ".join(map(repr, self.configs))
            raise InvalidChannelLayerError(f"{where} is not set; the setting has {known}")
        if not isinstance(config, dict):
            raise InvalidChannelLayerError(f"{where} must be a dict, not {config!r}")
        if "BACKEND" not in config:
            raise InvalidChannelLayerError(f"{where} has no BACKEND; set it to the dotted name of a layer class")
        parameters = config.get(config_key, default)
        if parameters is None:
            raise InvalidChannelLayerError(f"{where} has no {config_key}, which tests need; set it to a dict")
        layer = self._make_layer(where, config_key, config["BACKEND"], parameters)
        if "ROUTING" not in config:
            raise InvalidChannelLayerError(f"{where} has no ROUTING; set it to a list, a dict or a dotted name")
        if config_key == "CONFIG" and type(layer) is InMemoryChannelLayer:
            layer = self._remote_layer(name, config["BACKEND"], parameters) or layer
        return ChannelLayerWrapper(layer, name, config["ROUTING"])

    def _remote_layer(self, name: str, backend: Any, parameters: dict[str, Any]) -> BaseChannelLayer | None:
        """Return the layer that leads to the in-memory layer of another process; None: it lives in this process."""
        if self.remote is not None and name == self.remote_alias:
            return self.remote(name, _known_parameters(backend, parameters))
        if self.hosting:
            if self.served and name != self.served:
                logger.warning(
                    "nobody serves channel layer %r, which is in memory: what is sent to it is lost. This server "
                    "serves %r; use that one, start the server with --layer %s, or keep %r in Redis",
                    name, self.served, name, name,
                )  # fmt: skip
            return None
        runner = test_runner.started()
        if runner:
            logger.info("%s runs in this process: layer %r is private, and reaches no server", runner, name)
            return None
        path = local_socket_path()
        return LocalSocketLayer(path, name) if path else None

    @staticmethod
    def _make_layer(where: str, config_key: str, backend: Any, parameters: Any) -> BaseChannelLayer:
        if isinstance(backend, str):
            try:
                layer_class = import_string(BACKENDS.get(backend, backend))
            except ImportError as error:
                raise InvalidChannelLayerError(
                    f"{where}['BACKEND'] is {backend!r}, which cannot be imported: {error}; "
                    "write 'channelserver.layers.InMemoryChannelLayer', or another layer's dotted name"
                ) from error
        else:
            layer_class = backend
        if not (isinstance(layer_class, type) and issubclass(layer_class, BaseChannelLayer)):
            raise InvalidChannelLayerError(
                f"{where}['BACKEND'] is {backend!r}, which is no subclass of channelserver.layers.BaseChannelLayer"
            )
        if not isinstance(parameters, dict):
            raise InvalidChannelLayerError(f"{where}[{config_key!r}] must be a dict, not {parameters!r}")
        try:
            return layer_class(**_known_parameters(backend, parameters))
        except (TypeError, ValueError, AttributeError) as error:
            known = inspect.signature(layer_class).parameters
            unknown = next((str(key) for key in parameters if key not in known), None)
            if unknown is not None:
                near = difflib.get_close_matches(unknown, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
                raise InvalidChannelLayerError(
                    f"{where}[{config_key!r}] has {unknown!r}, which {layer_class.__name__} does not know{hint}"
                ) from error
            raise InvalidChannelLayerError(
                f"{where}[{config_key!r}] does not fit {layer_class.__name__}: {error}"
            ) from error

    def __getitem__(self, key: str) -> ChannelLayerWrapper:
        wrapper = self._backends.get(key)
        if wrapper is None:
            with self._lock:
                wrapper = self._backends.get(key)
                if wrapper is None:
                    wrapper = self._backends[key] = self.make_backend(key)
        return wrapper

    def __contains__(self, key: object) -> bool:
        return key in self.configs

    def alias_of(self, layer: Any) -> str:
        """Return the alias of a layer, or of its wrapper.

        :raises ValueError: it is none of those built by their alias.
        """
        for alias, wrapper in tuple(self._backends.items()):
            if layer is wrapper or layer is wrapper.channel_layer:
                return alias
        raise ValueError(f"{layer!r} is not a layer of CHANNEL_LAYERS, so a delayed message cannot name it")

    def set(self, key: str, layer: ChannelLayerWrapper | None) -> ChannelLayerWrapper | None:
        """Replace the layer of `key`; None: the next access builds it anew. Return the old one, or None."""
        with self._lock:
            old = self._backends.pop(key, None)
            if layer is not None:
                self._backends[key] = layer
            return old


def _known_parameters(backend: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that have no effect here."""
    ignored = _IGNORED.get(backend, ()) if isinstance(backend, str) else ()
    return {key: value for key, value in parameters.items() if key not in ignored}


channel_layers = ChannelLayerManager()
os.register_at_fork(after_in_child=channel_layers.forked)


def local_socket_path() -> str:
    """Return the path of the server's Unix socket for other local processes; empty: there is none."""
    if "CHANNELSERVER_LOCAL_SOCKET" in os.environ:
        return os.environ["CHANNELSERVER_LOCAL_SOCKET"]
    configured = getattr(settings, "CHANNELSERVER", None)
    value = configured.get("local_socket") if isinstance(configured, dict) else None
    return os.path.join(project_folder(), SOCKET_NAME) if value is None else os.fspath(value)


LocalSocketLayer.default_path = staticmethod(local_socket_path)


def project_folder() -> str:
    """Return the setting ``BASE_DIR``, or else the folder from which the settings module was imported."""
    folder = getattr(settings, "BASE_DIR", None)
    if folder is not None:
        return os.fspath(folder)
    name = getattr(settings, "SETTINGS_MODULE", None)
    path = getattr(sys.modules.get(name or ""), "__file__", None)
    if not name or not path:
        return os.getcwd()
    folder = os.path.abspath(path)
    for _ in range(name.count(".") + 1 + (os.path.basename(path) == "__init__.py")):
        folder = os.path.dirname(folder)
    return folder
